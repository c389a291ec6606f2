//! OVS in a case of the pipeline's: its connections are brought up with our frames, what leaves is compared byte by byte with what
//! should, then it is measured by its own cycle counter.

use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use machine::Interrupt;

use super::process::{Folder, wait_for};
use super::switch::{Programs, Switch};
use super::{capture, flows};
use crate::pipeline::case::{Case, FIRST_REMOTE, SERVERS_MAX, node_address, node_mac};
use crate::pipeline::expect;
use crate::pipeline::packet::Step;
use crate::pipeline::traffic::{Traffic, Turn};
use crate::random::Random;
use crate::slices::{Slices, Took};

/// What was seen and measured.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) windows: Slices,
    pub(crate) packets: u64,
    pub(crate) connections: u64,
    pub(crate) compared: u64,
    pub(crate) version: String,
}

/// Name of the file of the measured frames, in the switch's folder.
pub(crate) const FRAMES: &str = "data.pcap";

/// The bridge of the pods, and that of the uplink.
const PODS: &str = "pods";
const UPLINK: &str = "uplink";

/// Brings up, compares, measures. The folder has the frames that came in, for who measures the floor.
pub(crate) fn run(
    programs: Programs,
    cpu: usize,
    traffic: &Traffic,
    flows: u32,
    seconds: f64,
    random: &mut Random,
    interrupt: &Interrupt,
) -> Result<(Seen, Folder)> {
    let case = traffic.case;
    let switch = Switch::up(programs, cpu)?;
    let stage = Stage {
        switch: &switch,
        traffic,
        flows,
        interrupt,
    };
    stage.build()?;
    let mut turns: Vec<Turn> = (0..flows).map(|flow| Turn { flow, ..Turn::FIRST }).collect();
    if case.has_policy() {
        stage.establish(&mut turns)?;
    }
    random.shuffle(&mut turns);
    let reply = case.measures_replies();
    stage.write(FRAMES, Step::Data, reply, &turns)?;
    let compared = stage.compare(reply, &turns)?;
    let (windows, packets) = stage.measure(reply, seconds)?;
    let connections = stage.connections()?.0;
    let seen = Seen {
        windows,
        packets,
        connections,
        compared,
        version: switch.version()?,
    };
    Ok((seen, switch.down()))
}

struct Stage<'s> {
    switch: &'s Switch,
    traffic: &'s Traffic,
    flows: u32,
    interrupt: &'s Interrupt,
}

impl Stage<'_> {
    /// Bridges, flows, the tunnel.
    fn build(&self) -> Result<()> {
        let (switch, case) = (self.switch, self.traffic.case);
        if self.flows > EXACT_MATCH_FLOWS_MAX {
            // Its exact-match cache only costs where it holds few of the flows; its signature-match cache holds them all.
            let words = ["set", "Open_vSwitch", ".", "other_config:emc-insert-inv-prob=0"];
            switch.vsctl(&[&words[..], &["other_config:smc-enable=true"]].concat())?;
        }
        switch.add_bridge(PODS, "ee:ee:ee:ee:ee:ee")?;
        if case.has_tunnel() {
            switch.add_bridge(UPLINK, &node_mac(1).to_string())?;
            switch.ip(&[
                "address",
                "add",
                &format!("{}/24", node_address(1)),
                "dev",
                UPLINK,
            ])?;
            switch.ip(&["link", "set", UPLINK, "up"])?;
            let words = [
                "add-port",
                PODS,
                "tunnel",
                "--",
                "set",
                "Interface",
                "tunnel",
                "type=vxlan",
            ];
            let number = format!("ofport_request={}", flows::TUNNEL);
            let options = [
                "options:remote_ip=flow",
                "options:key=4096",
                "options:df_default=false",
                &number,
            ];
            switch.vsctl(&[&words[..], &options].concat())?;
            // As our tunnels' source ports are.
            switch.appctl(&["tnl/egress_port_range", "49152", "65535"])?;
            let route = format!("{}/32", node_address(1));
            wait_for("OVS's route to the uplink", || {
                Ok(switch.appctl(&["ovs/route/show"])?.contains(&route).then_some(()))
            })?;
            for node in (FIRST_REMOTE..).take(SERVERS_MAX.into()) {
                let (address, mac) = (node_address(node).to_string(), node_mac(node).to_string());
                switch.appctl(&["tnl/arp/set", UPLINK, &address, &mac])?;
            }
            switch.ofctl("add-flows", UPLINK, &flows::of_uplink())?;
        }
        if case.has_service() {
            switch.ofctl("add-groups", PODS, &flows::groups(case, self.flows))?;
        }
        switch.ofctl("add-flows", PODS, &flows::of_pods(case, self.flows))
    }

    /// The bridge that the packets of a direction come in at, and their port there.
    fn entrance(&self, reply: bool) -> (&'static str, u16) {
        match (reply, self.traffic.is_tunnelled(reply, false)) {
            (false, _) => (PODS, flows::CLIENT_IN),
            (true, false) => (PODS, flows::SERVER_IN),
            (true, true) => (UPLINK, flows::SERVER_IN),
        }
    }

    /// The bridge that they leave from.
    fn exit(&self, reply: bool) -> &'static str {
        if self.traffic.is_tunnelled(reply, true) {
            UPLINK
        } else {
            PODS
        }
    }

    fn write(&self, file: &str, step: Step, reply: bool, turns: &[Turn]) -> Result<()> {
        let frames = turns.iter().map(|turn| self.traffic.arriving(step, reply, *turn));
        capture::write(&self.switch.file(file), frames)
    }

    /// Lets the frames of a file in, over and over, while `work` runs.
    fn play<T>(&self, file: &str, reply: bool, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let (bridge, number) = self.entrance(reply);
        let device = format!(
            "net_pcap0,rx_pcap={},infinite_rx=1",
            self.switch.file(file).display()
        );
        self.switch.add_port(bridge, "in", number, &device)?;
        let done = work();
        self.switch.remove_port("in")?;
        done
    }

    /// Ends at nobody what leaves, while `work` runs.
    fn discard<T>(&self, reply: bool, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.switch
            .add_port(self.exit(reply), "out", flows::OUT, "net_null0,no-rx=1")?;
        let done = work();
        self.switch.remove_port("out")?;
        done
    }

    /// Opens all flows and answers them, until all connections are established; notes who serves each.
    fn establish(&self, turns: &mut [Turn]) -> Result<()> {
        let wanted = u64::from(self.flows);
        self.write("open.pcap", Step::Open, false, turns)?;
        self.discard(false, || {
            self.play("open.pcap", false, || {
                wait_for("every connection opened", || {
                    self.interrupt.check()?;
                    Ok((self.connections()?.0 >= wanted).then_some(()))
                })
            })
        })?;
        self.note_servers(turns)?;
        self.write("answer.pcap", Step::Answer, true, turns)?;
        self.discard(true, || {
            self.play("answer.pcap", true, || {
                wait_for("every connection established", || {
                    self.interrupt.check()?;
                    Ok((self.connections()? == (wanted, wanted)).then_some(()))
                })
            })
        })
        .with_context(|| {
            format!(
                "{:?} of {wanted} connections and established ones",
                self.connections()
            )
        })
    }

    /// Connections, and the established ones.
    fn connections(&self) -> Result<(u64, u64)> {
        let text = self.switch.appctl(&["dpctl/ct-stats-show", "-m"])?;
        let figure = |name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            line.and_then(|rest| rest.trim().parse().ok()).unwrap_or_default()
        };
        Ok((figure("Total:"), figure("[ESTABLISHED]=")))
    }

    /// Which server OVS chose for each flow: its connections say so, and are exactly ours.
    fn note_servers(&self, turns: &mut [Turn]) -> Result<()> {
        let case = self.traffic.case;
        let text = self.switch.appctl(&["dpctl/dump-conntrack"])?;
        let mut known = std::collections::HashSet::new();
        for line in text.lines() {
            let connection = Connection::parse(line).with_context(|| format!("a connection: {line}"))?;
            let flow = connection.flow(case)?;
            ensure!(flow < self.flows, "no flow of ours: {line}");
            let server = (0..case.servers())
                .find(|server| case.server(flow, *server).to_string() == connection.server)
                .with_context(|| format!("no server of ours: {line}"))?;
            turns[flow as usize].server = server;
            ensure!(known.insert(flow), "twice: {line}");
        }
        ensure!(
            known.len() == turns.len(),
            "{} of {} connections",
            known.len(),
            turns.len()
        );
        Ok(())
    }

    /// Writes what leaves to a file until every flow is there, and compares each frame.
    fn compare(&self, reply: bool, turns: &[Turn]) -> Result<u64> {
        let out = self.switch.file("out.pcap");
        let device = format!("net_pcap1,tx_pcap={}", out.display());
        let exit = self.exit(reply);
        self.switch.add_port(exit, "out", flows::OUT, &device)?;
        let enough = 2 * u64::from(self.flows) + 1000;
        self.play(FRAMES, reply, || {
            wait_for("frames that left", || {
                self.interrupt.check()?;
                Ok((self.left(reply)? >= enough).then_some(()))
            })
        })?;
        self.switch.remove_port("out")?;
        let mut servers = vec![0; turns.len()];
        for turn in turns {
            servers[turn.flow as usize] = turn.server;
        }
        let mut seen = vec![false; turns.len()];
        let mut compared = 0;
        capture::read(&out, |frame| {
            let (flow, _) = expect::identify(self.traffic, frame, reply)?;
            let server = *servers.get(flow as usize).context("a flow of ours")?;
            let turn = Turn {
                flow,
                client: 0,
                server,
            };
            expect::check(self.traffic, Step::Data, reply, turn, frame)?;
            seen[flow as usize] = true;
            compared += 1;
            Ok(())
        })?;
        let unseen = seen.iter().filter(|seen| !**seen).count();
        ensure!(unseen == 0, "{unseen} flows of {} did not leave", turns.len());
        Ok(compared)
    }

    /// Windows of OVS's own counters, and the packets of all; what came in meanwhile must have left.
    fn measure(&self, reply: bool, seconds: f64) -> Result<(Slices, u64)> {
        self.discard(reply, || {
            let before = (self.switch.counted()?.received, self.left(reply)?);
            let (windows, packets, lost) = self.play(FRAMES, reply, || {
                self.warm_up()?;
                // A port's first packets are dropped while it is not wholly known: so many.
                let lost = self.lost_since(before, reply)?;
                let (windows, packets) = self.windows(seconds)?;
                Ok((windows, packets, lost))
            })?;
            let received = self.switch.counted()?.received - before.0;
            let left = self.left(reply)? - before.1;
            ensure!(
                lost.contains(&(received.cast_signed() - left.cast_signed())),
                "{received} packets came in, {left} left, {lost:?} of the others before it was measured\n{}",
                self.switch.log()
            );
            Ok((windows, packets))
        })
    }

    /// Every flow goes through the caches some times.
    fn warm_up(&self) -> Result<()> {
        let warm = self.switch.counted()?.received + 4 * u64::from(self.flows) + 1_000_000;
        wait_for("the switch warmed up", || {
            self.interrupt.check()?;
            Ok((self.switch.counted()?.received >= warm).then_some(()))
        })
    }

    /// Bounds of how many packets came in and did not leave: the counters are read one after the other.
    fn lost_since(&self, before: (u64, u64), reply: bool) -> Result<RangeInclusive<i64>> {
        let received = || -> Result<i64> { Ok((self.switch.counted()?.received - before.0).cast_signed()) };
        let mut bounds = i64::MIN..=i64::MAX;
        for _ in 0..READINGS {
            let least = received()?;
            let left = (self.left(reply)? - before.1).cast_signed();
            let most = received()?;
            bounds = (least - left).max(*bounds.start())..=(most - left).min(*bounds.end());
        }
        Ok(bounds.start() - IN_FLIGHT..=bounds.end() + IN_FLIGHT)
    }

    fn windows(&self, seconds: f64) -> Result<(Slices, u64)> {
        let switch = self.switch;
        let mut windows = Slices::default();
        let mut packets = 0;
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end || windows.len() < WINDOWS_MIN {
            let switches = switch.switches()?;
            let before = switch.counted()?;
            let after = wait_for("packets", || {
                self.interrupt.check()?;
                thread::sleep(WINDOW);
                let counted = switch.counted()?;
                Ok((counted.received > before.received).then_some(counted))
            })?;
            let is_clean = switch.switches()? == switches;
            let received = after.received - before.received;
            windows.push(received, Took::new(after.cycles - before.cycles, is_clean));
            packets += received;
        }
        Ok((windows, packets))
    }

    /// Packets that left.
    fn left(&self, reply: bool) -> Result<u64> {
        self.switch.sent(self.exit(reply), "out")
    }
}

/// A line of `dump-conntrack`.
struct Connection<'l> {
    sport: u32,
    dst: &'l str,
    dport: u32,
    /// Address and port that replies come from.
    server: String,
}

impl<'l> Connection<'l> {
    /// `tcp,orig=(src=10.244.1.10,dst=10.96.0.1,sport=17126,dport=80),reply=(src=10.244.2.10,...,sport=8000,...),...`
    fn parse(line: &'l str) -> Option<Self> {
        let part = |name: &str| {
            let (_, rest) = line.split_once(name)?;
            Some(rest.split_once(')')?.0)
        };
        let field = |part: &'l str, name: &str| {
            let mut fields = part.split(',');
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        };
        let (orig, reply) = (part("orig=(")?, part("reply=(")?);
        Some(Self {
            sport: field(orig, "sport")?.parse().ok()?,
            dst: field(orig, "dst")?,
            dport: field(orig, "dport")?.parse().ok()?,
            server: format!("{}:{}", field(reply, "src")?, field(reply, "sport")?),
        })
    }

    /// The number of the flow that it is of.
    fn flow(&self, case: Case) -> Result<u32> {
        let destination = format!("{}:{}", self.dst, self.dport);
        let group = (0..1000u32).map(|group| group * crate::pipeline::case::CLIENT_PORTS);
        let mut of_group = group.filter(|first| case.destination(*first).to_string() == destination);
        let first = of_group
            .next()
            .with_context(|| format!("no destination of ours: {destination}"))?;
        let offset = self.sport - u32::from(case.source(first, 0).port());
        Ok(first + offset)
    }
}

/// Of 8,192 entries of the exact-match cache a tracked flow takes two.
const EXACT_MATCH_FLOWS_MAX: u32 = 4096;
/// Between two readings of the counters.
const WINDOW: Duration = Duration::from_micros(500);
const WINDOWS_MIN: usize = 5;
/// Readings of its counters, the narrowest of which counts.
const READINGS: usize = 10;
/// Packets that are counted as received and not yet as sent: two batches.
const IN_FLIGHT: i64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_tells_its_flow_and_server() {
        let line = "tcp,orig=(src=10.244.1.10,dst=10.96.0.2,sport=17126,dport=80),\
                    reply=(src=10.244.2.10,dst=10.244.1.10,sport=8001,dport=17126),protoinfo=(state=ESTABLISHED)";
        let connection = Connection::parse(line).unwrap();
        assert_eq!(connection.server, "10.244.2.10:8001");
        assert_eq!(
            connection.flow(Case::ServiceVxlan).unwrap(),
            32_768 + 17_126 - 16_384
        );
        assert!(Connection::parse("tcp,orig=(src=1.2.3.4").is_none());
    }
}
