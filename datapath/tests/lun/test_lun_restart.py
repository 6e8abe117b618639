# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon itself is started again under applications: their contexts are known to the next one, and recovered as ever."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lun_app import CHUNK, MIB, App, Child, Ctx, living, lun_row, make_lun, needs_file, wait_unused
from mishaps import halt

from cxl_datapath import cblk
from cxl_datapath.cxlflash import wire
from cxl_datapath.cxlflash.wire import BLOCK, Service

pytestmark = needs_file  # a daemon of each test's own would want the device


@pytest.fixture
def host(make_host: Callable[..., Host]) -> Host:
    made = make_host("node1")
    make_lun(made)
    return made


def restart(host: Host) -> None:
    host.kill()
    host.start()


def again(host: Host, context: Ctx) -> Ctx:
    """The context on a connection to the daemon that is there now."""
    context.app = App(host)
    return context


def records(host: Host) -> list[Path]:
    return sorted((host.runtime / "lun-contexts").glob("*"))


def context_state(host: Host) -> str:
    return str(host.call("lun.contexts", lun="flash0")[0]["state"])


def test_an_engine_that_hangs_does_not_keep_the_daemon_from_its_end(host):
    context = App(host).virtual(10)
    halt(lun_row(host)["worker"]["pid"])
    context.close()
    for _ in range(20):  # by then the daemon waits for the engine to let go of it
        host.call("hello")
    host.stop()


class TestContexts:
    @pytest.mark.parametrize("end", [Host.kill, Host.stop])
    def test_handles_and_contents_are_as_before(self, host, end):
        context = App(host).virtual(3 * CHUNK, depth=8)
        context.ask(Service.USER_VIRTUAL, size=7)
        context.write(2 * CHUNK, b"\x41" * BLOCK)
        context.write(6, b"\x42" * BLOCK, handle=1)
        end(host)
        wait_until(context.in_error, "all ones")
        host.start()
        assert context_state(host) == "error"
        answer = again(host, context).recover()
        assert answer.return_flags == wire.CONTEXT_RESET | wire.APP_CLOSE_ADAP_FD
        assert (answer.depth, answer.context) == (8, context.token)
        assert context.read(2 * CHUNK) == b"\x41" * BLOCK
        assert context.read(6, handle=1) == b"\x42" * BLOCK
        assert context.ask(Service.VERIFY, handle=1).last_lba == 6

    def test_a_direct_one_too(self, host):
        context = App(host).direct(flags=wire.ATTACH_READ_ONLY)
        restart(host)
        again(host, context).recover()
        assert context.read(0)
        assert context.write(0, bytes(BLOCK)) == -errno.EROFS

    def test_nobody_gets_what_waits_for_its_recovery(self, host):
        context = App(host).virtual(40 * CHUNK)
        context.write(0, b"\x43" * BLOCK)
        restart(host)
        rival = App(host)
        rival.attach().refused(errno.ENOSPC, Service.USER_VIRTUAL, size=25 * CHUNK)
        rival.attach().refused(errno.EBUSY, Service.USER_DIRECT)
        taken = rival.virtual(24 * CHUNK)
        for lba in range(0, 24 * CHUNK, 32):
            taken.write(lba, b"\x44" * (32 * BLOCK))
        again(host, context).recover()
        assert context.read(0) == b"\x43" * BLOCK
        assert all(context.read(lba, 32) == bytes(32 * BLOCK) for lba in range(32, 40 * CHUNK, 32))

    def test_what_was_given_back_is_not_taken_again(self, host):
        context = App(host).virtual(40 * CHUNK)
        context.ask(Service.USER_VIRTUAL, size=CHUNK)
        context.ask(Service.VLUN_RESIZE, size=CHUNK)
        context.ask(Service.RELEASE, handle=1)
        restart(host)
        assert lun_row(host)["free"] == 63 * MIB
        again(host, context).recover()
        assert context.ask(Service.VERIFY).last_lba == CHUNK - 1
        context.refused(errno.EINVAL, Service.VERIFY, handle=1)

    def test_a_detached_context_is_forgotten(self, host):
        context = App(host).virtual(1)
        assert len(records(host)) == 1
        context.ask(Service.DETACH)
        assert records(host) == []
        restart(host)
        assert lun_row(host)["contexts"] == 0

    def test_a_process_that_ended_meanwhile(self, host):
        with living(lambda: App(host).virtual(CHUNK)) as child:
            host.kill()
            child.kill()
            host.start()
        assert (lun_row(host)["contexts"], records(host)) == (0, [])
        wait_until(lambda: lun_row(host)["free"] == 64 * MIB, "its space is free")

    def test_a_process_that_ends_before_it_recovers(self, host):
        with living(lambda: App(host).virtual(CHUNK)) as child:
            restart(host)
            assert lun_row(host)["contexts"] == 1
            child.kill()
            wait_unused(host)
        assert (lun_row(host)["free"], records(host)) == (64 * MIB, [])

    def test_the_token_of_another_process(self, host):
        with living(lambda: App(host).virtual(1)):
            restart(host)
            token = int(records(host)[0].stem, 16)
            App(host).refused(errno.EINVAL, Service.RECOVER_AFU, context=token)

    def test_release_and_detach_need_no_recovery(self, host):
        context = App(host).virtual(CHUNK)
        restart(host)
        again(host, context).ask(Service.RELEASE)
        assert lun_row(host)["free"] == 64 * MIB
        context.ask(Service.DETACH)
        assert lun_row(host)["contexts"] == 0

    def test_a_clone_and_its_source_share_as_before(self, host):
        parent = App(host).virtual(CHUNK)

        def clone() -> Ctx:
            mine = App(host).attach()
            mine.ask(Service.VLUN_CLONE, source=parent.token)
            return mine

        with living(clone):
            restart(host)
            assert lun_row(host)["free"] == 63 * MIB
            again(host, parent).ask(Service.DETACH)
            assert lun_row(host)["free"] == 63 * MIB
        wait_until(lambda: lun_row(host)["free"] == 64 * MIB, "the child's share is given back")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda raw: b"",
            lambda raw: b"{",
            lambda raw: json.dumps(json.loads(raw) | {"boot": "another"}).encode(),
            lambda raw: json.dumps(json.loads(raw) | {"depth": 3}).encode(),
            lambda raw: json.dumps(json.loads(raw) | {"wwid": "0" * 32}).encode(),
            lambda raw: json.dumps(json.loads(raw) | {"token": 5}).encode(),
            lambda raw: json.dumps(json.loads(raw) | {"handles": [{"handle": 0, "blocks": 9, "table": [1, 2]}]}).encode(),
            lambda raw: json.dumps(json.loads(raw) | {"handles": [{"handle": 0, "blocks": 9, "table": [64]}]}).encode(),
        ],
        ids=["empty", "torn", "boot", "depth", "lun", "token", "table", "chunk"],
    )
    def test_a_record_that_cannot_be_right_is_no_context(self, host, damage):
        context = App(host).virtual(9)
        host.kill()
        (record,) = records(host)
        record.write_bytes(damage(record.read_bytes()))
        host.start()
        assert (lun_row(host)["contexts"], records(host)) == (0, [])
        again(host, context).refused(errno.EINVAL, Service.RECOVER_AFU)
        wait_until(lambda: lun_row(host)["free"] == 64 * MIB, "nothing is held")

    def test_without_room_for_the_record_the_context_works_until_the_restart(self, host):
        context = App(host).virtual(1)
        (host.runtime / "lun-contexts" / f"{context.token:016x}.new").mkdir()  # in the way of the next one
        assert context.ask(Service.VLUN_RESIZE, size=9).last_lba == 8
        assert context.read(8)
        restart(host)
        again(host, context).refused(errno.EINVAL, Service.RECOVER_AFU)
        assert lun_row(host)["contexts"] == 0


# ---- the library -------------------------------------------------------------------------------------------------------


def chunk_of(host: Host, blocks: int = 0, requests: int = 0) -> int:
    chunk = cblk.cblk_open(f"{host.runtime}/lun.sock/flash0", requests, flags=cblk.OPN_VIRT_LUN if blocks else 0)
    if blocks:
        cblk.cblk_set_size(chunk, blocks)
    return chunk


def verified_load(chunk: int, number: int, stop: threading.Event) -> str:
    """Writes and reads back a block of its own; what went wrong."""
    count, buffer = 0, bytearray(BLOCK)
    while not stop.is_set():
        count += 1
        pattern = (number << 32 | count).to_bytes(8, "little") * (BLOCK // 8)
        try:
            cblk.cblk_write(chunk, pattern, number)
            cblk.cblk_read(chunk, buffer, number)
        except OSError as error:
            return str(error)
        if buffer != pattern:
            return f"thread {number}, round {count}: {bytes(buffer[:8])!r}"
    return ""


class TestLibrary:
    @pytest.mark.parametrize("blocks", [0, 4 * CHUNK], ids=["direct", "virtual"])
    def test_threads_under_load(self, host, blocks):
        chunk = chunk_of(host, blocks, 64)
        stop, wrong = threading.Event(), []
        threads = [threading.Thread(target=lambda n=number: wrong.append(verified_load(chunk, n, stop))) for number in range(3)]
        for thread in threads:
            thread.start()
        for end in (Host.kill, Host.stop, Host.kill):
            before = cblk.cblk_get_stats(chunk)["recoveries"]
            end(host)
            host.start()
            wait_until(lambda n=before: cblk.cblk_get_stats(chunk)["recoveries"] > n, "the chunk recovers")
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == [""] * 3
        cblk.cblk_close(chunk)

    def test_a_chunk_that_was_idle(self, host):
        chunk = chunk_of(host, 10)
        cblk.cblk_write(chunk, b"\x51" * BLOCK, 9)
        restart(host)
        buffer = bytearray(BLOCK)
        assert cblk.cblk_read(chunk, buffer, 9) == 1
        assert buffer == b"\x51" * BLOCK
        cblk.cblk_close(chunk)

    def test_a_service_is_asked_for_again(self, host):
        chunk = chunk_of(host, 10)
        restart(host)
        cblk.cblk_set_size(chunk, 20)
        assert (cblk.cblk_get_size(chunk), cblk.cblk_get_lun_size(chunk)) == (20, 64 * MIB // BLOCK)
        cblk.cblk_close(chunk)

    def test_a_service_that_waits_for_the_daemon(self, host):
        chunk = chunk_of(host, 10)
        host.kill()
        waiting = threading.Thread(target=cblk.cblk_set_size, args=(chunk, 20))
        waiting.start()
        host.start()
        waiting.join()
        assert cblk.cblk_get_size(chunk) == 20
        cblk.cblk_close(chunk)

    def test_close_gives_it_back_without_a_recovery(self, host):
        chunk = chunk_of(host, CHUNK)
        restart(host)
        cblk.cblk_close(chunk)
        assert (lun_row(host)["contexts"], lun_row(host)["free"]) == (0, 64 * MIB)

    def test_a_medium_that_was_replaced_meanwhile_is_waited_for(self, host):
        chunk = chunk_of(host, 10)
        cblk.cblk_write(chunk, b"\x53" * BLOCK, 9)
        host.kill()
        disk, aside = host.folder / "flash0.disk", host.folder / "aside"
        disk.rename(aside)
        disk.write_bytes(b"\x54" * (64 * MIB))
        host.start()
        wait_until(lambda: "not the medium" in str(lun_row(host)["worker"]["error"]), "it is told why")
        aside.rename(disk)
        buffer = bytearray(BLOCK)
        assert cblk.cblk_read(chunk, buffer, 9) == 1
        assert buffer == b"\x53" * BLOCK
        cblk.cblk_close(chunk)

    def test_everything_is_killed_at_once(self, host):
        """Nobody is left who could write all ones."""
        chunk = chunk_of(host, 10)
        engine = lun_row(host)["worker"]["pid"]
        halt(engine)
        tag = cblk.cblk_awrite(chunk, b"\x52" * BLOCK, 3)
        host.kill()
        os.kill(engine, signal.SIGKILL)
        host.start()
        assert cblk.cblk_aresult(chunk, tag, cblk.ARESULT_BLOCKING) == (1, tag)
        buffer = bytearray(BLOCK)
        cblk.cblk_read(chunk, buffer, 3)
        assert buffer == b"\x52" * BLOCK
        cblk.cblk_close(chunk)

    def test_a_daemon_that_never_comes_back(self, host, monkeypatch):
        monkeypatch.setenv("CBLK_PATIENCE_S", "1")
        chunk, ready = chunk_of(host, 10), host.folder / "ready"
        other = Child(lambda: _until_it_fails(host, ready))
        wait_until(ready.exists, "the child uses the LUN, too")
        host.kill()
        with pytest.raises(OSError, match="Input/output"):
            while True:  # the engine may live a little longer than the daemon
                cblk.cblk_read(chunk, bytearray(BLOCK), 0)
        with pytest.raises(OSError, match="Input/output"):
            cblk.cblk_set_size(chunk, 20)
        with pytest.raises(OSError, match="Input/output"):
            cblk.cblk_close(chunk)
        assert other.result() == errno.EIO

    def test_a_daemon_that_knows_nothing_of_it(self, host):
        chunk = chunk_of(host, 10)
        host.kill()
        for record in records(host):
            record.unlink()
        host.start()
        with pytest.raises(OSError, match="no such context"):
            cblk.cblk_set_size(chunk, 20)
        with pytest.raises(OSError):
            cblk.cblk_close(chunk)
        fresh = chunk_of(host, 10)
        assert cblk.cblk_read(fresh, bytearray(BLOCK), 9) == 1
        cblk.cblk_close(fresh)


def _until_it_fails(host: Host, ready: Path) -> int:
    chunk = chunk_of(host, 10)
    ready.touch()
    buffer = bytearray(BLOCK)
    try:
        while True:
            cblk.cblk_read(chunk, buffer, 0)
    except OSError as error:
        return int(error.errno or 0)
