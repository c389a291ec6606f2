//! Changes: each is a switch, so that a script can turn it back.

use contract::proto::{self, BackendState, Encap};
use fastpath::underlay::Underlay;

use super::cluster::{BOTH, Fam, allow, attach, backend, cluster, deny, origin, policy, port_of, service};
use super::node::underlay;

/// Which changes are in force, a bit each.
#[derive(Clone, Copy, Default)]
pub(super) struct Toggles(u32);

/// Numbers of the switches.
mod switch {
    pub(super) const WEB_INGRESS: u32 = 0;
    pub(super) const CLIENT_EGRESS: u32 = 1;
    pub(super) const BACKEND_GONE: u32 = 2;
    pub(super) const BACKEND_NOT_READY: u32 = 3;
    pub(super) const SERVICE_GONE: u32 = 4;
    pub(super) const OTHER_GONE: u32 = 5;
    pub(super) const BLOCK_PLAIN: u32 = 6;
    pub(super) const NODE_GONE: u32 = 7;
    pub(super) const NEIGHBOUR_LOST: u32 = 8;
    pub(super) const NO_DEFAULT_ROUTE: u32 = 9;
    pub(super) const MTU_SMALL: u32 = 10;
    pub(super) const TWO_WAYS: u32 = 11;
    pub(super) const FEW_SNAT_PORTS: u32 = 12;
    pub(super) const ONE_REDECISION: u32 = 13;
    pub(super) const ROUTER_MOVES: u32 = 14;
    pub(super) const SHORT_TIMEOUTS: u32 = 15;
    pub(super) const COUNT: u32 = 16;
}

impl Toggles {
    pub(super) fn flip(&mut self, what: u8) {
        self.0 ^= 1 << (u32::from(what) % switch::COUNT);
    }

    fn on(self, switch: u32) -> bool {
        self.0 >> switch & 1 == 1
    }

    /// The desired state and the underlay that these switches make.
    pub(super) fn cluster(self, version: u64) -> (proto::State, Underlay) {
        let mut state = cluster();
        state.version = version;
        self.limits(&mut state);
        self.services(&mut state);
        self.policies(&mut state);
        self.nodes(&mut state);
        contract::merge::sort(&mut state);
        (state, self.underlay())
    }

    fn limits(self, state: &mut proto::State) {
        // Counters are made for as many rules and ports as there may be.
        state.limits = Some(proto::Limits {
            ports: 16,
            rules: 64,
            fragments: 8,
            fragments_per_source: 4,
            redecisions_per_batch: u32::from(self.on(switch::ONE_REDECISION)),
            ..Default::default()
        });
        if self.on(switch::SHORT_TIMEOUTS) {
            state.timeouts = Some(proto::Timeouts {
                tcp_syn: 1,
                tcp_established: 2,
                udp: 1,
                udp_stream: 1,
                icmp: 1,
                ..Default::default()
            });
        }
        if let Some(node) = state.node.as_mut().filter(|_| self.on(switch::FEW_SNAT_PORTS)) {
            (node.snat_port_first, node.snat_port_last) = (50_000, 50_001);
        }
    }

    fn services(self, state: &mut proto::State) {
        let mut backends = backend(2, 9, 8080);
        if !self.on(switch::BACKEND_GONE) {
            backends.extend(backend(1, 5, 8080));
        }
        if self.on(switch::BACKEND_NOT_READY) {
            backends[0].2 = BackendState::NotReady;
        }
        state.services.push(service("tcp:web", 10, 6, 80, &backends));
        state
            .services
            .push(service("udp:dns", 10, 17, 53, &backend(3, 9, 53)));
        state
            .services
            .push(service("sctp:x", 10, 132, 80, &backend(1, 6, 81)));
        state.services.push(service("tcp:none", 11, 6, 80, &[]));
        state.services.push(service("udp:none", 11, 17, 53, &[]));
        if self.on(switch::SERVICE_GONE) {
            state.services.truncate(1);
            state.services[0].origin = origin("Service", "renamed");
        }
    }

    fn policies(self, state: &mut proto::State) {
        if self.on(switch::WEB_INGRESS) {
            let client: Vec<_> = BOTH.iter().map(|f| f.pod(1, 6)).collect();
            state
                .policies
                .push(policy("web", &[allow(&client, Some((6, 80)))], &[]));
            port_of(state, "web").ingress = attach(&["web"]);
        }
        if self.on(switch::CLIENT_EGRESS) {
            let outside: Vec<_> = BOTH.map(Fam::outside).into();
            state
                .policies
                .push(policy("client", &[], &[deny(&outside), allow(&[], None)]));
            port_of(state, "client").egress = attach(&["client"]);
        }
    }

    fn nodes(self, state: &mut proto::State) {
        if self.on(switch::OTHER_GONE) {
            state.ports.retain(|port| port.name != "pod:default/other");
        }
        if self.on(switch::BLOCK_PLAIN) {
            for block in &mut state.blocks {
                if block.node == "node-2" {
                    block.encap = Encap::None as i32;
                }
            }
        }
        if self.on(switch::NODE_GONE) {
            state.blocks.retain(|block| block.node != "node-4");
            state.remote_nodes.retain(|node| node.name != "node-4");
        }
    }

    fn underlay(self) -> Underlay {
        let mut underlay = underlay();
        if self.on(switch::MTU_SMALL) {
            underlay.links[0].mtu = 1300;
        }
        if self.on(switch::NEIGHBOUR_LOST) {
            underlay
                .neighbours
                .retain(|n| BOTH.iter().all(|f| n.address.to_string() != f.node(2)));
        }
        if self.on(switch::ROUTER_MOVES) {
            underlay
                .neighbours
                .retain(|n| !BOTH.iter().any(|f| n.address.to_string() == f.node(254)));
        }
        if self.on(switch::NO_DEFAULT_ROUTE) {
            underlay.routes.retain(|route| route.prefix.prefix_len() != 0);
        }
        if self.on(switch::TWO_WAYS) {
            for route in &mut underlay.routes {
                if route.prefix.prefix_len() == 0 {
                    let mut second = route.next_hops[0].clone();
                    let f = if route.prefix.addr().is_ipv4() {
                        Fam::V4
                    } else {
                        Fam::V6
                    };
                    second.gateway = f.node(3).parse().ok();
                    route.next_hops.push(second);
                }
            }
        }
        underlay
    }
}
