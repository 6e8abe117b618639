# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the tests import the modules and their core under the names that they have at run time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import ansible.module_utils
import ansible.modules
import pytest
from hypothesis import settings

_ROOT = Path(__file__).resolve().parent.parent
ansible.modules.__path__.append(str(_ROOT / "library"))
ansible.module_utils.__path__.append(str(_ROOT / "module_utils"))

# How long an example takes says nothing on a machine that runs labs beside the tests. A change is judged by the same examples
# each time; on a developer's machine every run looks for new ones.
examples = int(os.environ.get("FUZZ_EXAMPLES", "100"))  # scripts/fuzz.py wants more
settings.register_profile("lab", deadline=None, derandomize="CI" in os.environ, max_examples=examples)
settings.load_profile("lab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first, so that in the end no worker is alone with one."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session", autouse=True)
def progress_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tested code says what it is doing, so that a playbook that runs meanwhile does not show it."""
    from ansible.module_utils.cxl_lab import progress

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("run") / "cxl-lab" / "progress.d"
        patch.setattr(progress, "PROGRESS_FOLDER", folder)
        yield folder
