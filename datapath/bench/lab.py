from __future__ import annotations

from pathlib import Path
from typing import Any


def measure(inventory: str, runs: int, seconds: float, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    raise NotImplementedError
