//! What the kernel is told beside routes: XDP on uplinks which addresses are ours, the neighbour table which next hops to
//! keep resolved.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::facts::{Facts, Steering};
use crate::io::bpf::{AddressKinds, Steer, SteerConfig};
use crate::underlay::Underlay;

/// What each uplink's program was told last.
pub(super) struct Steered {
    workers: u16,
    told: BTreeMap<String, Told>,
}

#[derive(Default)]
struct Told {
    steering: Steering,
    config: SteerConfig,
    addresses: BTreeMap<IpNet, AddressKinds>,
}

impl Steered {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers: workers as u16,
            told: BTreeMap::new(),
        }
    }

    /// Tells every uplink's program what differs from what it was told. False: one could not be told.
    pub(super) fn reconcile<'a>(&mut self, facts: &Facts, steers: impl Iterator<Item = &'a Steer>) -> bool {
        let Some(node) = facts.node() else { return true };
        let steering = facts.steering();
        let config = SteerConfig {
            vxlan_port: node.vxlan_port,
            vni: node.vxlan_vni.get(),
            snat: node.snat_ports.0..=node.snat_ports.1,
            workers: self.workers,
            ..SteerConfig::default()
        };
        let (mut told, mut all) = (BTreeMap::new(), true);
        for steer in steers {
            let before = self
                .told
                .remove(steer.interface())
                .unwrap_or_else(|| Told::of_adopted(steer));
            match tell(steer, &before, &steering, &config) {
                Ok(after) => drop(told.insert(steer.interface().to_owned(), after)),
                // Told whole next time.
                Err(error) => {
                    tracing::error!(interface = steer.interface(), %error, "the steering program");
                    all = false;
                }
            }
        }
        self.told = told;
        all
    }
}

impl Told {
    /// What the process before told the program that we adopted.
    fn of_adopted(steer: &Steer) -> Self {
        let peers = steer.nodes().unwrap_or_default().into_iter().collect();
        Self {
            steering: Steering {
                peers,
                ..Steering::default()
            },
            config: SteerConfig {
                workers: 0,
                ..SteerConfig::default()
            },
            addresses: steer.addresses().unwrap_or_default().into_iter().collect(),
        }
    }
}

fn tell(steer: &Steer, before: &Told, steering: &Steering, config: &SteerConfig) -> std::io::Result<Told> {
    if before.config != *config {
        steer.set_config(config)?;
    }
    let addresses = kinds(steering);
    for (prefix, kinds) in &addresses {
        if before.addresses.get(prefix) != Some(kinds) {
            steer.add_address(*prefix, *kinds)?;
        }
    }
    for prefix in before
        .addresses
        .keys()
        .filter(|prefix| !addresses.contains_key(*prefix))
    {
        steer.remove_address(*prefix)?;
    }
    for &peer in steering.peers.difference(&before.steering.peers) {
        steer.add_node(peer)?;
    }
    for &peer in before.steering.peers.difference(&steering.peers) {
        steer.remove_node(peer)?;
    }
    Ok(Told {
        steering: steering.clone(),
        config: config.clone(),
        addresses,
    })
}

fn kinds(steering: &Steering) -> BTreeMap<IpNet, AddressKinds> {
    let mut all: BTreeMap<IpNet, AddressKinds> = BTreeMap::new();
    let mut add = |prefix: IpNet, kind: AddressKinds| {
        all.entry(prefix)
            .and_modify(|kinds| *kinds = *kinds | kind)
            .or_insert(kind);
    };
    steering
        .pods
        .iter()
        .for_each(|&prefix| add(prefix, AddressKinds::POD));
    steering
        .services
        .iter()
        .for_each(|&prefix| add(prefix, AddressKinds::SERVICE));
    steering
        .node
        .iter()
        .for_each(|&address| add(address.into(), AddressKinds::NODE));
    steering
        .vteps
        .iter()
        .for_each(|&address| add(address.into(), AddressKinds::VTEP));
    all
}

/// Next hops that the kernel keeps resolved for us.
#[derive(Default)]
pub(super) struct Neighbours {
    /// Destinations on uplinks' own subnets that packets waited for, oldest first.
    on_link: VecDeque<IpAddr>,
}

/// Destinations on uplinks' own subnets that are kept at most; the kernel's own table bounds them too.
const ON_LINK_MAX: usize = 1024;

impl Neighbours {
    /// Notes destinations that packets wait for. True when one is new.
    pub(super) fn want(&mut self, addresses: Vec<IpAddr>) -> bool {
        let mut new = false;
        for address in addresses {
            if self.on_link.contains(&address) {
                continue;
            }
            if self.on_link.len() == ON_LINK_MAX {
                self.on_link.pop_front();
            }
            self.on_link.push_back(address);
            new = true;
        }
        new
    }

    /// Every next hop in use, with the port name of its uplink: routers of all routes, and of other nodes and destinations
    /// that packets waited for those that lie on an uplink's own subnet.
    pub(super) fn wanted(
        &self,
        underlay: &Underlay,
        peers: impl Iterator<Item = IpAddr>,
    ) -> BTreeSet<(Arc<str>, IpAddr)> {
        let uplink = |port: &Arc<str>| &**port != "host";
        let routers = underlay
            .routes
            .iter()
            .flat_map(|route| &route.next_hops)
            .filter_map(|hop| {
                let gateway = hop.gateway.filter(|_| uplink(&hop.port))?;
                Some((Arc::clone(&hop.port), gateway))
            });
        let on_link = peers.chain(self.on_link.iter().copied()).filter_map(|address| {
            let routes = underlay
                .routes
                .iter()
                .filter(|route| route.prefix.contains(&address));
            let longest =
                routes.max_by_key(|route| (route.prefix.prefix_len(), std::cmp::Reverse(route.metric)))?;
            let hop = longest
                .next_hops
                .iter()
                .find(|hop| hop.gateway.is_none() && uplink(&hop.port))?;
            Some((Arc::clone(&hop.port), address))
        });
        routers.chain(on_link).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::underlay::{NextHop, UnderlayRoute};

    fn route(prefix: &str, gateway: Option<&str>, port: &str) -> UnderlayRoute {
        UnderlayRoute {
            prefix: prefix.parse().unwrap(),
            metric: 0,
            next_hops: vec![NextHop {
                port: port.into(),
                gateway: gateway.map(|g| g.parse().unwrap()),
                weight: 1,
            }],
        }
    }

    #[test]
    fn routers_and_peers_on_the_link_are_kept_resolved_and_no_one_else() {
        let underlay = Underlay {
            routes: vec![
                route("0.0.0.0/0", Some("10.0.0.254"), "uplink"),
                route("10.0.0.0/24", None, "uplink"),
                route("10.9.0.0/24", None, "host"),
                route("10.8.0.0/24", Some("10.9.0.1"), "host"),
            ],
            ..Underlay::default()
        };
        let mut neighbours = Neighbours::default();
        assert!(neighbours.want(vec!["10.0.0.77".parse().unwrap(), "10.9.0.5".parse().unwrap()]));
        assert!(!neighbours.want(vec!["10.0.0.77".parse().unwrap()]));
        let peers = ["10.0.0.2", "192.0.2.1"].map(|p| p.parse().unwrap());
        let wanted: Vec<String> = neighbours
            .wanted(&underlay, peers.into_iter())
            .into_iter()
            .map(|(port, a)| format!("{port} {a}"))
            .collect();
        assert_eq!(
            wanted,
            ["uplink 10.0.0.2", "uplink 10.0.0.77", "uplink 10.0.0.254"]
        );
    }
}
