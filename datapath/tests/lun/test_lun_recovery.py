# SPDX-License-Identifier: GPL-3.0-or-later
"""The data path of a LUN dies and comes back: contexts read all ones, RECOVER_AFU brings them back, nothing is lost."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hosts import Host, wait_until
from lun_app import CHUNK, READ, App, Child, kill_engine, lun_row, make_lun, needs_file, take, wait_unused
from mishaps import halt

from cxl_datapath import cblk
from cxl_datapath.cxlflash import wire
from cxl_datapath.cxlflash.wire import BLOCK, Service


def broken(host: Host, *contexts) -> None:
    kill_engine(host)
    for context in contexts:
        wait_until(context.in_error, "all ones")


def dying(host: Host, work: Callable[[], Any]) -> Any:
    """What `work` returns when the engine that it began with never answers, and dies."""
    wait_until(lambda: lun_row(host)["state"] == "running", "the LUN runs")
    engine = lun_row(host)["worker"]["pid"]
    halt(engine)
    with ThreadPoolExecutor() as pool:
        outcome = pool.submit(work)
        for _ in range(20):  # by then the daemon has passed the request on
            host.call("hello")
        os.kill(engine, signal.SIGKILL)
        return outcome.result()


class TestRecovery:
    def test_all_ones_in_every_context(self, app, host):
        contexts = [app.attach() for _ in range(5)]
        assert not any(context.in_error() for context in contexts)
        broken(host, *contexts)

    def test_without_an_error_there_is_nothing_to_recover(self, app):
        context = app.direct()
        answer = context.recover()
        assert (answer.return_flags, answer.descriptors, answer.context) == (0, [], context.token)
        assert context.read(0)

    def test_it_gives_new_descriptors(self, app, host):
        context = app.virtual(10, depth=8)
        broken(host, context)
        answer = context.recover()
        assert answer.return_flags == wire.CONTEXT_RESET | wire.APP_CLOSE_ADAP_FD
        assert (len(answer.descriptors), answer.depth, answer.context) == (3, 8, context.token)
        assert not context.in_error()

    def test_handles_and_contents_are_as_before(self, app, host):
        context = app.virtual(3 * CHUNK)
        context.ask(Service.USER_VIRTUAL, size=7)
        context.write(2 * CHUNK, b"\x21" * BLOCK)
        context.write(6, b"\x22" * BLOCK, handle=1)
        broken(host, context)
        context.recover()
        assert context.read(2 * CHUNK) == b"\x21" * BLOCK
        assert context.read(6, handle=1) == b"\x22" * BLOCK
        assert context.io(READ, 7, 1, handle=1) == -errno.ERANGE

    def test_a_direct_handle_too(self, app, host):
        context = app.direct()
        context.write(9, b"\x23" * BLOCK)
        broken(host, context)
        context.recover()
        assert context.read(9) == b"\x23" * BLOCK

    def test_each_context_recovers_by_itself(self, app, host):
        first, second = app.virtual(1), app.virtual(1)
        broken(host, first, second)
        first.recover()
        assert first.read(0)
        assert second.in_error()
        second.recover()
        assert second.read(0)

    def test_again_and_again(self, app, host):
        context = app.virtual(1)
        for round_ in range(3):
            context.write(0, bytes([round_ + 1]) * BLOCK)
            broken(host, context)
            context.recover()
            assert context.read(0)[0] == round_ + 1

    def test_services_that_change_it_wait_for_the_recovery(self, app, host):
        context = app.virtual(5)
        broken(host, context)
        for service, fields in (
            (Service.USER_VIRTUAL, {"size": 1}),
            (Service.USER_DIRECT, {}),
            (Service.VLUN_RESIZE, {"size": 9}),
            (Service.VERIFY, {}),
        ):
            assert "recover" in context.refused(errno.EIO, service, **fields)
        context.recover()
        assert context.ask(Service.VLUN_RESIZE, size=9).last_lba == 8

    def test_release_and_detach_do_not(self, app, host):
        context = app.virtual(5)
        context.ask(Service.USER_VIRTUAL, size=1)
        broken(host, context)
        context.ask(Service.RELEASE, handle=0)
        context.recover()
        context.refused(errno.EINVAL, Service.VERIFY, handle=0)
        assert context.read(0, handle=1)
        broken(host, context)
        context.ask(Service.DETACH)

    def test_a_process_that_dies_in_error_is_cleaned_up(self, app, host):
        child = Child(lambda: [App(host).virtual(1), signal.pause()])
        wait_until(lambda: lun_row(host)["handles"] == 1, "the child has its LUN")
        kill_engine(host)
        wait_until(lambda: host.call("lun.contexts", lun="flash0")[0]["state"] == "error", "it is in error")
        child.kill()
        wait_unused(host)

    def test_a_new_process_attaches_while_others_are_in_error(self, app, host):
        context = app.virtual(1)
        broken(host, context)
        fresh = app.virtual(1)
        assert fresh.read(0)
        assert context.in_error()

    def test_an_engine_that_dies_while_a_context_is_recovered(self, app, host):
        context = app.virtual(1)
        context.write(0, b"\x24" * BLOCK)
        broken(host, context)
        assert dying(host, context.recover).return_flags & wire.CONTEXT_RESET
        assert context.read(0) == b"\x24" * BLOCK

    def test_an_engine_that_dies_while_a_context_is_attached(self, app, host):
        context = dying(host, app.attach)
        context.ask(Service.USER_VIRTUAL, size=1)
        assert context.read(0)

    def test_the_token_of_another_process(self, app, host):
        context = app.virtual(1)
        broken(host, context)
        Child(lambda: App(host).refused(errno.EINVAL, Service.RECOVER_AFU, context=context.token)).result()

    def test_a_bell_that_is_closed_before_the_recovery_ends_the_context(self, app, host):
        context = app.virtual(1)
        broken(host, context)
        context.close()
        wait_unused(host)
        context.refused(errno.EINVAL, Service.RECOVER_AFU)


@needs_file  # a second daemon would want the device
def test_after_a_failed_recovery_only_release_and_detach_are_left(make_host):
    """The medium is not there any more: a recovery fails at the end of its patience, the next ones at once."""
    host = make_host("node1", options=("--lun-patience", "3"))
    disk, app = make_lun(host), App(host)
    context = app.virtual(5)
    hidden = disk.with_suffix(".hidden")
    disk.rename(hidden)
    broken(host, context)
    assert "does not start" in context.refused(errno.EIO, Service.RECOVER_AFU)
    assert "detach" in context.refused(errno.EIO, Service.RECOVER_AFU)
    context.refused(errno.EIO, Service.VLUN_RESIZE, size=1)
    context.ask(Service.RELEASE)
    context.ask(Service.DETACH)
    hidden.rename(disk)
    wait_until(lambda: lun_row(host)["state"] == "running", "the LUN runs again")
    assert app.virtual(1).read(0)
    app.close()


# ---- the library -----------------------------------------------------------------------------------------------------------


def chunk_of(host: Host, blocks: int = 0, requests: int = 0) -> int:
    chunk = cblk.cblk_open(f"{host.runtime}/lun.sock/flash0", requests, flags=cblk.OPN_VIRT_LUN if blocks else 0)
    if blocks:
        cblk.cblk_set_size(chunk, blocks)
    return chunk


class TestLibrary:
    def test_a_read_survives_the_death_of_the_engine(self, app, host):
        chunk = chunk_of(host, 100)
        cblk.cblk_write(chunk, b"\x31" * BLOCK * 100, 0)
        kill_engine(host)
        buffer = bytearray(BLOCK * 100)
        assert cblk.cblk_read(chunk, buffer, 0) == 100
        assert buffer == b"\x31" * BLOCK * 100
        assert cblk.cblk_get_stats(chunk)["recoveries"] == 1
        cblk.cblk_close(chunk)

    def test_so_does_a_service(self, app, host):
        chunk = chunk_of(host, 10)
        kill_engine(host)
        cblk.cblk_set_size(chunk, 20)
        assert cblk.cblk_get_size(chunk) == 20
        cblk.cblk_close(chunk)

    def test_requests_in_flight_are_sent_again(self, app, host):
        """The engine is stopped, so that all of them are in flight when it dies."""
        chunk = chunk_of(host, 100, 64)
        engine = lun_row(host)["worker"]["pid"]
        halt(engine)
        tags = [cblk.cblk_awrite(chunk, bytes([lba + 1]) * BLOCK, lba) for lba in range(32)]
        os.kill(engine, signal.SIGKILL)
        assert [cblk.cblk_aresult(chunk, tag, cblk.ARESULT_BLOCKING)[0] for tag in tags] == [1] * 32
        buffer = bytearray(32 * BLOCK)
        cblk.cblk_read(chunk, buffer, 0)
        assert [buffer[lba * BLOCK] for lba in range(32)] == list(range(1, 33))
        cblk.cblk_close(chunk)

    def test_threads_under_load(self, app, host):
        """Each has its own blocks and never reads anything but what it wrote last, whatever happens to the engine."""
        chunk = chunk_of(host, 4 * CHUNK, 64)
        wrong: list[str] = []
        stop = threading.Event()

        def work(number: int) -> None:
            count, buffer = 0, bytearray(BLOCK)
            while not stop.is_set():
                count += 1
                pattern = (number << 32 | count).to_bytes(8, "little") * (BLOCK // 8)
                try:
                    cblk.cblk_write(chunk, pattern, number)
                    cblk.cblk_read(chunk, buffer, number)
                except OSError as error:
                    wrong.append(str(error))
                    return
                if buffer != pattern:
                    wrong.append(f"thread {number}, round {count}")
                    return

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for kill in range(3):
            wait_until(lambda: lun_row(host)["state"] == "running", "the LUN runs")
            kill_engine(host)
            wait_until(
                lambda done=kill: cblk.cblk_get_stats(chunk)["recoveries"] > done,
                "the chunk recovers",
            )
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        cblk.cblk_close(chunk)


@needs_file  # a second daemon would want the device
def test_a_medium_that_somebody_else_took_meanwhile_is_waited_for(make_host):
    host = make_host("node1")
    disk = make_lun(host)
    chunk = chunk_of(host, 10)
    kill_engine(host)
    fd = take(disk)
    reader = threading.Thread(target=lambda: cblk.cblk_read(chunk, bytearray(BLOCK), 0))
    reader.start()
    wait_until(lambda: "busy" in str(lun_row(host)["worker"]["error"]), "it is told why")
    os.close(fd)
    reader.join(60)
    assert not reader.is_alive()
    cblk.cblk_close(chunk)
