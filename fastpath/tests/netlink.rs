//! The mirror and the host port against a real kernel, in namespaces of their own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::{Duration, Instant};

use fastpath::io::netns::NetworkNamespace;
use fastpath::io::poll;
use fastpath::netlink::host_port::{HostPort, HostRoute};
use fastpath::netlink::mirror::PortInterfaces;
use fastpath::netlink::socket::{EventSocket, Events};
use fastpath::netlink::{Mirror, reserved_ports};

/// Runs `test` in a fresh namespace, or says that it was skipped.
fn in_namespace(test: impl FnOnce() + Send) {
    match NetworkNamespace::create() {
        Ok(namespace) => namespace
            .run(test)
            .expect("a thread can enter a namespace that we made"),
        Err(e) => {
            assert!(
                !std::env::var("RINGWAY_REQUIRE").is_ok_and(|r| r.split(',').any(|r| r == "root")),
                "RINGWAY_REQUIRE asks for root: {e}"
            );
            println!("SKIPPED: needs root to make a network namespace: {e}");
        }
    }
}

/// Runs `ip` with these words in the namespace of the calling thread.
fn ip(words: &str) {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .expect("ip is installed");
    assert!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Refreshes `mirror` by events until `done`, for at most two seconds.
fn until(mirror: &mut Mirror, events: &mut EventSocket, what: &str, done: impl Fn(&Mirror) -> bool) {
    let end = Instant::now() + Duration::from_secs(2);
    while !done(mirror) {
        assert!(
            Instant::now() < end,
            "not within 2 s: {what}; {:?}",
            mirror.underlay()
        );
        poll::readable(&[events.as_fd()], Duration::from_millis(50)).unwrap();
        let seen = events.drain().unwrap();
        mirror.refresh(seen).unwrap();
    }
}

fn uplink_eth0() -> PortInterfaces {
    PortInterfaces {
        uplinks: vec!["eth0".into()],
        host: None,
    }
}

#[test]
fn routes_links_and_neighbours_follow_the_kernel() {
    in_namespace(|| {
        ip("link add eth0 type veth peer name far");
        ip("link set far up");
        ip("link set eth0 up address 02:00:0a:00:00:01 mtu 1400");
        ip("addr add 10.0.0.1/24 dev eth0");
        ip("addr add fd00::1/64 dev eth0 nodad");
        let mut events = EventSocket::open().unwrap();
        let mut mirror = Mirror::open(uplink_eth0()).unwrap();
        until(&mut mirror, &mut events, "the connected routes", |m| {
            let prefixes: BTreeSet<String> =
                m.underlay().routes.iter().map(|r| r.prefix.to_string()).collect();
            prefixes.contains("10.0.0.0/24") && prefixes.contains("fd00::/64")
        });
        let underlay = mirror.underlay();
        assert_eq!(underlay.links.len(), 1);
        assert_eq!(
            (&*underlay.links[0].port, underlay.links[0].mtu),
            ("uplink", 1400)
        );
        assert_eq!(underlay.links[0].mac.to_string(), "02:00:0a:00:00:01");

        // ECMP of both families, a blackhole, a neighbour.
        ip(
            "route add 192.0.2.0/24 nexthop via 10.0.0.2 dev eth0 weight 1 nexthop via 10.0.0.3 dev eth0 weight 3",
        );
        ip("-6 route add 2001:db8::/64 nexthop via fd00::2 dev eth0 nexthop via fd00::3 dev eth0");
        ip("route add blackhole 198.51.100.0/24");
        ip("neigh add 10.0.0.2 lladdr 02:00:0a:00:00:02 dev eth0 nud permanent");
        until(&mut mirror, &mut events, "routes and a neighbour", |m| {
            let u = m.underlay();
            let route = |p: &str| u.routes.iter().find(|r| r.prefix.to_string() == p).cloned();
            u.neighbours.len() == 1
                && route("192.0.2.0/24")
                    .is_some_and(|r| r.next_hops.iter().map(|h| h.weight).collect::<Vec<_>>() == [1, 3])
                && route("2001:db8::/64").is_some_and(|r| r.next_hops.len() == 2)
                && route("198.51.100.0/24").is_some_and(|r| r.next_hops.is_empty())
        });

        // A route that moves, a MAC that changes, an MTU that shrinks.
        ip("route replace 192.0.2.0/24 via 10.0.0.3 dev eth0");
        ip("neigh replace 10.0.0.2 lladdr 02:00:0a:00:00:99 dev eth0 nud permanent");
        ip("link set eth0 mtu 1300");
        until(&mut mirror, &mut events, "changes", |m| {
            let u = m.underlay();
            u.links[0].mtu == 1300
                && u.neighbours
                    .iter()
                    .any(|n| n.mac.to_string() == "02:00:0a:00:00:99")
                && u.routes
                    .iter()
                    .any(|r| r.prefix.to_string() == "192.0.2.0/24" && r.next_hops.len() == 1)
        });

        // Down takes the routes along, without an event for each.
        ip("link set eth0 down");
        until(&mut mirror, &mut events, "down", |m| {
            let u = m.underlay();
            !u.links[0].up && !u.routes.iter().any(|r| !r.next_hops.is_empty())
        });
    });
}

#[test]
fn a_route_out_of_another_device_goes_by_the_host_port() {
    in_namespace(|| {
        ip("link add eth0 type veth peer name far");
        ip("link add other type veth peer name other2");
        for link in ["eth0", "far", "other2", "other"] {
            ip(&format!("link set {link} up"));
        }
        ip("addr add 10.9.0.1/24 dev other");
        let mut events = EventSocket::open().unwrap();
        let mut mirror = Mirror::open(uplink_eth0()).unwrap();
        until(&mut mirror, &mut events, "the route", |m| {
            let routes = m.underlay().routes;
            let route = routes.iter().find(|r| r.prefix.to_string() == "10.9.0.0/24");
            route.is_some_and(|r| &*r.next_hops[0].port == "host")
        });
    });
}

#[test]
fn rules_that_are_not_followed_are_named() {
    in_namespace(|| {
        ip("rule add from 10.1.0.0/16 lookup 100");
        let mirror = Mirror::open(uplink_eth0()).unwrap();
        assert_eq!(mirror.refused.len(), 1, "{:?}", mirror.refused);
        assert!(mirror.refused[0].contains("100"));
    });
}

#[test]
fn a_managed_neighbour_is_resolved_without_traffic() {
    in_namespace(|| {
        let far = NetworkNamespace::create().unwrap();
        ip("link add eth0 type veth peer name far");
        ip("link set eth0 up");
        ip("addr add 10.0.0.1/24 dev eth0");
        ip(&format!(
            "link set far netns /proc/{}/fd/{}",
            std::process::id(),
            far.as_raw_fd()
        ));
        far.run(|| {
            ip("link set far up");
            ip("addr add 10.0.0.2/24 dev far");
        })
        .unwrap();
        let mut events = EventSocket::open().unwrap();
        let mut mirror = Mirror::open(uplink_eth0()).unwrap();
        until(&mut mirror, &mut events, "carrier", |m| {
            m.link("eth0").is_some_and(|l| l.up)
        });
        let wanted: [(_, IpAddr); 1] = [("uplink".into(), "10.0.0.2".parse().unwrap())];
        assert!(mirror.manage(wanted).is_empty());
        until(&mut mirror, &mut events, "the neighbour", |m| {
            m.underlay()
                .neighbours
                .iter()
                .any(|n| n.address.to_string() == "10.0.0.2")
        });
        // No longer wanted: an ordinary entry again, which the kernel may forget.
        assert!(mirror.manage([]).is_empty());
        let shown = Command::new("ip")
            .args(["neigh", "show", "10.0.0.2"])
            .output()
            .unwrap();
        assert!(!String::from_utf8_lossy(&shown.stdout).contains("managed"));
    });
}

#[test]
fn a_next_hop_that_the_kernel_refuses_costs_no_other() {
    in_namespace(|| {
        for (name, far, mtu) in [("eth0", "far0", 1000), ("eth1", "far1", 1500)] {
            ip(&format!("link add {name} mtu {mtu} type veth peer name {far}"));
            ip(&format!("link set {name} up"));
            ip(&format!("link set {far} up"));
        }
        let mut events = EventSocket::open().unwrap();
        let mut mirror = Mirror::open(PortInterfaces {
            uplinks: vec!["eth0".into(), "eth1".into()],
            host: None,
        })
        .unwrap();
        until(&mut mirror, &mut events, "carrier", |m| {
            ["eth0", "eth1"]
                .iter()
                .all(|name| m.link(name).is_some_and(|l| l.up))
        });
        // Links of less than 1280 bytes have no IPv6.
        let wanted: [(_, IpAddr); 2] = [
            ("uplink".into(), "2001:db8::1".parse().unwrap()),
            ("uplink1".into(), "10.0.1.2".parse().unwrap()),
        ];
        for _ in 0..2 {
            let refused = mirror.manage(wanted.clone());
            assert_eq!(refused.len(), 1, "{refused:?}");
            assert!(refused[0].to_string().contains("2001:db8::1"), "{refused:?}");
            let shown = Command::new("ip")
                .args(["neigh", "show", "10.0.1.2", "nud", "all"])
                .output()
                .unwrap();
            let shown = String::from_utf8_lossy(&shown.stdout);
            assert!(shown.contains("managed"), "{shown}");
        }
    });
}

#[test]
fn the_host_port_is_made_routed_adopted_and_removed() {
    in_namespace(|| {
        ip("link add eth0 type veth peer name far");
        ip("link set eth0 up");
        ip("addr add 10.0.0.1/24 dev eth0");
        ip("addr add fd00::1/64 dev eth0 nodad");
        let mut port = HostPort::open("ringway-host", "ringway-fp", 2, 1450).unwrap();
        let route = |prefix: &str, source: &str| HostRoute {
            prefix: prefix.parse().unwrap(),
            source: Some(source.parse().unwrap()),
        };
        let routes: BTreeSet<HostRoute> = [
            route("10.244.0.0/16", "10.244.1.1"),
            route("10.96.0.0/12", "10.0.0.1"),
            route("fd10:96::/108", "fd00::1"),
        ]
        .into();
        let addresses: BTreeSet<IpAddr> = ["10.244.1.1".parse().unwrap()].into();
        let refused = port.reconcile(&addresses, &routes);
        assert!(refused.is_empty(), "{refused:?}");
        let get = |to: &str| {
            let output = Command::new("ip").args(["route", "get", to]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let pod = get("10.244.7.7");
        assert!(
            pod.contains("dev ringway-host") && pod.contains("src 10.244.1.1"),
            "{pod}"
        );
        let vip = get("fd10:96::1");
        assert!(
            vip.contains("dev ringway-host") && vip.contains("src fd00::1"),
            "{vip}"
        );
        // Our own routes are not part of the underlay.
        let mut ports = uplink_eth0();
        ports.host = Some(("ringway-fp".into(), "ringway-host".into()));
        let mirror = Mirror::open(ports).unwrap();
        let underlay = mirror.underlay();
        assert!(
            underlay
                .routes
                .iter()
                .all(|r| r.prefix.to_string() != "10.244.0.0/16")
        );
        let host = underlay.links.iter().find(|l| &*l.port == "host").unwrap();
        assert!(host.mtu == 1450 && host.peer_mac.is_some());
        drop(mirror);

        let fewer: BTreeSet<HostRoute> = routes.iter().copied().take(1).collect();
        assert!(port.reconcile(&addresses, &fewer).is_empty());
        drop(port);
        // A successor finds the pair.
        let mut port = HostPort::open("ringway-host", "ringway-fp", 2, 1450).unwrap();
        assert!(port.reconcile(&addresses, &routes).is_empty());
        port.remove().unwrap();
        assert!(!get("10.244.7.7").contains("ringway-host"));
    });
}

#[test]
fn the_kernel_gives_no_socket_a_reserved_port() {
    in_namespace(|| {
        let path = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        ip("link set lo up");
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50009").unwrap();
        std::fs::write(path, "8080").unwrap();
        assert!(reserved_ports::reserve(&(50_001..=60_000)).unwrap());
        assert!(!reserved_ports::reserve(&(50_001..=60_000)).unwrap());
        assert_eq!(std::fs::read_to_string(path).unwrap().trim(), "8080,50001-60000");
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let socket = std::net::UdpSocket::bind(any).unwrap();
            assert_eq!(socket.local_addr().unwrap().port(), 50_000);
        }
    });
}

#[test]
fn every_change_is_an_event() {
    in_namespace(|| {
        let mut events = EventSocket::open().unwrap();
        assert_eq!(events.drain().unwrap(), Events::default());
        ip("link add eth0 type veth peer name far");
        assert!(events.drain().unwrap().links);
    });
}
