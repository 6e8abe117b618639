# SPDX-License-Identifier: GPL-3.0-or-later
"""Which /dev/nbdN is taken, and which one is known again."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab import nbd_device
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.nbd_device import Attachment
from ansible.module_utils.cxl_lab.runner import Result
from fakes import FakeRunner

WANT = Attachment("node1", 10809)


class Kernel(FakeRunner):
    """Devices nbd0, nbd2 and nbd10 in a folder; nbd0 is somebody else's."""

    def __init__(self, folder) -> None:
        self.block = folder / "block"
        self.record = folder / "run" / "peer.nbd"
        for name in ("nbd0", "nbd2", "nbd10", "ram0"):
            (self.block / name).mkdir(parents=True)
        (self.block / "nbd0" / "pid").write_text("77\n")
        super().__init__({"modprobe nbd": "", "nbd-client": self.answer})

    def answer(self):
        words = self.ran[-1].split()
        if words[1] == "-d":
            (self.block / words[2].removeprefix("/dev/") / "pid").unlink()
        else:
            (self.block / words[3].removeprefix("/dev/") / "pid").write_text("4711\n")
        return ""


@pytest.fixture
def kernel(tmp_path):
    return Kernel(tmp_path)


def test_the_first_free_device_is_taken_and_given_back(kernel):
    assert nbd_device.observe(kernel.record, kernel.block) is None
    nbd_device.attach(kernel, WANT, kernel.record, kernel.block)
    assert kernel.ran[-1] == "nbd-client node1 10809 /dev/nbd2 -timeout 60"
    have = nbd_device.observe(kernel.record, kernel.block)
    assert have == Attachment("node1", 10809, "/dev/nbd2") and have.reaches(WANT)
    nbd_device.detach(kernel, have, kernel.record)
    assert kernel.ran[-1] == "nbd-client -d /dev/nbd2" and not kernel.record.exists()
    assert (kernel.block / "nbd0" / "pid").exists()


def test_a_device_that_somebody_else_took_since_is_not_ours(kernel):
    nbd_device.attach(kernel, WANT, kernel.record, kernel.block)
    (kernel.block / "nbd2" / "pid").write_text("99\n")
    assert nbd_device.observe(kernel.record, kernel.block) is None


@pytest.mark.parametrize(
    "record", ["", "nbd2 4711", "../x 4711 node1 1", "nbd2 4711 node1 port", "nbd2 4711 node1 1 more", "nbd2  node1 1"]
)
def test_a_broken_record_names_no_device(kernel, record):
    kernel.record.parent.mkdir()
    kernel.record.write_text(record)
    (kernel.block / "nbd2" / "pid").write_text("4711\n")
    assert nbd_device.observe(kernel.record, kernel.block) is None


def test_the_next_device_where_one_fails(kernel):
    answers = iter([Result(1, "", "Error: Socket failed\n"), Result(0, "", "")])
    kernel.answers["nbd-client"] = lambda: next(answers)
    nbd_device.attach(kernel, WANT, kernel.record, kernel.block)
    assert kernel.ran[-1].split()[3] == "/dev/nbd10"


def test_no_device_at_all(kernel):
    kernel.answers["nbd-client"] = Result(1, "", "Error: Socket failed: Connection refused\n")
    with pytest.raises(LabError, match="NBD server node1:10809: Error: Socket failed: Connection refused; see that it listens"):
        nbd_device.attach(kernel, WANT, kernel.record, kernel.block)
    assert not kernel.record.exists()


@pytest.mark.parametrize(("host", "port"), [("-unix", 1), ("", 1), ("a b", 1), ("node1", 0), ("node1", 65536)])
def test_no_address(host, port):
    with pytest.raises(LabError, match="NBD server: "):
        nbd_device.parse_want(host, port)


def test_no_name(tmp_path):
    with pytest.raises(LabError, match="is no valid name"):
        nbd_device.record_path("../x", tmp_path)
