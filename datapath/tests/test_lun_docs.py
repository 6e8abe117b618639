# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of docs/cxlflash.md are compiled and run; nbdkit serves a LUN as the guide says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import Host
from lun_app import MIB, lun_row, make_lun, wait_unused

from cxl_datapath import cblk
from cxl_datapath.core import library_path

ROOT = Path(__file__).resolve().parents[2]
BUILD = library_path().parent


def example(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/cxlflash.md").read_text(), re.DOTALL)
    return found


@pytest.fixture(scope="module")
def host(node: Host) -> Host:
    make_lun(node)
    return node


@pytest.fixture
def lun(host: Host) -> str:
    return f"{host.runtime}/lun.sock/flash0"


def test_the_example_in_c(host, lun, tmp_path):
    (tmp_path / "example.c").write_text(example("c"))
    flags = ["-Wall", "-Wextra", "-Werror", f"-I{ROOT}/datapath/core", f"-L{BUILD}", f"-Wl,-rpath,{BUILD}"]
    subprocess.run(["cc", *flags, "-o", tmp_path / "example", tmp_path / "example.c", "-lcblk"], check=True)
    done = subprocess.run([tmp_path / "example", lun], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "block 0 to block 3\n"
    wait_unused(host)


def test_the_example_in_python(host, lun, tmp_path):
    (tmp_path / "example.py").write_text(example("python"))
    done = subprocess.run([sys.executable, tmp_path / "example.py", lun], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "user space\n32 reads at once\n"
    wait_unused(host)


def test_the_tables_of_the_guide_have_the_columns_of_today(host, lun):
    guide = {" ".join(line.split()) for line in (ROOT / "docs/cxlflash.md").read_text().splitlines()}
    chunk = cblk.cblk_open(lun, flags=cblk.OPN_VIRT_LUN)
    for words in (("list",), ("contexts", "flash0")):
        header = host.cli("lun", *words).stdout.splitlines()[0]
        assert " ".join(header.split()) in guide
    cblk.cblk_close(chunk)


@pytest.mark.skipif(not shutil.which("nbdkit") or not shutil.which("nbdcopy"), reason="needs nbdkit and nbdcopy")
@pytest.mark.parametrize("size", [None, 8 * MIB])
def test_nbdkit_serves_a_lun(host, lun, tmp_path, size):
    socket = host.folder / f"nbd-{size}.sock"
    plugin = [str(BUILD / "cxl-lun-nbdkit-plugin.so"), f"lun={lun}", *([f"size={size}"] if size else [])]
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(size or 64 * MIB))
    run = f"nbdcopy {source} nbd+unix:///?socket={socket} && nbdcopy nbd+unix:///?socket={socket} {copy}"
    done = subprocess.run(
        ["nbdkit", "-U", socket, *plugin, "--run", run], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert copy.read_bytes() == source.read_bytes()
    if not size:
        assert (host.folder / "flash0.disk").read_bytes() == source.read_bytes()
    wait_unused(host)
    assert lun_row(host)["free"] == 64 * MIB


@pytest.mark.skipif(not shutil.which("nbdkit"), reason="needs nbdkit")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "lun=NAME is missing"), (["lun=x", "size=5"], "no multiple"), (["lun=x", "what=1"], "unknown parameter")],
)
def test_what_nbdkit_is_told_is_checked(arguments, said, tmp_path):
    command = ["nbdkit", "-U", tmp_path / "s", str(BUILD / "cxl-lun-nbdkit-plugin.so"), *arguments, "--run", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_command_line(host):
    disk = host.folder / "other.disk"
    disk.touch()
    os.truncate(disk, 4 * MIB)
    made = host.cli("lun", "create", str(disk), "other", "--client-size", "1M", "--user", "nobody").stdout
    assert "superpipe  running" in made
    assert host.cli("lun", "create", str(disk), "again").returncode == 1
    chunk = cblk.cblk_open(f"{host.runtime}/lun.sock/other")
    assert "0:direct:4M" in host.cli("lun", "contexts", "other").stdout
    busy = host.cli("lun", "remove", "other")
    assert (busy.returncode, f"process(es) {os.getpid()}" in busy.stderr) == (1, True)
    cblk.cblk_close(chunk)
    assert "commands: 0" in host.cli("lun", "stats", "other").stdout
    assert host.call("lun.list")[-1]["users"] == ["nobody"]
    assert host.cli("lun", "set", "other", "--everybody").returncode == 0
    assert host.call("lun.list")[-1]["users"] == []
    assert "legacy" in host.cli("lun", "set", "other", "--mode", "legacy").stdout
    assert host.cli("lun", "remove", "other").returncode == 0
    assert "there are: flash0" in host.cli("lun", "remove", "other").stderr
