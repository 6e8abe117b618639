#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_datapath_wheel
short_description: Build the wheel of the data path daemon
description:
  - Builds C(cxl-datapath) once per state of its sources and keeps the wheel in a cache. The wheel has no Python ABI and fits
    every Python 3 of this architecture whose C library is not older than this machine's.
  - Runs on the machine that runs the playbook.
options:
  source:
    description: Folder with the daemon's sources.
    type: path
    required: true
  cache_dir:
    description: Folder of the cache.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Tells whether it would build.
  diff_mode:
    support: none
    description: The result is one file.
requirements:
  - pip
  - cmake
  - a C compiler
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: Build the daemon
  cxl_datapath_wheel:
    source: datapath
    cache_dir: ~/.cache/cxl-lab
"""

RETURN = r"""
wheel:
  description: Path of the wheel, empty in check mode when it is not there yet.
  returned: success
  type: str
  sample: /home/user/.cache/cxl-lab/wheel-0123456789abcdef/cxl_datapath-0.1.0-py3-none-linux_x86_64.whl
release:
  description: Name of the release that the wheel makes on a host.
  returned: success
  type: str
  sample: 0.1.0-0123456789ab
"""

import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.release import Release
from ..module_utils.cxl_lab.wheel import build_wheel, digest, find_wheel
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    source, cache = Path(module.params["source"]), Path(module.params["cache_dir"])
    folder = cache / f"wheel-{digest(source)}"
    if module.check_mode:
        return _result(not folder.exists(), find_wheel(folder) if folder.exists() else None)
    wheel, changed = build_wheel(source, cache, sys.executable)
    return _result(changed, wheel)


def _result(changed: bool, wheel: Path | None) -> dict[str, Any]:
    return {"changed": changed, "wheel": str(wheel or ""), "release": Release(Path(), wheel).name if wheel else ""}


def main() -> None:
    run_module(
        work,
        argument_spec={"source": {"type": "path", "required": True}, "cache_dir": {"type": "path", "required": True}},
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
