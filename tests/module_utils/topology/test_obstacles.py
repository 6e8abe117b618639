# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be seen on a machine before anything is made."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.topology.model import parse_topology
from ansible.module_utils.cxl_lab.topology.obstacles import MAX_SOCKET, obstacles
from ansible.module_utils.cxl_lab.topology.plan import LabPaths

PATHS = LabPaths("lab", Path("/var/lib/cxl-lab/lab"))


def found(data, paths=PATHS, kvm=Path("/dev/null")) -> list[str]:
    return obstacles(parse_topology(data), paths, kvm)


def test_files_of_a_host_that_are_not_what_they_should_be(tmp_path):
    (tmp_path / "bzImage").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    good = {"emulator": "/bin/true", "kernel": str(tmp_path / "bzImage"), "initrd": str(tmp_path / "file")}
    bad = {"emulator": str(tmp_path / "file"), "kernel": str(tmp_path), "initrd": str(tmp_path / "bzImage" / "x")}
    lines = found({"hosts": [{"name": "a", **good}, {"name": "b", **bad}, {"name": "c", "kernel": "/nowhere"}]})
    assert lines == [
        f"hosts[1].emulator: {tmp_path}/file is no program (not executable); correct the path, or leave emulator out",
        f"hosts[1].kernel: {tmp_path} is no regular file; correct the path, or leave kernel out",
        f"hosts[1].initrd: {tmp_path}/bzImage/x cannot be read: Not a directory; correct the path, or leave initrd out",
        "hosts[2].kernel: /nowhere cannot be read: No such file or directory; correct the path, or leave kernel out",
    ]


def test_kvm_that_the_machine_does_not_have(tmp_path):
    data = {"hosts": [{"name": "a", "accel": "kvm"}, {"name": "b", "accel": "tcg"}, {"name": "c"}]}
    (line,) = found(data, kvm=tmp_path / "kvm")
    assert line.startswith("hosts[0].accel: kvm is asked for, and this machine has no ")
    assert found(data) == []


LONG = "n" * 32


@pytest.mark.parametrize(
    ("networks", "places"),
    [
        ([], []),
        ([{"name": LONG, "kind": "switch"}], []),
        ([{"name": "lab"}, {"name": LONG, "kind": "cable"}], ["networks[1].name"]),
        ([{"name": LONG, "kind": "cable", "hosts": ["b"]}], []),
    ],
)
def test_sockets_of_the_longest_names(networks, places):
    lab = "l" * 32
    data = {"hosts": [{"name": LONG}, {"name": "b"}], "networks": networks}
    lines = found(data, LabPaths(lab, Path(f"/var/lib/cxl-lab/{lab}")))
    assert [line.split(":")[0] for line in lines] == places
    assert all("has 124 bytes, and a socket takes 107; choose shorter names" in line for line in lines)


def test_a_folder_that_is_too_deep_for_a_switch():
    data = {"hosts": [{"name": name} for name in "abc"]}
    assert found(data, LabPaths("lab", Path("/" + "d" * 87))) == []
    (line,) = found(data, LabPaths("lab", Path("/" + "d" * 89)))
    assert line.startswith("networks[0].name: its socket /dddd") and "has 109 bytes" in line


def test_the_limit_is_that_of_the_kernel():
    with socket.socket(socket.AF_UNIX) as probe:
        with pytest.raises(OSError, match="too long"):
            probe.connect("/" + "x" * MAX_SOCKET)
        with pytest.raises(FileNotFoundError):
            probe.connect("/" + "x" * (MAX_SOCKET - 1))
