//! A pod and the own address of a node that is not its own: plain both ways, never masqueraded.

use std::net::{IpAddr, SocketAddr};

use tests::interop::exchange::{ping, tcp, udp_learning};
use tests::live::Lab;
use tests::live::lab::count;

const CLIENT: &str = "default/client";
/// `default/client`, and node-b's and node-a's own address.
const FAMILIES: [[&str; 3]; 2] = [
    ["10.244.1.10", "192.0.2.12", "192.0.2.11"],
    ["fd00:10:244:1::10", "2001:db8:2::12", "2001:db8:2::11"],
];

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

#[test]
fn pods_reach_the_own_addresses_of_nodes_as_themselves() {
    let Some(lab) = Lab::up("address") else {
        return;
    };
    for [pod, other, own] in FAMILIES {
        let pod: IpAddr = pod.parse().expect("an address");
        for (node, address) in [("node-b", other), ("node-a", own)] {
            ping(&lab, CLIENT, address, 56);
            assert_eq!(tcp(&lab, CLIENT, node, at(address, 9101), 1 << 20), pod);
            assert_eq!(
                udp_learning(&lab, CLIENT, node, at(address, 9102), &[1, 1400, 3000]),
                pod
            );
            refused(&lab, address);
        }
    }
    for node in ["node-a", "node-b"] {
        for reason in ["no-flow", "spoofed-source", "tunnel-spoofed"] {
            assert_eq!(count(&lab.status(node), "drops", reason), 0, "{node} {reason}");
        }
    }
    lab.assert_conservation();
}

/// The node's kernel says that nobody listens, and the pod hears it: by ICMP and by a reset.
fn refused(lab: &Lab, address: &str) {
    use std::io::ErrorKind::ConnectionRefused;
    use std::net::{TcpStream, UdpSocket};
    use tests::interop::exchange::PATIENCE;

    let to = at(address, 9103);
    let by_tcp = lab.within(CLIENT, || TcpStream::connect_timeout(&to, PATIENCE));
    assert_eq!(
        by_tcp.map_err(|error| error.kind()).err(),
        Some(ConnectionRefused),
        "TCP {to}"
    );
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = lab.within(CLIENT, || UdpSocket::bind(any)).expect("a socket");
    socket.connect(to).expect("a route");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.send(b"anyone?").expect("sent");
    let by_udp = socket.recv(&mut [0; 16]);
    assert_eq!(
        by_udp.map_err(|error| error.kind()).err(),
        Some(ConnectionRefused),
        "UDP {to}"
    );
}

#[test]
fn the_state_and_the_links_agree_on_mtus() {
    let Some(lab) = Lab::up("mtu") else {
        return;
    };
    // 1500 of the underlay less VXLAN over IPv6: 40 + 8 + 8 + 14.
    for (node, pods) in [
        ("node-a", ["default/client", "default/api-0", "ops/prober"]),
        ("node-b", ["default/api-1", "default/api-2", "default/db"]),
    ] {
        let status = lab.status(node);
        for pod in pods {
            let link = lab.run(pod, "ip -o link show eth0");
            assert!(link.contains(" mtu 1430 "), "{pod}: {link}");
            let name = format!("pod:{pod}");
            let ports = status["ports"].as_array().expect("a table");
            let row = ports
                .iter()
                .find(|port| port["name"] == name.as_str())
                .expect("the pod's row");
            assert_eq!(row["mtu"], 1430, "{pod}");
        }
    }
}
