# SPDX-License-Identifier: GPL-3.0-or-later
"""ublk devices that the kernel kept for a host that lost its state, as far as that can be tried without ublk: nodes that only
look like theirs. See test_kernel_frontends.py for real ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host
from lab import Lab, needs_nbd

from cxl_datapath.errors import Code
from cxl_datapath.frontends.kept import kept_devices

T = {"transport": "pool0"}
NUMBER = 4093

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), needs_nbd]


@pytest.fixture
def node() -> Iterator[Path]:
    """A node with the name of a ublk device; no kernel makes so many."""
    made = Path(f"/dev/ublkb{NUMBER}")
    made.touch(exist_ok=False)
    yield made
    made.unlink()


@pytest.fixture
def name(node: Path) -> Iterator[str]:
    """The stable name that is left of it."""
    link = Path(f"/dev/cxltest{os.getpid()}")
    link.symlink_to(node)
    yield link.name
    link.unlink()


def row(host: Host, name: str) -> dict:
    (found,) = [row for row in host.call("cbd.blkdev.list", **T) if row.get("name") == name]
    return dict(found)


def test_those_that_nobody_knows_and_nobody_serves(node: Path, tmp_path: Path) -> None:
    for name, target in (("cbd0", node), ("mine", node), ("gone", Path("/dev/ublkb4092")), ("other", Path("/dev/null"))):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "file").touch()
    assert kept_devices(tmp_path, {"mine"}) == {"cbd0": NUMBER}
    control = tmp_path / f"ublkc{NUMBER}"
    os.mknod(control, 0o600 | 0o020000, Path("/dev/null").stat().st_rdev)
    assert kept_devices(tmp_path, {"mine"}) == {}, "this character device is open in many processes"


def test_it_is_listed_with_what_can_be_done(lab: Lab, name: str) -> None:
    found = row(lab.node2, name)
    assert (found["state"], found["device"], found["id"], found["local"]) == ("forgotten", f"/dev/{name}", None, True)
    hint = found["error"]["hint"]
    assert f"cbd blkdev start pool0 BACKEND --name {name}" in hint and f"cbd blkdev stop pool0 {name}" in hint
    (pool,) = lab.node2.call("status")["transports"]
    assert name in [each.get("name") for each in pool["blkdev_list"]]
    for command in (("status",), ("cbd", "blkdev", "list", "pool0")):
        done = lab.node2.cli(*command)
        assert done.returncode == 0 and name in done.stdout and "forgotten" in done.stdout and "stop pool0" in done.stdout
    assert lab.node2.call("cbd.transport.unregister", **T)["state"] == "unregistered", "it is in no transport"


def test_stop_and_clear_mean_it_by_its_name(lab: Lab, name: str) -> None:
    """This one is no device of the kernel's, which is what they say; a failure leaves it as it was."""
    for method, more in (("stop", {}), ("clear", {}), ("clear", {"force": True})):
        error = lab.node2.refuse(Code.NOT_FOUND, f"cbd.blkdev.{method}", **T, id=name, **more)
        assert "is not a ublk device of ours" in error.message
    assert row(lab.node2, name)["state"] == "forgotten"


def test_it_is_never_taken_back_by_chance(lab: Lab, node: Path) -> None:
    """A blkdev that is given no name would get that of another one's device, and its users other data."""
    link = Path("/dev/cbd0")
    if os.path.lexists(link):
        pytest.skip("this machine has a device of that name")
    lab.node1.call("cbd.backend.start", **T, path=str(lab.disk()))
    link.symlink_to(node)
    try:
        error = lab.node2.refuse(Code.EXISTS, "cbd.blkdev.start", **T, backend=0)
        assert error.object == "name cbd0" and "cbd blkdev stop pool0 cbd0" in error.hint
        assert [each["state"] for each in lab.node2.call("cbd.blkdev.list", **T)] == ["forgotten"]
        # A name of a socket is no name of a device.
        assert lab.node2.call("cbd.blkdev.start", **T, backend=0, frontend="nbdkit")["name"] == "cbd0"
    finally:
        link.unlink()
