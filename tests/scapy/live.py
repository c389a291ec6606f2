"""Frames that scapy made, sent into a living node and through `ringway replay`: both must do the same with each.

Usage: live.py CONFIG.json. The configuration names the programs, the node's status socket, and for each port the namespace and
interface where its other end is. The node is quiet: nobody else sends on these links.

Frames are sent in small groups. After each the node's own counters tell when it has dealt with them and how many frames left;
so many are taken from the other ends of the links. Then all of it is replayed, with the times at which it was sent.
"""

import ctypes
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter

from scapy.all import (
    AH, ARP, ICMP, IP, SCTP, TCP, UDP, Dot1Q, Ether, ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6ND_RA,
    ICMPv6NDOptSrcLLAddr, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPOption_LSRR, IPOption_NOP, IPOption_RR, IPv6,
    IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, PadN, Raw, rdpcap, wrpcap,
)
from scapy.layers.sctp import SCTPChunkInit
from scapy.layers.vxlan import VXLAN

NODE_A, NODE_B, ROUTER = "02:00:c0:00:02:0b", "02:00:c0:00:02:0c", "02:fe:00:00:00:01"
GATEWAY = "ee:ee:ee:ee:ee:ee"
CLIENT_MAC, API_MAC = "02:01:0a:f4:01:0a", "02:01:0a:f4:01:0b"
VTEP_A, VTEP_B = "66:07:02:c1:cc:60", "66:89:3a:22:7a:ac"
VTEP6_A, VTEP6_B = "66:d4:d5:51:3d:42", "66:35:be:36:cf:19"
UPLINK, CLIENT, API, HOST = "uplink", "pod:default/client", "pod:default/api-0", "host"


class Family:
    def __init__(self, v6):
        self.v6 = v6
        self.client = "fd00:10:244:1::10" if v6 else "10.244.1.10"
        self.api = "fd00:10:244:1::11" if v6 else "10.244.1.11"
        self.far = "fd00:10:244:2::10" if v6 else "10.244.2.10"
        self.tunnel_b = "fd00:10:244:2::1" if v6 else "10.244.2.1"
        self.vip = "fd00:10:96::10" if v6 else "10.96.0.10"
        self.node_a = "2001:db8:2::11" if v6 else "192.0.2.11"
        self.node_b = "2001:db8:2::12" if v6 else "192.0.2.12"
        self.stranger = "2001:db8:2::99" if v6 else "192.0.2.99"
        self.outside = "2001:db8:113::10" if v6 else "203.0.113.10"

    def ip(self, src, dst, ttl=64, **more):
        return IPv6(src=src, dst=dst, hlim=ttl, **more) if self.v6 else IP(src=src, dst=dst, ttl=ttl, **more)

    def vxlan(self, inner, src=None, dst=None, vni=4096, flags=8, **udp):
        macs = {"src": VTEP6_B, "dst": VTEP6_A} if self.v6 else {"src": VTEP_B, "dst": VTEP_A}
        outer = Ether(src=NODE_B, dst=NODE_A) / self.ip(src or self.node_b, dst or self.node_a)
        return outer / UDP(**{"sport": 50000, "dport": 4789, **udp}) / VXLAN(flags=flags, vni=vni) / Ether(**macs) / inner


def by_client(packet):
    return (CLIENT, Ether(src=CLIENT_MAC, dst=GATEWAY) / packet)


def by_api(packet):
    return (API, Ether(src=API_MAC, dst=GATEWAY) / packet)


def by_router(packet):
    return (UPLINK, Ether(src=ROUTER, dst=NODE_A) / packet)


def cut(packet, sizes, ident=77):
    """The fragments of a packet whose payload is cut after so many bytes each; the rest is the last."""
    whole = bytes(packet)
    v6 = isinstance(packet, IPv6)
    head, body, next_header = (whole[:40], whole[40:], whole[6]) if v6 else (whole[:20], whole[20:], whole[9])
    parts, at = [], 0
    for size in [*sizes, len(body)]:
        part = body[at:at + size]
        more = at + size < len(body)
        if v6:
            base = IPv6(head)
            base.remove_payload()
            base.nh, base.plen = 44, None
            parts.append(base / IPv6ExtHdrFragment(nh=next_header, offset=at // 8, m=int(more), id=ident) / Raw(part))
        else:
            base = IP(head)
            base.remove_payload()
            base.len = base.chksum = None
            base.id, base.frag, base.flags, base.proto = ident, at // 8, "MF" if more else 0, next_header
            parts.append(base / Raw(part))
        at += size
        if not more:
            break
    return parts


def groups(f):
    """Lists of frames; each list is sent at once, by one port: between ports there is no order."""
    ip, data = f.ip, Raw(b"by scapy ")
    udp = lambda sport, dport, size=9, **more: UDP(sport=sport, dport=dport, **more) / Raw((bytes(data) * 200)[:size])

    # Flows that what follows is about: on the node, to the other node, through the Service, from outside.
    yield [by_client(ip(f.client, f.api) / udp(4000, 8081))]
    yield [by_api(ip(f.api, f.client) / udp(8081, 4000))]
    yield [by_client(ip(f.client, f.far) / udp(4000, 8081))]
    yield [(UPLINK, f.vxlan(ip(f.far, f.client) / udp(8081, 4000)))]
    yield [by_client(ip(f.client, f.vip) / udp(4007, 7))]
    yield [(UPLINK, f.vxlan(ip(f.far, f.client) / udp(8081, 4007)))]
    yield [by_client(ip(f.client, f.vip) / TCP(sport=4080, dport=80, flags="S", seq=100))]
    yield [(UPLINK, f.vxlan(ip(f.far, f.client) / TCP(sport=8080, dport=4080, flags="SA", seq=900, ack=101)))]
    yield [by_client(ip(f.client, f.vip) / TCP(sport=4080, dport=80, flags="PA", seq=101, ack=901) / data)]
    yield [by_client(ip(f.client, f.vip) / TCP(sport=4081, dport=80, flags="A", seq=1, ack=1))]
    yield [by_client(ip(f.client, f.vip) / TCP(sport=4082, dport=81, flags="S"))]
    yield [by_client(ip(f.client, f.outside) / udp(50000, 53))]
    yield [by_router(ip(f.outside, f.node_a) / udp(53, 50000))]
    yield [by_router(ip(f.outside, f.client) / udp(999, 998))]
    yield [by_router(ip(f.outside, f.api) / udp(999, 998))]
    yield [by_client(ip(f.client, f.far) / SCTP(sport=5000, dport=5001) / SCTPChunkInit())]
    yield [(HOST, Ether(src="02:00:00:00:00:99", dst=GATEWAY) / ip(f.node_a, f.client) / udp(6000, 6001))]

    # Checksums as they should not be.
    yield [by_client(ip(f.client, f.api) / udp(4000, 8081, chksum=0x1234))]
    yield [by_client(ip(f.client, f.vip) / udp(4007, 7, chksum=0x1234))]
    yield [by_client(ip(f.client, f.vip) / udp(4007, 7, chksum=0))]
    yield [by_client(ip(f.client, f.vip) / TCP(sport=4080, dport=80, flags="A", seq=110, ack=901, chksum=1))]
    yield [(UPLINK, f.vxlan(ip(f.far, f.client) / udp(8081, 4007), chksum=0x4321))]
    yield [(UPLINK, f.vxlan(ip(f.far, f.client) / udp(8081, 4007), chksum=0))]

    # Hop limits, sizes.
    for ttl in (0, 1, 2):
        yield [by_client(ip(f.client, f.api, ttl) / udp(4000, 8081))]
        yield [(UPLINK, f.vxlan(ip(f.far, f.client, ttl) / udp(8081, 4000)))]
    # Up to the MTU of a pod's link; a replayed pod's is that of the uplink.
    for size in (1000, 1372):
        yield [by_router(ip(f.outside, f.client) / udp(999, 997, size))]

    # Runts: cut anywhere.
    whole = bytes(by_client(ip(f.client, f.vip) / udp(4007, 7))[1])
    for length in (14, 15, 20, 33, 34, 38, 41, 53, 54, 58, 61, len(whole) - 1):
        yield [(CLIENT, Ether(whole[:length]))]
    whole = bytes(f.vxlan(ip(f.far, f.client) / udp(8081, 4000)))
    for length in (14, 30, 40, 45, 50, 60, 64, 70, 80, len(whole) - 1):
        yield [(UPLINK, Ether(whole[:length]))]

    # VXLAN that is not from a node, not for us, or not of the pods.
    back = ip(f.far, f.client) / udp(8081, 4000)
    yield [(UPLINK, f.vxlan(back, vni=4097))]
    yield [(UPLINK, f.vxlan(back, src=f.stranger))]
    yield [(UPLINK, f.vxlan(back, flags=0))]
    yield [(UPLINK, f.vxlan(back, dport=4790))]
    yield [(UPLINK, f.vxlan(back, dst=f.stranger))]
    for source in (f.api, f.client, f.outside, f.tunnel_b, f.node_b, f.node_a):
        yield [(UPLINK, f.vxlan(ip(source, f.client) / udp(8081, 4000)))]
    yield [(UPLINK, f.vxlan(ip(f.far, f.outside) / udp(8081, 4000)))]
    yield [(UPLINK, f.vxlan(ip(f.far, f.vip) / udp(8081, 7)))]
    yield [(UPLINK, f.vxlan(ip(f.far, f.node_a) / udp(8081, 7)))]
    yield [(UPLINK, f.vxlan(ARP(psrc="10.244.2.10", pdst="10.244.1.10")))]
    yield [(UPLINK, f.vxlan(f.vxlan(back)[3]))]
    yield [(UPLINK, Ether(src=NODE_B, dst="02:00:00:00:00:07") / bytes(f.vxlan(back))[14:])]

    # Plain packets that should have come by tunnel, or from elsewhere.
    for source in (f.far, f.api, f.node_a, f.node_b):
        yield [by_router(ip(source, f.client) / udp(8081, 4000))]
    yield [by_router(ip(f.outside, f.node_a) / udp(1, 9))]
    yield [by_router(ip(f.outside, f.vip) / udp(1, 7))]
    yield [by_client(Dot1Q(vlan=7) / ip(f.client, f.api) / udp(4000, 8081))]

    # What a pod may not say.
    yield [by_client(ip(f.api, f.far) / udp(4000, 8081))]
    yield [(CLIENT, Ether(src=API_MAC, dst=GATEWAY) / ip(f.client, f.far) / udp(4000, 8081))]
    yield [(CLIENT, Ether(src=CLIENT_MAC, dst="02:00:00:00:00:07") / ip(f.client, f.far) / udp(4000, 8081))]
    yield [by_client(ip(f.client, f.node_b) / UDP(sport=1, dport=4789) / VXLAN(vni=4096) / Ether() / back)]
    yield [by_client(ip(f.client, f.node_b) / ip(f.client, f.far) / udp(4000, 8081))]

    # Fragments in every order, of datagrams on the node, to the other node and through the Service.
    ident = 100
    for dst, dport in ((f.api, 8081), (f.far, 8081), (f.vip, 7)):
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1), (0, 0, 1, 1, 2), (1, 1, 0, 2)):
            ident += 1
            parts = cut(ip(f.client, dst) / udp(4100 + ident, dport, 600), [256, 256], ident)
            yield [by_client(parts[at]) for at in order]
    # By tunnel, and the tunnel's packet itself in parts.
    parts = cut(ip(f.far, f.client) / udp(8081, 4000, 600), [256, 256], 200)
    yield [(UPLINK, f.vxlan(parts[at])) for at in (1, 0, 2)]
    outer = f.vxlan(ip(f.far, f.client) / udp(8081, 4000, 600))
    yield [(UPLINK, Ether(src=NODE_B, dst=NODE_A) / part) for part in cut(outer[1], [256], 201)]
    yield [by_router(part) for part in cut(ip(f.outside, f.client) / udp(999, 995, 600), [256, 256], 202)]
    # A first part of 8 bytes; parts that overlap; an end beyond 65535; a middle without a first; a whole packet with the header.
    yield [by_client(part) for part in cut(ip(f.client, f.far) / udp(4001, 8081, 64), [8, 16], 203)]
    parts = cut(ip(f.client, f.far) / udp(4002, 8081, 600), [256, 256], 204)
    overlapping = cut(ip(f.client, f.far) / udp(4002, 8081, 600), [128, 256], 204)
    yield [by_client(parts[0]), by_client(overlapping[1]), by_client(parts[2])]
    far_end = cut(ip(f.client, f.far) / udp(4003, 8081, 600), [256, 256], 205)
    if f.v6:
        far_end[2][IPv6ExtHdrFragment].offset = 8191
    else:
        far_end[2].frag = 8191
    yield [by_client(far_end[0]), by_client(far_end[2])]
    yield [by_client(cut(ip(f.client, f.far) / udp(4004, 8081, 600), [256, 256], 206)[1])]
    yield [by_client(cut(ip(f.client, f.api) / udp(4004, 8081, 600), [250 // 8 * 8, 256], 207)[2])]
    if f.v6:
        yield [by_client(IPv6(src=f.client, dst=f.far) / IPv6ExtHdrFragment(id=208) / udp(4005, 8081))]
        odd = cut(ip(f.client, f.far) / udp(4006, 8081, 600), [256], 209)[0]
        yield [by_client(odd.__class__(bytes(odd)[:-3]))]
    # Refused by policy: the others share it.
    denied = cut(ip(f.outside, f.api) / udp(999, 994, 600), [256, 256], 210)
    yield [by_router(denied[at]) for at in (1, 0, 2)]

    # ICMP errors about flows, about none, and broken ones.
    inner = ip(f.client, f.far, 62) / udp(4007, 8081)
    others = ip(f.client, f.far, 62) / udp(4999, 8081)
    for about in (inner, others, ip(f.far, f.client) / udp(8081, 4007)):
        if f.v6:
            errors = [ICMPv6DestUnreach(code=4), ICMPv6PacketTooBig(mtu=1300), ICMPv6TimeExceeded()]
        else:
            errors = [ICMP(type=3, code=3), ICMP(type=3, code=4, nexthopmtu=1300), ICMP(type=11, code=0)]
        for error in errors:
            yield [(UPLINK, f.vxlan(ip(f.far, f.client) / error / about))]
    error = ICMPv6DestUnreach(code=4) if f.v6 else ICMP(type=3, code=3)
    for length in (0, 4, 12, 20, 28, 39, 41, 47):
        yield [(UPLINK, f.vxlan(ip(f.far, f.client) / error / Raw(bytes(inner)[:length])))]
    broken = error.copy()
    broken.cksum = broken.chksum = 7
    yield [(UPLINK, f.vxlan(ip(f.far, f.client) / broken / inner))]
    yield [by_router(ip(f.outside, f.node_a) / error / (ip(f.node_a, f.outside, 60) / udp(50000, 53)))]
    yield [by_router(ip(f.stranger, f.client) / error / (ip(f.client, f.api, 60) / udp(4000, 8081)))]
    yield [by_client(ip(f.client, f.far) / error / (ip(f.far, f.client, 60) / udp(8081, 4000)))]
    yield [by_client(ip(f.client, f.far) / error / (ip(f.api, f.client, 60) / udp(8081, 4000)))]

    if f.v6:
        # Extension headers: allowed chains, wrong places, odd lengths.
        chains = [
            IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(), IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 200)]),
            IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop(), IPv6ExtHdrRouting(type=0, addresses=[f.api]),
            IPv6ExtHdrRouting(type=2, addresses=[f.api]), IPv6ExtHdrRouting(type=4, segleft=0, addresses=[]),
            AH(spi=1, icv=b"\0" * 12), IPv6ExtHdrHopByHop(len=200),
            IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt()
            / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt() / IPv6ExtHdrDestOpt(),
        ]
        for chain in chains:
            yield [by_client(IPv6(src=f.client, dst=f.vip) / chain.copy() / udp(4007, 7))]
            yield [(UPLINK, f.vxlan(IPv6(src=f.far, dst=f.client) / chain.copy() / udp(8081, 4007)))]
        yield [by_client(IPv6(src=f.client, dst=f.far, nh=59) / data)]
        yield [by_client(IPv6(src=f.client, dst=f.far, nh=50) / data)]
        yield [by_client(IPv6(src=f.client, dst=f.far, plen=0) / udp(4000, 8081))]
        yield [by_client(IPv6(src=f.client, dst="ff02::2") / data)]
        gateway = "fe80::ecee:eeff:feee:eeee"
        link_local = "fe80::1:aff:fef4:10a"
        yield [by_client(IPv6(src=f.client, dst=gateway) / ICMPv6EchoRequest(id=1, data=b"gateway"))]
        ask = ICMPv6ND_NS(tgt=gateway) / ICMPv6NDOptSrcLLAddr(lladdr=CLIENT_MAC)
        yield [by_client(IPv6(src=f.client, dst=gateway, hlim=255) / ask)]
        yield [by_client(IPv6(src=f.client, dst=gateway, hlim=64) / ask)]
        yield [by_client(IPv6(src="::", dst="ff02::1:ff00:10", hlim=255) / ICMPv6ND_NS(tgt=f.client))]
        yield [by_client(IPv6(src=link_local, dst="ff02::1", hlim=255) / ICMPv6ND_RA())]
    else:
        # Options of IPv4, headers that lie about their length.
        for options in ([IPOption_RR()], [IPOption_NOP()], [IPOption_LSRR(routers=["10.244.1.11"])], [IPOption_NOP()] * 40):
            yield [by_client(IP(src=f.client, dst=f.vip, options=options) / udp(4007, 7))]
            yield [(UPLINK, f.vxlan(IP(src=f.far, dst=f.client, options=options) / udp(8081, 4007)))]
        for lie in ({"ihl": 4}, {"ihl": 15}, {"version": 5}, {"len": 19}, {"len": 20}, {"len": 28}, {"len": 2000}, {"chksum": 1}):
            yield [by_client(IP(src=f.client, dst=f.vip, **lie) / udp(4007, 7))]
            yield [(UPLINK, f.vxlan(IP(src=f.far, dst=f.client, **lie) / udp(8081, 4007)))]
            yield [by_router(IP(src=f.outside, dst=f.client, **lie) / udp(999, 993))]
        yield [by_client(IP(src=f.client, dst=f.far, proto=47) / data)]
        yield [by_client(IP(src=f.client, dst="224.0.0.1") / udp(1, 1))]
        yield [by_client(IP(src=f.client, dst="255.255.255.255") / udp(68, 67))]
        yield [by_client(IP(src=f.client, dst=f.far) / udp(67, 68))]
        yield [by_client(IP(src=f.client, dst="169.254.1.1") / ICMP(id=1) / b"gateway")]
        yield [(CLIENT, Ether(src=CLIENT_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=CLIENT_MAC, psrc=f.client, pdst="169.254.1.1"))]
        yield [(CLIENT, Ether(src=CLIENT_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=CLIENT_MAC, psrc="0.0.0.0", pdst=f.client))]
        # IPIP: from a node and not, with options outside and inside, in parts, of other protocols, spoofed.
        node = {"src": f.node_b, "dst": f.node_a}
        ipip = lambda inner, **more: (UPLINK, Ether(src=NODE_B, dst=NODE_A) / IP(**{**node, "proto": 4, **more}) / inner)
        yield [ipip(back)]
        yield [ipip(back, options=[IPOption_NOP()] * 4)]
        yield [ipip(back, options=[IPOption_RR()])]
        yield [ipip(IP(src=f.far, dst=f.client, options=[IPOption_NOP()] * 8) / udp(8081, 4000), options=[IPOption_NOP()] * 8)]
        yield [ipip(back, src=f.stranger)]
        yield [ipip(back, dst=f.stranger)]
        yield [ipip(back, chksum=5)]
        yield [ipip(back, ttl=1)]
        yield [ipip(back, tos=3)]
        yield [ipip(IP(src=f.far, dst=f.client, tos=2) / udp(8081, 4000), tos=3)]
        yield [ipip(IP(**node, proto=4) / back)]
        yield [ipip(IPv6(src="fd00:10:244:2::10", dst="fd00:10:244:1::10") / udp(1, 2), proto=41)]
        yield [ipip(Raw(bytes(back)[:11]))]
        yield [ipip(Raw(b""))]
        for source in (f.api, f.outside, f.tunnel_b, f.node_b):
            yield [ipip(IP(src=source, dst=f.client) / udp(8081, 4000))]
        whole = IP(**node, proto=4) / (IP(src=f.far, dst=f.client) / udp(8081, 4000, 600))
        yield [(UPLINK, Ether(src=NODE_B, dst=NODE_A) / part) for part in cut(whole, [256], 301)]
        inside = cut(IP(src=f.far, dst=f.client) / udp(8081, 4000, 600), [256, 256], 302)
        yield [ipip(inside[at]) for at in (2, 0, 1)]


def mutated(frames, count, seed):
    """Frames with a few bytes changed, cut or put in. No fragments: what becomes of one may be told much later."""
    source = random.Random(seed)
    made = 0
    while made < count:
        port, frame = source.choice(frames)
        raw = bytearray(bytes(frame))
        for _ in range(source.randint(1, 3)):
            # Mostly headers.
            at = source.randrange(12, min(len(raw), 120)) if len(raw) > 12 else 0
            kind = source.random()
            if kind < 0.8:
                raw[at] = source.choice((0, 1, 0x7f, 0x80, 0xff, source.randrange(256)))
            elif kind < 0.9 and len(raw) > 20:
                del raw[at:at + source.randint(1, 8)]
            else:
                raw[at:at] = bytes(source.randrange(256) for _ in range(source.randint(1, 8)))
        frame = Ether(bytes(raw[:1400]).ljust(14, b"\0"))
        if not has_fragment(frame):
            made += 1
            yield [(port, frame)]


def has_fragment(frame):
    layers = [frame.getlayer(at) for at in range(len(frame.layers()))]
    return any(
        isinstance(layer, IPv6ExtHdrFragment) or isinstance(layer, IP) and (layer.frag or layer.flags.MF) for layer in layers
    ) or b"\x2c" in bytes(frame)[20:21]


class Link:
    """The other end of a port: frames go in and come out."""

    def __init__(self, netns, interface):
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(f"/run/netns/{netns}", os.O_RDONLY)
        if libc.setns(fd, 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), f"entering {netns}")
        os.close(fd)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((interface, 3))
        self.socket.setblocking(False)

    def take(self):
        taken = []
        while True:
            try:
                frame, (_, _, kind, _, _) = self.socket.recvfrom(65536)
            except BlockingIOError:
                return taken
            if kind != socket.PACKET_OUTGOING:
                taken.append(frame)


# Sources that masquerade puts in front: the port beside them is the node's choice.
OWN = [socket.inet_pton(socket.AF_INET6, text) for text in ("2001:db8:2::11", "fd00:10:244:1::1")]
OWN += [socket.inet_aton(text) for text in ("192.0.2.11", "10.244.1.1")]


def normal(port, frame):
    """Without what depends on the node's secrets: a tunnel's or masquerade's source port, and the checksums over it."""
    frame = bytearray(frame)
    if port == UPLINK:
        forget_choices(frame, 14)
    return bytes(frame)


def forget_choices(frame, ip):
    if ip >= len(frame) or frame[ip] >> 4 not in (4, 6):
        return
    v6 = frame[ip] >> 4 == 6
    proto, l4 = (frame[ip + 6], ip + 40) if v6 else (frame[ip + 9], ip + (frame[ip] & 15) * 4)
    source = bytes(frame[ip + 8:ip + 24] if v6 else frame[ip + 12:ip + 16])
    while v6 and proto in (0, 43, 44, 60) and l4 + 8 <= len(frame):
        if proto == 44 and frame[l4 + 2:l4 + 4] >= b"\0\x08":
            return
        proto, l4 = frame[l4], l4 + (8 if proto == 44 else 8 + frame[l4 + 1] * 8)
    if not v6 and frame[ip + 6] & 0x1f | frame[ip + 7]:
        return
    # Protocol: where the port or identifier is, where the checksum and how long.
    places = {6: (0, 16, 2), 17: (0, 6, 2), 132: (0, 8, 4), 1: (4, 2, 2), 58: (4, 2, 2)}
    is_echo = l4 < len(frame) and (proto, frame[l4]) in ((1, 8), (58, 128))
    if source in OWN and proto in places and (proto not in (1, 58) or is_echo):
        tunnel = proto == 17 and frame[l4 + 2:l4 + 4] == b"\x12\xb5"
        port, checksum, length = places[proto]
        frame[l4 + port:l4 + port + 2] = b"\0\0"
        frame[l4 + checksum:l4 + checksum + length] = bytes(length)
        if tunnel:
            forget_choices(frame, l4 + 8 + 8 + 14)
    elif proto == 4:
        forget_choices(frame, l4)


class Node:
    def __init__(self, config):
        self.config = config
        self.links = {port: Link(*end) for port, end in config["links"].items()}
        self.sent, self.groups, self.last = [], [], 0
        self.before = self.quiet()

    def status(self):
        command = [self.config["ringway"], "status", "--socket", self.config["socket"], "--json"]
        # It exits with 1 when a worker was late, as on a busy machine.
        status = json.loads(subprocess.run(command, capture_output=True).stdout)
        counts = Counter({f"drop {row['reason']}": row["count"] for row in status["drops"]})
        counts.update({f"punt {row['reason']}": row["count"] for row in status["punts"]})
        counts.update({row["reason"]: row["count"] for row in status["steering"]})
        books = status["conservation"]
        assert books["ok"], books
        counts.update({name: books[name] for name in ("rx", "tx", "held", "generated", "split", "frames_out")})
        return counts

    def quiet(self):
        """Waits until nothing moves any more."""
        before = self.status()
        while True:
            time.sleep(0.3)
            after = self.status()
            if after == before:
                for link in self.links.values():
                    link.take()
                return after
            before = after

    def send(self, group):
        assert len({port for port, _ in group}) == 1, group
        first = len(self.sent)
        for port, frame in group:
            raw = bytes(frame)
            at = max(time.time_ns() // 1000, self.last + 2)
            self.last = at
            to = bytes.fromhex(self.config["host_mac"].replace(":", "")) if port == HOST and raw[:6] == b"\xee" * 6 else raw[:6]
            self.links[port].socket.send(to + raw[6:])
            self.sent.append((port, raw, at))
        moved, out = self.settle(len(group))
        self.groups.append((first, len(self.sent), moved, out))

    def settle(self, count):
        """What has moved once all of a group was dealt with, and the frames that left."""
        deadline = time.monotonic() + 10
        out = {port: [] for port in self.links}
        while True:
            after = self.status()
            moved = after - self.before
            # A counter that fell: what was held is not any more.
            moved["held"] = after["held"] - self.before["held"]
            for port, link in self.links.items():
                out[port] += [frame for frame in link.take() if not self.is_kernels(port, frame)]
            came = sum(n for name, n in moved.items() if name in ("rx", "passed", "dropped-no-socket", "dropped-no-worker"))
            done = came >= count and sum(map(len, out.values())) >= moved["frames_out"]
            if done:
                assert (came, sum(map(len, out.values()))) == (count, moved["frames_out"]), (moved, out)
                self.before = after
                return moved, out
            assert time.monotonic() < deadline, f"{count} frames: {moved}, {out}, {self.sent[-count:]}"

    @staticmethod
    def is_kernels(port, frame):
        # The kernel's own ARP does not pass its packet filter, which stops all else that it would say.
        return port == UPLINK and frame[12:14] == b"\x08\x06"

    def expire(self):
        """Waits for the end of what is held; gives what has moved meanwhile."""
        deadline = time.monotonic() + 60
        while self.status()["held"] > 0:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        after = self.status()
        return after - self.before

    def replay(self):
        config, inputs = self.config, []
        for port in self.links:
            frames = []
            for by, raw, at in self.sent:
                if by == port:
                    frame = Raw(raw)
                    frame.time = at / 1_000_000
                    frames.append(frame)
            path = f"{config['folder']}/in-{port.replace('/', '-').replace(':', '-')}.pcap"
            wrpcap(path, frames, linktype=1)
            inputs += ["--in", f"{path}:{port}"]
        out, verdicts = f"{config['folder']}/out.pcapng", f"{config['folder']}/verdicts.jsonl"
        command = [config["ringway"], "replay", "--state", config["state"], "--node", "node-a", *inputs]
        subprocess.run([*command, "--out", out, "--verdicts", verdicts], check=True)
        return [json.loads(line) for line in open(verdicts)], [bytes(frame) for frame in rdpcap(out)]

    def compare(self):
        expired = self.expire()
        lines, frames = self.replay()
        assert len(lines) == len(self.sent), (len(lines), len(self.sent))
        wrong, timeouts, passed_all = [], 0, 0
        for first, end, moved, out in self.groups:
            mine = lines[first:end]
            assert [line["port"] for line in mine] == [port for port, _, _ in self.sent[first:end]]
            said = Counter(
                "held" if line.get("reason") == "fragment-timeout" else f"{line['verdict']} {line.get('reason', '')}".strip()
                for line in mine
            )
            timeouts += said["held"]
            # On a slow machine the time of some is up before the last frame is sent.
            moved["held"] += moved["drop fragment-timeout"]
            expired["drop fragment-timeout"] += moved.pop("drop fragment-timeout", 0)
            live = Counter({name: n for name, n in moved.items() if name.split()[0] in ("tx", "drop", "punt", "held") and n})
            # What the program on the uplink leaves to the kernel, replay punts or refuses; it never forwards it.
            unseen, extra = said - live, live - said
            passed = moved["passed"]
            passed_all += passed
            right = not extra and sum(unseen.values()) == passed and "tx" not in unseen and "held" not in unseen
            made = {port: [] for port in self.links}
            rows = [row for line in mine for row in line.get("out", [])]
            for row in sorted(rows, key=lambda row: row["frame"]):
                made[row["port"]].append(frames[row["frame"] - 1])
            for port, expected in made.items():
                got = out[port]
                if port == HOST:
                    # Punted: only the MAC addresses are the kernel's here.
                    left = Counter(frame[12:] for frame in got) - Counter(frame[12:] for frame in expected)
                    right = right and not left and len(expected) - len(got) <= passed
                else:
                    same = [normal(port, frame) for frame in got] == [normal(port, frame) for frame in expected]
                    right = right and same
            if not right:
                wrong.append((first, end, said, moved, out, made))
        for first, end, said, moved, out, made in wrong:
            print(f"--- frames {first + 1} to {end}")
            for port, raw, _ in self.sent[first:end]:
                print(f"  {port}: {Ether(raw).summary()}\n    {raw.hex()}")
            print(f"  replay: {dict(said)}\n  live:   {dict(moved)}")
            for name, ports in (("replay", made), ("live", out)):
                for port, sent in ports.items():
                    for frame in sent:
                        print(f"  {name} out {port}: {Ether(frame).summary()}\n    {frame.hex()}")
        assert not wrong, f"{len(wrong)} of {len(self.groups)} groups differ"
        assert expired["drop fragment-timeout"] == timeouts, (expired, timeouts)
        print(f"{len(lines)} frames alike, {passed_all} of them the kernel's, {timeouts} given up")


def main():
    with open(sys.argv[1]) as file:
        config = json.load(file)
    node = Node(config)
    frames = []
    for v6 in (False, True):
        for group in groups(Family(v6)):
            node.send(group)
            frames += group
    for group in mutated(frames, config["mutated"], config["seed"]):
        node.send(group)
    node.compare()


if __name__ == "__main__":
    main()
