# SPDX-License-Identifier: GPL-3.0-or-later
"""`cxl-datapathd`: one per host. Several "hosts" on one machine differ in runtime folder, state folder and host name."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from . import __version__, core
from .client import RUNTIME
from .cxlflash.server import LunServer
from .errors import Code, DatapathError, from_errno
from .names import check_name
from .peers import check_socket_path, group_id
from .server import ControlServer
from .service import Datapath
from .session import Settings
from .watch_files import until_removed

STATE = Path("/var/lib/cxl-datapath")
SECONDS_MAX = 86400

log = logging.getLogger("cxl_datapath")


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("cxl-datapathd", description="Serves block devices over shared CXL memory on this host.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--runtime", type=Path, default=RUNTIME, help="folder of the control socket (%(default)s)")
    parser.add_argument("--state", type=Path, default=STATE, help="folder of the desired state (%(default)s)")
    parser.add_argument("--host-name", default=socket.gethostname().split(".")[0], help="name in the transports (%(default)s)")
    parser.add_argument("--group", help="members of this group may use the control socket, too")
    parser.add_argument("--lun-group", help="members of this group may use user-space LUNs (lun.sock), too")
    help = "seconds that programs wait for a LUN whose medium is away (%(default)s)"
    parser.add_argument("--lun-patience", type=_seconds, default=Settings.lun_patience, metavar="S", help=help)
    parser.add_argument("--etcd", default="", help="URL of an etcd whose lock is taken beside the transport's own claim")
    return parser.parse_args(argv)


@contextlib.contextmanager
def single_instance(folder: Path) -> Iterator[None]:
    """Holds a folder for this process; raises `busy` when another daemon has it."""
    path = folder / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise from_errno(error.errno or 0, str(path), "open it") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "give each its own --runtime and --state"
            raise DatapathError(Code.BUSY, str(folder), "another cxl-datapathd runs there", hint) from None
        yield
    finally:
        os.close(fd)


def notify(message: str) -> None:
    """Tells systemd, if it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as target:
        target.connect("\0" + address[1:] if address[0] == "@" else address)
        target.sendall(message.encode())


async def serve(options: argparse.Namespace, settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises `failed` when its sockets or its lock were removed under it."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    datapath = Datapath(settings)
    server = ControlServer(datapath, settings.runtime / "control.sock", group_id(options.group))
    lun_server = LunServer(datapath.luns, settings.runtime / "lun.sock", group_id(options.lun_group))
    datapath.start()
    try:
        lun_server.start()
        await server.start()
        notify("READY=1")
        log.info("host %s serves %s, version %s", settings.host_name, settings.runtime / "control.sock", __version__)
        files = [settings.runtime / name for name in ("lock", "control.sock", "lun.sock")]
        lost = await _first(ended.wait(), until_removed(files))
        notify("STOPPING=1")
        if lost is not None:
            log.error("%s", lost)  # at once: to end takes a while
            raise lost
        log.info("stopping")
    finally:
        await server.stop()
        await lun_server.stop()
        await datapath.stop()


async def _first(ended: Coroutine[Any, Any, bool], lost: Coroutine[Any, Any, DatapathError]) -> DatapathError | None:
    """What `lost` says, unless the end comes first."""
    tasks = asyncio.ensure_future(ended), asyncio.ensure_future(lost)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[1].result() if not tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()


def main() -> int:
    options = arguments(sys.argv[1:])
    faulthandler.enable()  # mapped memory can vanish between two looks: then at least its signal is told
    # The journal has its own clock.
    clock = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"{clock}%(levelname)s %(message)s")
    try:
        settings = _settings(options)
        check_socket_path(settings.runtime / "control.sock")
        for folder in (settings.runtime, settings.state):
            _make_folder(folder)
        core.library()
        with single_instance(settings.runtime), single_instance(settings.state):
            asyncio.run(serve(options, settings))
    except DatapathError as error:
        print(f"cxl-datapathd: {error}", file=sys.stderr)
        return 1
    return 0


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most {SECONDS_MAX}")
    return value


def _settings(options: argparse.Namespace) -> Settings:
    name = check_name("--host-name", options.host_name)
    folders = (options.runtime.absolute(), options.state.absolute())
    return Settings(*folders, name, lun_patience=options.lun_patience, etcd=options.etcd)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise from_errno(error.errno or 0, str(folder), "make the folder") from None


if __name__ == "__main__":
    sys.exit(main())
