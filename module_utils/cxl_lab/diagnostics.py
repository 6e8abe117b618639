# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody needs who was not there: the state of a host in one archive, without anything secret."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from .dax import LIST
from .errors import LabError
from .runner import Runner

#: The end of a file is what counts; a log can be longer than anybody reads.
FILE_MAX = 4 << 20


@dataclass(frozen=True)
class Plan:
    """``commands`` by the names that their output gets, and ``files`` by theirs."""

    commands: dict[str, tuple[str, ...]]
    files: dict[str, Path]


def plan_host(runtime_dir: str) -> Plan:
    """A host with CXL memory."""
    return Plan(
        commands={
            "kernel.txt": ("uname", "-a"),
            "dmesg.txt": ("dmesg",),
            "journal.txt": ("journalctl", "--no-pager", "-b", "-n", "20000"),
            "processes.txt": ("ps", "-eo", "pid,ppid,stat,etime,rss,args"),
            "cxl.json": ("cxl", "list", "-vvv", "-i"),
            "ndctl.json": ("ndctl", "list", "-B", "-D", "-R", "-N", "-i", "-v"),
            "daxctl.json": LIST,
            "pci.txt": ("lspci", "-vvv"),
            "memory-blocks.txt": ("grep", "-r", ".", "/sys/devices/system/memory", "--include=state", "--include=valid_zones"),
            "units.txt": ("systemctl", "--no-pager", "--failed"),
            "daemon.txt": ("systemctl", "--no-pager", "-l", "status", "cxl-datapathd"),
            "boot-regions.txt": ("grep", "-r", ".", "/etc/cxl-lab/regions.d"),
        },
        files={
            "iomem.txt": Path("/proc/iomem"),
            "cmdline.txt": Path("/proc/cmdline"),
            "mounts.txt": Path("/proc/mounts"),
            "meminfo.txt": Path("/proc/meminfo"),
            "daemon-state.json": Path(runtime_dir) / "state.json",
        },
    )


def plan_hypervisor(uri: str, domains: Sequence[str], lab_dir: Path, logs: Path = Path("/var/log/libvirt/qemu")) -> Plan:
    """The machines of a lab from outside.

    :param domains: names of libvirt.
    """
    virsh = ("virsh", "-q", "-c", uri)
    monitor = ("--hmp", "info")
    commands: dict[str, tuple[str, ...]] = {
        "kernel.txt": ("uname", "-a"),
        "memory.txt": ("free", "-m"),
        "shared-memory.txt": ("ls", "-ln", "/dev/shm"),
        "versions.txt": (*virsh, "version"),
        "domains.txt": (*virsh, "list", "--all"),
    }
    files = {}
    for domain in domains:
        host = domain.rsplit(".", 1)[-1]
        commands[f"{host}/domain.xml"] = (*virsh, "dumpxml", domain)
        for name in ("mtree", "pci", "qtree"):
            commands[f"{host}/{name}.txt"] = (*virsh, "qemu-monitor-command", domain, *monitor, name)
        files[f"{host}/qemu.log"] = logs / f"{domain}.log"
        files[f"{host}/serial.log"] = lab_dir / "hosts" / host / "serial.log"
        files[f"{host}/leaks.json"] = lab_dir / "hosts" / host / "leaks.json"
    return Plan(commands, files)


def collect(runner: Runner, plan: Plan, archive: Path, folder: str) -> list[str]:
    """Writes the archive; returns the names in it. What fails is in it with its error.

    :param folder: that everything in the archive is in.
    :raises LabError: when the archive cannot be written.
    """
    parts = {name: _output(runner, argv) for name, argv in plan.commands.items()}
    parts.update({name: content for name, path in plan.files.items() if (content := _end_of(path)) is not None})
    partial = archive.with_name(f".{archive.name}.partial")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        # A log may tell more than everybody is to know.
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with tarfile.open(partial, mode="w:gz") as tar:
            for name, content in sorted(parts.items()):
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
                tar.addfile(entry, io.BytesIO(content))
        partial.replace(archive)
    except OSError as error:
        raise LabError(str(archive), f"cannot be written: {error.strerror}", "choose another place (dest)") from error
    return sorted(parts)


def _output(runner: Runner, argv: Sequence[str]) -> bytes:
    try:
        done = runner.run(argv, timeout=60)
    except LabError as error:
        return f"{error}\n".encode()
    end = "" if done.rc == 0 else f"\n{json.dumps({'cmd': list(argv), 'rc': done.rc, 'stderr': done.stderr})}\n"
    return done.stdout.encode()[-FILE_MAX:] + end.encode()


def _end_of(path: Path) -> bytes | None:
    """The end of a file; None when it is not there."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            # A file of /proc has no size, and tells it as zero.
            file.seek(max(0, size - FILE_MAX))
            return file.read(FILE_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path}: {error.strerror}\n".encode()
