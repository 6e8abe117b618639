# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that stand in for memory or a disk: the plan with made-up states, the changes with real files."""

from __future__ import annotations

import multiprocessing
import os
import socket
import stat
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import memory_file
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.memory_file import Change, MemoryFileState, MemoryFileWant
from hypothesis import given
from hypothesis import strategies as st

WANT = MemoryFileWant("/dev/shm/pool0", 64 << 20)
OURS = MemoryFileState("regular file", 64 << 20, 0, 0o600)
STATES = st.builds(
    MemoryFileState,
    st.sampled_from(["", "regular file", "folder", "symbolic link"]),
    st.sampled_from([0, 4096, 64 << 20]),
    st.sampled_from([0, 1000]),
    st.sampled_from([0o600, 0o644]),
)


@given(STATES, st.booleans(), st.sampled_from([0, 1000]))
def test_what_is_planned_is_enough_and_nothing_of_somebody_else_is_touched(have, present, user):
    plan = memory_file.plan_present if present else memory_file.plan_absent
    try:
        changes = plan(WANT, have, user)
    except LabError:
        assert have.kind not in ("", "regular file") or have.owner != user or have.size != WANT.size
        return
    for change in changes:
        assert not have.kind or have.owner == user
        have = memory_file.foresee(change, have, user)
    assert plan(WANT, have, user) == []
    assert (have == MemoryFileState("regular file", WANT.size, user, 0o600)) if present else (have.kind == "")


@pytest.mark.parametrize(
    ("have", "words"),
    [
        (MemoryFileState("folder", 4096, 0, 0o755), "is a folder; choose another path"),
        (MemoryFileState("regular file", 64 << 20, 1000, 0o600), "belongs to user 1000, not to 0"),
        (MemoryFileState("regular file", 32 << 20, 0, 0o600), "has 32M, not 64M; write that size; or,"),
        (
            MemoryFileState("regular file", 128 << 20, 0, 0o600),
            "has 128M, not 64M; .* first stop every host .*make down.* then rm /dev/shm/pool0$",
        ),
    ],
)
def test_what_is_in_the_place_is_named_and_stays(have, words):
    with pytest.raises(LabError, match=f"^file /dev/shm/pool0: {words}"):
        memory_file.plan_present(WANT, have, 0)


def test_a_file_goes_whatever_its_size_but_not_while_it_is_used():
    smaller = MemoryFileState("regular file", 4096, 0, 0o644)
    assert memory_file.plan_absent(WANT, smaller, 0) == [Change("remove", WANT)]
    used = MemoryFileState("regular file", 4096, 0, 0o644, ("process 7 (reader)",))
    with pytest.raises(LabError, match=r"is in use: process 7 \(reader\); stop what uses it"):
        memory_file.plan_absent(WANT, used, 0)


@pytest.mark.parametrize("path", ["pool0", "", "/", "/dev/shm/../x", "/dev/shm//x", "/a/", "/a\nb", "/" + "x" * 255, "/\udcff"])
def test_a_path_that_is_none(path):
    with pytest.raises(LabError, match="is no plain absolute path"):
        memory_file.parse_wants([{"path": path, "size": "4K"}], sized=True)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([{"path": "/a", "size": "1000"}], "1000 is not a multiple of 4 KiB"),
        ([{"path": "/a", "size": "much"}], "'much' is no size"),
        ([{"path": "/a", "size": None}], "None is no size"),
        ([{"path": "/a", "size": "4K"}, {"path": "/a", "size": "8K"}], "is named twice"),
    ],
)
def test_wants_that_cannot_be(files, words):
    with pytest.raises(LabError, match=f"^file /a: {words}"):
        memory_file.parse_wants(files, sized=True)


def test_a_file_comes_whole_and_goes(tmp_path):
    want = MemoryFileWant(str(tmp_path / "deep/er/disk"), 1 << 20)
    before = os.umask(0o077)
    try:
        memory_file.apply(Change("create", want))
    finally:
        os.umask(before)
    found = Path(want.path).stat()
    assert (found.st_size, found.st_blocks, stat.S_IMODE(found.st_mode)) == (1 << 20, 0, 0o600)
    assert list(Path(want.path).parent.iterdir()) == [Path(want.path)]
    Path(want.path).chmod(0o666)
    memory_file.apply(Change("restrict", want))
    assert memory_file.observe(want) == MemoryFileState("regular file", 1 << 20, os.geteuid(), 0o600)
    memory_file.apply(Change("remove", want))
    memory_file.apply(Change("remove", want))
    assert memory_file.observe(want).kind == ""


def _create(path: str, size: int) -> None:
    memory_file.apply(Change("create", MemoryFileWant(path, size)))


def test_who_creates_last_finds_the_file_of_the_first(tmp_path):
    """What the first host wrote meanwhile stays; nobody ever sees a file without its size."""
    path = tmp_path / "pool0"
    hosts = [multiprocessing.Process(target=_create, args=(str(path), 1 << 20)) for _ in range(8)]
    for host in hosts:
        host.start()
    sizes = set()
    while any(host.is_alive() for host in hosts):
        sizes |= {path.stat().st_size} if path.exists() else set()
    path.write_bytes(b"x" * (1 << 20))
    _create(str(path), 1 << 20)
    assert {host.exitcode for host in hosts} == {0} and sizes <= {1 << 20}
    assert path.read_bytes() == b"x" * (1 << 20) and list(tmp_path.iterdir()) == [path]


def test_links_and_sockets_are_not_followed(tmp_path):
    (tmp_path / "file").write_bytes(bytes(4096))
    (tmp_path / "link").symlink_to("file")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        kinds = {name: memory_file.observe(MemoryFileWant(str(tmp_path / name), 0)).kind for name in ("link", "socket", "file/x")}
    assert kinds == {"link": "symbolic link", "socket": "socket", "file/x": ""}
    with pytest.raises(LabError, match="cannot restrict"):
        memory_file.apply(Change("restrict", MemoryFileWant(str(tmp_path / "link"), 4096)))
    assert memory_file.observe(MemoryFileWant("/dev/null", 0)).kind == "character device"


def test_who_has_it_open_is_seen(tmp_path):
    want = MemoryFileWant(str(tmp_path / "pool0"), 4096)
    memory_file.apply(Change("create", want))
    with Path(want.path).open("rb"):
        assert any(f"process {os.getpid()} " in phrase for phrase in memory_file.observe(want, users=True).users)
        assert memory_file.observe(want).users == ()
    assert memory_file.observe(want, users=True).users == ()


def test_no_room_for_a_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LabError, match=f"^file {tmp_path}/file/x: cannot create {tmp_path}/file/x of 4K: "):
        memory_file.apply(Change("create", MemoryFileWant(str(tmp_path / "file/x"), 4096)))
