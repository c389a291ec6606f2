//! What an attachment gets: addresses, a MAC and the name of its link, and who may have none here.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::address::Asker;
use super::attachment::{Attachment, Key};
use super::desk::{Desk, Wish};
use super::failure::{Code, Failure};
use crate::ipam::Assignments;
use crate::object::{ObjectName, Objects, Pod};
use crate::resolve::{NodeView, naming, pod_port_name};

impl Desk {
    /// Takes `wish` in: from here on its addresses are nobody else's.
    pub(super) fn reserve(
        &mut self,
        wish: &Wish,
        objects: &Objects,
        assignments: &Assignments,
    ) -> Result<Attachment, Failure> {
        let view = self.view.as_ref().ok_or_else(not_resolved)?;
        let object = objects.pods.get(&wish.pod);
        let refused = |details: String| {
            Err(Failure::new(
                Code::Refused,
                "the pod has no interface here",
                details,
            ))
        };
        match object {
            None if self.pods_are_known => {
                return Err(Failure::new(
                    Code::TryAgainLater,
                    "the pod is not known yet",
                    format!("pod {}: the API server has not told of it", wish.pod),
                ));
            }
            Some(pod) if pod.host_network => {
                return refused(format!("pod {} lives in its node's network", wish.pod));
            }
            Some(pod) if pod.node.as_deref().is_some_and(|node| node != self.node) => {
                let node = pod.node.as_deref().unwrap_or_default();
                return refused(format!(
                    "pod {} is bound to Node {node}, this is {}",
                    wish.pod, self.node
                ));
            }
            _ => {}
        }
        let attachments = self.attachments.lock();
        let owner = |address: IpAddr| {
            let others = attachments.values().filter(|other| other.pod() != wish.pod);
            let other = others
                .filter(|other| other.addresses.contains(&address))
                .map(Attachment::pod)
                .next();
            other.or_else(|| claimant(objects, assignments, address).filter(|pod| *pod != wish.pod))
        };
        // A manifest is the word of a person; a status in the API server may be that of an earlier life of the pod.
        let may_stay = |address: IpAddr| {
            owner(address).is_none() && (!self.pods_are_known || self.addresses.is_ours(view, address))
        };
        let written = object.map_or(&[][..], |pod| &pod.addresses);
        let addresses = if !wish.addresses.is_empty() {
            for address in &wish.addresses {
                if let Some(other) = owner(*address) {
                    return Err(no_address(
                        &wish.pod,
                        *address,
                        &format!("it is that of pod {other}"),
                    ));
                }
                if !self.addresses.is_ours(view, *address) {
                    let why = format!("it is not in the ranges of Node {}", self.node);
                    return Err(no_address(&wish.pod, *address, &why));
                }
            }
            wish.addresses.clone()
        } else if !written.is_empty() && written.iter().all(|address| may_stay(*address)) {
            written.to_vec()
        } else if !assignments.addresses(&wish.pod).is_empty() {
            assignments.addresses(&wish.pod).to_vec()
        } else {
            let taken = taken(&attachments, objects, assignments, view);
            let asker = Asker {
                pod: &wish.pod,
                object,
                namespace: objects.namespaces.get(&ObjectName::new("", &wish.pod.namespace)),
            };
            self.addresses
                .choose(view, &asker, &|address| taken.contains(&address))?
        };
        drop(attachments);
        let mac = wish.mac.or(object.and_then(|pod| pod.mac));
        let attachment = Attachment {
            key: wish.key.clone(),
            network: wish.network.clone(),
            netns: wish.netns.clone(),
            pod_namespace: wish.pod.namespace.to_string(),
            pod_name: wish.pod.name.to_string(),
            interface: naming::interface(&wish.pod),
            mac: mac.unwrap_or_else(|| naming::mac_of_addresses(&addresses)),
            mtu: view.pod_mtu,
            addresses,
            is_complete: false,
        };
        self.addresses.given(&wish.pod, &attachment.addresses);
        self.attachments
            .lock()
            .insert(attachment.key.clone(), attachment.clone());
        let port = pod_port_name(&wish.pod);
        self.dataplane.send_modify(|dataplane| dataplane.forget(&port));
        Ok(attachment)
    }

    /// Why no address could be handed out.
    pub(super) fn shortage(&self, objects: &Objects) -> Option<Failure> {
        let Some(view) = &self.view else {
            return Some(Failure {
                code: Code::NotAvailable as u32,
                ..not_resolved()
            });
        };
        let taken = taken(&self.attachments.lock(), objects, &Assignments::default(), view);
        let shortage = self
            .addresses
            .shortage(view, &|address| taken.contains(&address))?;
        Some(Failure::new(
            Code::NotAvailable,
            "no address can be handed out",
            shortage,
        ))
    }
}

/// Addresses that nobody else may get, as far as they are in the node's ranges.
fn taken(
    attachments: &BTreeMap<Key, Attachment>,
    objects: &Objects,
    assignments: &Assignments,
    view: &NodeView,
) -> HashSet<IpAddr> {
    let of_attachments = attachments.values().flat_map(|one| one.addresses.iter().copied());
    let claims = objects
        .pods
        .values()
        .filter(|pod| !pod.is_finished() && !pod.host_network);
    let of_objects = claims.flat_map(|pod| pod.addresses.iter().copied());
    let assigned = assignments
        .iter()
        .flat_map(|(_, one)| one.addresses.iter().copied());
    let is_here = |address: &IpAddr| view.pod_cidrs.iter().any(|range| range.contains(address));
    of_attachments
        .chain(of_objects)
        .chain(assigned)
        .filter(is_here)
        .collect()
}

/// The pod that an object, or an assignment, gives `address`.
fn claimant(objects: &Objects, assignments: &Assignments, address: IpAddr) -> Option<ObjectName> {
    let claims = |pod: &Pod| !pod.is_finished() && !pod.host_network && pod.addresses.contains(&address);
    let by_object = objects
        .pods
        .iter()
        .find(|(_, pod)| claims(pod))
        .map(|(name, _)| name);
    let assigned = || {
        assignments
            .iter()
            .find(|(_, one)| one.addresses.contains(&address))
            .map(|(name, _)| name)
    };
    by_object.or_else(assigned).cloned()
}

fn no_address(pod: &ObjectName, address: IpAddr, why: &str) -> Failure {
    Failure::new(
        Code::NoAddress,
        "the address that was asked for cannot be had",
        format!("pod {pod}: {address}: {why}"),
    )
}

pub(super) fn not_resolved() -> Failure {
    Failure::new(
        Code::TryAgainLater,
        "the node's state is not known yet",
        "ringway-control has not read the cluster's objects",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Object;

    fn desk(directory: &std::path::Path, pods_are_known: bool) -> Desk {
        let mut desk = Desk::open("n", directory, pods_are_known).unwrap();
        desk.view = Some(NodeView {
            name: "n".into(),
            addresses: Vec::new(),
            subnets: Vec::new(),
            pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
            uplink_mac: [0; 6],
            uplink_mtu: 1500,
            pod_mtu: 1450,
            tunnels: Vec::new(),
        });
        desk
    }

    fn wish(pod: &str) -> Wish {
        Wish {
            key: Key {
                container_id: format!("of-{pod}"),
                ifname: "eth0".into(),
            },
            network: "ringway".into(),
            netns: "/run/netns/x".into(),
            pod: ObjectName::new("default", pod),
            addresses: Vec::new(),
            mac: None,
        }
    }

    fn objects(pods: &[&str]) -> Objects {
        let mut objects = Objects::default();
        for pod in pods {
            objects.insert(Object::Pod(serde_saphyr::from_str(pod).unwrap()));
        }
        objects
    }

    #[test]
    fn a_pod_that_the_api_server_has_not_told_of_waits() {
        let directory = tempfile::tempdir().unwrap();
        let none = Assignments::default();
        let mut strict = desk(directory.path(), true);
        let failure = strict.reserve(&wish("web"), &objects(&[]), &none).unwrap_err();
        assert!(failure.is(Code::TryAgainLater), "{failure}");
        // The address of an earlier life, on another node.
        let told = objects(&["{metadata: {name: web}, spec: {nodeName: n}, status: {podIP: 10.2.0.9}}"]);
        let attachment = strict.reserve(&wish("web"), &told, &none).unwrap();
        assert_eq!(attachment.addresses, ["10.1.0.2".parse::<IpAddr>().unwrap()]);
        // What a manifest says is meant.
        let mut lenient = desk(directory.path(), false);
        let attachment = lenient.reserve(&wish("web"), &told, &none).unwrap();
        assert_eq!(attachment.addresses, ["10.2.0.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(attachment.mac, [2, 1, 10, 2, 0, 9]);
        assert!(lenient.reserve(&wish("other"), &objects(&[]), &none).is_ok());
    }

    #[test]
    fn no_two_pods_get_one_address() {
        let directory = tempfile::tempdir().unwrap();
        let mut desk = desk(directory.path(), false);
        let none = Assignments::default();
        let there = objects(&[
            "{metadata: {name: a}, spec: {nodeName: n}, status: {podIP: 10.1.0.2}}",
            "{metadata: {name: host}, spec: {nodeName: n, hostNetwork: true}}",
            "{metadata: {name: far}, spec: {nodeName: m}}",
        ]);
        let given = desk.reserve(&wish("b"), &there, &none).unwrap();
        assert_eq!(given.addresses[0].to_string(), "10.1.0.3");
        for (taken, owner) in [("10.1.0.2", "default/a"), ("10.1.0.3", "default/b")] {
            let wanted = Wish {
                addresses: vec![taken.parse().unwrap()],
                ..wish("c")
            };
            let failure = desk.reserve(&wanted, &there, &none).unwrap_err();
            assert!(
                failure.is(Code::NoAddress) && failure.details.contains(owner),
                "{failure}"
            );
        }
        for (pod, named) in [("host", "node's network"), ("far", "Node m")] {
            let failure = desk.reserve(&wish(pod), &there, &none).unwrap_err();
            assert!(
                failure.is(Code::Refused) && failure.details.contains(named),
                "{failure}"
            );
        }
        desk.view = None;
        assert!(desk.shortage(&there).unwrap().is(Code::NotAvailable));
        assert!(
            desk.reserve(&wish("d"), &there, &none)
                .unwrap_err()
                .is(Code::TryAgainLater)
        );
    }
}
