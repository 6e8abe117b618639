# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab without virtual machines for real, from nothing to nothing, with what a user does wrong in between.

The steps build on each other and run in the order of this file. The inventory is a copy under another name, as the README says
it is made, so that a user's own lab is not touched.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = "local_test"
RUN = Path(f"/run/cxl-lab-{LAB}")
MEMORY = Path(f"/dev/shm/cxl-lab-{LAB}.pool0")
DISK = Path(f"/var/lib/cxl-lab-{LAB}/disk0")
PAGES = Path(f"/dev/shm/cxl-lab-{LAB}.pages")
HOSTS = ["node1", "node2", "node3"]
#: Command and service of the machine's own data path, which it may have beside this lab.
COMMAND, SERVICE = Path("/usr/local/bin/cxl-datapath"), Path("/etc/systemd/system/cxl-datapathd.service")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the hosts' tasks need root")


@pytest.fixture(scope="module", autouse=True)
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    copy = tmp_path_factory.mktemp("inventories") / "mine"
    shutil.copytree(ROOT / "inventories/local", copy)
    settings = copy / "group_vars/all.yml"
    settings.write_text(settings.read_text(encoding="utf-8").replace(": local", f": {LAB}"), encoding="utf-8")
    yield copy
    if remains():
        playbook(copy, "playbooks/down.yml")


def run(command: list[str]) -> tuple[int, str]:
    """Runs a command in the checkout; returns the exit code and the output, which a failure shows."""
    environment = {**os.environ, "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(f"\n$ {' '.join(command)}\n{done.stdout}")
    return done.returncode, done.stdout


def playbook(inventory: Path, name: str, *options: str) -> tuple[int, str]:
    return run(["ansible-playbook", "-i", str(inventory), *options, name])


def changed(output: str) -> int:
    """How many changes the recap counts, over all hosts."""
    counts = re.findall(r"changed=(\d+)", output)
    assert counts, "there is no recap"
    return sum(map(int, counts))


def words(output: str) -> str:
    return " ".join(output.split())


def remains() -> list[str]:
    """Everything on this machine that carries the lab's name."""
    folders = [Path("/dev/shm"), Path("/run"), Path("/var/lib"), Path("/run/cxl-lab")]
    return [
        *(str(path) for folder in folders for path in folder.glob(f"*{LAB}*")),
        *(text[:160] for text in commands() if f"cxl-lab-{LAB}" in text),
    ]


def commands() -> list[str]:
    """The command lines of all processes but this one."""
    texts = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            texts.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it ended meanwhile
            continue
    return texts


def ask(host: str, *words: str) -> Any:
    """What the daemon of a host answers to a command."""
    program = f"/var/lib/cxl-lab-{LAB}/datapath/current/bin/cxl-datapath"
    command = [program, "--runtime", str(RUN / host), *words, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def pid(host: str) -> int:
    return int((RUN / f"{host}.pid").read_text(encoding="utf-8").split()[0])


def test_starts_from_nothing(inventory: Path) -> None:
    if remains():  # of a run that was killed
        assert playbook(inventory, "playbooks/down.yml")[0] == 0
    assert remains() == []


def test_check_mode_before_anything_exists_tells_and_changes_nothing(inventory: Path) -> None:
    code, output = playbook(inventory, "site.yml", "--check")
    assert code == 0
    assert changed(output) > 0
    assert remains() == []
    assert "WARNING" not in output, "phases without hosts are skipped quietly"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (
            {"cxl_memory_files": [{"path": str(MEMORY), "size": "900T"}]},
            ["cxl_memory_files: 900T needed", "lower the sizes or free some"],
        ),
        (
            {"cxl_datapath_instance": {"name": "node1", "runtime_dir": str(RUN), "state_dir": str(RUN / "state")}},
            ["3 hosts have the name node1; give each its own", f"3 hosts have the runtime_dir {RUN}"],
        ),
        (
            {"cxl_memory_files": [{"path": "/dev/null", "size": "64M"}]},
            ["cxl_memory_files: file /dev/null: is a character device; choose another path"],
        ),
    ],
)
def test_preflight_refuses_before_anything_is_changed(inventory: Path, setting: dict[str, Any], expected: list[str]) -> None:
    code, output = playbook(inventory, "playbooks/preflight.yml", "-e", json.dumps(setting))
    assert code != 0
    assert all(each in words(output) for each in expected)
    assert remains() == []


def test_a_package_that_cannot_be_had_is_named(inventory: Path, tmp_path: Path) -> None:
    role = {"name": "cxl_datapath", "tasks_from": "packages"}
    task = {"ansible.builtin.include_role": role, "vars": {"cxl_datapath_packages": ["cxl-lab-no-such-package"]}}
    play = {"hosts": "node1", "become": True, "gather_facts": False, "tasks": [task]}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    code, output = playbook(inventory, str(tmp_path / "play.yml"), "--check")
    assert code != 0
    assert "packages cxl-lab-no-such-package: cannot be installed" in words(output)
    assert "install them by hand: apt-get install cxl-lab-no-such-package" in words(output)
    assert remains() == []


def test_make_lab(inventory: Path) -> None:
    code, output = run(["make", "lab", f"INVENTORY={inventory}"])
    assert code == 0
    assert "All 32.0 MiB are right." in output
    assert "compare" in output, "nothing was compared on the backing device"
    assert DISK.read_bytes()[:32] == b"# cxl.lab verification pattern\n#"


def test_every_host_is_a_daemon_of_its_own_and_sees_the_others() -> None:
    assert len({pid(host) for host in HOSTS}) == 3
    for host in HOSTS:
        assert ask(host, "hello")["host"] == host
        (transport,) = ask(host, "cbd", "transport", "list")
        assert (transport["name"], transport["memory"]) == ("pool0", str(MEMORY))
        rows = ask(host, "cbd", "host", "list", "pool0")
        assert sorted(row["name"] for row in rows if row["alive"]) == HOSTS
        assert [row["name"] for row in rows if row["local"]] == [host]
    assert MEMORY.stat().st_mode & 0o777 == 0o600


def test_nothing_of_the_machine_leads_to_the_lab() -> None:
    assert not COMMAND.is_symlink() or LAB not in str(COMMAND.readlink())
    assert not SERVICE.exists() or LAB not in SERVICE.read_text(encoding="utf-8")


def test_the_second_run_changes_nothing(inventory: Path) -> None:
    before = [pid(host) for host in HOSTS]
    code, output = playbook(inventory, "site.yml")
    assert code == 0
    assert changed(output) == 0
    assert "All 32.0 MiB are right." in output
    assert [pid(host) for host in HOSTS] == before


def test_check_and_diff_on_a_built_lab_show_no_change(inventory: Path) -> None:
    code, output = playbook(inventory, "site.yml", "--check", "--diff")
    assert code == 0
    assert changed(output) == 0


def lend_pages(inventory: Path, state: str) -> int:
    """The blocks of a pool of node1 as a disk of node3, or no more; returns how much was changed."""
    pools = [{"name": "pages", "host": "node1", "memories": [str(PAGES)], "state": state}]
    backends = [{"transport": "pool0", "host": "node1", "path": "kmem_blk:pages", "id": 1, "state": state}]
    blkdevs = [{"transport": "pool0", "host": "node3", "backend": 1, "name": "cbd1", "frontend": "nbdkit", "state": state}]
    lists = {"kmem_blk_pools": pools, "cbd_backends": backends, "cbd_blkdevs": blkdevs}
    total = 0
    for phase in ("kmem_blk", "cbd") if state == "present" else ("cbd", "kmem_blk"):
        code, output = playbook(inventory, f"playbooks/{phase}.yml", "-e", json.dumps(lists))
        assert code == 0
        total += changed(output)
    return total


def test_the_blocks_of_a_pool_are_a_disk_of_another_host(inventory: Path) -> None:
    PAGES.touch()
    os.truncate(PAGES, 64 << 20)
    assert lend_pages(inventory, "present") > 0
    assert lend_pages(inventory, "present") == 0
    uri = f"nbd+unix:///?socket={RUN}/node3/cbd1.sock"
    code, output = run(
        ["qemu-io", "-f", "raw", uri, "-c", "write -P 0x5a 4M 1M", "-c", "read -P 0x5a 4M 1M", "-c", "discard 4M 512k"]
    )
    assert code == 0 and "failed" not in output and output.count("bytes at offset") == 3
    (pool,) = ask("node1", "kmem-blk", "pool", "list")
    assert pool["pages"]["blocks"] == (512 << 10) // 4096
    assert lend_pages(inventory, "absent") > 0
    PAGES.unlink()


def test_node3_takes_over_when_node1_dies_and_a_reader_waits_for_it(inventory: Path, tmp_path: Path) -> None:
    os.kill(pid("node1"), signal.SIGKILL)
    with subprocess.Popen(["nbdcopy", f"nbd+unix:///?socket={RUN}/node2/cbd0.sock", str(tmp_path / "copy")]) as reader:
        code, _ = playbook(inventory, "playbooks/recover.yml", "-e", "recover_host=node1", "-e", "recover_to=node3")
    assert code == reader.returncode == 0
    assert filecmp.cmp(tmp_path / "copy", DISK, shallow=False)
    assert [row["host"] for row in ask("node2", "cbd", "backend", "list", "pool0")] == ["node3"]


def test_a_lab_whose_memory_was_lost_with_its_hosts_is_repaired_and_the_disk_keeps_its_bytes(inventory: Path) -> None:
    """What a reboot does: processes, /run and /dev/shm are gone."""
    before = DISK.read_bytes()[: 32 << 20]
    for host in HOSTS[1:]:  # node1 is dead
        os.kill(pid(host), signal.SIGKILL)
    shutil.rmtree(RUN)
    MEMORY.unlink()
    code, output = playbook(inventory, "site.yml")
    assert code == 0
    assert "All 32.0 MiB are right." in output
    assert DISK.read_bytes()[: 32 << 20] == before


def test_down_of_one_host_does_not_take_the_memory_from_the_others(inventory: Path) -> None:
    code, _ = playbook(inventory, "playbooks/down.yml", "--limit", "node3")
    assert code == 0
    assert not (RUN / "node3.pid").exists()
    assert MEMORY.exists()
    assert ask("node2", "cbd", "blkdev", "list", "pool0")[0]["worker"]["state"] == "running"


def test_down_names_what_is_in_use_and_removes_the_rest(inventory: Path) -> None:
    with DISK.open("rb"):
        code, output = playbook(inventory, "playbooks/down.yml")
    assert code != 0
    assert f"file {DISK}: is in use" in words(output.rpartition("PLAY RECAP")[2])
    assert remains() == [str(DISK.parent)]


def test_down_leaves_nothing_though_the_inventory_lost_hosts_and_has_a_bad_key(inventory: Path, tmp_path: Path) -> None:
    assert run(["make", "lab", f"INVENTORY={inventory}"])[0] == 0
    less = tmp_path / "less"
    shutil.copytree(inventory, less)
    hosts = less / "hosts.yml"
    hosts.write_text(hosts.read_text(encoding="utf-8").replace("            node3:\n", ""), encoding="utf-8")
    files = less / "group_vars/cxl_hosts.yml"
    files.write_text(files.read_text(encoding="utf-8").replace("size: 128M}", "size: 128M, colour: red}"), encoding="utf-8")
    code, _ = run(["make", "down", f"INVENTORY={less}"])
    assert code == 0
    assert remains() == []


def test_down_again_is_fine(inventory: Path) -> None:
    code, output = playbook(inventory, "playbooks/down.yml")
    assert code == 0
    assert changed(output) == 0
