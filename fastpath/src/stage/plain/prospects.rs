//! Prospects: what the packets of a batch that open flows ask for, looked up together, so that the walks to all are under way at once.
//!
//! Reads lanes, ports, routes, Services. Depends on the snapshot alone, so it holds whatever becomes of the packets before.

use contract::valid::AddressPort;

use super::super::classify::source_is_right;
use super::lane::Lane;
use crate::flow::key::{Family, V4};
use crate::io::BATCH_MAX;
use crate::snapshot::{Snapshot, VipLookup};
use crate::verdict::DropReason;

/// What the destination of each is to the Services, or why its source may not send it. By the frame's number.
#[derive(Debug)]
pub(in super::super) struct Prospects<'s>([Result<VipLookup<'s>, DropReason>; BATCH_MAX]);

impl<'s> Prospects<'s> {
    /// Of those among `lanes` that open flows, from number `from` on.
    #[inline]
    pub(super) fn of(lanes: &[Lane], from: usize, snapshot: &'s Snapshot) -> Self {
        let mut all = Self([Ok(VipLookup::NotService); BATCH_MAX]);
        let (mut places, mut owners, mut len) = ([NOWHERE; BATCH_MAX], [0; BATCH_MAX], 0);
        for (at, lane) in lanes.iter().enumerate().skip(from) {
            if !lane.opens() {
                continue;
            }
            let tuple = V4::tuple(&lane.key);
            if let Err(reason) = source_is_right(snapshot, tuple.zone.ingress(), tuple.src) {
                all.0[at] = Err(reason);
                continue;
            }
            places[len] = AddressPort {
                address: tuple.dst,
                protocol: tuple.proto.0,
                port: tuple.dport,
            };
            owners[len] = at as u8;
            len += 1;
        }
        let (places, owners) = (&places[..len], &owners[..len]);
        // The wider one does some work for each of its places, used or not.
        if len <= FEW {
            all.look_up::<FEW>(places, owners, snapshot);
        } else {
            all.look_up::<BATCH_MAX>(places, owners, snapshot);
        }
        all
    }

    #[inline]
    fn look_up<const N: usize>(&mut self, places: &[AddressPort], owners: &[u8], snapshot: &'s Snapshot) {
        let vips = snapshot.vip_each::<N>(places);
        for (owner, vip) in owners.iter().zip(vips) {
            self.0[usize::from(*owner)] = Ok(vip);
        }
    }

    /// Those of frame number `at`.
    #[inline]
    pub(super) const fn at(&self, at: usize) -> Result<VipLookup<'s>, DropReason> {
        self.0[at]
    }
}

const _: () = assert!(BATCH_MAX <= 1 << u8::BITS);
/// Places that are looked up by the narrower function.
const FEW: usize = 8;
const NOWHERE: AddressPort = AddressPort {
    address: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    protocol: 0,
    port: 0,
};
