//! Connection tracking: which state a packet leads to, and how long each state lasts.
//!
//! Pure: no table, no clock. The state is kept in both records of a connection and changes a few times in its life; a
//! packet that changes nothing writes nothing here. Times are milliseconds.

use wire::IpProtocol;
use wire::tcp::TcpFlags;

/// State of a connection, four bits of the record's state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConnState {
    /// A protocol of which nothing more is known.
    Other = 0,
    /// SYN seen.
    TcpSynSent = 1,
    /// SYN answered.
    TcpSynReceived = 2,
    /// Taken up in the middle, nothing seen from the other side yet.
    TcpMidflow = 3,
    /// Handshake done, or both sides seen.
    TcpEstablished = 4,
    /// FIN from the side that opened.
    TcpFinOriginal = 5,
    /// FIN from the other side.
    TcpFinReply = 6,
    /// FIN from both.
    TcpBothFins = 7,
    /// Reset inside the window.
    TcpReset = 8,
    /// One datagram, no reply.
    UdpFirst = 9,
    /// One datagram and one reply.
    UdpSingle = 10,
    /// More than that.
    Udp = 11,
    /// Older than two seconds, with two datagrams each way at least.
    UdpStream = 12,
    /// ICMP query.
    Icmp = 13,
    /// SCTP before the cookie.
    SctpOpening = 14,
    /// SCTP association.
    SctpEstablished = 15,
}

impl ConnState {
    /// How many states four bits tell apart.
    pub const COUNT: usize = 16;

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::TcpSynSent => "syn-sent",
            Self::TcpSynReceived => "syn-received",
            Self::TcpMidflow => "midflow",
            Self::TcpEstablished | Self::SctpEstablished => "established",
            Self::TcpFinOriginal => "fin-original",
            Self::TcpFinReply => "fin-reply",
            Self::TcpBothFins => "both-fins",
            Self::TcpReset => "reset",
            Self::UdpFirst => "unanswered",
            Self::UdpSingle => "single",
            Self::Udp => "udp",
            Self::UdpStream => "stream",
            Self::Icmp => "icmp",
            Self::SctpOpening => "opening",
        }
    }

    /// From four bits.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 15 {
            0 => Self::Other,
            1 => Self::TcpSynSent,
            2 => Self::TcpSynReceived,
            3 => Self::TcpMidflow,
            4 => Self::TcpEstablished,
            5 => Self::TcpFinOriginal,
            6 => Self::TcpFinReply,
            7 => Self::TcpBothFins,
            8 => Self::TcpReset,
            9 => Self::UdpFirst,
            10 => Self::UdpSingle,
            11 => Self::Udp,
            12 => Self::UdpStream,
            13 => Self::Icmp,
            14 => Self::SctpOpening,
            _ => Self::SctpEstablished,
        }
    }

    /// The state that a connection's first packet leads to.
    pub fn first(proto: IpProtocol, flags: TcpFlags) -> Self {
        match proto {
            IpProtocol::TCP if flags.is_opening() => Self::TcpSynSent,
            IpProtocol::TCP if flags.has(TcpFlags::RST) => Self::TcpReset,
            IpProtocol::TCP => Self::TcpMidflow,
            IpProtocol::UDP => Self::UdpFirst,
            IpProtocol::ICMP | IpProtocol::ICMPV6 => Self::Icmp,
            IpProtocol::SCTP => Self::SctpOpening,
            _ => Self::Other,
        }
    }

    /// A TCP connection that is over: a new SYN with the same ports opens another one.
    pub const fn is_closed(self) -> bool {
        matches!(self, Self::TcpBothFins | Self::TcpReset)
    }

    /// The state after one more packet. `flags` have no RST that is outside the window (RFC 5961 section 3).
    #[inline]
    #[must_use]
    pub fn after(self, packet: &Seen) -> Self {
        match self {
            Self::TcpSynSent
            | Self::TcpSynReceived
            | Self::TcpMidflow
            | Self::TcpEstablished
            | Self::TcpFinOriginal
            | Self::TcpFinReply
            | Self::TcpBothFins => self.after_tcp(packet),
            Self::UdpFirst if packet.reply => Self::UdpSingle,
            Self::UdpFirst | Self::UdpSingle => Self::Udp,
            Self::Udp if packet.age_ms > STREAM_AGE_MS && packet.each_way_min >= 2 => Self::UdpStream,
            Self::SctpOpening if packet.each_way_min >= 2 => Self::SctpEstablished,
            same => same,
        }
    }

    fn after_tcp(self, packet: &Seen) -> Self {
        let flags = packet.flags;
        if flags.has(TcpFlags::RST) {
            return Self::TcpReset;
        }
        let fin = flags.has(TcpFlags::FIN);
        match self {
            Self::TcpSynSent if packet.reply && flags.has(TcpFlags::SYN) => Self::TcpSynReceived,
            Self::TcpSynReceived
                if !packet.reply && flags.has(TcpFlags::ACK) && !flags.has(TcpFlags::SYN) =>
            {
                if fin {
                    Self::TcpFinOriginal
                } else {
                    Self::TcpEstablished
                }
            }
            Self::TcpMidflow if packet.reply && fin => Self::TcpFinReply,
            Self::TcpMidflow if packet.reply => Self::TcpEstablished,
            Self::TcpMidflow | Self::TcpEstablished | Self::TcpSynReceived if fin => {
                if packet.reply {
                    Self::TcpFinReply
                } else {
                    Self::TcpFinOriginal
                }
            }
            Self::TcpFinOriginal if fin && packet.reply => Self::TcpBothFins,
            Self::TcpFinReply if fin && !packet.reply => Self::TcpBothFins,
            same => same,
        }
    }
}

/// What a packet of a known connection contributes.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// It goes the way of the replies.
    pub reply: bool,
    /// TCP control bits.
    pub flags: TcpFlags,
    /// Age of the connection.
    pub age_ms: u32,
    /// Packets in the direction that has fewer, this one included.
    pub each_way_min: u32,
}

/// From this age on a UDP conversation may count as a stream.
const STREAM_AGE_MS: u32 = 2000;

/// How long each state lasts without a packet, milliseconds, by [`ConnState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines([u32; ConnState::COUNT]);

impl Deadlines {
    /// From the configured seconds.
    pub fn new(seconds: &contract::valid::Timeouts) -> Self {
        let ms = |state: ConnState| -> u32 {
            let seconds = match state {
                ConnState::Other | ConnState::SctpOpening => seconds.other,
                ConnState::TcpSynSent => seconds.tcp_syn,
                ConnState::TcpSynReceived | ConnState::TcpMidflow => seconds.tcp_syn_received,
                ConnState::TcpEstablished => seconds.tcp_established,
                ConnState::TcpFinOriginal | ConnState::TcpFinReply => seconds.tcp_half_closed,
                ConnState::TcpBothFins => seconds.tcp_both_fins,
                ConnState::TcpReset => seconds.tcp_reset,
                ConnState::UdpFirst | ConnState::Udp => seconds.udp,
                ConnState::UdpSingle => seconds.udp_single,
                ConnState::UdpStream => seconds.udp_stream,
                ConnState::Icmp => seconds.icmp,
                ConnState::SctpEstablished => seconds.sctp_established,
            };
            // Ages are differences of wrapping 32-bit milliseconds: half the range, 24 days, is the longest that they tell.
            seconds.saturating_mul(1000).min(u32::MAX / 2)
        };
        Self(std::array::from_fn(|bits| ms(ConnState::from_bits(bits as u8))))
    }

    /// Milliseconds that `state` lasts.
    #[inline]
    pub fn of(&self, state: ConnState) -> u32 {
        self.0[state as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: TcpFlags = TcpFlags::SYN;
    const ACK: TcpFlags = TcpFlags::ACK;
    const FIN: TcpFlags = TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0);
    const SYN_ACK: TcpFlags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0);

    fn seen(reply: bool, flags: TcpFlags) -> Seen {
        Seen {
            reply,
            flags,
            age_ms: 0,
            each_way_min: 1,
        }
    }

    fn tcp(packets: &[(bool, TcpFlags)]) -> ConnState {
        let start = ConnState::first(IpProtocol::TCP, packets[0].1);
        packets[1..]
            .iter()
            .fold(start, |state, (reply, flags)| state.after(&seen(*reply, *flags)))
    }

    #[test]
    fn bits_come_back_as_the_state_they_were() {
        for bits in 0..16 {
            assert_eq!(ConnState::from_bits(bits) as u8, bits);
        }
    }

    #[test]
    fn a_handshake_establishes_and_both_fins_close() {
        let open = [(false, SYN), (true, SYN_ACK), (false, ACK)];
        assert_eq!(tcp(&open[..1]), ConnState::TcpSynSent);
        assert_eq!(tcp(&open[..2]), ConnState::TcpSynReceived);
        assert_eq!(tcp(&open), ConnState::TcpEstablished);
        let half = [&open[..], &[(false, FIN)]].concat();
        assert_eq!(tcp(&half), ConnState::TcpFinOriginal);
        // The other side goes on sending: half-closed stays.
        assert_eq!(
            tcp(&[&half[..], &[(true, ACK)]].concat()),
            ConnState::TcpFinOriginal
        );
        assert_eq!(tcp(&[&half[..], &[(true, FIN)]].concat()), ConnState::TcpBothFins);
        assert!(ConnState::TcpBothFins.is_closed());
    }

    #[test]
    fn one_side_alone_does_not_establish() {
        assert_eq!(tcp(&[(false, SYN), (false, ACK)]), ConnState::TcpSynSent);
        assert_eq!(tcp(&[(false, ACK), (false, ACK)]), ConnState::TcpMidflow);
        assert_eq!(tcp(&[(false, ACK), (true, ACK)]), ConnState::TcpEstablished);
    }

    #[test]
    fn udp_becomes_a_stream_by_age_and_traffic_both_ways() {
        let first = ConnState::first(IpProtocol::UDP, TcpFlags::NONE);
        let query = Seen {
            reply: true,
            flags: TcpFlags::NONE,
            age_ms: 1,
            each_way_min: 1,
        };
        assert_eq!(first.after(&query), ConnState::UdpSingle);
        assert_eq!(
            first.after(&Seen {
                reply: false,
                ..query
            }),
            ConnState::Udp
        );
        let more = Seen {
            reply: false,
            age_ms: 1,
            each_way_min: 2,
            ..query
        };
        assert_eq!(ConnState::UdpSingle.after(&more), ConnState::Udp);
        assert_eq!(
            ConnState::Udp.after(&Seen { age_ms: 2000, ..more }),
            ConnState::Udp
        );
        assert_eq!(
            ConnState::Udp.after(&Seen {
                age_ms: 2001,
                each_way_min: 1,
                ..more
            }),
            ConnState::Udp
        );
        assert_eq!(
            ConnState::Udp.after(&Seen { age_ms: 2001, ..more }),
            ConnState::UdpStream
        );
    }
}
