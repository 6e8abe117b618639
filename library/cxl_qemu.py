#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_qemu
short_description: A QEMU that can run a CXL lab
description:
  - Chooses between the distribution's QEMU and one of Debian 13 backports that runs out of a folder beside the system.
  - QEMU 11.1 and later map a committed CXL region directly. Older ones emulate every access, at about a hundredth of the speed.
  - The folder is built once for all labs; nothing of the system is replaced.
options:
  source:
    description: V(auto) takes the distribution's QEMU if it is 11.1 or later, else V(trixie).
    type: str
    choices: [auto, distro, trixie]
    default: auto
  mirror:
    description: Debian archive.
    type: str
    default: http://deb.debian.org/debian
  cache_dir:
    description: Folder of the caches; QEMU's user must be able to read it.
    type: path
    default: /var/cache/cxl-lab
attributes:
  check_mode:
    support: full
    description: Tells the choice and builds nothing.
  diff_mode:
    support: none
    description: The result is one path.
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: The newest QEMU that runs here
  cxl_qemu:
    source: auto
  register: cxl_qemu
"""

RETURN = r"""
qemu:
  description: The emulator.
  returned: success
  type: dict
  sample: {path: /var/cache/cxl-lab/qemu-0123456789abcdef/bin/qemu-system-x86_64, source: trixie, version: "11.1",
           reason: "the distribution's QEMU (10.0) is older than 11.1"}
"""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.errors import LabError
from ..module_utils.cxl_lab.qemu import DISTRO_QEMU, Choice, choose, make_qemu, qemu_recipe, qemu_version
from ..module_utils.cxl_lab.runner import HostRunner, Runner
from ..module_utils.lab_module import run_module


def candidate_version(runner: Runner) -> tuple[int, int] | None:
    """What apt would install as QEMU."""
    match = re.search(r"Candidate: (?:\d+:)?(\d+)\.(\d+)", runner.run(["apt-cache", "policy", "qemu-system-x86"]).stdout)
    return (int(match.group(1)), int(match.group(2))) if match else None


def work(module: AnsibleModule) -> dict[str, Any]:
    runner = HostRunner()
    cache = Path(module.params["cache_dir"])
    recipe = qemu_recipe(module.params["mirror"])
    choice: Choice = choose(
        module.params["source"], qemu_version(runner, DISTRO_QEMU), candidate_version(runner), recipe.folder(cache)
    )
    changed = choice.source == "trixie" and not Path(choice.path).exists()
    if changed and not module.check_mode:
        make_qemu(recipe, cache)
    version = qemu_version(runner, choice.path)
    if version is None and choice.source == "trixie" and not module.check_mode:
        raise LabError(f"QEMU at {choice.path}", "does not run", f"remove {recipe.folder(cache)} and run again")
    shown = ".".join(map(str, version)) if version else ""
    return {"changed": changed, "qemu": {**asdict(choice), "version": shown}}


def main() -> None:
    run_module(
        work,
        argument_spec={
            "source": {"type": "str", "choices": ["auto", "distro", "trixie"], "default": "auto"},
            "mirror": {"type": "str", "default": "http://deb.debian.org/debian"},
            "cache_dir": {"type": "path", "default": "/var/cache/cxl-lab"},
        },
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
