# SPDX-License-Identifier: GPL-3.0-or-later
"""ublk devices that the kernel kept, and that this host does not know any more because its state was lost.

Nothing tells whose they were but their name. So a user decides: whoever starts a blkdev under that very name takes the device
back, and says with it that it is on the backend that it was on; or it is removed. It is in no transport, and is shown in each.
"""

from __future__ import annotations

import asyncio

from ..errors import Code, DatapathError
from ..forgotten import FORGOTTEN
from ..frontends.kept import kept_devices
from ..service import Datapath
from ..session import Session
from ..views import Row, session_view
from ..workers.remove import Shape, read_shape
from .in_use import device_names


async def forgotten_devices(datapath: Datapath) -> dict[str, int]:
    """Numbers of the kernel by stable names."""
    return await asyncio.to_thread(kept_devices, datapath.settings.dev, device_names(datapath))


async def forgotten_device(datapath: Datapath, given: int | str) -> int | None:
    """The number of the one with this name; None for what is none."""
    return (await forgotten_devices(datapath)).get(given) if isinstance(given, str) else None


def rows(session: Session, devices: dict[str, int]) -> list[Row]:
    return [_row(session, name, number) for name, number in sorted(devices.items())]


def status_row(session: Session, devices: dict[str, int]) -> Row:
    """The transport with everything in it, and these."""
    view = session_view(session)
    return view | {"blkdev_list": view["blkdev_list"] + rows(session, devices)}


def _row(session: Session, name: str, number: int) -> Row:
    shape = _shape(number)
    row: Row = {"id": None, "name": name, "host": session.settings.host_name, "local": True, "backend": None, "frontend": "ublk"}
    row |= {"device": str(session.settings.dev / name), "queues": shape and shape.queues, "capacity": shape and shape.capacity}
    return row | {"state": FORGOTTEN, "error": why_forgotten(session, name, number).to_json()}


def _shape(number: int) -> Shape | None:
    try:
        return read_shape(number)
    except DatapathError:
        return None


def why_forgotten(session: Session, name: str, number: int) -> DatapathError:
    """What it is, and what a user can do."""
    what = (
        f"was forgotten: the kernel keeps it as ublkb{number}, nobody serves it, and the state file of this host does not have it"
    )
    hint = f"{_take_back(session, name)}; or remove it: cxl-datapath cbd blkdev stop {session.name} {name}"
    return DatapathError(Code.NOT_READY, f"device {name}", what, hint)


def _take_back(session: Session, name: str) -> str:
    return (
        "if the backend that it was on is there, and nobody else has written to that since, take it back: "
        f"cxl-datapath cbd blkdev start {session.name} BACKEND --name {name}"
    )


async def refuse_chance(datapath: Datapath, session: Session, name: str, frontend: str) -> None:
    """Raises `exists` where a name that nobody chose is that of such a device: its users would find other data there."""
    if frontend in ("auto", "ublk") and (number := await forgotten_device(datapath, name)) is not None:
        why = why_forgotten(session, name, number)
        raise DatapathError(
            Code.EXISTS, f"name {name}", f"is that of a device that {why.message}", f"choose a name; or {why.hint}"
        )


async def remove(session: Session, name: str, number: int, state: str, force: bool = False) -> Row:
    """`state` is what is said of it then. Raises `busy` while it is used; with `force` its requests fail from then on, and it
    goes once nobody uses it."""
    view = _row(session, name, number)
    if force:
        await session.fail_device(name, number)
    else:
        remover = session.remover(name, number, patient=False)
        try:
            await remover.start()
        except DatapathError as error:
            if error.code != Code.BUSY:
                raise
            fail = f"let its requests fail: cxl-datapath cbd blkdev clear {session.name} {name} --force"
            hint = f"{error.hint}; who waits for it cannot: {_take_back(session, name)}; or {fail}"
            raise DatapathError(error.code, error.object, error.message, hint) from None
        finally:
            await remover.end(patience=5.0)
    return {key: value for key, value in view.items() if key != "error"} | {"state": state, "device": None}
