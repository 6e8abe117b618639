# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a lab, made by the real tools."""

from __future__ import annotations

import base64
import os
import resource
import shutil
import stat
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.runner import HostRunner, Result
from ansible.module_utils.cxl_lab.topology.plan import LabPaths
from ansible.module_utils.cxl_lab.topology.store import Owner, Store, invoking_user
from fakes import FakeRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from labs import PLATFORM, machines_of, names, two_node

pytestmark = pytest.mark.skipif(
    not (shutil.which("ssh-keygen") and shutil.which("qemu-img")), reason="ssh-keygen or qemu-img is not installed"
)
ME = Owner(os.getuid(), os.getgid())
MIB = 1 << 20


@pytest.fixture
def disk(tmp_path):
    """The guest image."""
    file = tmp_path / "image.raw"
    with file.open("wb") as opened:
        opened.truncate(8 * MIB)
    return file


@pytest.fixture
def machines(disk):
    return machines_of(two_node(), platform=replace(PLATFORM, disk=str(disk)))


@pytest.fixture
def store(tmp_path):
    (tmp_path / "shm").mkdir()
    return Store(LabPaths("two_node", tmp_path / "deep" / "lab", tmp_path / "shm"), HostRunner(), ME, ME)


def prepare(store, machines):
    store.prepare_lab(machines)
    for machine in machines:
        store.prepare_host(machine, machines)


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def snapshot(folder: Path) -> dict[str, tuple]:
    """Every file with what would show that somebody wrote it anew."""
    return {str(path): (path.lstat().st_ino, path.lstat().st_mtime_ns, path.lstat().st_mode) for path in folder.rglob("*")}


def test_every_file_and_its_mode(store, machines):
    prepare(store, machines)
    paths = store.paths
    host = paths.host("node1")
    modes = {
        **{paths.root: 0o755, paths.root / "hosts": 0o755, host: 0o755, paths.network: 0o700, host / "credentials": 0o700},
        **{paths.login_key: 0o600, host / "ssh_host_ed25519_key": 0o600, paths.memory("pool0"): 0o600, host / "pool0.lsa": 0o600},
        **dict.fromkeys((host / "credentials").iterdir(), 256),
    }
    assert {path: mode(path) for path in modes} == modes
    assert paths.memory("pool0").stat().st_size == 512 * MIB and (host / "pool0.lsa").stat().st_size == MIB
    assert paths.memory("pool0").stat().st_blocks == 0, "the memory is sparse until a guest writes it"


@pytest.mark.parametrize("mask", [0o027, 0o077])
def test_the_emulator_reaches_its_files_whatever_the_umask(store, machines, mask):
    before = os.umask(mask)
    try:
        prepare(store, machines)
        store.publish_access({"node1": 4001})
    finally:
        os.umask(before)
    paths = store.paths
    for folder in (paths.root.parent, paths.root, paths.root / "hosts", paths.host("node1")):
        assert mode(folder) == 0o755, folder
    assert mode(paths.host("node1") / "disk.qcow2") == 0o644


def test_the_second_time_changes_nothing(store, machines):
    prepare(store, machines)
    assert store.publish_access({"node1": 4001, "node2": 4002}) is True
    before = snapshot(store.paths.root), snapshot(store.paths.shared)
    prepare(store, machines)
    assert store.publish_access({"node1": 4001, "node2": 4002}) is False
    after = snapshot(store.paths.root), snapshot(store.paths.shared)
    for path in (path for path in before[0] if path.endswith(".lsa")):
        assert after[0][path][0] == before[0][path][0]
    assert {k: v for k, v in after[0].items() if not k.endswith(".lsa")} == {
        k: v for k, v in before[0].items() if not k.endswith(".lsa")
    }
    assert after[1].keys() == before[1].keys()


def test_memory_and_labels_keep_their_content(store, machines):
    prepare(store, machines)
    for file in (store.paths.memory("pool0"), store.paths.host("node1") / "pool0.lsa"):
        with file.open("r+b") as opened:
            opened.write(b"data of a user")
    prepare(store, machines)
    for file in (store.paths.memory("pool0"), store.paths.host("node1") / "pool0.lsa"):
        with file.open("rb") as opened:
            assert opened.read(14) == b"data of a user"


def test_the_disk_is_an_overlay_of_the_image(store, machines, disk):
    prepare(store, machines)
    overlay = store.paths.host("node1") / "disk.qcow2"
    shown = subprocess.run(["qemu-img", "info", "--output=json", str(overlay)], capture_output=True, text=True, check=True).stdout
    assert f'"backing-filename": "{disk}"' in shown and '"format": "qcow2"' in shown and f'"virtual-size": {8 * MIB}' in shown


def test_what_a_guest_learns_about_itself(store, machines):
    prepare(store, machines)
    paths, credentials = store.paths, store.paths.host("node2") / "credentials"
    assert (credentials / "ssh.authorized_keys.root").read_text() == paths.login_key.with_suffix(".pub").read_text()
    assert (credentials / "cxl-lab.ssh-host-key").read_text() == (paths.host("node2") / "ssh_host_ed25519_key").read_text()
    network = (credentials / "network.network.30-lab").read_text()
    assert "Address=10.77.0.12/24\n" in network and f"MACAddress={machines[1].mac('lab')}\n" in network
    line = (credentials / "tmpfiles.extra").read_text()
    assert line.startswith("f+~ /etc/hosts 0644 root root - ") and line.endswith("\n") and line.count("\n") == 1
    hosts = base64.b64decode(line.split()[-1]).decode()
    assert hosts.splitlines()[2:] == ["10.77.0.11 node1", "10.77.0.12 node2"] and "127.0.0.1 localhost\n" in hosts


def test_each_host_has_a_key_of_its_own(store, machines):
    prepare(store, machines)
    keys = {store.host_public_key(machine.host.name) for machine in machines}
    assert len(keys) == 2 and all(key.startswith("ssh-ed25519 AAAA") and len(key.split()) == 2 for key in keys)


def test_half_a_key_is_made_anew(store, machines):
    """ssh-keygen was killed between the two files."""
    store.prepare_lab(machines)
    old = store.host_public_key("node1")
    store.paths.host("node1").joinpath("ssh_host_ed25519_key.pub").unlink()
    store.prepare_lab(machines)
    assert store.host_public_key("node1") != old


def test_ssh_config_pins_the_host_key(store, machines):
    store.prepare_lab(machines)
    assert store.publish_access({"node2": 4002, "node1": 4001}) is True
    paths = store.paths
    assert mode(paths.ssh_config) == mode(paths.known_hosts) == 0o644
    assert paths.known_hosts.read_text() == "".join(
        f"two_node.{name} {store.host_public_key(name)}\n" for name in ("node1", "node2")
    )
    shown = subprocess.run(["ssh", "-G", "-F", str(paths.ssh_config), "node2"], capture_output=True, text=True, check=True).stdout
    settings = dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)
    assert settings["hostname"] == "127.0.0.1" and settings["port"] == "4002" and settings["user"] == "root"
    assert settings["stricthostkeychecking"] in ("yes", "true") and settings["hostkeyalias"] == "two_node.node2"
    assert settings["identityfile"] == str(paths.login_key) and settings["identitiesonly"] == "yes"
    assert settings["userknownhostsfile"] == str(paths.known_hosts) and settings["hostkeyalgorithms"] == "ssh-ed25519"
    found = subprocess.run(
        ["ssh-keygen", "-F", "two_node.node1", "-f", str(paths.known_hosts)], capture_output=True, text=True, check=True
    )
    assert store.host_public_key("node1") in found.stdout


def test_ssh_config_follows_the_ports(store, machines):
    store.prepare_lab(machines)
    store.publish_access({"node1": 4001, "node2": 4002})
    assert store.publish_access({"node1": 4009, "node2": 4002}) is True
    assert "Port 4009" in store.paths.ssh_config.read_text() and "4001" not in store.paths.ssh_config.read_text()


def test_a_damaged_file_is_written_anew(store, machines):
    store.prepare_lab(machines)
    store.publish_access({"node1": 4001})
    store.paths.known_hosts.write_bytes(b"\xff\xfe\x00")
    assert store.publish_access({"node1": 4001}) is True
    assert store.paths.known_hosts.read_text().startswith("two_node.node1 ssh-ed25519 ")


def test_a_write_that_was_killed_is_repeated(store, machines):
    store.prepare_lab(machines)
    store.paths.root.joinpath(".ssh_config.partial").write_text("half")
    assert store.publish_access({"node1": 4001}) is True
    assert not store.paths.root.joinpath(".ssh_config.partial").exists()


def test_memory_of_another_size_is_somebodys_data(store, machines):
    file = store.paths.memory("pool0")
    file.write_bytes(b"x" * 4096)
    with pytest.raises(
        LabError, match=r"^shared memory pool0: .*cxl-lab.two_node.pool0 holds 4K, wanted 512M; run make down first"
    ):
        store.prepare_lab(machines)
    assert file.read_bytes() == b"x" * 4096


def test_labels_of_another_size_are_refused(store, machines):
    store.prepare_lab(machines)
    (store.paths.host("node1") / "pool0.lsa").write_bytes(b"x" * 512)
    with pytest.raises(LabError, match=r"label storage area of pool0 on node1: .* holds 512, wanted 1M"):
        store.prepare_host(machines[0], machines)


def test_memory_of_no_size_was_begun_by_us(store, machines):
    store.paths.memory("pool0").touch()
    store.prepare_lab(machines)
    assert store.paths.memory("pool0").stat().st_size == 512 * MIB


@pytest.mark.parametrize("kind", ["file", "dangling", "folder"])
def test_memory_that_is_no_regular_file_is_refused(store, machines, tmp_path, kind):
    """Everybody may write to /dev/shm: a link would give another file to the emulator, a folder makes QEMU's memory private."""
    victim, memory = tmp_path / "victim", store.paths.memory("pool0")
    if kind == "folder":
        memory.mkdir()
    else:
        memory.symlink_to(victim)
    if kind == "file":
        victim.write_text("secret")
        victim.chmod(0o640)
    with pytest.raises(LabError, match=r"shared memory pool0: .* is no regular file; remove it, then run again"):
        store.prepare_lab(machines)
    assert not victim.exists() or (victim.read_text() == "secret" and mode(victim) == 0o640)


def test_a_link_that_appears_between_look_and_open_is_not_followed(store, machines, tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.touch(0o640)
    store.paths.memory("pool0").symlink_to(victim)
    monkeypatch.setattr(Path, "is_symlink", lambda self: False)
    with pytest.raises(
        LabError, match=r"^shared memory pool0: .* cannot be opened: Too many levels of symbolic links; remove it"
    ):
        store.prepare_lab(machines)
    assert victim.stat().st_size == 0 and mode(victim) == 0o640


def test_memory_that_the_emulator_owns_is_opened_and_not_created(store, machines, monkeypatch):
    """In /dev/shm, a folder of everybody, not even root may create over the file of another user (fs.protected_regular)."""
    store.prepare_lab(machines)
    really_open = os.open

    def protected_open(path, flags, *mode, **options):
        if flags & os.O_CREAT and Path(path).exists() and Path(path).parent == store.paths.shared:
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", protected_open)
    store.prepare_lab(machines)
    assert store.paths.memory("pool0").stat().st_size == 512 * MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owners(tmp_path, machines):
    (tmp_path / "shm").mkdir()
    store = Store(LabPaths("two_node", tmp_path / "lab", tmp_path / "shm"), HostRunner(), Owner(64055, 108), Owner(1000, 1001))
    prepare(store, machines)
    store.publish_access({"node1": 4001})
    paths, host = store.paths, store.paths.host("node1")
    emulator = [paths.memory("pool0"), host / "pool0.lsa", host / "credentials", *(host / "credentials").iterdir(), paths.network]
    user = [paths.root, paths.login_key, paths.login_key.with_suffix(".pub"), paths.ssh_config, paths.known_hosts]
    for files, owner in ((emulator, (64055, 108)), (user, (1000, 1001)), ([host / "ssh_host_ed25519_key"], (0, 0))):
        assert {file: (file.stat().st_uid, file.stat().st_gid) for file in files} == dict.fromkeys(files, owner)


def test_whose_login_key_it_is(monkeypatch):
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.delenv("SUDO_GID", raising=False)
    assert invoking_user() == ME
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_GID", "1001")
    assert invoking_user() == Owner(1000, 1001)


def test_a_disk_that_cannot_be_made_leaves_none(tmp_path, machines):
    keys = HostRunner()

    class NoSpace(FakeRunner):
        def run(self, argv, **options):
            return keys.run(argv, **options) if argv[0] == "ssh-keygen" else super().run(argv, **options)

    (tmp_path / "shm").mkdir()
    runner = NoSpace({"qemu-img create": Result(1, "", "qemu-img: disk.partial: No space left on device\n")})
    store = Store(LabPaths("two_node", tmp_path / "lab", tmp_path / "shm"), runner, ME, ME)
    store.prepare_lab(machines)
    with pytest.raises(LabError, match=r"disk of node1: .*No space left on device; check the free space of the lab's folder"):
        store.prepare_host(machines[0], machines)
    assert not (store.paths.host("node1") / "disk.qcow2").exists()


def test_a_rebuilt_host_keeps_its_identity_and_nothing_else(store, machines):
    prepare(store, machines)
    host, key = store.paths.host("node1"), store.host_public_key("node1")
    (host / "disk.partial").write_text("half a disk")
    store.drop_disk("node1")
    assert sorted(path.name for path in host.iterdir()) == ["credentials", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"]
    prepare(store, machines)
    assert store.host_public_key("node1") == key and (host / "disk.qcow2").exists()


def test_a_host_goes_alone(store, machines):
    prepare(store, machines)
    store.drop_host("node2")
    store.drop_host("never_there")
    assert sorted(path.name for path in (store.paths.root / "hosts").iterdir()) == ["node1"]
    assert store.paths.memory("pool0").exists()


def test_the_whole_lab_goes(store, machines):
    prepare(store, machines)
    assert store.drop_lab() == [str(store.paths.memory("pool0")), str(store.paths.root)]
    assert list(store.paths.shared.iterdir()) == [] and not store.paths.root.exists()
    assert store.drop_lab() == []


def test_a_folder_with_other_things_in_it_is_no_lab_of_ours(store, machines):
    """lab_dir can be a typing error away from somebody's home."""
    prepare(store, machines)
    (store.paths.root / "thesis.tex").write_text("years of work")
    with pytest.raises(LabError, match=r"^folder .*/deep/lab: holds thesis.tex, which is not of a lab; "):
        store.drop_lab()
    assert (store.paths.root / "thesis.tex").exists() and store.paths.login_key.exists() and store.paths.memory("pool0").exists()


@settings(max_examples=50)
@given(st.lists(names, min_size=2, max_size=5, unique=True), names)
def test_a_lab_takes_only_its_own_shared_memory(labs, memory):
    with tempfile.TemporaryDirectory() as folder:
        files = {lab: LabPaths(lab, Path(folder) / "none", Path(folder)).memory(memory) for lab in labs}
        for file in files.values():
            file.touch()
        gone = labs.pop()
        assert Store(LabPaths(gone, Path(folder) / "none", Path(folder)), FakeRunner({}), ME, ME).drop_lab() == [str(files[gone])]
        assert sorted(Path(folder).iterdir()) == sorted(files[lab] for lab in labs)


def test_names_that_begin_alike(tmp_path):
    for name in ("cxl-lab.a.m", "cxl-lab.a-b.m", "cxl-lab.ab.m", "cxl-lab.a_.m", "a.m"):
        (tmp_path / name).touch()
    Store(LabPaths("a", tmp_path / "none", tmp_path), FakeRunner({}), ME, ME).drop_lab()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.m", "cxl-lab.a-b.m", "cxl-lab.a_.m", "cxl-lab.ab.m"]


def test_two_labs_do_not_share_a_folder(store, machines):
    prepare(store, machines)
    before = snapshot(store.paths.root)
    other = Store(replace(store.paths, lab="other"), HostRunner(), ME, ME)
    for act in (lambda: other.prepare_lab(machines), other.drop_lab):
        with pytest.raises(LabError, match=r"^folder .*/deep/lab: is that of lab two_node; give each lab a lab_dir of its own"):
            act()
    assert snapshot(store.paths.root) == before


@pytest.mark.parametrize("below", ["", "lab"])
def test_a_file_where_the_folder_should_be(tmp_path, machines, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match=r"^folder .*: .*/file is no folder; correct lab_dir"):
        Store(LabPaths("a", tmp_path / "file" / below, tmp_path), HostRunner(), ME, ME).prepare_lab(machines)


def test_memory_that_no_file_can_hold(store, tmp_path):
    size = (1 << 50) - (256 << 20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, limits[1]))
    try:
        with pytest.raises(LabError, match=r"^memory m: .*/m cannot be made .* large for QEMU: File too large; check the rights"):
            store.sparse(tmp_path / "m", size, "memory m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("folder", ["my lab", "50%done", 'a"b', "it's", "a#b", "back\\slash", "#x", "t\tab", "ü"])
def test_ssh_reads_the_paths_of_any_folder(tmp_path, folder):
    store = Store(LabPaths("a", tmp_path / folder, tmp_path), HostRunner(), ME, ME)
    paths = store.paths
    paths.host("h").mkdir(parents=True)
    (paths.host("h") / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAA x")
    store.publish_access({"h": 4001})
    shown = subprocess.run(["ssh", "-G", "-F", str(paths.ssh_config), "h"], capture_output=True, text=True, check=True).stdout
    settings = dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)
    read = [settings[key].replace("%%", "%") for key in ("identityfile", "userknownhostsfile")]
    assert read == [str(paths.login_key), str(paths.known_hosts)]
