# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that would go wrong later is said before, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab.memory_file import MemoryFileState, MemoryFileWant
from ansible.module_utils.cxl_lab.preflight_local import SOCKET_PATH_MAX, LocalHost, LocalMachine, check, summary, this_machine

MIB = 1 << 20
HOSTS = [LocalHost(f"node{n}", f"/run/lab/node{n}", f"/run/lab/node{n}/state") for n in (1, 2)]
FILES = [MemoryFileWant("/dev/shm/pool0", 128 * MIB), MemoryFileWant("/srv/disk0", 256 * MIB)]
ENOUGH = LocalMachine(True, 0, lambda want: MemoryFileState(""), lambda path: (len(path), 1 << 40))


def test_nothing_to_say():
    assert check(HOSTS, FILES, ENOUGH) == []
    assert summary(HOSTS, FILES) == {
        "hosts": "node1 (/run/lab/node1), node2 (/run/lab/node2)",
        "files": "/dev/shm/pool0 (128M), /srv/disk0 (256M)",
    }


def test_without_root():
    assert [problem.split(":")[0] for problem in check(HOSTS, FILES, replace(ENOUGH, root=False))] == ["rights"]


@pytest.mark.parametrize("what", ["name", "runtime_dir", "state_dir"])
def test_two_hosts_share_what_each_needs(what):
    hosts = [HOSTS[0], replace(HOSTS[1], **{what: getattr(HOSTS[0], what)})]
    assert check(hosts, FILES, ENOUGH) == [
        f"cxl_datapath_instance: 2 hosts have the {what} {getattr(HOSTS[0], what)}; give each its own"
    ]


@pytest.mark.parametrize(("length", "problems"), [(SOCKET_PATH_MAX - 13, 0), (SOCKET_PATH_MAX - 12, 1)])
def test_a_folder_whose_socket_has_no_room(length, problems):
    host = replace(HOSTS[0], runtime_dir="/run/" + "x" * (length - 5))
    found = check([host], FILES, ENOUGH)
    assert len(found) == problems and all("use a runtime_dir of at most 94 bytes" in problem for problem in found)


def test_what_lies_in_the_place_of_a_file():
    machine = replace(ENOUGH, look=lambda want: MemoryFileState("folder"), room=lambda path: (1, 0))
    assert check(HOSTS, FILES[:1], machine) == [
        "cxl_memory_files: file /dev/shm/pool0: is a folder; choose another path, or remove it yourself if nobody needs it"
    ]


@pytest.mark.parametrize(
    ("filesystems", "room", "problems"),
    [
        ((1, 1), 384, []),
        ((1, 1), 383, ["384M needed, 383M are free below /srv"]),
        ((1, 2), 256, []),
        ((1, 2), 127, ["128M needed, 127M are free below /dev/shm", "256M needed, 127M are free below /srv"]),
    ],
)
def test_files_that_are_not_there_need_room(filesystems, room, problems):
    found = dict(zip((file.path for file in FILES), filesystems))
    machine = replace(ENOUGH, room=lambda path: (found[path], room * MIB))
    assert check(HOSTS, FILES, machine) == [f"cxl_memory_files: {each}; lower the sizes or free some" for each in problems]
    there = replace(machine, look=lambda want: MemoryFileState("regular file", want.size, 0, 0o600))
    assert check(HOSTS, FILES, there) == []


def test_this_machine_is_looked_at(tmp_path):
    machine = this_machine(root=True)
    (tmp_path / "there").mkdir()
    assert machine.look(MemoryFileWant(str(tmp_path / "there"), 0)).kind == "folder"
    filesystem, room = machine.room(str(tmp_path / "not/there/yet"))
    assert filesystem == tmp_path.stat().st_dev and room > 0
    assert any("P needed" in each or "T needed" in each for each in check([], [MemoryFileWant("/dev/shm/x", 1 << 60)], machine))
