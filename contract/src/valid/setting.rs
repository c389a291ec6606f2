//! Timeouts and limits, with the defaults that `ringway.proto` names.

use crate::proto;

macro_rules! settings {
    ($(#[$meta:meta])* $name:ident from $proto:ident { $($(#[doc = $help:literal])+ $field:ident = $default:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[doc = $help])+ pub $field: u32,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        /// 0 means the default.
        impl From<&proto::$proto> for $name {
            fn from(wire: &proto::$proto) -> Self {
                Self { $($field: if wire.$field == 0 { $default } else { wire.$field },)+ }
            }
        }
    };
}

settings! {
    /// Connection timeouts in seconds.
    Timeouts from Timeouts {
        /// SYN sent, no answer.
        tcp_syn = 20,
        /// SYN answered, not confirmed.
        tcp_syn_received = 60,
        /// Established.
        tcp_established = 8000,
        /// One FIN, refreshed by traffic.
        tcp_half_closed = 120,
        /// FINs both ways.
        tcp_both_fins = 30,
        /// After a reset.
        tcp_reset = 10,
        /// One query and its reply.
        udp_single = 10,
        /// Anything between.
        udp = 60,
        /// Older than 2 s and at least 2 packets each way.
        udp_stream = 180,
        /// ICMP echo.
        icmp = 5,
        /// SCTP.
        sctp_established = 3600,
        /// Every other protocol.
        other = 600,
        /// Fragments that wait for their first.
        fragment = 30,
    }
}

settings! {
    /// Upper bounds; a state beyond one is refused.
    Limits from Limits {
        /// Connections.
        connections = 1_048_576,
        /// Ports.
        ports = 1_024,
        /// Service ports.
        services = 65_536,
        /// Backends of all Services.
        backends = 1_048_576,
        /// Policies.
        policies = 65_536,
        /// Rules of all policies.
        rules = 1_048_576,
        /// Members of all IP sets.
        ip_set_members = 4_194_304,
        /// Datagrams whose fragments are followed at once.
        fragments = 4_096,
        /// Of one source.
        fragments_per_source = 64,
        /// Flows decided again per batch because of a change.
        redecisions_per_batch = 16,
    }
}
