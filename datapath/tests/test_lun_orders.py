# SPDX-License-Identifier: GPL-3.0-or-later
"""What is between the daemon and the engine of a LUN, and between the daemon and the end of a process."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import threading

import pytest

from cxl_datapath.cxlflash.channel import PACKET_MAX, Channel
from cxl_datapath.cxlflash.lun import _SPANS
from cxl_datapath.cxlflash.process import look_up
from cxl_datapath.cxlflash.refusal import Refusal
from cxl_datapath.cxlflash.watch import Watch
from cxl_datapath.workers.lun import Orders


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_cannot_read_an_order_hangs_up():
    """Whoever waits for an answer would wait for ever."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(60)
        listener = threading.Thread(target=Orders(None, None, None, theirs).listen)
        listener.start()
        ours.send(b'{"id":1,"op":')
        assert ours.recv(100) == b""
        listener.join()


def test_an_order_of_spans_fits():
    assert len(json.dumps([(1 << 51, 1 << 39)] * _SPANS)) < PACKET_MAX // 2


def test_an_order_that_is_too_long_is_refused():
    async def ask():
        channel = Channel(lambda _: None)
        try:
            with pytest.raises(Refusal) as caught:
                await channel.call("set", table=[1 << 20] * PACKET_MAX)
        finally:
            channel.close()
        return caught.value.errno

    assert asyncio.run(ask()) == errno.E2BIG


def test_a_process_that_has_ended_gets_nothing_more():
    """Its end is told once: what it got afterwards would stay."""

    async def end():
        pid = os.fork()
        if pid == 0:
            signal.pause()
        exited = asyncio.Event()
        watch = Watch(lambda _: None, lambda _: exited.set())
        process = look_up(pid, os.getuid())
        watch.process(process)
        os.kill(pid, signal.SIGKILL)
        await exited.wait()
        with pytest.raises(Refusal):
            watch.process(process)
        watch.forget_process(process)
        watch.close()
        os.waitpid(pid, 0)

    asyncio.run(end())
