# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that is refused: the errno is for programs, the text for people."""

from __future__ import annotations

import errno

from ..errors import Code, DatapathError

_ERRNO = {
    Code.INVALID: errno.EINVAL,
    Code.RANGE: errno.EINVAL,
    Code.NOT_FOUND: errno.ENODEV,
    Code.BUSY: errno.EBUSY,
    Code.DENIED: errno.EPERM,
    Code.FULL: errno.ENOSPC,
    Code.UNSUPPORTED: errno.EOPNOTSUPP,
}


class Refusal(Exception):
    def __init__(self, number: int, text: str) -> None:
        self.errno = number
        super().__init__(text)


class Gone(Refusal):
    """The data path has ended before it answered: with another one it may go."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EIO, text)


def invalid(text: str) -> Refusal:
    return Refusal(errno.EINVAL, text)


def refusal_of(error: DatapathError) -> Refusal:
    return Refusal(_ERRNO.get(error.code, errno.EIO), str(error))
