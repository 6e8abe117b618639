# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the tests import the modules and their core under the names that they have at run time."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils
import ansible.modules

_ROOT = Path(__file__).resolve().parent.parent
ansible.modules.__path__.append(str(_ROOT / "library"))
ansible.module_utils.__path__.append(str(_ROOT / "module_utils"))
