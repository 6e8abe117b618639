# SPDX-License-Identifier: GPL-3.0-or-later
"""What a method is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ..names import check_name
from ..schema import Field
from ..service import Datapath

Params = dict[str, Any]


def named_transport(_: Datapath, params: Params) -> str | None:
    return params.get("transport")


@dataclass(frozen=True)
class Method:
    """`run` gets checked parameters. Mutating methods run one at a time `within` a transport, and so do those within none."""

    run: Callable[[Datapath, Params], Awaitable[Any]]
    fields: dict[str, Field] = field(default_factory=dict)
    mutates: bool = False
    within: Callable[[Datapath, Params], str | None] = named_transport


@dataclass(frozen=True)
class Handed:
    """An answer with an open file for the caller; the server closes its own end."""

    answer: Any
    fd: int


TRANSPORT = Field(check_name)
