# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scenarios on real virtual machines share: a lab of its own name, its playbooks, and commands on its hosts."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Of the data path on a host.
PYTHON = "/opt/cxl-datapath/current/bin/python"
#: What the tests of the data path are written with, as far as they run on hosts; all of it is Python.
_TOOLS = ("_pytest", "pytest", "py", "pluggy", "iniconfig", "packaging", "pygments")
_SUITE = "/opt/suite"
_SSH_OPTIONS = ["-o", "ConnectTimeout=5", "-o", "ServerAliveInterval=2"]


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}", "PY_COLORS": "0", "ANSIBLE_NOCOLOR": "1"}


def run(command: list[str]) -> tuple[int, str]:
    """Runs a command in the checkout and shows its output as it comes; returns the exit code and the output."""
    print(f"\n$ {' '.join(command)}", flush=True)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    return process.wait(), "".join(lines)


def tool(*command: object, **options: str | Path) -> str:
    """Runs a program of this machine to its end; returns its output. ``options`` as for `subprocess.run`."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def wait_until(condition: Callable[[], object], what: str, patience_s: float = 180) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(1)


def changed(output: str) -> int:
    """How many changes the recap counts, over all hosts."""
    counts = re.findall(r"changed=(\d+)", output)
    assert counts, "there is no recap"
    return sum(map(int, counts))


@dataclass(frozen=True)
class VmLab:
    """A lab of an inventory under another name, so that a user's own lab is not touched."""

    name: str
    variables: tuple[str, ...] = ()  # options of ansible-playbook that every run gets
    inventory: str = "two_node"

    @property
    def folder(self) -> Path:
        return Path("/var/lib/cxl-lab") / self.name

    def options(self) -> list[str]:
        return ["-i", str(ROOT / "inventories" / self.inventory), "-e", f"cxl_topology_lab={self.name}", *self.variables]

    def playbook(self, name: str, *options: str) -> tuple[int, str]:
        return run(["ansible-playbook", *self.options(), *options, name])

    def comes_up(self, *phases: str) -> None:
        """Runs these playbooks, and once more all but the first, which must change nothing then."""
        for phase in phases:
            assert self.playbook(f"playbooks/{phase}.yml")[0] == 0
        for phase in phases[1:]:
            code, output = self.playbook(f"playbooks/{phase}.yml")
            assert (code, changed(output)) == (0, 0)

    def module(self, host: str, name: str, /, **options: object) -> dict:
        """Runs a module on a host of the inventory as root; returns its result, also of a failure."""
        command = ["ansible", *self.options(), host, "-b", "-m", name, "-a", json.dumps(options)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**environment(), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_CALLBACKS_ENABLED": "lab_progress"},
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"\n{host}: {name} {json.dumps(options)}\n{done.stdout}", flush=True)
        _, arrow, rest = done.stdout.partition(" => {")
        assert arrow, done.stdout + done.stderr
        result, _ = json.JSONDecoder().raw_decode("{" + rest)
        return {"failed": done.returncode != 0, **result}

    def _ssh(self, host: str, *command: str) -> list[str]:
        return ["ssh", "-F", str(self.folder / "ssh_config"), host, *command]

    def on(self, host: str, *command: str) -> str:
        """Runs a command on a host of the lab; returns its output."""
        done = subprocess.run(self._ssh(host, *command), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{host}: {' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def copy(self, host: str, folder: str, *sources: Path) -> None:
        """Copies files and folders into a folder of a host."""
        self.on(host, "mkdir", "-p", folder)
        scp = ["scp", "-q", "-r", "-F", str(self.folder / "ssh_config"), *map(str, sources), f"{host}:{folder}/"]
        done = subprocess.run(scp, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def suite(self, host: str, tests: str, *variables: str) -> None:
        """Runs a file or folder of datapath/tests on a host, with daemons of its own and the data path's Python and core."""
        self.copy(host, _SUITE, ROOT / "datapath/src", ROOT / "datapath/tests")
        self.copy(host, f"{_SUITE}/tools", *map(_source, _TOOLS))
        library = self.on(host, "find", "-L", "/opt/cxl-datapath/current/", "-name", "libcxl_core.so").split()[0]
        told = (f"CXL_CORE_LIBRARY={library}", f"PYTHONPATH={_SUITE}/tools", "PYTHONDONTWRITEBYTECODE=1", *variables)
        run = ("pytest", "-q", "-rs", "-p", "no:cacheprovider", "--tb=short", f"--rootdir={_SUITE}", f"{_SUITE}/tests/{tests}")
        print(self.on(host, "env", *told, PYTHON, "-m", *run))

    def background(self, host: str, *command: str) -> subprocess.Popen[str]:
        """The same, while other things happen; its output is for `communicate`."""
        return subprocess.Popen(self._ssh(host, *command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def answer(self, host: str, *command: str) -> str:
        """The same for a host that may be away: "" then."""
        ssh = self._ssh(*_SSH_OPTIONS, host, *command)
        return subprocess.run(ssh, capture_output=True, text=True, check=False).stdout

    def boot_id(self, host: str) -> str:
        return self.answer(host, "cat", "/proc/sys/kernel/random/boot_id").strip()

    def virsh(self, *command: str) -> str:
        done = subprocess.run(["virsh", "-c", "qemu:///system", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def domain(self, host: str) -> str:
        """The name of the host's virtual machine."""
        names = self.virsh("list", "--all", "--name").split()
        return next(name for name in names if name == f"cxl-lab.{self.name}.{host}")

    def remains(self) -> list[str]:
        """Everything on this machine that carries the lab's name."""
        domains = subprocess.run(
            ["virsh", "-c", "qemu:///system", "list", "--all", "--name"], capture_output=True, text=True, check=False
        ).stdout
        processes = _command_lines()
        files = [
            *Path("/dev/shm").glob(f"*{self.name}*"),
            *Path("/run").glob(f"*/*{self.name}*"),
            *Path("/var/log/libvirt/qemu").glob(f"*{self.name}*"),
        ]
        return [
            *(name for name in domains.split() if self.name in name),
            *(text[:120] for text in processes if f"cxl-lab.{self.name}" in text or str(self.folder) in text),
            *(str(path) for path in [*files, self.folder] if path.exists()),
            *(line for line in Path("/proc/mounts").read_text().splitlines() if self.name in line),
        ]


def _source(name: str) -> Path:
    """The file or folder of a module."""
    file = Path(str(importlib.import_module(name).__file__))
    return file.parent if file.name == "__init__.py" else file


def _command_lines() -> list[str]:
    """Of all processes but this one; one that ends while it is looked at is no remainder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        if file.parent.name != str(os.getpid()):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found
