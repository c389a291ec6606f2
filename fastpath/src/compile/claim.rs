//! Who has a prefix of the cluster. Several may claim one (a node's address that two Node objects list): the winner depends on
//! the claims alone, not on the order in which they came.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Work;
use crate::snapshot::Shard;
use crate::snapshot::table::{Claim, Claims, Hops};

impl Work {
    /// `claim` has `prefix` unless a better claim does.
    pub(super) fn claim(&mut self, prefix: IpNet, claim: Claim) {
        match self.snapshot.claims.exact(prefix).cloned() {
            None => {
                match self.snapshot.claims.covering(prefix) {
                    Some((_, covering)) => self.bumps.add(covering.winner.shard()),
                    None => self.bump_underlay(prefix),
                }
                self.snapshot.claims.insert(
                    prefix,
                    Claims {
                        winner: claim,
                        rest: None,
                    },
                );
            }
            Some(claims) => {
                let mut all = claims.all();
                all.push(claim);
                all.sort_by(|a, b| self.precedence(*a, *b));
                self.set_claims(prefix, claims.winner, &all);
            }
        }
    }

    /// One claim goes, as often as it was made.
    pub(super) fn withdraw(&mut self, prefix: IpNet, claim: Claim) {
        let Some(claims) = self.snapshot.claims.exact(prefix).cloned() else {
            debug_assert!(false, "{claim:?} of {prefix} was never made");
            return;
        };
        let mut all = claims.all();
        if let Some(place) = all.iter().position(|other| *other == claim) {
            all.remove(place);
        }
        self.set_claims(prefix, claims.winner, &all);
    }

    fn set_claims(&mut self, prefix: IpNet, before: Claim, all: &[Claim]) {
        match all {
            [] => {
                self.bumps.add(before.shard());
                self.snapshot.claims.remove(prefix);
            }
            [winner, rest @ ..] => {
                if *winner != before {
                    self.bumps.add(before.shard());
                }
                let rest = (!rest.is_empty()).then(|| Arc::from(rest));
                self.snapshot.claims.insert(
                    prefix,
                    Claims {
                        winner: *winner,
                        rest,
                    },
                );
            }
        }
    }

    /// By kind; equal kinds by the name of who claims.
    fn precedence(&self, a: Claim, b: Claim) -> Ordering {
        let rank = |claim: Claim| match claim {
            Claim::LocalPod(_) => 0,
            Claim::ThisNode => 1,
            Claim::PeerNode(_) => 2,
            Claim::PeerTunnel(..) => 3,
            Claim::PeerBlock(..) => 4,
            Claim::OwnBlock => 5,
        };
        let name = |claim: Claim| match claim {
            Claim::LocalPod(port) => self
                .snapshot
                .ports
                .get(u32::from(port.0))
                .map(|port| port.name.clone()),
            Claim::PeerNode(peer) | Claim::PeerTunnel(peer, _) | Claim::PeerBlock(peer, _) => self
                .snapshot
                .peers
                .get(u32::from(peer.0))
                .map(|peer| peer.source.name.clone()),
            Claim::ThisNode | Claim::OwnBlock => None,
        };
        rank(a)
            .cmp(&rank(b))
            .then_with(|| name(a).cmp(&name(b)))
            .then_with(|| a.cmp(&b))
    }

    /// Something besides its route changed for flows to or from `address`: the endpoint's, where it is one of this node.
    pub(super) fn bump_address(&mut self, address: IpAddr) {
        self.bumps.add(Shard::address(address));
        if let Some(claims) = self.snapshot.claims.lookup(address)
            && let local @ Claim::LocalPod(_) = claims.winner
        {
            self.bumps.add(local.shard());
        }
    }

    /// Bumps what the underlay alone decided inside `prefix`: the route that covers it and those inside.
    fn bump_underlay(&mut self, prefix: IpNet) {
        let Hops { routes, .. } = &*self.snapshot.hops;
        self.bumps.add(
            routes
                .covering(prefix)
                .map_or(Shard::NOWHERE, |(_, hops)| hops.shard),
        );
        routes.within(prefix, |_, hops| self.bumps.add(hops.shard));
    }
}

impl Claims {
    fn all(&self) -> Vec<Claim> {
        std::iter::once(self.winner)
            .chain(self.rest.iter().flat_map(|rest| rest.iter().copied()))
            .collect()
    }
}

/// The prefix of one address.
pub(super) fn host(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
