# SPDX-License-Identifier: GPL-3.0-or-later
"""What a name or a path may look like before it reaches shared memory, a command line or a file system."""

from __future__ import annotations

import re

from .errors import Code, DatapathError

NAME_MAX = 63  # bytes; one less than the field in the format, so that a NUL always follows
PATH_MAX = 255
POOL_PREFIX = "kmem_blk:"  # of a backend's path that names a pool of this host
_NAME = re.compile(r"(?![0-9]+\Z)[A-Za-z0-9][A-Za-z0-9._-]*")  # digits alone are an id


def check_name(kind: str, value: object) -> str:
    """`value` when it is a name: letters, digits, dot, dash and underscore, first a letter or digit, not digits alone, at most
    63 bytes."""
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > NAME_MAX:
        raise DatapathError(
            Code.INVALID,
            kind,
            f"{value!r:.100} is not a name",
            f"use letters, digits, '.', '-' and '_', first a letter or digit, not digits alone, at most {NAME_MAX}",
        )
    return value


def check_blkdev_name(kind: str, value: object) -> str:
    """A name for a blkdev: its socket must not be one of the daemon's own."""
    name = check_name(kind, value)
    if name in ("control", "lun"):
        raise DatapathError(Code.INVALID, kind, f"{name!r} is reserved", "choose another name")
    return name


def check_path(kind: str, value: object) -> str:
    """An absolute path of printable characters and at most 255 bytes, without empty parts and ".", so that one file has one path.

    ".." stays: behind a link it leads elsewhere than the text says.
    """
    if not isinstance(value, str) or not value.startswith("/") or not value.isprintable():
        raise DatapathError(Code.INVALID, kind, f"{value!r:.100} is not an absolute path of printable characters")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise DatapathError(Code.INVALID, kind, f"{value!r:.100} is not valid Unicode") from None
    if length > PATH_MAX:
        raise DatapathError(
            Code.INVALID, kind, f"the path has {length} bytes, {PATH_MAX} are possible", "use a shorter path or a link"
        )
    return "/" + "/".join(part for part in value.split("/") if part not in ("", "."))


def pool_of(path: str) -> str | None:
    """The pool in "kmem_blk:<pool>"; None when it is another path. Raises `invalid`."""
    return check_name("pool", path.removeprefix(POOL_PREFIX)) if path.startswith(POOL_PREFIX) else None


def check_backend_path(kind: str, value: object) -> str:
    """An absolute path, or "kmem_blk:<pool>"."""
    return value if isinstance(value, str) and pool_of(value) else check_path(kind, value)
