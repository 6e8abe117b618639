#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_service
short_description: A daemon on a machine without an init system
description:
  - Keeps a daemon running where no systemd does it, for example in a container or a build machine.
  - A daemon that already answers at its socket is left alone, whoever started it. Only one that this module started is ever
    stopped by it; it is started anew when it runs and does not answer, or when it runs another command than O(command).
options:
  name:
    description: Names the pid file and the log below O(run_dir).
    type: str
    required: true
  command:
    description: Program and arguments that keep it in the foreground.
    type: list
    elements: str
    required: true
  socket:
    description: Where the daemon accepts connections once it is ready, the path of a unix socket or C(host:port).
    type: str
    required: true
  user:
    description:
      - Who needs it, for a daemon that several share, for example a lab. It is remembered below O(run_dir).
      - With O(state=stopped) only this user goes; the daemon is stopped when nobody else is left who asked for it.
    type: str
    default: ""
  run_dir:
    description: Folder of the pid file and the log. Made when it is missing.
    type: path
    default: /run/cxl-lab
  state:
    description: Whether it runs; V(restarted) starts one of ours anew.
    type: str
    choices: [started, stopped, restarted]
    default: started
attributes:
  check_mode:
    support: full
    description: Says what it would do.
  diff_mode:
    support: none
    description: There is nothing to show beyond running or not.
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: libvirtd without systemd
  cxl_service:
    name: libvirtd
    command: [/usr/sbin/libvirtd]
    socket: /run/libvirt/libvirt-sock

- name: The lab alpha does not need it any more
  cxl_service:
    name: libvirtd
    command: [/usr/sbin/libvirtd]
    socket: /run/libvirt/libvirt-sock
    user: alpha
    state: stopped

- name: A disk over NBD, at one address of this host
  cxl_service:
    name: disk0
    command: [nbdkit, --foreground, --ipaddr, 10.77.0.11, --port, "10809", file, /dev/sdb]
    socket: 10.77.0.11:10809
"""

RETURN = r"""
service:
  description: The daemon afterwards.
  returned: success
  type: dict
  contains:
    users:
      description: Who asked for it and did not say yet that it may go.
  sample: {name: libvirtd, running: true, pid: 4711, users: [alpha]}
"""

import contextlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.detached import RUN_FOLDER, Daemon, parse_address
from ..module_utils.cxl_lab.locking import folder_held
from ..module_utils.cxl_lab.names import check_name
from ..module_utils.cxl_lab.service_users import Users
from ..module_utils.lab_module import run_module


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    name, address = check_name(params["name"], "name"), parse_address(params["socket"])
    user = check_name(params["user"], "user") if params["user"] else ""
    daemon = Daemon(name, params["command"], address, Path(params["run_dir"]))
    # A lab that starts and one that goes must not meet between the look at the users and what follows from it. Without the folder
    # there is nobody to go.
    shared = user and not module.check_mode and (params["state"] != "stopped" or daemon.folder.exists())
    with folder_held(daemon.folder) if shared else contextlib.nullcontext():
        changed = settle(daemon, params["state"], Users.of(daemon), user, module.check_mode)
        found = {"running": daemon.answers(), "pid": daemon.own_pid(), "users": Users.of(daemon).others("")}
        return {"changed": changed, "service": {"name": daemon.name, **found}}


def settle(daemon: Daemon, state: str, users: Users, user: str, check: bool) -> bool:
    """Brings the daemon and the mark of its user to their state; True when something changed or would."""
    running = daemon.answers()
    needed = state != "stopped" or (user and users.others(user))
    # One of ours that does not answer, or is not what is wanted any more, makes way for a new one.
    outdated = state == "restarted" or (state == "started" and (not running or daemon.is_outdated()))
    stop = daemon.own_pid() != 0 and (not needed or outdated)
    start = state != "stopped" and (stop or not running)
    marked = bool(user) and users.has(user) != (state != "stopped")
    if not check:
        if marked:
            (users.drop if state == "stopped" else users.add)(user)
        if stop:
            daemon.stop()
        if start:
            daemon.start()
    return bool(stop or start or marked)


def main() -> None:
    run_module(
        work,
        argument_spec={
            "name": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "socket": {"type": "str", "required": True},
            "user": {"type": "str", "default": ""},
            "run_dir": {"type": "path", "default": str(RUN_FOLDER)},
            "state": {"type": "str", "choices": ["started", "stopped", "restarted"], "default": "started"},
        },
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
