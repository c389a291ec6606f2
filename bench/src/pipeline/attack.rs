//! Attacks: packets that are to cost no more than a bound, and established flows nothing.

use fastpath::flow::key::{Family as _, V4};
use fastpath::flow::{Ingress, PortsKind, Tuple, Zone};
use fastpath::port::PortId;
use fastpath::verdict::DropReason;
use flowtable::TableV4;
use wire::IpProtocol;

use super::case::{CLIENT_PORTS, Case, NEW_FLOW_SERVICES_MAX};
use super::packet::{Step, fold, sum};
use super::traffic::Traffic;

/// What is sent on purpose to make packets dear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Attack {
    /// Established flows whose keys fall into a third of the table's buckets, chosen with the hash's secret.
    Colliding,
    /// The same with another secret than the table's: the best that can be done without knowing it.
    Guessed,
    /// TCP to Services, each segment of a connection that was never opened; each is answered with a reset.
    NoFlow,
    /// First packets to where no rule allows.
    Denied,
    /// Another source address than the pod's.
    Spoofed,
    /// A wrong checksum of the IP header.
    Malformed,
    /// First fragments, of established flows, whose rest never comes: all are sent on, and remembered for nothing.
    FirstFragments,
    /// Later fragments whose first never comes.
    Orphans,
}

impl Attack {
    /// Why it can't be made on this path, if so.
    pub(crate) fn refuse(self, case: Case, is_tcp: bool) -> Option<&'static str> {
        if case == Case::IoFloor || case == Case::NewFlows || case.measures_replies() {
            return Some("comes from pods with established flows");
        }
        match self {
            Self::NoFlow if !case.has_service() || !is_tcp => {
                Some("is of TCP and needs a case with Services")
            }
            Self::Denied if case != Case::Policy => Some("needs --case policy"),
            _ => None,
        }
    }

    /// What is wrong with each packet.
    pub(crate) const fn flaw(self) -> Flaw {
        match self {
            Self::Colliding | Self::Guessed | Self::NoFlow | Self::Denied => Flaw::None,
            Self::Spoofed => Flaw::ForeignSource,
            Self::Malformed => Flaw::HeaderChecksum,
            Self::FirstFragments => Flaw::MoreFragments,
            Self::Orphans => Flaw::LaterFragment,
        }
    }

    /// What its packets say.
    pub(crate) const fn step(self) -> Step {
        match self {
            Self::Denied => Step::Open,
            _ => Step::Data,
        }
    }

    /// Why its packets are dropped; none: they are sent on.
    pub(crate) const fn dropped(self) -> Option<DropReason> {
        match self {
            Self::Colliding | Self::Guessed | Self::FirstFragments => None,
            Self::NoFlow => Some(DropReason::NoFlow),
            Self::Denied => Some(DropReason::PolicyDenied),
            Self::Spoofed => Some(DropReason::SpoofedSource),
            Self::Malformed => Some(DropReason::Malformed),
            Self::Orphans => Some(DropReason::FragmentQuota),
        }
    }

    /// Numbers of flows that the cluster has Services for, so that `flows` can be established.
    pub(crate) const fn numbers(self, flows: u32) -> u32 {
        match self {
            // A quarter more, and some: which candidates are taken is chance.
            Self::Colliding | Self::Guessed => {
                flows.saturating_add(flows / 4 + 64).saturating_mul(CANDIDATES)
            }
            Self::NoFlow => flows.saturating_mul(2),
            _ => flows,
        }
    }

    /// The first of the flows that its packets are of, where `flows` are established; none: these themselves.
    pub(crate) const fn first_flow(self, flows: u32) -> Option<u32> {
        match self {
            Self::NoFlow => Some(flows),
            // From there on the servers' ports are such as no rule names.
            Self::Denied => Some((NEW_FLOW_SERVICES_MAX + 1) * CLIENT_PORTS),
            _ => None,
        }
    }

    /// As it is typed and printed.
    pub(crate) fn name(self) -> String {
        use clap::ValueEnum;
        let value = self.to_possible_value().expect("no attack is hidden");
        value.get_name().to_owned()
    }
}

/// The numbers of `count` flows from a pod behind `ports`, in order, whose keys fall into the first third of the buckets of
/// `table`.
pub(crate) fn colliding(traffic: &Traffic, table: &TableV4, ports: &[PortId], count: u32) -> Vec<u32> {
    let is_aimed = |flow: &u32| {
        let client = *flow as usize % ports.len();
        let (src, dst) = (
            traffic.case.source(*flow, client as u16),
            traffic.case.destination(*flow),
        );
        let key = V4::key(&Tuple {
            src: (*src.ip()).into(),
            dst: (*dst.ip()).into(),
            sport: src.port(),
            dport: dst.port(),
            proto: IpProtocol(traffic.transport.number()),
            kind: PortsKind::Plain,
            zone: Zone::of(Ingress::Port(ports[client])),
        });
        table.hash(&key).value() < u64::MAX / u64::from(CANDIDATES)
    };
    let numbers = 0..Attack::Colliding.numbers(count);
    numbers.filter(is_aimed).take(count as usize).collect()
}

/// What makes a packet one that should not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing.
    None,
    /// The source address, halves swapped: no checksum notices.
    ForeignSource,
    /// The IP header's checksum.
    HeaderChecksum,
    /// More fragments follow.
    MoreFragments,
    /// It is the fragment behind 1480 bytes.
    LaterFragment,
}

impl Flaw {
    /// Does it to an IPv4 packet of flow `flow`.
    #[inline]
    pub(crate) fn apply(self, ip: &mut [u8], flow: u32) {
        match self {
            Self::None => {}
            Self::ForeignSource => {
                ip.swap(12, 14);
                ip.swap(13, 15);
            }
            Self::HeaderChecksum => ip[10] ^= 0xff,
            Self::MoreFragments => fragment(ip, flow, 0x2000),
            Self::LaterFragment => fragment(ip, flow, 1480 / 8),
        }
    }
}

/// Makes the packet a fragment of a datagram that has the flow's number.
#[inline]
fn fragment(ip: &mut [u8], flow: u32, flags_and_offset: u16) {
    ip[4..6].copy_from_slice(&(flow as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
    ip[10..12].fill(0);
    let checksum = !fold(sum(&ip[..20]));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Flows looked at for each that is taken. Keys that fall into fewer buckets would not slow the table down further but be refused:
/// a key has five buckets with room for ten each.
const CANDIDATES: u32 = 3;
/// Bytes that the data of a first fragment is a multiple of, RFC 791.
pub(crate) const FRAGMENT_UNIT: usize = 8;
