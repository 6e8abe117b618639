# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a lab: keys, disks, credentials, label areas, shared memory. Made if missing, never remade."""

from __future__ import annotations

import base64
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Mapping

from ..errors import LabError
from ..runner import Runner, must
from ..sizes import format_size
from .host_names import hosts_file
from .plan import LabPaths, Machine, network_credential


@dataclass(frozen=True)
class Owner:
    """A user and a group by number."""

    uid: int
    gid: int


def invoking_user() -> Owner:
    """Who runs the playbook, also through sudo: the login key is theirs."""
    return Owner(int(os.environ.get("SUDO_UID", os.getuid())), int(os.environ.get("SUDO_GID", os.getgid())))


#: What the folder of a lab holds.
_ROOT_NAMES = {"hosts", "net", "id_ed25519", "id_ed25519.pub", "known_hosts", "ssh_config"}


class Store:
    """Writes the files of one lab.

    :param emulator: the user that QEMU runs as; it must be able to open disks, credentials and shared memory.
    :param user: who logs in to the hosts.
    """

    def __init__(self, paths: LabPaths, runner: Runner, emulator: Owner, user: Owner) -> None:
        self.paths = paths
        self.emulator = emulator
        self._runner = runner
        self._user = user

    def prepare_lab(self, machines: Iterable[Machine]) -> None:
        """What the hosts have in common: the folder, the login key, the host keys and the shared memory."""
        machines = list(machines)
        check_root(self.paths)
        for parent in reversed([parent for parent in self.paths.root.parents if not parent.exists()]):
            parent.mkdir()
            parent.chmod(0o755)
        for folder, owner, mode in (
            (self.paths.root, self._user, 0o755),
            (self.paths.root / "hosts", self._user, 0o755),
            (self.paths.network, self.emulator, 0o700),
        ):
            _folder(folder, owner, mode)
        self._key(self.paths.login_key, _key_comment(self.paths.lab), self._user)
        for machine in machines:
            self._host_key(machine)
        for file, (size, subject) in self._memory_files(machines).items():
            self.sparse(file, size, subject)

    def prepare_host(self, machine: Machine, machines: Iterable[Machine]) -> None:
        """What one host needs before it can start: label areas, credentials and a disk."""
        folder = self.paths.host(machine.host.name)
        for memory in (memory for memory in machine.memories if memory.lsa_size):
            self.sparse(
                folder / f"{memory.name}.lsa", memory.lsa_size, f"label storage area of {memory.name} on {machine.host.name}"
            )
        credentials = folder / "credentials"
        _folder(credentials, self.emulator, 0o700)
        for name, content in self._credentials(machine, machines).items():
            self._write(credentials / name, content, 0o400, self.emulator)
        disk = folder / "disk.qcow2"
        if not disk.exists():
            partial = disk.with_suffix(".partial")
            command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", machine.platform.disk, str(partial)]
            must(self._runner, command, f"disk of {machine.host.name}", "check the free space of the lab's folder")
            partial.chmod(0o644)
            partial.rename(disk)
        for nic in machine.nics:
            self.paths.cable(nic.network, machine.host.name).unlink(missing_ok=True)

    def publish_access(self, ports: Mapping[str, int]) -> bool:
        """Writes ssh_config and known_hosts for these hosts and ports; True when something changed."""
        common = [
            "    User root",
            "    HostName 127.0.0.1",
            f"    IdentityFile {_ssh_word(self.paths.login_key)}",
            "    IdentitiesOnly yes",
            f"    UserKnownHostsFile {_ssh_word(self.paths.known_hosts)}",
            "    StrictHostKeyChecking yes",
            "    HostKeyAlgorithms ssh-ed25519",
            "    ServerAliveInterval 15",
            "    LogLevel ERROR",
        ]
        config, known = [], []
        for name, port in sorted(ports.items()):
            config += [f"Host {name}", f"    Port {port}", f"    HostKeyAlias {self.paths.lab}.{name}", *common]
            known.append(f"{self.paths.lab}.{name} {self.host_public_key(name)}")
        changed = self._write(self.paths.known_hosts, "\n".join(known) + "\n", 0o644, self._user)
        return self._write(self.paths.ssh_config, "\n".join(config) + "\n", 0o644, self._user) or changed

    def host_public_key(self, host: str) -> str:
        """ "ssh-ed25519 AAAA...", as the host's sshd will show it."""
        return " ".join((self.paths.host(host) / "ssh_host_ed25519_key.pub").read_text().split()[:2])

    def drop_host(self, host: str) -> None:
        """Removes everything that belonged to one host."""
        shutil.rmtree(self.paths.host(host), ignore_errors=True)

    def drop_disk(self, host: str) -> None:
        """Removes what a rebuilt host must not inherit: its disk and its labels. Its identity stays."""
        for file in [*self.paths.host(host).glob("disk.*"), *self.paths.host(host).glob("*.lsa")]:
            file.unlink()

    def drop_lab(self) -> list[str]:
        """Removes every file of the lab; returns what was there.

        :raises LabError: when the folder holds something else; then nothing is removed.
        """
        check_root(self.paths)
        found = sorted(self.paths.shared.glob(f"{self.paths.memory_prefix}*"))
        for file in found:
            file.unlink()
        if self.paths.root.is_dir():
            shutil.rmtree(self.paths.root)
            found.append(self.paths.root)
        return [str(path) for path in found]

    def _host_key(self, machine: Machine) -> None:
        folder = self.paths.host(machine.host.name)
        _folder(folder, Owner(os.getuid(), os.getgid()), 0o755)
        self._key(
            folder / "ssh_host_ed25519_key", f"cxl-lab {self.paths.lab} {machine.host.name}", Owner(os.getuid(), os.getgid())
        )

    def _memory_files(self, machines: Iterable[Machine]) -> dict[Path, tuple[int, str]]:
        """The files behind the CXL memory of all hosts, with size and name; each once."""
        files = {}
        for machine in machines:
            for memory in machine.memories:
                for kind, size in memory.parts.items():
                    shared = f"shared memory {memory.pool or memory.name}"
                    files[self.paths.backing(memory, kind)] = (machine.pools.get(memory.pool, size), shared)
        return files

    def _credentials(self, machine: Machine, machines: Iterable[Machine]) -> dict[str, str]:
        return {
            "ssh.authorized_keys.root": self.paths.login_key.with_suffix(".pub").read_text(),
            "cxl-lab.ssh-host-key": (self.paths.host(machine.host.name) / "ssh_host_ed25519_key").read_text(),
            **{
                network_credential(index): f"[Match]\nMACAddress={machine.mac(nic.network)}\n\n"
                f"[Link]\nRequiredForOnline=no\n\n[Network]\nAddress={nic.address}\n"
                for index, nic in enumerate(machine.nics)
            },
            "tmpfiles.extra": f"f+~ /etc/hosts 0644 root root - {base64.b64encode(hosts_file(machines).encode()).decode()}\n",
        }

    def _key(self, file: Path, comment: str, owner: Owner) -> None:
        if not (file.exists() and file.with_suffix(".pub").exists()):
            file.unlink(missing_ok=True)
            must(self._runner, ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(file)], f"key {file}")
        for part in (file, file.with_suffix(".pub")):
            os.chown(part, owner.uid, owner.gid)

    def sparse(self, file: Path, size: int, subject: str) -> None:
        """A file of exactly ``size`` bytes that QEMU may open. One of another size is somebody's data."""
        if file.is_symlink() or (file.exists() and not file.is_file()):
            raise LabError(subject, f"{file} is no regular file", "remove it, then run again")
        if file.exists() and file.stat().st_size not in (0, size):
            have = format_size(file.stat().st_size)
            raise LabError(subject, f"{file} holds {have}, wanted {format_size(size)}", "run make down first")
        # Without O_CREAT for a file that is there: in a folder of everybody's the kernel refuses that even to root, when the file
        # belongs to the emulator (fs.protected_regular). A link that somebody puts there meanwhile is not followed.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if file.exists() else os.O_CREAT | os.O_EXCL)
        try:
            descriptor = os.open(file, flags, 0o600)
        except OSError as error:
            raise LabError(subject, f"{file} cannot be opened: {error.strerror}", "remove it, then run again") from error
        try:
            os.ftruncate(descriptor, size)
            os.fchmod(descriptor, 0o600)
            os.fchown(descriptor, self.emulator.uid, self.emulator.gid)
        except (OSError, OverflowError) as error:
            problem = f"{file} cannot be made {format_size(size)} large for QEMU: {getattr(error, 'strerror', error)}"
            raise LabError(subject, problem, "check the rights, and how large a file may be there") from error
        finally:
            os.close(descriptor)

    @staticmethod
    def _write(file: Path, content: str, mode: int, owner: Owner) -> bool:
        if file.exists() and file.read_bytes() == content.encode():
            return False
        partial = file.with_name(f".{file.name}.partial")
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as opened:  # noqa: PTH123
            opened.write(content)
        os.chown(partial, owner.uid, owner.gid)
        partial.rename(file)
        return True


def check_root(paths: LabPaths) -> None:
    """Refuses a folder that holds more than a lab: it can be a typing error away from somebody's own files. Nor can two labs
    have one: each would take the other's keys and disks for its own, and remove them.

    :raises LabError: for such a folder.
    """
    for path in (paths.root, *paths.root.parents):
        if path.exists() and not path.is_dir():
            raise LabError(f"folder {paths.root}", f"{path} is no folder", "correct lab_dir")
    comment = _comment(paths.login_key.with_suffix(".pub"))
    if comment.startswith("cxl-lab ") and comment != _key_comment(paths.lab):
        problem = f"is that of lab {comment.removeprefix('cxl-lab ')}"
        raise LabError(f"folder {paths.root}", problem, "give each lab a lab_dir of its own")
    names = sorted(path.name for path in paths.root.iterdir()) if paths.root.is_dir() else []
    others = [name for name in names if name not in _ROOT_NAMES and not name.endswith(".partial")]
    if others:
        raise LabError(f"folder {paths.root}", f"holds {others[0]}, which is not of a lab", "check lab_dir, or move it away")


def _ssh_word(path: Path) -> str:
    """A path in a line of ssh_config(5), which splits at blanks and replaces what follows a "%"."""
    text = str(path).replace("%", "%%")
    return (
        text
        if text.isascii() and not set(text) & set(" \t\"'#\\")
        else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )


def _key_comment(lab: str) -> str:
    return f"cxl-lab {lab}"


def _comment(public_key: Path) -> str:
    """What a public key says of itself, "" when there is none."""
    try:
        return " ".join(public_key.read_text().split()[2:])
    except (OSError, UnicodeDecodeError):
        return ""


def _folder(folder: Path, owner: Owner, mode: int) -> None:
    """Makes it if it is missing; neither a umask nor an earlier run decides who gets in."""
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)
    os.chown(folder, owner.uid, owner.gid)
