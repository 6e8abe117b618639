# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception of the data path, and how it travels as JSON."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """What kind of failure it is, for programs; the message is for people."""

    INVALID = "invalid"  # the request itself is wrong
    NOT_FOUND = "not_found"
    EXISTS = "exists"  # taken, or done already with other settings
    BUSY = "busy"  # somebody uses it
    DENIED = "denied"
    UNSUPPORTED = "unsupported"  # version, feature, kernel or tool that is not there
    CORRUPT = "corrupt"  # bytes that cannot be what they should be
    FULL = "full"  # no free entry, channel or byte
    RANGE = "range"  # a number outside what the object has
    TIMEOUT = "timeout"
    NOT_READY = "not_ready"  # wanted, but not there yet; the daemon keeps trying
    FAILED = "failed"  # everything else: an operation that the system refused


class DatapathError(Exception):
    """A failure that names its object and the next step.

    `object` is what it is about ("transport pool0", "/dev/dax0.0"), `message` what is wrong with it, `hint` what to do next
    (may be empty).
    """

    def __init__(self, code: Code, object: str, message: str, hint: str = "") -> None:
        self.code = code
        self.object = object
        self.message = message
        self.hint = hint
        super().__init__(f"{object}: {message}" + (f"; {hint}" if hint else ""))

    def to_json(self) -> dict[str, str]:
        return {"code": str(self.code), "message": self.message, "object": self.object, "hint": self.hint}

    @classmethod
    def from_json(cls, raw: Any) -> DatapathError:
        """Never raises: what cannot be read becomes a `failed` error that shows it."""
        if not isinstance(raw, dict):
            return cls(Code.FAILED, "peer", f"unreadable error {raw!r:.200}")
        text = {key: str(raw.get(key, "")) for key in ("code", "object", "message", "hint")}
        code = Code(text["code"]) if text["code"] in {str(c) for c in Code} else Code.FAILED
        return cls(code, text["object"] or "peer", text["message"] or "failed without a message", text["hint"])


def about(label: str, text: object) -> str:
    """A line of the log: what it is about, and the text. Where the text begins with its object, that is not said twice."""
    object, colon, rest = str(text).partition(": ")
    return f"{label}: {rest if colon and f' {label}'.endswith(f' {object}') else text}"


def printable(text: str) -> str:
    """Names and messages can come from another host: no control characters reach the terminal or the log."""
    return "".join(character if character.isprintable() else "?" for character in text)


_ERRNO_CODES = {
    "ENOENT": Code.NOT_FOUND,
    "ENODEV": Code.NOT_FOUND,
    "ENXIO": Code.NOT_FOUND,
    "EACCES": Code.DENIED,
    "EPERM": Code.DENIED,
    "EBUSY": Code.BUSY,
    "ETXTBSY": Code.BUSY,
    "EEXIST": Code.EXISTS,
    "EINVAL": Code.INVALID,
    "ERANGE": Code.RANGE,
    "ENOSPC": Code.FULL,
    "EUCLEAN": Code.CORRUPT,
    "EOPNOTSUPP": Code.UNSUPPORTED,
    "ENOSYS": Code.UNSUPPORTED,
}


def from_errno(number: int, object: str, doing: str, hint: str = "") -> DatapathError:
    """The error of a system call: `number` is a positive errno, `doing` what was tried ("open", "map 4096 bytes")."""
    from errno import errorcode

    code = _ERRNO_CODES.get(errorcode.get(number, ""), Code.FAILED)
    return DatapathError(code, object, f"cannot {doing}: {os.strerror(number)}", hint)
