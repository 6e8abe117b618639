# SPDX-License-Identifier: GPL-3.0-or-later
"""Both labs from inside: the same names and addresses, and nothing in common."""

from __future__ import annotations

import json
from pathlib import Path

LABS = ("molecule_two", "molecule_two-b")
testinfra_hosts = [f"ssh://{node}?ssh_config=/var/lib/cxl-lab/{lab}/ssh_config" for lab in LABS for node in ("node1", "node2")]


def test_each_host_has_the_memory_of_its_lab(host):
    assert [memdev["serial"] for memdev in json.loads(host.check_output("cxl list -M"))] == [0xC0DE0001]
    assert [space["mode"] for space in json.loads(host.check_output("ndctl list -N"))] == ["devdax"]


def test_the_other_host_of_the_lab_is_reached_by_name(host):
    for node in ("node1", "node2"):
        assert host.run(f"ping -c 1 -W 20 {node}").rc == 0


def test_ports_and_memory_are_their_own():
    configs = [(Path("/var/lib/cxl-lab") / lab / "ssh_config").read_text(encoding="utf-8") for lab in LABS]
    ports = [line.split()[1] for config in configs for line in config.splitlines() if line.strip().startswith("Port ")]
    assert len(ports) == len(set(ports)) == 4
    files = {Path(f"/dev/shm/cxl-lab.{lab}.pool0").stat().st_ino for lab in LABS}
    assert len(files) == 2
