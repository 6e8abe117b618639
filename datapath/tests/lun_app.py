# SPDX-License-Identifier: GPL-3.0-or-later
"""Applications of user-space LUNs for tests: one that speaks service socket and rings by hand, and processes to be one in."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, wait_until

from cxl_datapath.cxlflash import wire
from cxl_datapath.cxlflash.wire import Answer, Request, Service

MIB = 1 << 20
BLOCKS = 64 * MIB // wire.BLOCK  # of flash0
CHUNK = 256  # blocks
CHUNKS = BLOCKS // CHUNK
READ, WRITE, UNMAP, SYNC = 1, 2, 3, 4
PATIENCE_S = 30.0
_COMMAND = struct.Struct("<QHBBIQII32x")
_RESPONSE = struct.Struct("<QHHi48x")


class Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        self.errno = answer.error
        self.text = answer.text
        super().__init__(f"{errno.errorcode.get(answer.error, answer.error)}: {answer.text}")


class App:
    """One connection to the service socket, and what came over it."""

    def __init__(self, host: Host, lun: str = "flash0") -> None:
        self.lun = lun.encode()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(str(host.runtime / "lun.sock"))
        self.contexts: list[Ctx] = []

    def send(self, packet: bytes) -> tuple[bytes, list[int]]:
        self._socket.send(packet)
        answer, fds, _, _ = socket.recv_fds(self._socket, 4096, 8)
        return answer, fds

    def ask(self, service: int, **fields: Any) -> Answer:
        """The answer with its descriptors. Raises `Refused`."""
        packet, fds = self.send(Request(service, **fields).pack())
        answer = replace(Answer.unpack(packet), descriptors=fds)
        if answer.error:
            assert not fds, "a refusal gives nothing away"
            assert answer.text, "a refusal says why"
            raise Refused(answer)
        return answer

    def refused(self, number: int, service: int, **fields: Any) -> str:
        """The text of a refusal with this errno."""
        try:
            answer = self.ask(service, **fields)
        except Refused as refusal:
            assert refusal.errno == number, refusal
            return refusal.text
        raise AssertionError(f"{Service(service).name} should have failed with {errno.errorcode[number]}: {answer}")

    def attach(self, **fields: Any) -> Ctx:
        self.contexts.append(Ctx(self, self.ask(Service.ATTACH, **{"lun": self.lun, **fields})))
        return self.contexts[-1]

    def direct(self, **fields: Any) -> Ctx:
        """A context with a direct handle 0."""
        context = self.attach(**fields)
        context.ask(Service.USER_DIRECT)
        return context

    def virtual(self, blocks: int = 0, **fields: Any) -> Ctx:
        """A context with a virtual handle 0."""
        context = self.attach(**fields)
        context.ask(Service.USER_VIRTUAL, size=blocks)
        return context

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        self._socket.close()


class Ctx:
    """A context with its areas. `ask` and `refused` fill its token in."""

    def __init__(self, app: App, answer: Answer) -> None:
        self.app = app
        self.token = answer.context
        self.answer = answer
        self.use(answer)

    def use(self, answer: Answer) -> None:
        """New areas."""
        self.bell, user, master = answer.descriptors
        self.depth = answer.depth
        size = wire.area_bytes(self.depth)
        self.user = mmap.mmap(user, size)
        self.master = mmap.mmap(master, size, prot=mmap.PROT_READ)
        os.close(user)
        os.close(master)
        self._sent = self._got = 0

    def ask(self, service: int, **fields: Any) -> Answer:
        return self.app.ask(service, context=self.token, **fields)

    def refused(self, number: int, service: int, **fields: Any) -> str:
        return self.app.refused(number, service, context=self.token, **fields)

    def in_error(self) -> bool:
        return self.master[:8] == b"\xff" * 8

    def recover(self) -> Answer:
        answer = self.ask(Service.RECOVER_AFU)
        if answer.return_flags & wire.CONTEXT_RESET:
            old = self.bell
            self.use(answer)
            os.close(old)
        return answer

    def send(self, op: int, lba: int, blocks: int, handle: int = 0, tag: int = 0) -> None:
        self._sent += 1
        at = wire.RINGS + (self._sent - 1) % self.depth * wire.LINE
        packed = _COMMAND.pack(self._sent, tag, op, 0, handle, lba, blocks, 0)
        self.user[at + 8 : at + 64] = packed[8:]
        self.user[at : at + 8] = packed[:8]
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.bell)) as bell:
            bell.send(b"\0", socket.MSG_DONTWAIT)

    def receive(self) -> tuple[int, int]:
        """(tag, result) of the next response."""
        at = wire.RINGS + self._got % self.depth * wire.LINE

        def there() -> bool:
            return _RESPONSE.unpack(self.master[at : at + 64])[0] == self._got + 1

        deadline = time.monotonic() + PATIENCE_S
        while not there():
            assert time.monotonic() < deadline, "no response"
            time.sleep(0.0002)
        self._got += 1
        _, tag, _, result = _RESPONSE.unpack(self.master[at : at + 64])
        return tag, result

    def io(self, op: int, lba: int, blocks: int, handle: int = 0) -> int:
        """The result of one command."""
        self.send(op, lba, blocks, handle)
        return self.receive()[1]

    def write(self, lba: int, data: bytes, handle: int = 0) -> int:
        start = wire.data_off(self.depth)
        self.user[start : start + len(data)] = data
        return self.io(WRITE, lba, len(data) // wire.BLOCK, handle)

    def read(self, lba: int, blocks: int = 1, handle: int = 0) -> bytes:
        result = self.io(READ, lba, blocks, handle)
        if result:
            raise OSError(-result, os.strerror(-result))
        start = wire.data_off(self.depth)
        return self.master[start : start + blocks * wire.BLOCK]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.bell)
        self.bell = -1


# ---- processes ---------------------------------------------------------------------------------------------------------


class Child:
    """A forked process that runs `work`; what that returns or raises comes back by `result`."""

    def __init__(self, work: Callable[[], Any]) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            _run(work, writer)
        os.close(writer)
        self._reader = os.fdopen(reader, "rb")

    def result(self) -> Any:
        """Waits for the end. Raises what the child raised."""
        ready, _, _ = select.select([self._reader], [], [], 4 * PATIENCE_S)
        assert ready, "the child hangs"
        try:
            outcome = pickle.load(self._reader)  # not up to its end: a child of the child may have inherited the pipe
        except EOFError:
            outcome = AssertionError("the child died")
        os.waitpid(self.pid, 0)
        self._reader.close()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._reader.close()


def _run(work: Callable[[], Any], writer: int) -> None:
    try:
        outcome: Any = work()
    except BaseException as error:
        outcome = AssertionError("".join(traceback.format_exception(error)))
    try:
        with os.fdopen(writer, "wb") as out:
            pickle.dump(outcome, out)
        sys.stderr.flush()
    finally:
        os._exit(0)


def in_child(work: Callable[[], Any]) -> Any:
    return Child(work).result()


def become(uid: int) -> None:
    """In a child, after it has connected: the socket is root's alone."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


@contextlib.contextmanager
def living(work: Callable[[], Any]) -> Iterator[Child]:
    """A child that does `work` and then lives until it is killed; entered when the work is done."""
    ready, tell = os.pipe()

    def stay() -> None:
        keep = work()
        os.write(tell, b"x")
        signal.pause()
        del keep

    child = Child(stay)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"x", child.result()
        yield child
    finally:
        os.close(ready)
        with contextlib.suppress(ProcessLookupError, ChildProcessError, ValueError):
            child.kill()


def descriptors(pid: int) -> int:
    """How many the process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# ---- LUNs --------------------------------------------------------------------------------------------------------------


#: A block device of 64 MiB that takes the place of the file behind flash0.
DEVICE = os.environ.get("CXL_TEST_LUN", "")
needs_file = pytest.mark.skipif(bool(DEVICE), reason=f"{DEVICE} has the size that it has")


def make_lun(host: Host, name: str = "flash0", size: int = 64 * MIB, **params: Any) -> Path:
    """The medium of the LUN: a file, or a link to `DEVICE`."""
    path = host.folder / f"{name}.disk"
    if DEVICE and name == "flash0":
        path.symlink_to(DEVICE)
    else:
        path.touch()
        os.truncate(path, size)
    host.call("lun.create", path=str(path), name=name, **params)
    return path


def take(path: Path) -> int:
    """Opens a medium for itself alone as soon as nobody else has it, as another master would."""

    def taken() -> int:
        is_device = path.is_block_device()
        try:
            fd = os.open(path, os.O_RDWR | (os.O_EXCL if is_device else 0))
        except OSError as error:
            assert error.errno == errno.EBUSY, error
            return -1
        if not is_device:
            fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    while (found := taken()) < 0:
        pass
    return found


def lun_row(host: Host, name: str = "flash0") -> dict[str, Any]:
    return next(row for row in host.call("lun.list") if row["name"] == name)


def kill_engine(host: Host, name: str = "flash0") -> None:
    os.kill(lun_row(host, name)["worker"]["pid"], signal.SIGKILL)


def wait_unused(host: Host, name: str = "flash0") -> None:
    wait_until(lambda: lun_row(host, name)["contexts"] == 0, f"the contexts on {name} end")
