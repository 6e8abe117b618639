# SPDX-License-Identifier: GPL-3.0-or-later
"""Daemons on a machine without an init system: started detached, known by a pid file, ended by pid.

Only what was started here is ever stopped here: a daemon that somebody else runs has no pid file of ours.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence, Tuple, Union

from .errors import LabError, shown

RUN_FOLDER = Path("/run/cxl-lab")
#: A unix socket, or host and port.
Address = Union[Path, Tuple[str, int]]
_TCP = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]{0,252}):(\d{1,5})", re.ASCII)


def parse_address(text: str) -> Address:
    """An absolute path, or "host:port" with a name or an IPv4 address.

    :raises LabError: for anything else.
    """
    if text.startswith("/"):
        return Path(text)
    match = _TCP.fullmatch(text)
    if match is None or not 0 < int(match.group(2)) < 65536:
        raise LabError("socket", f"{shown(text)} is no address", "write the path of a unix socket, or host:port")
    return match.group(1), int(match.group(2))


@dataclass(frozen=True)
class Daemon:
    """A program that stays in the foreground.

    :param name: names the pid file and the log.
    :param socket: where it accepts connections once it is ready.
    :param reads_input: whether it ends when its standard input does; then it gets one that never ends.
    """

    name: str
    command: Sequence[str]
    socket: Address
    folder: Path = RUN_FOLDER
    reads_input: bool = False

    @property
    def pid_file(self) -> Path:
        return self.folder / f"{self.name}.pid"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def answers(self) -> bool:
        """Whether somebody accepts at the socket, ours or not."""
        family, address = (socket.AF_UNIX, str(self.socket)) if isinstance(self.socket, Path) else (socket.AF_INET, self.socket)
        with socket.socket(family) as probe:
            probe.settimeout(2)
            try:
                return probe.connect_ex(address) == 0
            except OSError as error:  # no such host
                raise LabError(f"daemon {self.name}", f"{address}: {error.strerror}", "correct the address") from error

    def own_pid(self) -> int:
        """The pid of the process that was started here, 0 when it is gone; a pid that was given to another program does not
        count."""
        try:
            pid, started = self.pid_file.read_text().split()
            return int(pid) if start_time(int(pid)) == started else 0
        except (OSError, ValueError):
            return 0

    def is_outdated(self) -> bool:
        """Whether the process that was started here runs another command than this one. The kernel puts the interpreter of a
        script in front; the command itself stays as it was given."""
        pid = self.own_pid()
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1] if pid else []
        except OSError:  # it ended meanwhile
            words = []
        return bool(words) and words[-len(self.command) :] != [os.fsencode(word) for word in self.command]

    def start(self, timeout: float = 30) -> None:
        """Starts it and waits until it answers.

        :raises LabError: with the end of its log.
        """
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            process = self._popen()
        except OSError as error:
            self.log.unlink()
            problem = f"cannot be run: {error.strerror}"
            raise LabError(f"daemon {self.name}", problem, "install the package that carries it", cmd=self.command) from error
        self.pid_file.write_text(f"{process.pid} {start_time(process.pid)}\n")
        end = time.monotonic() + timeout
        while not self.answers():
            if process.poll() is not None or time.monotonic() > end:
                text = self.log.read_text(errors="replace")[-2000:]
                self._end(20)
                raise LabError(f"daemon {self.name}", "did not come up", f"look at {self.log}", cmd=self.command, stderr=text)
            time.sleep(0.1)

    def _popen(self) -> subprocess.Popen[bytes]:
        # With both ends of a pipe in its hands the process can read for ever and never comes to an end.
        ends = os.pipe() if self.reads_input else (os.open(os.devnull, os.O_RDONLY),)
        try:
            with self.log.open("ab") as log:
                return subprocess.Popen(
                    list(self.command), stdin=ends[0], stdout=log, stderr=log, start_new_session=True, cwd="/", pass_fds=ends[1:]
                )
        finally:
            for end in ends:
                os.close(end)

    def stop(self, timeout: float = 20) -> bool:
        """Ends it, by force after ``timeout`` seconds, and removes its files; True when it was running."""
        ended = self._end(timeout)
        self.log.unlink(missing_ok=True)
        return ended

    def _end(self, timeout: float) -> bool:
        pid = self.own_pid()
        if pid:
            os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + timeout
            while self.own_pid() and time.monotonic() < end:
                time.sleep(0.1)
            if self.own_pid():
                os.kill(pid, signal.SIGKILL)
        self.pid_file.unlink(missing_ok=True)
        return bool(pid)


def start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot: with the pid it names a process for ever. A zombie has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
