//! Local ports: their addresses, policy attachments and adjacencies.

use std::net::IpAddr;
use std::sync::Arc;

use contract::valid::{self, PortKind, Subject, Tier};
use wire::addr::Mac;

use super::claim::host;
use super::node::missing;
use super::{CompileError, Work, numbers, template, within};
use crate::flow::Zone;
use crate::port::PortId;
use crate::snapshot::table::{Claim, PortRecord};
use crate::snapshot::{AdjacencyId, Attachment, PolicyId, Port, Shard, TierAttachment};

/// Our end of every pod link.
pub(super) const GATEWAY_MAC: Mac = Mac([0xee; 6]);

/// When nobody says otherwise.
const MTU: u16 = 1500;
/// What VXLAN over IPv4 takes.
const VXLAN_OVERHEAD: u16 = 50;

impl Work {
    /// Withdraws the addresses that pods give up, of all ports that change, so that one may move to another port.
    pub(super) fn give_up_addresses(&mut self, changed: &[valid::Port]) {
        for port in changed {
            let Some(PortRecord { id, source }) = self.snapshot.port_names.get(&port.name).cloned() else {
                continue;
            };
            if (source.kind, port.kind) != (PortKind::Pod, PortKind::Pod) {
                continue;
            }
            for address in source
                .addresses
                .iter()
                .filter(|address| !port.addresses.contains(address))
            {
                self.withdraw(host(*address), Claim::LocalPod(id));
            }
        }
    }

    /// `true` when the underlay must be compiled again: another uplink or host port. After [`Work::give_up_addresses`].
    pub(super) fn port(&mut self, source: valid::Port) -> Result<bool, CompileError> {
        let record = self.snapshot.port_names.get(&source.name).cloned();
        if record.as_ref().is_some_and(|record| *record.source == source) {
            return Ok(false);
        }
        let subject = Subject::port(&source.name);
        if let Some(record) = &record
            && record.source.kind != source.kind
        {
            // Another thing under the same name: its index must not live on.
            self.port_removed(&source.name.clone())?;
            self.port(source)?;
            return Ok(true);
        }
        let ingress = self.attachment(&subject, &source.ingress)?;
        let egress = self.attachment(&subject, &source.egress)?;
        let id = match &record {
            Some(record) => record.id,
            None => self.new_port_id(&subject, &source.name)?,
        };
        let source = Arc::new(source);
        let old = self.snapshot.ports.get(u32::from(id.0)).cloned();
        let mut port = self.described(id, &source);
        port.adjacency = old.as_ref().and_then(|old| old.adjacency);
        (port.ingress, port.egress) = (ingress, egress);
        if source.kind == PortKind::Pod {
            let adjacency = template::to_pod(&port);
            port.adjacency = Some(match port.adjacency {
                Some(adjacency_id) => {
                    self.set_adjacency(adjacency_id, adjacency);
                    adjacency_id
                }
                None => self.new_adjacency(&subject, adjacency)?,
            });
        }
        self.attach(id, old.as_ref(), &port);
        if let Some(old) = &old {
            if old.mtu != port.mtu {
                self.bumps.add(Shard::endpoint(id));
            }
            if (&old.ingress, &old.egress) != (&port.ingress, &port.egress) {
                self.bumps.add(port.shard);
            }
            *self
                .snapshot
                .ports
                .get_mut(u32::from(id.0))
                .expect("an index that a name has is taken") = port;
        } else {
            self.bumps.add(port.shard);
            self.snapshot.ports.insert_at(u32::from(id.0), port);
            if u32::from(id.0) < self.used.0 {
                self.reused.ports.push(id);
            }
        }
        if source.kind == PortKind::Pod {
            self.claim_addresses(&subject, id, &source, record.as_ref())?;
        }
        if source.kind == PortKind::Host {
            self.snapshot.host = Some(id);
        }
        let pod = source.kind == PortKind::Pod;
        self.snapshot
            .port_names
            .insert(source.name.clone(), PortRecord { id, source });
        Ok(!pod)
    }

    fn claim_addresses(
        &mut self,
        subject: &Subject,
        id: PortId,
        source: &valid::Port,
        before: Option<&PortRecord>,
    ) -> Result<(), CompileError> {
        let before = before.map_or(&[][..], |record| &record.source.addresses);
        for address in source
            .addresses
            .iter()
            .filter(|address| !before.contains(address))
        {
            if let Some(claims) = self.snapshot.claims.exact(host(*address))
                && let Claim::LocalPod(other) = claims.winner
            {
                let other = self
                    .snapshot
                    .port(other)
                    .map_or("another port", |port| &port.name);
                let found = format!("{address}, which {other} has");
                return Err(subject
                    .invalid("addresses", "an address that no other port has", found)
                    .into());
            }
            self.claim(host(*address), Claim::LocalPod(id));
        }
        Ok(())
    }

    /// `true` when the underlay must be compiled again.
    pub(super) fn port_removed(&mut self, name: &str) -> Result<bool, CompileError> {
        let Some(PortRecord { id, source }) = self.snapshot.port_names.get_name(name).cloned() else {
            return Err(missing("Port", name));
        };
        self.snapshot.port_names.remove(&source.name);
        if source.kind == PortKind::Pod {
            for address in &source.addresses {
                self.withdraw(host(*address), Claim::LocalPod(id));
            }
        }
        if let Some(port) = self.snapshot.ports.remove(u32::from(id.0)) {
            self.bumps.add(port.shard);
            self.detach(&port);
            // Those of other ports are kept with the underlay.
            if source.kind == PortKind::Pod
                && let Some(adjacency) = port.adjacency
            {
                self.snapshot.adjacencies.remove(u32::from(adjacency.0));
            }
        }
        if source.kind == PortKind::Host {
            self.snapshot.host = None;
        }
        Ok(source.kind != PortKind::Pod)
    }

    fn new_port_id(&self, subject: &Subject, name: &str) -> Result<PortId, CompileError> {
        let ports = &self.snapshot.ports;
        let max = self.snapshot.limits.ports.min(Zone::PORTS_MAX);
        within(subject, "ports", ports.len() + 1, max)?;
        let index = numbers::kept(
            &self.numbers.ports,
            name,
            ports.end(),
            ports.next_index(),
            Zone::PORTS_MAX,
        );
        match u16::try_from(index) {
            Ok(id) if index < Zone::PORTS_MAX => Ok(PortId(id)),
            _ => Err(subject
                .invalid("ports", "fewer changes at once: indexes are spent", index)
                .into()),
        }
    }

    /// All of a port but policy and adjacency.
    fn described(&self, id: PortId, source: &valid::Port) -> Port {
        let tables = &self.snapshot;
        let link = tables
            .underlay
            .links
            .iter()
            .find(|link| *link.port == *source.name);
        let node_mac = tables.node.uplink_mac.unwrap_or(Mac::ZERO);
        let kernel_mtu = link.map(|link| link.mtu);
        let uplink_mtu = || {
            let uplinks = tables
                .underlay
                .links
                .iter()
                .filter(|link| link.port.starts_with("uplink"));
            tables
                .node
                .uplink_mtu
                .or_else(|| uplinks.map(|link| link.mtu).min())
                .unwrap_or(MTU)
        };
        let (peer_mac, own_mac, mtu) = match source.kind {
            PortKind::Pod => {
                let mtu = source
                    .mtu
                    .or(kernel_mtu)
                    .unwrap_or_else(|| uplink_mtu().saturating_sub(VXLAN_OVERHEAD));
                (source.mac.unwrap_or(Mac::ZERO), GATEWAY_MAC, mtu)
            }
            PortKind::Uplink => {
                let mac = link.map_or(node_mac, |link| link.mac);
                (
                    Mac::ZERO,
                    mac,
                    source
                        .mtu
                        .or(tables.node.uplink_mtu)
                        .or(kernel_mtu)
                        .unwrap_or(MTU),
                )
            }
            PortKind::Host => {
                let kernel = link
                    .and_then(|link| link.peer_mac)
                    .or(source.mac)
                    .unwrap_or(node_mac);
                let mtu = source.mtu.or(kernel_mtu).unwrap_or_else(uplink_mtu);
                (kernel, link.map_or(GATEWAY_MAC, |link| link.mac), mtu)
            }
        };
        let addresses: Arc<[IpAddr]> = match source.kind {
            PortKind::Host => tables.node.addresses.as_slice().into(),
            _ => source.addresses.as_slice().into(),
        };
        Port {
            id,
            name: source.name.clone(),
            interface: source.interface.clone(),
            kind: source.kind,
            peer_mac,
            own_mac,
            mtu,
            addresses,
            ingress: Attachment::default(),
            egress: Attachment::default(),
            shard: Shard::endpoint(id),
            adjacency: None,
        }
    }

    /// Describes every port again: links or the node changed under them.
    pub(super) fn describe_ports(&mut self) {
        let records: Vec<_> = self
            .snapshot
            .port_names
            .iter()
            .map(|(_, record)| record.clone())
            .collect();
        for PortRecord { id, source } in records {
            let Some(old) = self.snapshot.ports.get(u32::from(id.0)).cloned() else {
                continue;
            };
            let mut port = self.described(id, &source);
            (port.ingress, port.egress, port.adjacency) =
                (old.ingress.clone(), old.egress.clone(), old.adjacency);
            if port == old {
                continue;
            }
            if port.mtu != old.mtu {
                self.bumps.add(Shard::endpoint(id));
            }
            if port.kind == PortKind::Pod
                && let Some(adjacency) = port.adjacency
            {
                self.set_adjacency(adjacency, template::to_pod(&port));
            }
            *self
                .snapshot
                .ports
                .get_mut(u32::from(id.0))
                .expect("an index that a name has is taken") = port;
        }
    }

    fn attachment(&self, subject: &Subject, tiers: &[Tier]) -> Result<Attachment, CompileError> {
        let tiers = tiers.iter().map(|tier| {
            let policies = tier
                .policies
                .iter()
                .map(|id| match self.snapshot.policy_names.get(id) {
                    Some(policy) => Ok(*policy),
                    None => Err(subject
                        .invalid("policies", "the id of a policy", format!("{id:?}"))
                        .into()),
                });
            let policies: Arc<[PolicyId]> = policies.collect::<Result<_, CompileError>>()?;
            Ok(TierAttachment {
                policies,
                default_deny: tier.default_deny,
            })
        });
        Ok(Attachment(tiers.collect::<Result<_, CompileError>>()?))
    }

    /// Keeps the list of ports at each policy.
    fn attach(&mut self, id: PortId, old: Option<&Port>, new: &Port) {
        let (before, after) = (old.map(attached).unwrap_or_default(), attached(new));
        for policy in before
            .iter()
            .filter(|policy| after.binary_search(policy).is_err())
        {
            self.snapshot
                .policies
                .get_mut(policy.0)
                .expect("attached policies exist")
                .ports
                .remove(&u32::from(id.0));
        }
        for policy in after
            .iter()
            .filter(|policy| before.binary_search(policy).is_err())
        {
            self.snapshot
                .policies
                .get_mut(policy.0)
                .expect("attached policies exist")
                .ports
                .insert(u32::from(id.0), ());
        }
    }

    fn detach(&mut self, port: &Port) {
        for policy in attached(port) {
            self.snapshot
                .policies
                .get_mut(policy.0)
                .expect("attached policies exist")
                .ports
                .remove(&u32::from(port.id.0));
        }
    }

    /// Puts an adjacency at a free index.
    pub(super) fn new_adjacency(
        &mut self,
        subject: &Subject,
        adjacency: crate::snapshot::Adjacency,
    ) -> Result<AdjacencyId, CompileError> {
        let index = self.snapshot.adjacencies.next_index();
        match u16::try_from(index) {
            Ok(id) if id != u16::MAX => {
                self.snapshot.adjacencies.insert(adjacency);
                Ok(AdjacencyId(id))
            }
            _ => Err(subject
                .invalid("adjacencies", format!("at most {} next hops", u16::MAX), index)
                .into()),
        }
    }

    /// Rewrites an adjacency where it differs.
    pub(super) fn set_adjacency(&mut self, id: AdjacencyId, adjacency: crate::snapshot::Adjacency) {
        let index = u32::from(id.0);
        if self.snapshot.adjacencies.get(index) != Some(&adjacency)
            && let Some(place) = self.snapshot.adjacencies.get_mut(index)
        {
            *place = adjacency;
        }
    }
}

/// The policies attached to a port in either direction, sorted, each once.
fn attached(port: &Port) -> Vec<PolicyId> {
    let tiers = port.ingress.0.iter().chain(&*port.egress.0);
    let mut policies: Vec<_> = tiers.flat_map(|tier| tier.policies.iter().copied()).collect();
    policies.sort_unstable();
    policies.dedup();
    policies
}
