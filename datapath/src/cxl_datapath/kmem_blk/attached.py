# SPDX-License-Identifier: GPL-3.0-or-later
"""A volume of a pool as its user's process has it: private channels, which are attached again when the pool was restarted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from ..core import ChannelConf
from ..errors import DatapathError
from .client import PoolClient
from .wire import Channels, pool_socket


class AttachedVolume:
    """`file` holds the channels; it is made anew. `alone`: nobody else has the volume. Raises what the pool says."""

    def __init__(self, runtime: Path, pool: str, volume: str, queues: int, file: Path, *, alone: bool = False) -> None:
        self._socket = pool_socket(runtime, pool)
        self._volume, self._alone = volume, alone
        self._channels = Channels(queues, 1)
        self._client: PoolClient | None = None
        self.file = file
        file.unlink(missing_ok=True)
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, self._channels.size)
        self.mapping = self._channels.map(str(file))
        self.capacity, self.block_size = self._attach()

    def _attach(self) -> tuple[int, int]:
        self._client = PoolClient(self._socket)
        try:
            return self._client.attach(self._volume, self._channels, self._fd, self._alone)
        except BaseException:
            self._disconnect()
            raise

    def confs(self) -> list[ChannelConf]:
        """Our ends of the channels, as they are attached now."""
        return self._channels.confs()

    def events(self) -> list[dict[str, Any]] | None:
        """What the pool said meanwhile; None when it is gone."""
        try:
            return self._client.recalls() if self._client else None
        except (DatapathError, OSError):
            self._disconnect()
            return None

    def call(self, op: str, **params: Any) -> Any:
        assert self._client is not None
        return self._client.call(op, **params)

    def attach_again(self) -> list[ChannelConf]:
        """In another epoch, so that nothing of the last one counts. Raises while the pool is away."""
        self._channels = Channels(self._channels.queues, self._channels.epoch + 1)
        self._attach()
        return self.confs()

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        self._disconnect()
        with contextlib.suppress(OSError):
            self.file.unlink()
        os.close(self._fd)
