"""Datagrams in two parts, each part by another queue of the link: XPS is set so that the sender's CPU chooses it.

Usage: bounce.py SOURCE DESTINATION PORT COUNT. Runs in the client's namespace; every other datagram has its second part first.
"""

import os
import socket
import sys

from scapy.all import IP, UDP, Ether, IPv6, IPv6ExtHdrFragment, Raw

source, destination, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind(("eth0", 0))
ether = Ether(src=open("/sys/class/net/eth0/address").read().strip(), dst="ee:ee:ee:ee:ee:ee")
for number in range(count):
    payload = b"%06d" % number + bytes(number * 7 + at & 255 for at in range(994))
    ip = IPv6(src=source, dst=destination) if ":" in source else IP(src=source, dst=destination)
    body = bytes(ip / UDP(sport=7000, dport=port) / payload)[len(ip):]
    parts = []
    for at, part, more in ((0, body[:512], 1), (512, body[512:], 0)):
        if ":" in source:
            header = ip / IPv6ExtHdrFragment(nh=17, id=number + 1, offset=at // 8, m=more)
        else:
            header = IP(src=source, dst=destination, proto=17, id=number + 1, frag=at // 8, flags=more)
        parts.append(bytes(ether / header / Raw(part)))
    if number % 4 > 1:
        parts.reverse()
    for cpu, frame in enumerate(parts):
        os.sched_setaffinity(0, {(cpu + number) % 2})
        link.send(frame)
print("sent")
