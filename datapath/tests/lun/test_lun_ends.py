# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformance at the end of applications, and of VLUN_CLONE between parent and child."""

from __future__ import annotations

import errno
import os
import signal

from hosts import wait_until
from lun_app import CHUNK, CHUNKS, MIB, WRITE, App, descriptors, in_child, living, lun_row, wait_unused

from cxl_datapath.cxlflash import wire
from cxl_datapath.cxlflash.wire import BLOCK, Service


class TestEnds:
    def test_closing_the_descriptor_ends_the_context(self, app, host):
        app.virtual(CHUNK).close()
        wait_unused(host)
        assert lun_row(host)["free"] == CHUNKS * MIB

    def test_closing_one_of_two_ends_that_one(self, app, host):
        first, second = app.virtual(1), app.virtual(1)
        first.close()
        wait_until(lambda: lun_row(host)["contexts"] == 1, "the first ends")
        assert second.read(0)

    def test_exit_without_cleaning_up(self, app, host):
        in_child(lambda: App(host).virtual(CHUNK).token)
        wait_unused(host)

    def test_kill_without_cleaning_up(self, app, host):
        with living(lambda: [App(host).virtual(CHUNK) for _ in range(3)]) as child:
            assert lun_row(host)["contexts"] == 3
            child.kill()
            wait_unused(host)

    def test_kill_while_commands_are_in_flight(self, app, host):
        def flood():
            context = App(host).virtual(CHUNK, depth=64)
            for tag in range(64):
                context.send(WRITE, tag, 1, tag=tag)
            return context

        for _ in range(5):
            with living(flood) as child:
                child.kill()
        wait_unused(host)
        assert app.virtual(CHUNKS * CHUNK).read(0)

    def test_a_child_that_keeps_the_descriptors_keeps_no_context_alive(self, app, host):
        def with_child():
            context = App(host).virtual(CHUNK)
            pid = os.fork()
            if pid == 0:
                os.closerange(0, context.bell)
                signal.pause()
            return pid, context.token

        pid, _ = in_child(with_child)
        try:
            wait_unused(host)
        finally:
            os.kill(pid, 9)

    def test_the_next_context_gets_the_slot(self, app, host):
        with living(lambda: App(host).attach()) as child:
            slot = host.call("lun.contexts", lun="flash0")[0]["slot"]
            child.kill()
            wait_unused(host)
        app.attach()
        assert host.call("lun.contexts", lun="flash0")[0]["slot"] == slot

    def test_nothing_is_left_open_in_the_daemon(self, app, host):
        app.attach().ask(Service.DETACH)
        before = descriptors(host.pid)
        for _ in range(20):
            app.virtual(1).ask(Service.DETACH)
        assert descriptors(host.pid) == before


class TestClone:
    def test_a_child_gets_handles_and_contents(self, app, host):
        parent = app.virtual(2 * CHUNK)
        parent.ask(Service.USER_VIRTUAL, size=5)
        parent.write(CHUNK, b"\x71" * BLOCK)

        def child():
            mine = App(host).attach()
            answer = mine.ask(Service.VLUN_CLONE, source=parent.token)
            last = [mine.ask(Service.VERIFY, handle=number).last_lba for number in (0, 1)]
            return answer.return_flags, last, mine.read(CHUNK)

        assert in_child(child) == (wire.APP_CLOSE_ADAP_FD, [2 * CHUNK - 1, 4], b"\x71" * BLOCK)

    def test_what_the_child_writes_the_parent_reads(self, app, host):
        parent = app.virtual(1)

        def child():
            mine = App(host).attach()
            mine.ask(Service.VLUN_CLONE, source=parent.token)
            assert mine.write(0, b"\x72" * BLOCK) == 0

        in_child(child)
        assert parent.read(0) == b"\x72" * BLOCK

    def test_the_end_of_the_child_takes_nothing_from_the_parent(self, app, host):
        parent = app.virtual(CHUNK)
        parent.write(0, b"\x73" * BLOCK)

        def child():
            mine = App(host).attach()
            mine.ask(Service.VLUN_CLONE, source=parent.token)
            mine.ask(Service.DETACH, flags=wire.SCRUB)

        in_child(child)
        assert parent.read(0) == b"\x73" * BLOCK
        assert lun_row(host)["free"] == (CHUNKS - 1) * MIB

    def test_the_child_keeps_what_the_parent_gives_back(self, app, host):
        parent = app.virtual(CHUNK)
        parent.write(0, b"\x74" * BLOCK)

        def clone():
            mine = App(host).attach()
            mine.ask(Service.VLUN_CLONE, source=parent.token)
            return mine

        with living(clone):
            parent.ask(Service.DETACH)
            assert lun_row(host)["free"] == (CHUNKS - 1) * MIB
        wait_until(lambda: lun_row(host)["free"] == CHUNKS * MIB, "the child's share is given back")

    def test_each_has_a_size_of_its_own_afterwards(self, app, host):
        parent = app.virtual(CHUNK)

        def child():
            mine = App(host).attach()
            mine.ask(Service.VLUN_CLONE, source=parent.token)
            return mine.ask(Service.VLUN_RESIZE, size=3 * CHUNK).last_lba

        assert in_child(child) == 3 * CHUNK - 1
        assert parent.ask(Service.VERIFY).last_lba == CHUNK - 1

    def test_a_stranger_may_not(self, app, host):
        with living(lambda: None):
            parent = app.virtual(1)

            def grandchild():
                return in_child(lambda: App(host).attach().refused(errno.EPERM, Service.VLUN_CLONE, source=parent.token))

            assert "child" in in_child(grandchild)

    def test_from_a_context_that_is_not_there(self, app):
        app.attach().refused(errno.EINVAL, Service.VLUN_CLONE, source=12345)

    def test_from_itself(self, app):
        context = app.virtual(1)
        context.refused(errno.EINVAL, Service.VLUN_CLONE, source=context.token)

    def test_a_direct_handle_is_not_cloned(self, app, host):
        parent = app.direct()
        in_child(lambda: App(host).attach().refused(errno.EINVAL, Service.VLUN_CLONE, source=parent.token))

    def test_a_context_without_handles_has_nothing_to_clone(self, app, host):
        parent = app.attach()
        in_child(lambda: App(host).attach().refused(errno.EINVAL, Service.VLUN_CLONE, source=parent.token))

    def test_into_a_context_that_has_handles(self, app, host):
        parent = app.virtual(1)
        in_child(lambda: App(host).virtual(1).refused(errno.EINVAL, Service.VLUN_CLONE, source=parent.token))

    def test_on_another_lun(self, app, host):
        parent = app.virtual(1)
        in_child(lambda: App(host).attach(lun=b"flash1").refused(errno.EINVAL, Service.VLUN_CLONE, source=parent.token))
