# SPDX-License-Identifier: GPL-3.0-or-later
"""The block device that travels through the shared memory, from the side of the host that uses it."""

from __future__ import annotations

import json

import pytest

testinfra_hosts = ["ssh://node2"]


def status(host) -> dict:
    return json.loads(host.check_output("cxl-datapath status --json"))


def test_the_stable_name_leads_to_a_ublk_device(host):
    name = host.file("/dev/cbd0")
    assert name.is_symlink
    assert name.linked_to.startswith("/dev/ublkb")


def test_the_file_system_is_mounted_and_every_checksum_is_right(host):
    assert host.mount_point("/mnt/cbd0").filesystem == "xfs"
    host.check_output("echo 1 > /proc/sys/vm/drop_caches")
    host.check_output("cd /mnt/cbd0/cxl-verify && sha256sum --quiet -c MANIFEST")


def test_the_device_says_what_it_can(host):
    queue = f"/sys/block/{host.file('/dev/cbd0').linked_to.removeprefix('/dev/')}/queue"
    assert host.file(f"{queue}/write_cache").content_string.strip() == "write back"
    assert int(host.file(f"{queue}/discard_max_bytes").content_string) > 0
    assert int(host.file(f"{queue}/write_zeroes_max_bytes").content_string) > 0


def test_verified_random_writes_and_discards_in_a_file(host):
    job = "--filename=/mnt/cbd0/fio.dat --size=16m --bs=8k --iodepth=16 --ioengine=libaio --direct=1"
    host.check_output(f"fio --name=verify {job} --rw=randwrite --verify=crc32c --do_verify=1 --verify_state_save=0")
    host.check_output("rm /mnt/cbd0/fio.dat && fstrim /mnt/cbd0")
    host.check_output("cd /mnt/cbd0/cxl-verify && sha256sum --quiet -c MANIFEST")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("cbd.transport.format", ["transport pool0", "unregister"]),
        ("cbd.blkdev.start", ["backend 9"]),
        ("cbd.backend.start", ["/dev/nothing"]),
    ],
)
def test_what_must_be_refused_is_refused_with_the_object_and_the_next_step(host, call, words):
    params = {
        "cbd.transport.format": {"memory": "serial:0xc0de0001", "name": "other"},
        "cbd.blkdev.start": {"transport": "pool0", "backend": 9},
        "cbd.backend.start": {"transport": "pool0", "path": "/dev/nothing"},
    }[call]
    request = json.dumps({"id": 1, "method": call, "params": params})
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('/run/cxl-datapath/control.sock'); "
        "s.sendall(sys.argv[1].encode() + b'\\n'); print(s.makefile().readline())"
    )
    answer = json.loads(host.check_output("python3 -c %s %s", script, request))
    error = answer["error"]
    text = f"{error['object']}: {error['message']}; {error['hint']}"
    assert all(word in text for word in words), text
    assert [blkdev["state"] for pool in status(host)["transports"] for blkdev in pool["blkdev_list"]] == ["running"]


def test_a_killed_worker_comes_back_under_the_mounted_file_system(host):
    before = host.check_output("pgrep -f 'cxl_datapath.worker blkdev'")
    host.check_output("kill -9 %s", before)
    host.check_output(
        "cp /mnt/cbd0/cxl-verify/MANIFEST /mnt/cbd0/after-kill && sync -f /mnt/cbd0/after-kill && rm /mnt/cbd0/after-kill"
    )
    assert host.check_output("pgrep -f 'cxl_datapath.worker blkdev'") != before
    host.check_output("echo 1 > /proc/sys/vm/drop_caches")
    host.check_output("cd /mnt/cbd0/cxl-verify && sha256sum --quiet -c MANIFEST")
