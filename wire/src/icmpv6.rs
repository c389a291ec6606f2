//! ICMPv6, RFC 4443: types and codes. The header is [`crate::icmp::IcmpHeader`].

/// Destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Packet too big; the header holds the MTU.
pub const PACKET_TOO_BIG: u8 = 2;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Multicast listener query, RFC 2710.
pub const MLD_QUERY: u8 = 130;
/// Multicast listener report, RFC 2710.
pub const MLD_REPORT: u8 = 131;
/// Multicast listener done, RFC 2710.
pub const MLD_DONE: u8 = 132;
/// Router solicitation, RFC 4861.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement, RFC 4861.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbour solicitation, RFC 4861.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Neighbour advertisement, RFC 4861.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Redirect, RFC 4861.
pub const REDIRECT: u8 = 137;
/// Multicast listener report version 2, RFC 3810.
pub const MLD2_REPORT: u8 = 143;

/// Codes of [`UNREACHABLE`].
pub mod unreachable {
    /// No route.
    pub const NO_ROUTE: u8 = 0;
    /// Forbidden by policy.
    pub const ADMINISTRATIVELY_PROHIBITED: u8 = 1;
    /// Beyond the scope of the source.
    pub const BEYOND_SCOPE: u8 = 2;
    /// The address can't be reached.
    pub const ADDRESS: u8 = 3;
    /// Nobody listens on the port.
    pub const PORT: u8 = 4;
}

/// Codes of [`TIME_EXCEEDED`].
pub mod time_exceeded {
    /// The hop limit ran out on the way.
    pub const IN_TRANSIT: u8 = 0;
    /// Fragments did not come in time.
    pub const REASSEMBLY: u8 = 1;
}

/// True for the types that carry the packet that caused them and that NAT follows: 1 to 4.
#[inline]
pub const fn is_error(icmp_type: u8) -> bool {
    matches!(
        icmp_type,
        UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM
    )
}

/// True for neighbour discovery, 133 to 137, which never leaves its link.
#[inline]
pub const fn is_neighbour_discovery(icmp_type: u8) -> bool {
    matches!(icmp_type, ROUTER_SOLICITATION..=REDIRECT)
}

/// True for multicast listener discovery, 130 to 132 and 143, which never leaves its link.
#[inline]
pub const fn is_listener_discovery(icmp_type: u8) -> bool {
    matches!(icmp_type, MLD_QUERY..=MLD_DONE | MLD2_REPORT)
}
