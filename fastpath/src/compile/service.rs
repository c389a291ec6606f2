//! Service ports: VIPs, backends that new flows may choose and those that established ones may keep.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use contract::valid::{self, AddressPort, BackendState, Subject};
use ipnet::IpNet;
use wire::IpProtocol;

use super::node::missing;
use super::{CompileError, Work, within};
use crate::snapshot::table::{ServiceRecord, VipOwners};
use crate::snapshot::{Backend, NearBackends, Service, ServiceId};
use crate::table::lpm::Prefixes;

impl Work {
    pub(super) fn service(&mut self, source: valid::Service) -> Result<(), CompileError> {
        let known = self.snapshot.service_names.get(&source.id).copied();
        let before = known.and_then(|id| Some(self.snapshot.services.get(id.0)?.source.clone()));
        if before.as_deref() == Some(&source) {
            return Ok(());
        }
        let subject = Subject::origin(&source.origin);
        let backends =
            self.snapshot.totals.backends - before.as_ref().map_or(0, |before| before.backends.len());
        let backends = backends + source.backends.len();
        within(&subject, "backends", backends, self.snapshot.limits.backends)?;
        self.snapshot.totals.backends = backends;

        let source = Arc::new(source);
        let id = known.unwrap_or(ServiceId(self.snapshot.services.next_index()));
        let record = ServiceRecord {
            service: Arc::new(compiled(id, &source)),
            source: source.clone(),
        };
        if let Some(before) = &before {
            self.bump_gone(before, &source);
        }
        if known.is_some() {
            *self
                .snapshot
                .services
                .get_mut(id.0)
                .expect("an index that a name has is taken") = record;
        } else {
            let services = self.snapshot.services.len() + 1;
            within(&subject, "services", services, self.snapshot.limits.services)?;
            let index = self.snapshot.services.insert(record);
            debug_assert_eq!(index, id.0, "the index that was promised");
            self.snapshot.service_names.insert(source.id.clone(), id);
        }
        let after = vips(&source);
        let former = before;
        let before = former.as_deref().map(vips).unwrap_or_default();
        if let Some(former) = former.filter(|_| before != after) {
            // Another protocol or port: what was sent to the former one has no Service any more.
            for backend in &former.backends {
                self.bump_backend(&former, backend);
            }
        }
        for vip in before.iter().filter(|vip| !after.contains(vip)) {
            self.leave_vip(*vip, id);
        }
        for vip in after.iter().filter(|vip| !before.contains(vip)) {
            self.join_vip(*vip, id);
        }
        Ok(())
    }

    pub(super) fn service_removed(&mut self, name: &str) -> Result<(), CompileError> {
        let Some(id) = self.snapshot.service_names.get_name(name).copied() else {
            return Err(missing("Service", name));
        };
        let Some(ServiceRecord { source, .. }) = self.snapshot.services.get(id.0).cloned() else {
            return Err(missing("Service", name));
        };
        for vip in vips(&source) {
            self.leave_vip(vip, id);
        }
        for backend in &source.backends {
            self.bump_backend(&source, backend);
        }
        self.snapshot.services.remove(id.0);
        self.snapshot.totals.backends -= source.backends.len();
        self.snapshot.service_names.remove(&source.id);
        Ok(())
    }

    pub(super) fn service_ranges(&mut self, ranges: &[IpNet]) {
        let mut after = Prefixes::default();
        for range in ranges {
            after.insert(*range, ());
        }
        let same = after.len() == self.snapshot.service_ranges.len()
            && ranges
                .iter()
                .all(|range| self.snapshot.service_ranges.exact(*range).is_some());
        if !same {
            self.snapshot.service_ranges = after;
            // What was no VIP may be one that nobody has, or the other way round.
            self.bumps.add_all();
        }
    }

    fn join_vip(&mut self, vip: AddressPort, id: ServiceId) {
        let mut owners = self
            .snapshot
            .vips
            .get(&vip)
            .map(VipOwners::all)
            .unwrap_or_default();
        let ports = self
            .snapshot
            .vip_addresses
            .get(&vip.address)
            .copied()
            .unwrap_or(0);
        self.snapshot.vip_addresses.insert(vip.address, ports + 1);
        owners.push(id);
        self.set_owners(vip, owners);
    }

    fn leave_vip(&mut self, vip: AddressPort, id: ServiceId) {
        let mut owners = self
            .snapshot
            .vips
            .get(&vip)
            .map(VipOwners::all)
            .unwrap_or_default();
        owners.retain(|owner| *owner != id);
        match self
            .snapshot
            .vip_addresses
            .get(&vip.address)
            .copied()
            .unwrap_or(0)
        {
            0 | 1 => self.snapshot.vip_addresses.remove(&vip.address),
            ports => self.snapshot.vip_addresses.insert(vip.address, ports - 1),
        };
        self.set_owners(vip, owners);
    }

    /// The first by name has it: that depends on no order of events.
    fn set_owners(&mut self, vip: AddressPort, mut owners: Vec<ServiceId>) {
        let before = self.snapshot.vips.get(&vip).map(|owners| owners.winner);
        if owners.len() > 1 {
            owners.sort_by_cached_key(|id| {
                self.snapshot
                    .services
                    .get(id.0)
                    .map(|record| record.source.id.clone())
            });
        }
        match &*owners {
            [] => {
                self.snapshot.vips.remove(&vip);
            }
            [winner, rest @ ..] => {
                let rest = (!rest.is_empty()).then(|| Arc::from(rest));
                self.snapshot.vips.insert(
                    vip,
                    VipOwners {
                        winner: *winner,
                        rest,
                    },
                );
            }
        }
        if before != owners.first().copied() {
            self.bump_address(vip.address);
            let record = before.and_then(|before| self.snapshot.services.get(before.0));
            if let Some(former) = record.map(|record| record.source.clone()) {
                for backend in &former.backends {
                    self.bump_backend(&former, backend);
                }
            }
        }
    }

    /// Bumps the flows of backends that `after` does not list any more.
    fn bump_gone(&mut self, before: &valid::Service, after: &valid::Service) {
        let kept: HashSet<_> = after.backends.iter().map(end).collect();
        for backend in &before.backends {
            if !kept.contains(&end(backend)) {
                self.bump_backend(before, backend);
            }
        }
    }

    /// Bumps the flows that `service` sent to `backend`. They are known by the backend's address, so that one that goes touches
    /// its own flows alone. A connection stays where it is whatever becomes of the Service: only datagrams move.
    fn bump_backend(&mut self, service: &valid::Service, backend: &valid::Backend) {
        if service.protocol == IpProtocol::UDP.0 {
            self.bump_address(backend.address);
        }
    }
}

fn end(backend: &valid::Backend) -> (IpAddr, u16) {
    (backend.address, backend.port)
}

impl VipOwners {
    fn all(&self) -> Vec<ServiceId> {
        std::iter::once(self.winner)
            .chain(self.rest.iter().flat_map(|rest| rest.iter().copied()))
            .collect()
    }
}

fn vips(service: &valid::Service) -> Vec<AddressPort> {
    let (protocol, port) = (service.protocol, service.port);
    service
        .cluster_ips
        .iter()
        .map(|address| AddressPort {
            address: *address,
            protocol,
            port,
        })
        .collect()
}

fn compiled(id: ServiceId, source: &valid::Service) -> Service {
    let backend = |backend: &valid::Backend| Backend {
        address: backend.address,
        port: backend.port,
    };
    let eligible = |v4: bool| -> Arc<[Backend]> {
        let in_state = |state| {
            let chosen = move |b: &&valid::Backend| b.address.is_ipv4() == v4 && b.state == state;
            source
                .backends
                .iter()
                .filter(chosen)
                .map(backend)
                .collect::<Vec<_>>()
        };
        match in_state(BackendState::Ready) {
            ready if ready.is_empty() => in_state(BackendState::ServingTerminating).into(),
            ready => ready.into(),
        }
    };
    let eligible_v4 = eligible(true);
    Service {
        id,
        affinity_s: source.affinity_s,
        near_v4: NearBackends::of(&eligible_v4),
        eligible_v4,
        eligible_v6: eligible(false),
        listed: source.backends.iter().map(backend).collect(),
        name: source.id.clone(),
    }
}
