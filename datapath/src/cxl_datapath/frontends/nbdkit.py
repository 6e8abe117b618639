# SPDX-License-Identifier: GPL-3.0-or-later
"""An NBD server on a unix socket: nbdkit with the plugin of the core. Works without any kernel support."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from ..core import ChannelConf, library_path
from ..errors import Code, DatapathError, from_errno
from ..peers import check_socket_path
from .base import FrontEnd, Target, missing_program, plugin_arguments

START_S = 10.0
STOP_S = 2.0
LEAVE_S = 1.0
CONTROL_S = 10.0
_ANSWER_MAX = 4096
_CONNECTED = "03"  # SS_CONNECTED in /proc/net/unix


def plugin_path() -> Path:
    return library_path().parent / "cxl-cbd-nbdkit-plugin.so"


def pid_file(runtime: Path, name: str) -> Path:
    return runtime / f"{name}.pid"


class NbdServer:
    """An nbdkit process that serves one blkdev; it dies with this process."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.socket = target.runtime / f"{target.name}.sock"
        self._pid_file = pid_file(target.runtime, target.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Returns when the server accepts connections."""
        check_socket_path(self.socket, "--runtime folder or name")
        self._remove_files()
        # With --exit-with-parent nbdkit waits for its clients to leave; a dead worker's server must go at once.
        command = ["setpriv", "--pdeathsig", "KILL", "nbdkit", "--foreground", "--newstyle", "--exportname", ""]
        command += ["--unix", str(self.socket), "--pidfile", str(self._pid_file)]
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(CONTROL_S)
        command += [str(plugin_path()), *plugin_arguments(self._target), f"control={theirs.fileno()}"]
        # The pid file is for its owner only; the socket is because the plugin says so, for nbdkit sets a mask of its own.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=2, umask=0o177, cwd="/", pass_fds=(self._target.lock, theirs.fileno())
        )
        theirs.close()
        deadline = time.monotonic() + START_S
        while not self._pid_file.exists():
            try:
                self.check()
                if time.monotonic() > deadline:
                    raise DatapathError(Code.TIMEOUT, "nbdkit", f"did not start within {START_S:.0f} s")
            except DatapathError:
                self.kill()
                raise
            time.sleep(0.01)

    def check(self) -> None:
        if self._process is not None and (status := self._process.poll()) is not None:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise DatapathError(Code.FAILED, "nbdkit", f"ended with {how}")

    def rebind(self, channels: list[ChannelConf]) -> None:
        self._tell("rebind " + " ".join(f"{channel.channel_off}:{channel.epoch}" for channel in channels))

    def set_offline(self, error: int) -> None:
        self._tell(f"offline {error}")

    def progress(self) -> list[tuple[int, int]]:
        # All connections take turns on the queues: where one stands still, soon all of them do.
        counters = dict(word.split("=", 1) for word in self._tell("stats").split()[1:])
        return [(int(counters.get("submitted", 0)), int(counters.get("requests", 0)))]

    def _tell(self, command: str) -> str:
        """One command to the plugin, and what it answers. Raises what it refuses."""
        if self._control is None:
            return "ok"
        try:
            self._control.sendall(command.encode())
            answer = self._control.recv(_ANSWER_MAX).decode(errors="replace")
        except TimeoutError:
            raise DatapathError(Code.TIMEOUT, "nbdkit", f"did not do it within {CONTROL_S:.0f} s: {command:.40}") from None
        except OSError as error:
            raise from_errno(error.errno or 0, "nbdkit", f"send it {command:.40}") from None
        if answer.split(maxsplit=1)[:1] != ["ok"]:
            raise DatapathError(Code.FAILED, "nbdkit", f"refused {command:.40}: {answer or 'it hung up'}")
        return answer

    def clients(self) -> int:
        """Connections that are open now."""
        rows = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
        fields = (row.split(maxsplit=7) for row in rows)
        return sum(1 for row in fields if len(row) == 8 and row[7] == str(self.socket) and row[5] == _CONNECTED)

    def kill(self) -> None:
        """Ends the server: gracefully, then by force."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None
        if self._control is not None:
            self._control.close()
            self._control = None
        self._remove_files()

    def _remove_files(self) -> None:
        for path in (self.socket, self._pid_file):
            with contextlib.suppress(OSError):
                path.unlink()


class NbdkitFrontEnd(FrontEnd):
    @staticmethod
    def missing() -> str:
        if not plugin_path().exists():
            return f"there is no {plugin_path()}"
        return missing_program("nbdkit", "nbdkit")

    def __init__(self, target: Target) -> None:
        self._target = target
        self._server = NbdServer(target)

    def start(self) -> str:
        self._server.start()
        return f"nbd+unix:///?socket={quote(str(self._server.socket))}"

    def kept(self) -> bool:
        """Clients may connect again: they wait, and get errors after the I/O timeout, rather than finding nobody."""
        return True

    def rebind(self, channels: list[ChannelConf]) -> None:
        self._server.rebind(channels)

    def set_offline(self, error: int) -> None:
        self._server.set_offline(error)

    def progress(self) -> list[tuple[int, int]]:
        return self._server.progress()

    def check(self) -> None:
        self._server.check()

    def stop(self) -> None:
        self._wait_alone()
        self._server.kill()

    def _wait_alone(self) -> None:
        """A client that has just left is noticed by the server a moment later."""
        deadline = time.monotonic() + LEAVE_S
        while clients := self._server.clients():
            if time.monotonic() > deadline:
                what = f"{clients} NBD client(s) are connected"
                raise DatapathError(Code.BUSY, f"blkdev {self._target.name}", what, "disconnect them first")
            time.sleep(0.05)

    def abort(self) -> None:
        self._server.kill()
