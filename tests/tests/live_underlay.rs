//! The underlay changes under traffic: routes, next hops, equal-cost legs, its MTU and its link.
//!
//! Each figure runs from the kernel's own notice of the change, as a netlink socket of the test hears it, to the first
//! datagram from which on all are answered. Datagrams leave each millisecond or so.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastpath::io::poll;
use fastpath::netlink::socket::EventSocket;
use serde_json::Value;
use tests::live::lab::{Lab, PATIENCE};
use tests::live::traffic::{UdpStream, udp_echo};
use tests::live::wait;

/// Right again this long after the notice, on a machine that is busy with other things too: an idle one is held to 100 ms.
const RIGHT_AGAIN: Duration = Duration::from_secs(1);
/// Between two datagrams.
const PACE: Duration = Duration::from_millis(1);

/// The moments when the kernel of a node told of changes.
struct Notices {
    stop: Arc<AtomicBool>,
    listener: JoinHandle<Vec<Instant>>,
}

impl Notices {
    fn listen(lab: &Lab, node: &str) -> Self {
        let mut socket = lab.within(node, EventSocket::open).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let listener = thread::spawn(move || {
            let mut heard = Vec::new();
            // Relaxed: a flag and nothing else.
            while !stopped.load(Ordering::Relaxed) {
                poll::readable(&[socket.as_fd()], Duration::from_millis(20)).unwrap();
                let now = Instant::now();
                if socket.drain().unwrap().any() {
                    heard.push(now);
                }
            }
            heard
        });
        Self { stop, listener }
    }

    /// The first notice at or after `change`.
    fn first_after(self, change: Instant) -> Instant {
        self.stop.store(true, Ordering::Relaxed);
        let heard = self.listener.join().unwrap();
        heard
            .into_iter()
            .find(|at| *at >= change)
            .expect("the kernel told of the change")
    }
}

/// Datagrams from node-a's client to the outside, of which each that is answered went right.
fn to_outside(lab: &Lab, target: &str) -> UdpStream {
    let stream = UdpStream::start(lab, "default/client", target, PACE);
    let tx = |lab: &Lab| lab.status("node-a")["conservation"]["tx"].as_u64().unwrap();
    let before = tx(lab);
    wait::until("traffic", PATIENCE, || tx(lab) > before + 200);
    stream
}

/// Lets the stream run on until a few hundred more packets have gone right.
fn go_on(lab: &Lab) {
    let tx = |lab: &Lab| lab.status("node-a")["conservation"]["tx"].as_u64().unwrap();
    let before = tx(lab);
    wait::until("traffic after the change", PATIENCE, || tx(lab) > before + 300);
}

/// Waits until packets have been dropped for want of a way.
fn lose_some(lab: &Lab) {
    let drop = |lab: &Lab| lab.status("node-a")["conservation"]["drop"].as_u64().unwrap();
    let before = drop(lab);
    wait::until("packets lost", PATIENCE, || drop(lab) > before + 50);
}

fn assert_right_again(what: &str, took: Option<Duration>) {
    let took = took.unwrap_or_else(|| panic!("{what}: nothing went right again"));
    println!("{what}: right again {took:?} after the kernel's notice");
    assert!(took < RIGHT_AGAIN, "{what}: {took:?}");
}

/// A second router for the same hosts: another address and MAC on the outside's link.
fn second_gateway(lab: &Lab) {
    lab.run(
        "outside",
        "ip link add link eth0 name gw2 address 02:fe:00:00:00:02 type macvlan mode bridge",
    );
    lab.run("outside", "sysctl -qw net.ipv4.conf.all.arp_ignore=1");
    lab.run("outside", "ip addr add 192.0.2.2/32 dev gw2");
    lab.run("outside", "ip link set gw2 up");
}

fn received(lab: &Lab, link: &str) -> u64 {
    let text = lab.run("outside", &format!("ip -s -j link show dev {link}"));
    let links: Value = serde_json::from_str(&text).unwrap();
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

/// `ip route replace` to another router, and to a hole and back: packets follow.
#[test]
fn a_replaced_route_is_followed() {
    let Some(lab) = Lab::up("route") else { return };
    udp_echo(&lab, "outside", "203.0.113.10:9000");
    second_gateway(&lab);
    let stream = to_outside(&lab, "203.0.113.10:9000");
    let (notices, gw2) = (Notices::listen(&lab, "node-a"), received(&lab, "gw2"));
    let change = Instant::now();
    lab.run("node-a", "ip route replace default via 192.0.2.2");
    wait::until("packets at the other router", PATIENCE, || {
        received(&lab, "gw2") > gw2 + 100
    });
    let notice = notices.first_after(change);
    println!(
        "100 packets at the other router {:?} after the notice",
        notice.elapsed()
    );
    assert!(notice.elapsed() < RIGHT_AGAIN * 10);
    go_on(&lab);
    // A hole, then the way back: what goes right after it can only have followed the route.
    lab.run("node-a", "ip route replace default via 192.0.2.99");
    let holed = Instant::now();
    lose_some(&lab);
    let notices = Notices::listen(&lab, "node-a");
    let back = Instant::now();
    lab.run("node-a", "ip route replace default via 192.0.2.1");
    go_on(&lab);
    let back_notice = notices.first_after(back);
    let heard = stream.stop();
    assert_right_again(
        "ip route replace out of a hole",
        heard.right_again_after(back_notice),
    );
    let between = |number: &u64| {
        let sent = heard.sent[*number as usize];
        sent > notice && sent + RIGHT_AGAIN < holed
    };
    let lost: Vec<u64> = heard.lost().into_iter().filter(between).collect();
    assert_eq!(lost, [0; 0], "lost between two routers that both work");
    lab.assert_conservation();
}

/// The next hop comes with another MAC.
#[test]
fn a_next_hop_with_another_mac_is_followed() {
    let Some(lab) = Lab::up("mac") else { return };
    udp_echo(&lab, "outside", "203.0.113.10:9000");
    let stream = to_outside(&lab, "203.0.113.10:9000");
    // As every router does that takes an address over: it tells its neighbours.
    lab.run("outside", "sysctl -qw net.ipv4.conf.eth0.arp_notify=1");
    let notices = Notices::listen(&lab, "node-a");
    let change = Instant::now();
    lab.run("outside", "ip link set eth0 address 02:fe:00:00:00:77");
    let notice = notices.first_after(change);
    go_on(&lab);
    let heard = stream.stop();
    assert_right_again("another MAC", heard.right_again_after(notice));
    let neighbours = lab.run("node-a", "ip neigh show 192.0.2.1");
    assert!(neighbours.contains("02:fe:00:00:00:77"), "{neighbours}");
    lab.assert_conservation();
}

/// One of two equal-cost next hops goes: flows that took it move, the others stay.
#[test]
fn an_ecmp_leg_that_goes_is_left() {
    let Some(lab) = Lab::up("ecmp") else { return };
    udp_echo(&lab, "outside", "203.0.113.10:9000");
    second_gateway(&lab);
    lab.run(
        "node-a",
        "ip route replace default nexthop via 192.0.2.1 weight 1 nexthop via 192.0.2.2 weight 1",
    );
    let streams: Vec<UdpStream> = (0..8)
        .map(|_| UdpStream::start(&lab, "default/client", "203.0.113.10:9000", PACE * 8))
        .collect();
    let gw2 = received(&lab, "gw2");
    wait::until("packets by both legs", PATIENCE, || {
        received(&lab, "gw2") > gw2 + 100
    });
    let notices = Notices::listen(&lab, "node-a");
    let change = Instant::now();
    lab.run("node-a", "ip route replace default via 192.0.2.1");
    lab.run("outside", "ip link set gw2 down");
    let notice = notices.first_after(change);
    go_on(&lab);
    for (number, stream) in streams.into_iter().enumerate() {
        let heard = stream.stop();
        assert_right_again(
            &format!("a leg less, flow {number}"),
            heard.right_again_after(notice),
        );
        let late: Vec<u64> = heard
            .lost()
            .into_iter()
            .filter(|n| heard.sent[*n as usize] > notice + RIGHT_AGAIN)
            .collect();
        assert_eq!(late, [0; 0], "flow {number} lost datagrams after the move");
    }
    lab.assert_conservation();
}

/// A lower MTU of the uplink: what is too big now is answered with the new one, v4 and v6, by the tunnel and plain.
#[test]
fn a_lower_underlay_mtu_is_told() {
    let Some(lab) = Lab::up("mtu") else { return };
    udp_echo(&lab, "outside", "203.0.113.10:9000");
    let stream = to_outside(&lab, "203.0.113.10:9000");
    // The tunnel takes 50 bytes of an IPv4 underlay and 70 of an IPv6 one; a pod's own MTU is 1330.
    for (uplink, answers) in [
        (1360_u32, [("10.244.2.10", 1310_u32), ("fd00:10:244:2::10", 1290)]),
        (1300, [("203.0.113.10", 1300), ("2001:db8:113::10", 1300)]),
    ] {
        let notices = Notices::listen(&lab, "node-a");
        let change = Instant::now();
        lab.run("node-a", &format!("ip link set eth0 mtu {uplink}"));
        wait::until("the new MTU to be known", PATIENCE, || {
            let status = lab.status("node-a");
            let ports = status["ports"].as_array().unwrap();
            ports
                .iter()
                .any(|port| port["name"] == "uplink" && port["mtu"] == uplink)
        });
        let notice = notices.first_after(change);
        println!("status tells the new MTU {:?} after the notice", notice.elapsed());
        for (target, mtu) in answers {
            let headers = if target.contains(':') { 48 } else { 28 };
            let payload = (mtu + 8 - headers).to_string();
            let arguments = ["-n", "-c", "1", "-W", "5", "-M", "do", "-s", &payload, target];
            let output = lab.within("default/client", || {
                std::process::Command::new("ping")
                    .args(arguments)
                    .output()
                    .unwrap()
            });
            let said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            let told = [
                format!("mtu = {mtu}"),
                format!("mtu={mtu}"),
                format!("mtu: {mtu}"),
            ];
            assert!(
                told.iter().any(|words| said.contains(words)),
                "{target} within {mtu}: {said}"
            );
        }
        assert!(notice.elapsed() < RIGHT_AGAIN * 10);
    }
    go_on(&lab);
    let heard = stream.stop();
    assert_eq!(heard.lost(), [0; 0], "small datagrams were lost");
    lab.assert_conservation();
}

/// The uplink goes down and comes up again: forwarding resumes by itself.
#[test]
fn an_uplink_that_was_down_resumes() {
    let Some(lab) = Lab::up("down") else { return };
    udp_echo(&lab, "outside", "203.0.113.10:9000");
    let stream = to_outside(&lab, "203.0.113.10:9000");
    lab.run("node-a", "ip link set eth0 down");
    lose_some(&lab);
    let notices = Notices::listen(&lab, "node-a");
    lab.run("node-a", "ip link set eth0 up");
    // Routes by a router go with the link, and whoever set them sets them again: here the test. From then on it is ours.
    let change = Instant::now();
    lab.run("node-a", "ip route replace default via 192.0.2.1");
    go_on(&lab);
    let notice = notices.first_after(change);
    let heard = stream.stop();
    assert_right_again("the uplink up again", heard.right_again_after(notice));
    wait::until("a healthy status", PATIENCE, || {
        lab.status("node-a")["problems"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    // The host itself too.
    lab.run("node-a", "ping -n -c 1 -W 5 192.0.2.1");
    lab.assert_conservation();
}

/// Large datagrams stay what they are while nothing changes: the control of the tests above.
#[test]
fn a_quiet_underlay_loses_nothing() {
    let Some(lab) = Lab::up("quiet") else { return };
    udp_echo(&lab, "outside", "203.0.113.10:9000");
    let stream = to_outside(&lab, "203.0.113.10:9000");
    go_on(&lab);
    let heard = stream.stop();
    assert_eq!(heard.lost(), [0; 0], "of {} datagrams", heard.sent.len());
    let socket = lab
        .within("default/client", || UdpSocket::bind("0.0.0.0:0"))
        .unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&[7; 1000], "203.0.113.10:9000").unwrap();
    assert_eq!(socket.recv(&mut [0; 2000]).unwrap(), 1000);
    lab.assert_conservation();
}
