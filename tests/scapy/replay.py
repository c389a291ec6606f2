"""Tunnel packets as scapy makes them, replayed through `ringway replay`, and what comes out compared byte by byte.

Usage: replay.py RINGWAY STATE FOLDER ipip|vxlan. The cluster is that of the golden cases; node-a is under test.
"""

import json
import subprocess
import sys

from scapy.all import (
    IP, UDP, Ether, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, Raw,
    rdpcap, wrpcap,
)
from scapy.layers.vxlan import VXLAN

NODE_A = "02:00:c0:00:02:0b"
NODE_B = "02:00:c0:00:02:0c"
GATEWAY = "ee:ee:ee:ee:ee:ee"
POD_A = "02:01:0a:f4:01:0a"
VTEP_A, VTEP_B = "66:07:02:c1:cc:60", "66:89:3a:22:7a:ac"
VTEP6_A, VTEP6_B = "66:d4:d5:51:3d:42", "66:35:be:36:cf:19"
A4, A6 = "10.244.1.10", "fd00:10:244:1::10"
D4, D6 = "10.244.2.10", "fd00:10:244:2::10"
UPLINK, POD = "uplink", "pod:default/a"


class Replay:
    def __init__(self, ringway, state, folder):
        self.command, self.folder = [ringway, "replay", "--state", state, "--node", "node-a"], folder
        self.sent = []

    def send(self, port, frame, check):
        self.sent.append((port, frame, check))

    def run(self):
        inputs = []
        for port in (UPLINK, POD):
            frames = []
            for number, (by, frame, _) in enumerate(self.sent):
                if by == port:
                    frame.time = 1_000 + number / 1000
                    frames.append(frame)
            if frames:
                path = f"{self.folder}/{port.replace('/', '-').replace(':', '-')}.pcap"
                wrpcap(path, frames)
                inputs += ["--in", f"{path}:{port}"]
        out, verdicts = f"{self.folder}/out.pcapng", f"{self.folder}/verdicts.jsonl"
        subprocess.run([*self.command, *inputs, "--out", out, "--verdicts", verdicts], check=True)
        frames = [bytes(frame) for frame in rdpcap(out)]
        lines = [json.loads(line) for line in open(verdicts)]
        assert len(lines) == len(self.sent), (len(lines), len(self.sent))
        for line, (port, frame, check) in zip(lines, self.sent):
            assert line["port"] == port, line
            made = [(o["port"], frames[o["frame"] - 1]) for o in line.get("out", [])]
            try:
                check(line, made)
            except AssertionError:
                print(f"{frame.summary()}\n{line}\n{[(p, Ether(f).summary(), f.hex()) for p, f in made]}")
                raise
        print(f"{len(lines)} packets as expected")


def tx(port, expected):
    def check(line, made):
        assert line["verdict"] == "tx", line
        assert [p for p, _ in made] == [port], made
        assert made[0][1] == bytes(expected), bytes(expected).hex()
    return check


def verdict(kind, reason):
    def check(line, made):
        assert (line["verdict"], line.get("reason")) == (kind, reason), line
    return check


def tos(packet, value):
    packet = packet.copy()
    if IPv6 in packet:
        packet[IPv6].tc = value
    else:
        packet[IP].tos = value
    return packet


def routed(packet):
    """As a router leaves it: scapy computes what is not given."""
    packet = packet.copy()
    if isinstance(packet, IPv6):
        packet.hlim -= 1
    else:
        packet.ttl -= 1
    return packet


# RFC 6040 section 4.2: inner, outer -> what comes out; None: dropped.
ECN = {
    0: {0: 0, 2: 0, 1: 0, 3: None},
    2: {0: 2, 2: 2, 1: 1, 3: 3},
    1: {0: 1, 2: 1, 1: 1, 3: 3},
    3: {0: 3, 2: 3, 1: 3, 3: 3},
}
DSCP = 0x2E << 2


def ipip(replay):
    node = {"src": "192.0.2.12", "dst": "192.0.2.11"}
    inner = IP(src=A4, dst=D4, ttl=64, id=7) / UDP(sport=4000, dport=53) / Raw(b"out by IPIP")
    for ecn in range(4):
        packet = tos(inner, DSCP | ecn)
        # The outer header has ECN (normal mode) and DSCP of the inner one.
        outer = IP(src="192.0.2.11", dst="192.0.2.12", proto=4, ttl=64, flags="DF", id=0, tos=DSCP | ecn)
        expected = Ether(src=NODE_A, dst=NODE_B) / outer / routed(packet)
        replay.send(POD, Ether(src=POD_A, dst=GATEWAY) / packet, tx(UPLINK, expected))
    back = IP(src=D4, dst=A4, ttl=64, id=9) / UDP(sport=53, dport=4000) / Raw(b"back by IPIP")
    for inner_ecn, row in ECN.items():
        for outer_ecn, comes_out in row.items():
            packet = tos(back, DSCP | inner_ecn)
            frame = Ether(src=NODE_B, dst=NODE_A) / IP(**node, proto=4, tos=outer_ecn) / packet
            if comes_out is None:
                replay.send(UPLINK, frame, verdict("drop", "malformed"))
            else:
                expected = Ether(src=GATEWAY, dst=POD_A) / routed(tos(back, DSCP | comes_out))
                replay.send(UPLINK, frame, tx(POD, expected))
    # Who speaks for whom: not for another node's pod, for our own, for the outside; a stranger's IPIP is the kernel's.
    for source in ("10.244.3.10", "10.244.1.11", "203.0.113.9"):
        stranger = IP(src=source, dst=A4) / UDP(sport=53, dport=4000)
        replay.send(UPLINK, Ether(src=NODE_B, dst=NODE_A) / IP(**node, proto=4) / stranger, verdict("drop", "tunnel-spoofed"))
    unknown = IP(src="192.0.2.99", dst="192.0.2.11", proto=4) / back
    replay.send(UPLINK, Ether(src=NODE_B, dst=NODE_A) / unknown, verdict("punt", "to-host"))
    # A pod does not make tunnels.
    own = IP(src=A4, dst="192.0.2.12", proto=4) / inner
    replay.send(POD, Ether(src=POD_A, dst=GATEWAY) / own, verdict("drop", "tunnel-spoofed"))
    own = IP(src=A4, dst="192.0.2.12") / UDP(sport=50000, dport=4789) / VXLAN(vni=4096) / Ether() / inner
    replay.send(POD, Ether(src=POD_A, dst=GATEWAY) / own, verdict("drop", "tunnel-spoofed"))


def vxlan(replay):
    def outer(v6, src=None, vni=4096):
        ip = IPv6(src=src or "2001:db8:2::12", dst="2001:db8:2::11") if v6 else IP(src=src or "192.0.2.12", dst="192.0.2.11")
        return Ether(src=NODE_B, dst=NODE_A) / ip / UDP(sport=50000, dport=4789) / VXLAN(flags=8, vni=vni)

    def by_vxlan(v6, packet, **how):
        macs = {"src": VTEP6_B, "dst": VTEP6_A} if v6 else {"src": VTEP_B, "dst": VTEP_A}
        return outer(v6, **how) / Ether(**macs) / packet

    def encapsulated(v6, packet):
        expected = bytes((Ether(src=VTEP6_A, dst=VTEP6_B) if v6 else Ether(src=VTEP_A, dst=VTEP_B)) / routed(packet))

        def check(line, made):
            assert line["verdict"] == "tx" and made[0][0] == UPLINK, line
            frame = Ether(made[0][1])
            assert (frame.src, frame.dst) == (NODE_A, NODE_B)
            ip = frame[IPv6] if v6 else frame[IP]
            assert ip.src == ("2001:db8:2::11" if v6 else "192.0.2.11")
            udp = frame[UDP]
            assert udp.dport == 4789 and udp.sport >= 32768 and udp.len == len(udp)
            header = bytes(udp)[8:16]
            assert header == bytes([8, 0, 0, 0, 0, 0x10, 0, 0]), header.hex()
            assert bytes(udp)[16:] == expected, (bytes(udp)[16:].hex(), expected.hex())
            # Zero is allowed over IPv4; over IPv6 receivers want it right.
            again = frame.copy()
            found = udp.chksum
            del again[UDP].chksum
            right = Ether(bytes(again))[UDP].chksum
            assert found == right or (found == 0 and not v6), (found, right)
        return check

    v4 = IP(src=A4, dst=D4, id=7) / UDP(sport=4000, dport=53) / Raw(b"four")
    v6 = IPv6(src=A6, dst=D6) / UDP(sport=4000, dport=53) / Raw(b"six")
    extended = IPv6(src=A6, dst=D6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=4001, dport=53) / Raw(b"extended")
    echo = IPv6(src=A6, dst=D6) / ICMPv6EchoRequest(id=7, seq=1, data=b"echo")
    for packet in (v4, v6, extended, echo):
        is_v6 = isinstance(packet, IPv6)
        replay.send(POD, Ether(src=POD_A, dst=GATEWAY) / packet, encapsulated(is_v6, packet))
    for inside_v6 in (False, True):
        source, dest = (D6, A6) if inside_v6 else (D4, A4)
        ip = (lambda **a: IPv6(**a)) if inside_v6 else (lambda **a: IP(**a))
        back = ip(src=source, dst=dest) / UDP(sport=53, dport=4000) / Raw(b"back")
        for inner_ecn, row in ECN.items():
            for outer_ecn, comes_out in row.items():
                frame = by_vxlan(inside_v6, tos(back, DSCP | inner_ecn))
                if inside_v6:
                    frame[IPv6].tc = outer_ecn
                else:
                    frame[IP].tos = outer_ecn
                if comes_out is None:
                    replay.send(UPLINK, frame, verdict("drop", "malformed"))
                else:
                    expected = Ether(src=GATEWAY, dst=POD_A) / routed(tos(back, DSCP | comes_out))
                    replay.send(UPLINK, frame, tx(POD, expected))
        # Another network's VXLAN and a stranger's are the kernel's.
        replay.send(UPLINK, by_vxlan(inside_v6, back, vni=4097), verdict("punt", "to-host"))
        stranger = "2001:db8:2::99" if inside_v6 else "192.0.2.99"
        replay.send(UPLINK, by_vxlan(inside_v6, back, src=stranger), verdict("punt", "to-host"))
        for other in (("fd00:10:244:3::10", "2001:db8:ffff::1", "fd00:10:244:1::11") if inside_v6
                      else ("10.244.3.10", "203.0.113.9", "10.244.1.11")):
            spoofed = ip(src=other, dst=dest) / UDP(sport=53, dport=4000)
            replay.send(UPLINK, by_vxlan(inside_v6, spoofed), verdict("drop", "tunnel-spoofed"))

    def too_big(line, made):
        assert (line["verdict"], line["reason"]) == ("drop", "too-big"), line
        answer = Ether(made[0][1])
        assert answer[ICMPv6PacketTooBig].mtu == 1430
        found = answer[ICMPv6PacketTooBig].cksum
        del answer[ICMPv6PacketTooBig].cksum
        assert Ether(bytes(answer))[ICMPv6PacketTooBig].cksum == found

    large = IPv6(src=A6, dst=D6) / UDP(sport=4000, dport=53) / Raw(b"x" * (1431 - 48))
    replay.send(POD, Ether(src=POD_A, dst=GATEWAY) / large, too_big)


if __name__ == "__main__":
    ringway, state, folder, what = sys.argv[1:]
    replay = Replay(ringway, state, folder)
    {"ipip": ipip, "vxlan": vxlan}[what](replay)
    replay.run()
