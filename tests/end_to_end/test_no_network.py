"""A whole build in a network namespace whose only way out counts packets: no library calls home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.harness import REPOSITORY, Home
from tests.end_to_end.site import make_site

pytestmark = pytest.mark.slow

INSIDE = """
import json, socket, subprocess, sys, threading
from pathlib import Path
from tests.end_to_end.harness import Home
from tests.end_to_end.site import serve

def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)

ip("link", "set", "lo", "up")
ip("link", "add", "outside", "type", "veth", "peer", "name", "beyond")
for name in ("outside", "beyond"):
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    ip("link", "set", name, "up")
ip("address", "add", "192.0.2.2/24", "dev", "outside")
ip("neigh", "add", "192.0.2.1", "lladdr", "02:00:00:00:00:01", "dev", "outside")
ip("route", "add", "default", "via", "192.0.2.1")
asked, listening = [], socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listening.bind(("127.0.0.1", 53))

def resolver():
    while True:
        query, sender = listening.recvfrom(512)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        asked.append(".".join(labels))
        listening.sendto(query[:2] + bytes([0x81, 0x83]) + query[4:6] + bytes(6) + query[12:], sender)  # no such name

threading.Thread(target=resolver, daemon=True).start()
sent = Path("/sys/class/net/outside/statistics/tx_packets")
site, folder, probe = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "probe"
before = int(sent.read_text())
if probe:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("198.51.100.1", 53))
    try:
        socket.gethostbyname("probe.example")
    except socket.gaierror:
        pass
else:
    with serve(site) as port:
        Home.create(folder, port).headwater("run", "--recipe", "tiny")
print(json.dumps({"packets": int(sent.read_text()) - before, "asked": sorted(set(asked))}))
"""


LOOPBACK_NAME = "1.0.0.127.in-addr.arpa"
"""torchrun's store asks for the name of 127.0.0.1 when it logs a connection; nothing else may be asked."""


def traffic(site: Path, folder: Path, what: str) -> tuple[int, list[str]]:
    """(packets that left, names that were asked for) while a build, or a probe of this test itself, ran."""
    resolv = folder.parent / f"{folder.name}.resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\n", encoding="utf-8")
    mounts = f'mount -t sysfs sysfs /sys; mount --bind {resolv} /etc/resolv.conf; exec "$@"'
    command = ["unshare", "--net", "--mount", "sh", "-c", mounts, "sh"]
    result = subprocess.run(
        [*command, sys.executable, "-c", INSIDE, str(site), str(folder), what],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    return int(found["packets"]), found["asked"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace with an interface of its own needs root")
def test_a_whole_build_sends_no_packet_to_the_outside(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site", zh=12, en=12, fr=2)
    assert traffic(site, tmp_path / "probe", "probe") == (1, ["probe.example"])  # the test itself can see both
    sent, asked = traffic(site, tmp_path / "home", "build")
    assert sent == 0
    assert set(asked) <= {LOOPBACK_NAME}
    assert Home(tmp_path / "home", 0).states()
