//! Affinity: the backend that a client had before, for Services with `ClientIP` affinity.
//!
//! An entry of the flow table like any other, so that all workers agree and a successor process inherits it: its original key
//! is client and Service port, its reply key names the backend. Reads the Service; sets the entry, whose time starts anew with
//! each new connection. Gives no verdict: a full table forgets affinity, it drops nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowtable::{Direction, FlowRef};

use super::{Pass, Table, idle_ms};
use crate::conntrack::ConnState;
use crate::flow::record::{Bits, SeenWord};
use crate::flow::{PortsKind, Tuple, Zone};
use crate::observe::Observer;
use crate::snapshot::{Backend, Service, ServiceId, VipLookup};

impl<O: Observer> Pass<'_, O> {
    /// The backend that this client had, while its time runs and the Service may still choose it.
    pub(super) fn affine_backend<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        from: &Tuple,
        vip: VipLookup<'_>,
    ) -> Option<Backend> {
        let service = affine_service(vip)?;
        let (id, lasts_ms) = (service.id, lasts_ms(service));
        let eligible = service.eligible(from.dst.is_ipv4());
        let (flow, backend) = self.affinity::<L, K, W>(from, id)?;
        let seen = L::writer(self.flows).table().record(flow).word(L::SEEN);
        let runs = idle_ms(self.now_ms, SeenWord(seen)) < lasts_ms;
        (runs && eligible.contains(&backend)).then_some(backend)
    }

    /// A new connection of this client went to `backend`.
    pub(super) fn note_affinity<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        from: &Tuple,
        to: &Tuple,
        vip: VipLookup<'_>,
    ) {
        let Some(service) = affine_service(vip) else {
            return;
        };
        let (id, lasts_ms) = (service.id, lasts_ms(service));
        let backend = Backend {
            address: to.dst,
            port: to.dport,
        };
        let seen = SeenWord::new(self.now_ms, 0).0;
        if let Some((flow, known)) = self.affinity::<L, K, W>(from, id) {
            if known == backend {
                return L::writer(self.flows).table().record(flow).store(L::SEEN, seen);
            }
            if L::writer(self.flows).remove(flow).is_ok() {
                self.shared.count_affinities(-1);
            }
        }
        let key = key_of(from, id);
        let entry = Tuple {
            src: backend.address,
            dst: from.src,
            sport: backend.port,
            dport: id.0 as u16,
            ..key
        };
        let entry = Tuple {
            zone: Zone::from_bits((id.0 >> 16) as u16),
            ..entry
        };
        let bits = Bits::new(None, 0, ConnState::Other, Bits::ANSWERED | Bits::AFFINITY).0;
        let inserted = L::writer(self.flows).insert(&L::key(&key), &L::key(&entry), |both| {
            for direction in [Direction::Original, Direction::Reply] {
                both.set_bits(direction, bits);
                both.set_word(direction, L::SEEN, seen);
                both.set_word(direction, L::BYTES, lasts_ms.into());
            }
        });
        if inserted.is_ok() {
            self.shared.count_affinities(1);
        }
    }

    fn affinity<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        from: &Tuple,
        id: ServiceId,
    ) -> Option<(FlowRef, Backend)> {
        let key = L::key(&key_of(from, id));
        let table = L::writer(self.flows).table();
        let flow = table.lookup(&key, table.hash(&key))?;
        let entry = L::tuple(&table.record(flow.peer()).key());
        Some((
            flow,
            Backend {
                address: entry.src,
                port: entry.sport,
            },
        ))
    }
}

fn affine_service(vip: VipLookup<'_>) -> Option<&Service> {
    match vip {
        VipLookup::Service(service) if service.affinity_s > 0 => Some(service),
        _ => None,
    }
}

/// Client and Service port, in the form of a tuple.
fn key_of(from: &Tuple, id: ServiceId) -> Tuple {
    let dst = match from.src {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(id.0)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(u128::from(id.0))),
    };
    Tuple {
        dst,
        sport: 0,
        dport: 0,
        kind: PortsKind::Affinity,
        zone: Zone::UPLINK,
        ..*from
    }
}

fn lasts_ms(service: &Service) -> u32 {
    service.affinity_s.saturating_mul(1000).min(u32::MAX / 2)
}
