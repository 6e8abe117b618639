# SPDX-License-Identifier: GPL-3.0-or-later
"""/etc/hosts of the guests, also of those that run when another host joins."""

from __future__ import annotations

import shlex
from pathlib import Path

from ansible.module_utils.cxl_lab.runner import Result
from ansible.module_utils.cxl_lab.topology.host_names import HostNames, hosts_file, merged
from hypothesis import given
from hypothesis import strategies as st
from labs import machines_of

SWITCH = [{"name": "lab", "kind": "switch"}, {"name": "back"}]


def machines(*names):
    return machines_of({"hosts": [{"name": name} for name in names], "networks": SWITCH})


TWO, THREE = hosts_file(machines("node1", "node2")), hosts_file(machines("node1", "node2", "node3"))


class Guests:
    """Guests by their names: the text of /etc/hosts, None for one that does not answer."""

    def __init__(self, **files):
        self.files = files

    def run(self, argv, *, stdin="", timeout=120):
        assert argv[:3] == ["ssh", "-F", "/lab/ssh_config"]
        host, command = argv[argv.index("--") - 1], shlex.split(argv[-1])
        if self.files[host] is None:
            return Result(255, "", "ssh: connect to host 127.0.0.1: Connection refused\n")
        if command == ["tee", "/etc/hosts"]:
            self.files[host] = stdin
        return Result(0, self.files[host], "")


def names(guests, *hosts):
    return HostNames(guests, Path("/lab/ssh_config"), machines(*hosts))


def test_a_host_has_its_name_at_its_first_network():
    assert "10.77.0.13 node3\n10.78.0.13 node3.back\n" in THREE and THREE.startswith("127.0.0.1 localhost\n::1 localhost\n")


def test_those_that_run_learn_of_a_host_that_joins():
    guests = Guests(node1=TWO, node2=TWO + "192.0.2.1 mirror # of mine\n", node3=THREE)
    told = names(guests, "node1", "node2", "node3")
    assert told.outdated(["node1", "node2", "node3"]) == ["node1", "node2"]
    told.tell(["node1", "node2"])
    assert guests.files == {"node1": THREE, "node2": THREE + "192.0.2.1 mirror # of mine\n", "node3": THREE}
    assert told.outdated(["node1", "node2", "node3"]) == []


def test_one_that_does_not_answer_is_waited_for_elsewhere():
    assert names(Guests(node1=None, node2=TWO), "node1", "node2").outdated(["node1", "node2"]) == []


LINES = st.lists(st.sampled_from([*THREE.splitlines(), "10.77.0.99 node1", "192.0.2.1 mirror", "# a comment", ""]), max_size=8)


@given(LINES)
def test_our_names_have_our_addresses_and_other_lines_stay(lines):
    have = "".join(f"{line}\n" for line in lines)
    now = merged(have, TWO)
    assert now.startswith(TWO) and "10.77.0.99" not in now and merged(now, TWO) == now
    assert all(line in now.splitlines() for line in lines if "node1" not in line)
