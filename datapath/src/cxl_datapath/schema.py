# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters of methods: every field is declared, checked before anything happens, and unknown fields are errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import Code, DatapathError

Check = Callable[[str, Any], Any]  # (field, value) -> value; raises DatapathError

_REQUIRED = object()


@dataclass(frozen=True)
class Field:
    """One parameter. Without a default it must be given."""

    check: Check
    default: Any = _REQUIRED


def integer(low: int, high: int) -> Check:
    def check(field: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise DatapathError(Code.INVALID, field, f"{value!r:.60} is not a whole number", f"choose {low} to {high}")
        if not low <= value <= high:
            raise DatapathError(Code.INVALID, field, f"{value} is not possible", f"choose {low} to {high}")
        return value

    return check


def boolean(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise DatapathError(Code.INVALID, field, f"{value!r:.60} is not true or false")
    return value


def choice(values: Sequence[str]) -> Check:
    def check(field: str, value: Any) -> str:
        if value not in values:
            raise DatapathError(Code.INVALID, field, f"{value!r:.60} is unknown", f"choose one of {', '.join(values)}")
        return str(value)

    return check


def number_or(number: Check, name: Check) -> Check:
    """A whole number, or a name."""
    return lambda field, value: (name if isinstance(value, str) else number)(field, value)


def optional(inner: Check) -> Check:
    """Also accepts null."""
    return lambda field, value: None if value is None else inner(field, value)


def parse(method: str, fields: dict[str, Field], params: Any) -> dict[str, Any]:
    """All fields, checked, defaults filled in."""
    if not isinstance(params, dict):
        raise DatapathError(Code.INVALID, method, "params is not an object")
    if unknown := sorted(set(params) - set(fields)):
        known = ", ".join(fields) or "none"
        raise DatapathError(Code.INVALID, method, f"unknown parameter(s) {', '.join(unknown)[:200]}", f"it takes: {known}")
    if missing := sorted(name for name, field in fields.items() if field.default is _REQUIRED and name not in params):
        raise DatapathError(Code.INVALID, method, f"missing parameter(s) {', '.join(missing)}")
    return {name: field.check(name, params[name]) if name in params else field.default for name, field in fields.items()}
