//! Flows: what OVS is told to do in each case, as `OpenFlow`. The work is that of the pipeline's case, in OVS's own best form.
//!
//! Tables: 0 who may send (antispoofing) and connection tracking, 1 established or new, 2 egress policy, 3 ingress policy,
//! 4 forwarding.

use std::fmt::Write as _;

use crate::pipeline::case::{
    CLIENT_PORTS, Case, FIRST_REMOTE, FIRST_SERVER_PORT, GATEWAY_MAC, client_address, node_address, node_mac,
    pod_mac, vtep_mac,
};

/// Where the client pod's packets come in.
pub(crate) const CLIENT_IN: u16 = 1;
/// Where packets leave, on either bridge.
pub(crate) const OUT: u16 = 2;
/// Where the servers' packets come in: on the pods' bridge, or on that of the uplink when they come in a tunnel.
pub(crate) const SERVER_IN: u16 = 3;
/// The tunnel.
pub(crate) const TUNNEL: u16 = 4;

/// For `ovs-ofctl add-groups`: the Services' backends.
pub(crate) fn groups(case: Case, flows: u32) -> String {
    let mut text = String::new();
    if !case.has_service() {
        return text;
    }
    for service in 0..flows.div_ceil(CLIENT_PORTS) {
        let _ = write!(text, "group_id={},type=select", service + 1);
        for server in 0..case.servers() {
            let to = case.server(service * CLIENT_PORTS, server);
            let _ = write!(text, ",bucket=actions=ct(commit,nat(dst={to}),table=2)");
        }
        text.push('\n');
    }
    text
}

/// For `ovs-ofctl add-flows` on the pods' bridge.
pub(crate) fn of_pods(case: Case, flows: u32) -> String {
    let client = client_address(0);
    let client_mac = pod_mac(client);
    let services = flows.div_ceil(CLIENT_PORTS);
    let from_client = format!("table=0,in_port={CLIENT_IN},ip,dl_src={client_mac},nw_src={client}");
    if !case.has_policy() {
        // The node that has the block, its address on the uplink.
        let node = FIRST_REMOTE;
        return format!(
            "{from_client},nw_dst=10.244.{node}.0/24,actions=dec_ttl,mod_dl_src:{},mod_dl_dst:{},output:{OUT}\n",
            node_mac(1),
            node_mac(node)
        );
    }
    let track = if case.has_service() {
        "ct(nat,table=1)"
    } else {
        "ct(table=1)"
    };
    let mut text = format!("{from_client},actions={track}\n");
    let to_client = format!(
        "nw_dst={client},actions=dec_ttl,mod_dl_src:{GATEWAY_MAC},mod_dl_dst:{client_mac},output:{OUT}"
    );
    let _ = writeln!(text, "table=1,ct_state=+trk+est,ip,actions=goto_table:4");
    let _ = writeln!(text, "table=4,ip,{to_client}");
    if case.has_service() {
        for service in 0..services {
            let vip = case.destination(service * CLIENT_PORTS);
            let _ = writeln!(
                text,
                "table=1,ct_state=+trk+new,tcp,nw_dst={},tp_dst={},actions=group:{}",
                vip.ip(),
                vip.port(),
                service + 1
            );
        }
    } else {
        let _ = writeln!(text, "table=1,ct_state=+trk+new,ip,actions=goto_table:2");
    }
    let commit = if case.has_service() { "" } else { "ct(commit)," };
    for server in 0..case.servers() {
        let to = *case.server(0, server).ip();
        for service in 0..services {
            let allowed = format!(
                "tcp,nw_src={client},nw_dst={to},tp_dst={}",
                u32::from(FIRST_SERVER_PORT) + service
            );
            let _ = writeln!(text, "table=2,{allowed},actions=goto_table:3");
            let _ = writeln!(text, "table=3,{allowed},actions={commit}goto_table:4");
        }
        if case.has_tunnel() {
            let node = FIRST_REMOTE + server as u8;
            let outer = node_address(node);
            let _ = writeln!(
                text,
                "table=0,in_port={TUNNEL},tun_src={outer},ip,nw_src=10.244.{node}.0/24,actions={track}"
            );
            let _ = writeln!(
                text,
                "table=4,ip,nw_dst={to},actions=dec_ttl,mod_dl_src:{},mod_dl_dst:{},set_field:{outer}->tun_dst,output:{TUNNEL}",
                vtep_mac(1),
                vtep_mac(node)
            );
        } else {
            let mac = pod_mac(to);
            let _ = writeln!(
                text,
                "table=0,in_port={SERVER_IN},ip,dl_src={mac},nw_src={to},actions={track}"
            );
            let _ = writeln!(
                text,
                "table=4,ip,nw_dst={to},actions=dec_ttl,mod_dl_src:{GATEWAY_MAC},mod_dl_dst:{mac},output:{OUT}"
            );
        }
    }
    text
}

/// For `ovs-ofctl add-flows` on the bridge of the uplink.
pub(crate) fn of_uplink() -> String {
    // Nothing but tunnel packets: the kernel says something on every interface.
    format!(
        "in_port=LOCAL,udp,tp_dst=4789,actions=output:{OUT}\nin_port={SERVER_IN},udp,tp_dst=4789,actions=LOCAL\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_a_group_of_its_backends_and_a_flow_to_it() {
        let flows = CLIENT_PORTS + 1;
        assert_eq!(
            groups(Case::Service, flows).lines().last(),
            Some(
                "group_id=2,type=select,bucket=actions=ct(commit,nat(dst=10.244.1.2:8001),table=2),\
                 bucket=actions=ct(commit,nat(dst=10.244.1.3:8001),table=2),\
                 bucket=actions=ct(commit,nat(dst=10.244.1.4:8001),table=2)"
            )
        );
        let text = of_pods(Case::Service, flows);
        let second = "table=1,ct_state=+trk+new,tcp,nw_dst=10.96.0.2,tp_dst=80,actions=group:2";
        assert!(text.lines().any(|line| line == second), "{text}");
        assert!(groups(Case::Policy, flows).is_empty());
    }

    #[test]
    fn only_the_tunnels_cases_use_it() {
        for case in [
            Case::Forward,
            Case::Policy,
            Case::Service,
            Case::ServiceVxlan,
            Case::ServiceVxlanReturn,
        ] {
            let tunnel = format!("output:{TUNNEL}\n");
            assert_eq!(
                of_pods(case, 1000).contains(&tunnel),
                case.has_tunnel(),
                "{case:?}"
            );
        }
    }
}
