# SPDX-License-Identifier: GPL-3.0-or-later
"""A file from a path or an address, taken only when it is the one that the user meant."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, Iterator
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from .errors import LabError, shown
from .progress import progress

#: Debian publishes SHA512SUMS, others SHA256SUMS; hexadecimal digits of each.
_DIGITS = {"sha256": 64, "sha512": 128}
_CHUNK = 1 << 20
#: Seconds without a single byte after which a server is given up.
_SILENCE = 60.0
_FORM = 'write "sha256:" or "sha512:" and its hexadecimal digits'


@dataclass(frozen=True)
class Checksum:
    """What a file has to have; ``digits`` are lower case."""

    algorithm: str
    digits: str

    @classmethod
    def parse(cls, text: str, subject: str) -> Checksum:
        """
        :param text: "sha256:<64 hexadecimal digits>" or "sha512:<128 of them>".
        :raises LabError: for anything else.
        """
        algorithm, _, digits = text.strip().lower().partition(":")
        if len(digits) != _DIGITS.get(algorithm) or not re.fullmatch("[0-9a-f]+", digits):
            raise LabError(subject, f"{shown(text)} is no checksum", _FORM)
        return cls(algorithm, digits)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.digits}"


@dataclass(frozen=True)
class Source:
    """Where a file comes from: an absolute path, or an address (``file:``, ``http:``, ``https:``).

    :param subject: how messages call it, the option that the user wrote.
    :param checksum: needed for what comes over a network, where it is all that tells one file from another.
    """

    subject: str
    where: str
    checksum: Checksum | None = None

    @property
    def path(self) -> Path | None:
        """Of a file of this machine; None for what comes over a network."""
        if self.where.startswith("/"):
            return Path(self.where)
        parts = urlsplit(self.where)
        return Path(unquote(parts.path)) if parts.scheme == "file" and parts.netloc in ("", "localhost") else None

    def check(self) -> None:
        """
        :raises LabError: for what is neither a path nor an address, and for an address without a checksum.
        """
        parts = urlsplit(self.where)
        if self.path is None and not (parts.scheme in ("http", "https") and parts.hostname):
            step = "write an absolute path, or an address that begins with file:///, http:// or https://"
            raise LabError(self.subject, f"{shown(self.where)} is neither a path nor an address", step)
        if self.path is None and not self.checksum:
            raise LabError(self.subject, f"{self.where} comes over a network and has no checksum", _FORM)

    def identity(self) -> str:
        """The checksum, which the content of a path is read for where the user gave none.

        :raises LabError: for a path that cannot be read.
        """
        if self.checksum:
            return str(self.checksum)
        hashed = hashlib.sha256()
        for chunk in self._chunks():
            hashed.update(chunk)
        return f"sha256:{hashed.hexdigest()}"

    def fetch(self, target: Path) -> None:
        """Writes the file to ``target``, which is gone again when anything went wrong.

        :raises LabError: when it cannot be had, and when its checksum is another one.
        """
        hashed = hashlib.new(self.checksum.algorithm if self.checksum else "sha256")
        try:
            with target.open("wb") as file:
                for chunk in self._chunks():
                    hashed.update(chunk)
                    file.write(chunk)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise LabError(self.subject, f"{target} cannot be written: {error.strerror}", "check its free space") from error
        except LabError:
            target.unlink(missing_ok=True)
            raise
        if self.checksum and hashed.hexdigest() != self.checksum.digits:
            target.unlink()
            have = f"{self.checksum.algorithm}:{hashed.hexdigest()}"
            problem = f"{self.where} has another checksum than it should: {have}, not {self.checksum}"
            raise LabError(self.subject, problem, "get the file anew, or correct the checksum if you trust what is there")

    def _chunks(self) -> Iterator[bytes]:
        """The content, as it comes in."""
        done, shown_at = 0, time.monotonic()
        try:
            with self._open() as stream:
                while chunk := stream.read(_CHUNK):
                    yield chunk
                    done += len(chunk)
                    if time.monotonic() - shown_at > 1:
                        shown_at = time.monotonic()
                        progress(f"{self.where}: {done >> 20} MiB")
        # HTTPException: what answers is no web server, or leaves in the middle of a sentence.
        except (OSError, HTTPException) as error:
            step = "correct the path" if self.path else "check the address and the network, then run again"
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise LabError(self.subject, f"{self.where} cannot be read: {reason}", step) from error

    def _open(self) -> BinaryIO:
        if self.path:
            return self.path.open("rb")
        opened: BinaryIO = urlopen(self.where, timeout=_SILENCE)
        return opened
