//! ICMP errors: tells the sender of a packet why it went no further, RFC 792, RFC 1812 section 4.3 and RFC 4443.
//!
//! Reads the packet *as its sender sent it*: before DNAT, before the TTL was decremented. What may not be answered and what
//! exceeds the rate is refused, with a counter.

use std::net::IpAddr;

use wire::packet::{Family, Packet};
use wire::reply::{icmp_error, icmpv6_error, may_be_answered};
use wire::{icmp, icmpv6};

use super::rate::TokenBucket;
use super::{Answer, Link, ether_type};

/// What happened to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// TTL or hop limit ran out.
    TimeExceeded,
    /// Larger than the MTU of the way on, and not to be fragmented.
    TooBig {
        /// That MTU, bytes of IP packet.
        mtu: u16,
    },
    /// No route (ICMPv6: no route).
    NetworkUnreachable,
    /// Nobody has the address (ICMPv6: address unreachable).
    HostUnreachable,
    /// Nobody serves the port.
    PortUnreachable,
    /// Forbidden by policy.
    Prohibited,
}

/// Why no error was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suppressed {
    /// The packet is an ICMP error, a later fragment, or not from one host to one.
    NotAnswerable,
    /// We have no address of the packet's family to answer from.
    NoAddress,
    /// More errors than the rate allows.
    RateLimited,
}

/// How many errors of each outcome there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IcmpErrorCounters {
    /// Given to the caller.
    pub answered: u64,
    /// [`Suppressed::NotAnswerable`].
    pub not_answerable: u64,
    /// [`Suppressed::NoAddress`].
    pub no_address: u64,
    /// [`Suppressed::RateLimited`].
    pub rate_limited: u64,
}

/// The ICMP errors of one worker: rate limit and counters.
#[derive(Clone, Debug)]
pub struct IcmpErrors {
    rate: TokenBucket,
    counters: IcmpErrorCounters,
}

impl Default for IcmpErrors {
    /// 1000 a second, 100 at once.
    fn default() -> Self {
        Self::new(1000, 100)
    }
}

impl IcmpErrors {
    /// At most `per_second` errors on average, `burst` at once.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self {
            rate: TokenBucket::new(per_second, burst),
            counters: IcmpErrorCounters::default(),
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> IcmpErrorCounters {
        self.counters
    }

    /// The error about `packet`, parsed from `l3` (its first buffer is enough), from our address `own` to its source by `link`.
    ///
    /// ICMP errors quote up to 548 bytes, ICMPv6 errors up to 1232; the TTL is 64. That the frame came by multicast or broadcast
    /// of the link is the caller's to know: then there is no answer at all.
    pub fn answer(
        &mut self,
        now_ns: u64,
        link: &Link,
        own: Option<IpAddr>,
        packet: &Packet,
        l3: &[u8],
        problem: Problem,
    ) -> Result<Answer, Suppressed> {
        let made = make(link, own, packet, l3, problem);
        let result = made.and_then(|answer| {
            self.rate
                .take(now_ns)
                .then_some(answer)
                .ok_or(Suppressed::RateLimited)
        });
        let counter = match result {
            Ok(_) => &mut self.counters.answered,
            Err(Suppressed::NotAnswerable) => &mut self.counters.not_answerable,
            Err(Suppressed::NoAddress) => &mut self.counters.no_address,
            Err(Suppressed::RateLimited) => &mut self.counters.rate_limited,
        };
        *counter += 1;
        result
    }
}

fn make(
    link: &Link,
    own: Option<IpAddr>,
    packet: &Packet,
    l3: &[u8],
    problem: Problem,
) -> Result<Answer, Suppressed> {
    if !may_be_answered(packet, l3, matches!(problem, Problem::TooBig { .. })) {
        return Err(Suppressed::NotAnswerable);
    }
    let (icmp_type, code, rest) = message(packet.family, problem);
    let quoted = &l3[..l3.len().min(packet.total_len as usize)];
    let answer = Answer::write(link, ether_type(packet.family), |out| {
        match (packet.family, own?) {
            (Family::V4, IpAddr::V4(own)) => icmp_error(out, own, quoted, icmp_type, code, rest),
            (Family::V6, IpAddr::V6(own)) => icmpv6_error(out, own, quoted, icmp_type, code, rest),
            _ => None,
        }
    });
    answer.ok_or(Suppressed::NoAddress)
}

/// Type, code and second word of the message.
const fn message(family: Family, problem: Problem) -> (u8, u8, u32) {
    use icmp::unreachable as v4;
    use icmpv6::unreachable as v6;
    match (family, problem) {
        (Family::V4, Problem::TimeExceeded) => (icmp::TIME_EXCEEDED, icmp::time_exceeded::IN_TRANSIT, 0),
        (Family::V4, Problem::TooBig { mtu }) => (icmp::UNREACHABLE, v4::FRAGMENTATION_NEEDED, mtu as u32),
        (Family::V4, Problem::NetworkUnreachable) => (icmp::UNREACHABLE, v4::NETWORK, 0),
        (Family::V4, Problem::HostUnreachable) => (icmp::UNREACHABLE, v4::HOST, 0),
        (Family::V4, Problem::PortUnreachable) => (icmp::UNREACHABLE, v4::PORT, 0),
        (Family::V4, Problem::Prohibited) => (icmp::UNREACHABLE, v4::ADMINISTRATIVELY_PROHIBITED, 0),
        (Family::V6, Problem::TimeExceeded) => (icmpv6::TIME_EXCEEDED, icmpv6::time_exceeded::IN_TRANSIT, 0),
        (Family::V6, Problem::TooBig { mtu }) => (icmpv6::PACKET_TOO_BIG, 0, mtu as u32),
        (Family::V6, Problem::NetworkUnreachable) => (icmpv6::UNREACHABLE, v6::NO_ROUTE, 0),
        (Family::V6, Problem::HostUnreachable) => (icmpv6::UNREACHABLE, v6::ADDRESS, 0),
        (Family::V6, Problem::PortUnreachable) => (icmpv6::UNREACHABLE, v6::PORT, 0),
        (Family::V6, Problem::Prohibited) => (icmpv6::UNREACHABLE, v6::ADMINISTRATIVELY_PROHIBITED, 0),
    }
}

#[cfg(test)]
mod tests;
