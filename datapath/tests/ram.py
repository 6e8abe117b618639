# SPDX-License-Identifier: GPL-3.0-or-later
"""A memory in this process, for tests of formats: it can lose the rest of a write, as a crash does."""

from __future__ import annotations


class Crash(Exception):
    """The writer died in the middle of a write."""


class Ram:
    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.budget: int | None = None  # bytes that still reach the memory before the crash

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0 and offset + length <= self.size, "a reader left the memory"
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        assert offset >= 0 and offset + len(data) <= self.size, "a writer left the memory"
        if self.budget is not None and self.budget < len(data):
            self.data[offset : offset + self.budget] = data[: self.budget]
            self.budget = 0
            raise Crash
        if self.budget is not None:
            self.budget -= len(data)
        self.data[offset : offset + len(data)] = data
