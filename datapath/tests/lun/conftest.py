# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon for the tests of a module, with two LUNs, and applications that leave nothing behind."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator

import pytest
from hosts import Host, wait_until
from lun_app import MIB, App, lun_row, make_lun, wait_unused

from cxl_datapath import cblk
from cxl_datapath.cblk import cblk_close, cblk_open, cblk_set_size


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> None:
    """512 contexts of one process have more than a login shell may have open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(scope="module")
def host(node: Host) -> Host:
    make_lun(node)
    make_lun(node, "flash1", 8 * MIB)
    return node


@pytest.fixture
def app(host: Host) -> Iterator[App]:
    wait_until(lambda: lun_row(host)["state"] == "running", "the LUN runs")
    made = App(host)
    yield made
    made.close()
    wait_unused(host)
    wait_unused(host, "flash1")
    assert lun_row(host)["free"] == 64 * MIB, "nothing is lost"


@pytest.fixture
def other(host: Host, app: App) -> Iterator[App]:
    """Another connection of this process."""
    made = App(host)
    yield made
    made.close()


@pytest.fixture
def open_chunk(host: Host) -> Iterator[Callable[..., int]]:
    """Opens chunks; those that a test leaves open are closed, and then nothing may be left."""
    made: list[int] = []

    def opened(blocks: int | None = None, requests: int = 0, mode: int = os.O_RDWR) -> int:
        flags = 0 if blocks is None else cblk.OPN_VIRT_LUN
        made.append(cblk_open(f"{host.runtime}/lun.sock/flash0", requests, mode, flags))
        if blocks:
            cblk_set_size(made[-1], blocks)
        return made[-1]

    yield opened
    for chunk in made:
        try:
            cblk_close(chunk)
        except OSError as error:
            assert error.errno == errno.EINVAL, error
    wait_unused(host)
    assert lun_row(host)["free"] == 64 * MIB
