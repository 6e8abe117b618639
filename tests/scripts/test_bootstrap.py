# SPDX-License-Identifier: GPL-3.0-or-later
"""What scripts/bootstrap says to a user without rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import ROOT

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def checkout() -> Iterator[Path]:
    """What bootstrap needs of a checkout, and a sudo that refuses; not in pytest's folder, which is root's alone."""
    with tempfile.TemporaryDirectory(prefix="cxlt-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "bin").mkdir()
        (folder / "bin/sudo").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (folder / "bin/sudo").chmod(0o755)
        shutil.copytree(ROOT / "scripts", folder / "scripts")
        shutil.copytree(ROOT / "inventories", folder / "inventories")
        (folder / "requirements.txt").write_text("no-such-package==0\n", encoding="utf-8")
        (folder / "requirements-dev.txt").touch()
        (folder / "home").mkdir()
        os.chown(folder / "home", NOBODY, NOBODY)
        yield folder


@needs_root
@pytest.mark.parametrize("inventory", ["inventories/local", "inventories/two_node"])
def test_who_cannot_be_root_is_told_before_anything_is_made(checkout, inventory):
    environment = {"PATH": f"{checkout}/bin:/usr/bin:/bin", "HOME": str(checkout / "home")}
    command = [str(checkout / "scripts/bootstrap"), "lab", inventory]
    ids = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60, **ids
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"bootstrap: the lab of {inventory} is made on this machine, which takes root's rights; "
        "run as root, or as a user who may use sudo\n"
    )
    assert list((checkout / "home").iterdir()) == []
