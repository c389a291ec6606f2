//! A pod's interface, from the moment that it gets addresses until everything of it is gone.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::environment::Parameters;
use super::failure::{Code, Failure};
use crate::object::ObjectName;

/// The pods' IPv4 gateway, as under Calico; it is on no subnet.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pods' IPv6 gateway: the link-local address that [`GATEWAY_MAC`] gives by EUI-64.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// MAC of the node's end of every pod link.
pub const GATEWAY_MAC: [u8; 6] = [0xee; 6];

/// What identifies an attachment to a runtime.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Key {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container_id)
    }
}

/// One attachment, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Attachment {
    /// Who it is.
    pub key: Key,
    /// `name` of the network configuration.
    pub network: String,
    /// `CNI_NETNS` of ADD.
    pub netns: String,
    /// Namespace of the pod; [`NAMESPACE_OF_CONTAINERS`] for a container that is no Kubernetes pod.
    pub pod_namespace: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Kernel name of the node's end.
    pub interface: String,
    /// MAC of the pod's end.
    pub mac: [u8; 6],
    /// Bytes of IP packet.
    pub mtu: u32,
    /// The pod's addresses, one per family as a rule.
    pub addresses: Vec<IpAddr>,
    /// Whether ADD came to its end. One that did not is made anew by the next ADD.
    pub is_complete: bool,
}

/// Kubernetes namespace that containers of other runtimes count as.
pub const NAMESPACE_OF_CONTAINERS: &str = "cni";

impl Key {
    /// Of a call.
    pub fn of(parameters: &Parameters) -> Self {
        Self {
            container_id: parameters.container_id.clone(),
            ifname: parameters.ifname.clone(),
        }
    }
}

impl Attachment {
    /// The pod's name.
    pub fn pod(&self) -> ObjectName {
        ObjectName::new(&self.pod_namespace, &self.pod_name)
    }

    /// Default gateways of the families that it has, with the address behind each.
    pub(super) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let has = |v4: bool| self.addresses.iter().any(|address| address.is_ipv4() == v4);
        let v4 = has(true).then_some(IpAddr::V4(GATEWAY_V4));
        v4.into_iter().chain(has(false).then_some(IpAddr::V6(GATEWAY_V6)))
    }
}

/// The pod that a call is about: `K8S_POD_NAMESPACE` and `K8S_POD_NAME`, else the container.
///
/// # Errors
/// Code 4 when only one of the two is there.
pub(super) fn pod_of(parameters: &Parameters) -> Result<ObjectName, Failure> {
    let argument = |key| parameters.argument(key);
    match (argument("K8S_POD_NAMESPACE"), argument("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => Ok(ObjectName::new(namespace, name)),
        (None, None) => Ok(ObjectName::new(NAMESPACE_OF_CONTAINERS, &parameters.container_id)),
        _ => Err(Failure::new(
            Code::Environment,
            "CNI_ARGS makes no sense",
            format!(
                "CNI_ARGS: {:?}, expected both K8S_POD_NAMESPACE and K8S_POD_NAME or none",
                parameters.args
            ),
        )),
    }
}

/// `02:01:0a:f4:01:05`.
pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
