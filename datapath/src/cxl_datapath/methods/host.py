# SPDX-License-Identifier: GPL-3.0-or-later
"""`cbd.host.*`: list, clear."""

from __future__ import annotations

from .. import holdings
from ..cbd.geometry import ENTRIES_MAX
from ..errors import Code, DatapathError
from ..names import check_name
from ..schema import Field, boolean, integer, number_or
from ..service import Datapath
from ..session import Opened
from ..views import Row, hosts_view
from .base import TRANSPORT, Method, Params
from .dead import bury, need_dead, need_fenced, refuse_own
from .entries import numbered


async def list_hosts(datapath: Datapath, params: Params) -> list[Row]:
    return hosts_view(datapath.session(params["transport"]))


async def clear_host(datapath: Datapath, params: Params) -> Row:
    """Fences a dead host and gives all of it back. Raises `busy` while it lives, and while its backends have live users."""
    session = datapath.session(params["transport"])
    host_id = numbered(session, "host", hosts_view(session), params["id"])
    what = f"host {host_id}"
    session.need().registry.hosts.page(host_id)  # raises `range`
    refuse_own(session.need(), host_id, what, f"run: cxl-datapath cbd transport unregister {session.name}")
    row = next((row for row in hosts_view(session) if row["id"] == host_id), None)
    if row is None:
        hint = "see: cxl-datapath cbd host list"
        raise DatapathError(Code.NOT_FOUND, what, f"is not registered in transport {session.name}", hint)
    dead = await need_dead(session, host_id, what)
    if not params["force"]:
        _refuse_used(session.need(), host_id, what)
    async with session.claim() as opened:
        await bury(opened, dead)
        epoch = opened.registry.incarnation(host_id)  # it may have come back before this one had the claim
        need_fenced(opened, host_id, epoch or 0, what, dead)
        holdings.clear_dead_host(opened, host_id)
    return row | {"state": "cleared", "alive": False, "fenced": True}


def _refuse_used(opened: Opened, host_id: int, what: str) -> None:
    for backend in opened.registry.backends.used().values():
        if backend.host_id == host_id and (users := holdings.live_users(opened, backend.id)):
            hint = "take it over (cxl-datapath cbd backend recover), or use force: its users get I/O errors then"
            raise DatapathError(Code.BUSY, what, f"its backend {backend.id} is used by {', '.join(users)}", hint)


METHODS = {
    "cbd.host.list": Method(list_hosts, {"transport": TRANSPORT}),
    "cbd.host.clear": Method(
        clear_host,
        {"transport": TRANSPORT, "id": Field(number_or(integer(0, ENTRIES_MAX - 1), check_name)), "force": Field(boolean, False)},
        mutates=True,
    ),
}
