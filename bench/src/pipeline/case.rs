//! The cases: which path a packet takes, and what a flow's addresses are on it.

use std::net::{Ipv4Addr, SocketAddrV4};

use wire::Mac;

/// One path through the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Case {
    /// No pipeline: rx, swap the MAC addresses, tx.
    IoFloor,
    /// Pod to a pod of another node, routed plainly: no policy, no translation.
    Forward,
    /// Pod to pod on this node, egress and ingress policy.
    Policy,
    /// Pod to a Service with backends on this node, both policies.
    Service,
    /// Pod to a Service with backends on other nodes, egress policy, VXLAN.
    ServiceVxlan,
    /// The way back of the same: out of VXLAN, to the pod, from the Service's address.
    ServiceVxlanReturn,
    /// Every packet the first of its flow: 10,000 Services and 1,000 rules unless told, as many flows live as asked for.
    NewFlows,
}

impl Case {
    /// As it is typed and printed.
    pub(crate) fn name(self) -> String {
        use clap::ValueEnum;
        let value = self.to_possible_value().expect("no case is hidden");
        value.get_name().to_owned()
    }

    /// Packets go to a Service.
    pub(crate) const fn has_service(self) -> bool {
        matches!(
            self,
            Self::Service | Self::ServiceVxlan | Self::ServiceVxlanReturn | Self::NewFlows
        )
    }

    /// The servers are on other nodes.
    pub(crate) const fn is_remote(self) -> bool {
        matches!(
            self,
            Self::IoFloor | Self::Forward | Self::ServiceVxlan | Self::ServiceVxlanReturn | Self::NewFlows
        )
    }

    /// What leaves for another node leaves in a tunnel.
    pub(crate) const fn has_tunnel(self) -> bool {
        self.is_remote() && self.has_service()
    }

    /// Policy selects the pods.
    pub(crate) const fn has_policy(self) -> bool {
        !matches!(self, Self::IoFloor | Self::Forward)
    }

    /// The measured packets are replies.
    pub(crate) const fn measures_replies(self) -> bool {
        matches!(self, Self::ServiceVxlanReturn)
    }

    /// Pods or nodes that answer.
    pub(crate) const fn servers(self) -> u16 {
        if self.has_service() { SERVERS_MAX } else { 1 }
    }

    /// Where flow `flow` is sent to, before any translation.
    pub(crate) fn destination(self, flow: u32) -> SocketAddrV4 {
        if self == Self::NewFlows {
            return SocketAddrV4::new(vip(flow % NEW_FLOW_SERVICES_MAX), 80);
        }
        if self.has_service() {
            return SocketAddrV4::new(vip(group(flow)), 80);
        }
        self.server(flow, 0)
    }

    /// Where flow `flow` arrives when server number `server` has it.
    pub(crate) fn server(self, flow: u32, server: u16) -> SocketAddrV4 {
        let node = if self.is_remote() {
            FIRST_REMOTE + server as u8
        } else {
            1
        };
        let number = if self.is_remote() { 10 } else { 2 + server as u8 };
        let port = match self {
            Self::NewFlows => new_flow_port(flow % NEW_FLOW_SERVICES_MAX),
            _ => FIRST_SERVER_PORT + group(flow) as u16,
        };
        SocketAddrV4::new(Ipv4Addr::new(10, 244, node, number), port)
    }

    /// Where flow `flow` of client number `client` comes from.
    pub(crate) fn source(self, flow: u32, client: u16) -> SocketAddrV4 {
        let low = match self {
            Self::NewFlows => flow / NEW_FLOW_SERVICES_MAX,
            _ => flow,
        };
        let port = FIRST_CLIENT_PORT + (low % CLIENT_PORTS) as u16;
        SocketAddrV4::new(client_address(client), port)
    }
}

/// The number of the `nth` flow of the new-flows case: neighbours go to different Services, so that all are in use at once.
pub(crate) const fn new_flow(nth: u32, services: u32) -> u32 {
    nth / services * NEW_FLOW_SERVICES_MAX + nth % services
}

/// The address of Service number `number`.
pub(crate) fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + number)
}

/// The port that the backends of Service `number` of the new-flows case listen on.
pub(crate) fn new_flow_port(number: u32) -> u16 {
    FIRST_SERVER_PORT + number as u16
}

/// Flows of one source address and port range.
fn group(flow: u32) -> u32 {
    flow / CLIENT_PORTS
}

/// The address of client pod number `number`.
pub(crate) fn client_address(number: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, 10 + number as u8)
}

/// The MAC address of the pod with this address.
pub(crate) fn pod_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([2, 1, a, b, c, d])
}

/// The main address of node number `number`.
pub(crate) fn node_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, number)
}

/// The uplink MAC address of node number `number`.
pub(crate) fn node_mac(number: u8) -> Mac {
    Mac([2, 0, 192, 168, 0, number])
}

/// The MAC address of that node's end of VXLAN.
pub(crate) fn vtep_mac(number: u8) -> Mac {
    Mac([0x66, 0, 0, 0, 0, number])
}

/// Our end of every pod's link.
pub(crate) const GATEWAY_MAC: Mac = Mac([0xee; 6]);
/// The first of the other nodes.
pub(crate) const FIRST_REMOTE: u8 = 2;
/// Backends of a Service.
pub(crate) const SERVERS_MAX: u16 = 3;
/// Client pods at most.
pub(crate) const CLIENTS_MAX: u16 = 200;
/// The servers' lowest port; each further 32,768 flows take the next.
pub(crate) const FIRST_SERVER_PORT: u16 = 8000;
/// Flows per destination; a power of two.
pub(crate) const CLIENT_PORTS: u32 = 1 << 15;
/// Services of the new-flows case at most: their servers' ports have room for no more.
pub(crate) const NEW_FLOW_SERVICES_MAX: u32 = 50_000;
/// Rules before the one that allows at most.
pub(crate) const NEW_FLOW_RULES_MAX: u32 = 1 << 16;
const FIRST_CLIENT_PORT: u16 = 16_384;
/// Flows at most: what the servers' ports tell apart.
pub(crate) const FLOWS_MAX: u32 = 1000 * CLIENT_PORTS;
