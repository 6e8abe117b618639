# SPDX-License-Identifier: GPL-3.0-or-later
"""Two labs of one inventory side by side on real virtual machines: nothing of one is the other's.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scenario import VmLab, changed

NETWORKS = [{"name": "lab", "kind": "switch"}]


def small(*names: str) -> str:
    return json.dumps(
        {"cxl_topology_hosts": [{"name": name, "memory": "1G"} for name in names], "cxl_topology_networks": NETWORKS}
    )


SMALL = small("node1", "node2")
# The name of one begins like that of the other.
FIRST, SECOND = (VmLab(name, ("-e", SMALL)) for name in ("molecule_side", "molecule_side-b"))
HOSTS = ("node1", "node2")
#: Writes a word at the beginning of a mapping, and prints what is there.
PROGRAM = """
import mmap, os, sys
descriptor = os.open("/dev/dax0.0", os.O_RDWR)
with mmap.mmap(descriptor, 2 << 20) as mapping:
    if len(sys.argv) > 1:
        mapping[:5] = sys.argv[1].encode()
    print(mapping[:5].decode(errors="replace"))
"""


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    for lab in (FIRST, SECOND):
        lab.playbook("playbooks/down.yml")


def word(lab: VmLab, host: str, *given: str) -> str:
    lab.on(host, "sh", "-c", f"'cat > /tmp/word.py <<EOF\n{PROGRAM}\nEOF'")
    return lab.on(host, "python3", "/tmp/word.py", *given).strip()


def built(lab: VmLab) -> None:
    for playbook in ("playbooks/create.yml", "playbooks/memory.yml"):
        code, output = lab.playbook(playbook)
        assert code == 0, output


def test_both_come_up_at_one_time() -> None:
    for playbook in ("playbooks/hypervisor.yml", "playbooks/image.yml"):
        assert FIRST.playbook(playbook)[0] == 0
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(built, lab) for lab in (FIRST, SECOND)]:
            done.result()


def test_a_second_run_of_each_changes_nothing() -> None:
    for lab in (FIRST, SECOND):
        code, output = lab.playbook("playbooks/topology.yml")
        assert (code, changed(output)) == (0, 0)


def test_domains_ports_and_sockets_are_their_own() -> None:
    names = [lab.domain(host) for lab in (FIRST, SECOND) for host in HOSTS]
    assert len(set(names)) == 4
    configs = [line for lab in (FIRST, SECOND) for line in (lab.folder / "ssh_config").read_text().splitlines()]
    ports = [line for line in configs if line.strip().startswith("Port ")]
    assert len(set(ports)) == 4


def test_memory_is_shared_within_a_lab_and_not_between_them() -> None:
    word(FIRST, "node1", "first")
    word(SECOND, "node1", "other")
    assert [word(lab, "node2") for lab in (FIRST, SECOND)] == ["first", "other"]


def test_networks_are_their_own() -> None:
    # Both labs have the same addresses: a host answers to its own lab, with the name of its own boot.
    for lab in (FIRST, SECOND):
        lab.on("node1", "ping", "-c", "1", "-W", "20", "node2")
    boots = {lab.boot_id(host) for lab in (FIRST, SECOND) for host in HOSTS}
    assert len(boots) == 4


def test_taking_one_down_leaves_the_other() -> None:
    boots = [SECOND.boot_id(host) for host in HOSTS]
    assert FIRST.playbook("playbooks/down.yml")[0] == 0
    assert not FIRST.folder.exists() and not Path(f"/dev/shm/cxl-lab.{FIRST.name}.pool0").exists()
    assert [SECOND.boot_id(host) for host in HOSTS] == boots
    assert word(SECOND, "node2") == "other"


def test_a_host_joins_and_those_that_run_stay_and_know_its_name() -> None:
    boots = [SECOND.boot_id(host) for host in HOSTS]
    three = VmLab(SECOND.name, ("-e", small(*HOSTS, "node3")))
    code, output = three.playbook("playbooks/topology.yml")
    assert code == 0, output
    assert [SECOND.boot_id(host) for host in HOSTS] == boots and three.boot_id("node3") not in ("", *boots)
    for host in HOSTS:
        three.on(host, "ping", "-c", "1", "-W", "20", "node3")
    code, output = three.playbook("playbooks/topology.yml")
    assert (code, changed(output)) == (0, 0)


def test_the_last_one_leaves_nothing() -> None:
    assert SECOND.playbook("playbooks/down.yml")[0] == 0
    assert [*FIRST.remains(), *SECOND.remains()] == []
