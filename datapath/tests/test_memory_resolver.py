# SPDX-License-Identifier: GPL-3.0-or-later
"""From a memory's name to the file to map, on a sysfs tree of our own, and real mappings of real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import Memory, check_spec, resolve

MIB = 1 << 20


class Sysfs:
    """The files that the kernel shows for memdevs, regions and devdax devices, with the same links."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.platform = root / "devices/platform/ACPI0017:00/root0"
        for folder in ("bus/dax/devices", "bus/cxl/devices", "class/block", "bus/dax/drivers/device_dax", "bus/dax/drivers/kmem"):
            (root / folder).mkdir(parents=True)

    def link(self, folder: str, target: Path) -> None:
        (self.root / folder / target.name).symlink_to(target)

    def memdev(self, number: int, serial: int) -> None:
        memdev = self.root / f"devices/pci0000:0c/0000:0c:00.{number}/mem{number}"
        memdev.mkdir(parents=True)
        (memdev / "serial").write_text(f"{serial:#x}\n")
        self.link("bus/cxl/devices", memdev)
        endpoint = self.platform / f"port1/endpoint{number + 2}"
        decoder = endpoint / f"decoder{number + 2}.0"
        decoder.mkdir(parents=True)
        (endpoint / "uport").symlink_to(memdev)
        self.link("bus/cxl/devices", endpoint)
        self.link("bus/cxl/devices", decoder)

    def region(self, number: int, memdevs: list[int], address: int = 0x110000000) -> Path:
        region = self.platform / f"decoder0.0/region{number}"
        region.mkdir(parents=True)
        for index, memdev in enumerate(memdevs):
            (region / f"target{index}").write_text(f"decoder{memdev + 2}.0\n")
        (region / f"target{len(memdevs)}").write_text("\n")
        (region / "resource").write_text(f"{address:#x}\n")
        (region / "size").write_text(f"{256 * MIB:#x}\n")
        self.link("bus/cxl/devices", region)
        return region

    def dax(self, name: str, parent: Path, size: int = 254 * MIB, driver: str = "device_dax", address: int | None = None) -> None:
        device = parent / name
        device.mkdir(parents=True)
        (device / "size").write_text(f"{size}\n")
        (device / "align").write_text(f"{2 * MIB}\n")
        if address is not None:
            (device / "resource").write_text(f"{address:#x}\n")
        (device / "driver").symlink_to(self.root / "bus/dax/drivers" / driver)
        self.link("bus/dax/devices", device)


@pytest.fixture
def sysfs(tmp_path) -> Sysfs:
    return Sysfs(tmp_path / "sys")


def refuse(sysfs: Sysfs, spec: str) -> DatapathError:
    with pytest.raises(DatapathError) as caught:
        resolve(spec, sysfs.root)
    return caught.value


def test_serial_names_the_devdax_of_its_region(sysfs):
    sysfs.memdev(0, 0xA1)
    sysfs.memdev(1, 0xB2)
    sysfs.dax("dax0.0", sysfs.region(0, [1]) / "dax_region0")
    sysfs.dax("dax1.0", sysfs.region(1, [0]) / "dax_region1")
    assert resolve("serial:0xb2", sysfs.root) == Memory("serial:0xb2", "/dev/dax0.0", 254 * MIB, "devdax")
    assert resolve("serial:0xA1", sysfs.root).path == "/dev/dax1.0"
    assert resolve("serial:161", sysfs.root).path == "/dev/dax1.0"


def test_a_namespace_on_the_nvdimm_bus_is_found_by_its_address(sysfs):
    sysfs.memdev(0, 0xA1)
    sysfs.memdev(1, 0xB2)
    sysfs.region(0, [0], address=0x110000000)
    sysfs.region(1, [1], address=0x210000000)
    sysfs.dax("dax5.0", sysfs.platform / "nvdimm-bridge0/ndbus0/region1/dax1.0", address=0x210200000)
    assert resolve("serial:0xb2", sysfs.root).path == "/dev/dax5.0"
    assert refuse(sysfs, "serial:0xa1").code == Code.NOT_FOUND


def test_sizes_are_whole_huge_pages(sysfs):
    sysfs.memdev(0, 1)
    sysfs.dax("dax0.0", sysfs.region(0, [0]), size=254 * MIB + 4096)
    assert resolve("/dev/dax0.0", sysfs.root).size == 254 * MIB


def test_unknown_serial_lists_what_there_is(sysfs):
    sysfs.memdev(0, 0xA1)
    error = refuse(sysfs, "serial:0xdead")
    assert error.code == Code.NOT_FOUND
    assert "mem0=0xa1" in error.message


def test_no_cxl_at_all(sysfs, tmp_path):
    assert refuse(sysfs, "serial:1").code == Code.NOT_FOUND
    assert refuse(Sysfs(tmp_path / "other"), "/dev/dax0.0").code == Code.NOT_FOUND


def test_memdev_without_devdax_says_which_mode_it_is_in(sysfs):
    sysfs.memdev(0, 0xA1)
    region = sysfs.region(0, [0])
    assert "create-namespace" in refuse(sysfs, "serial:0xa1").hint
    pmem = region / "pmem_region0/block/pmem0"
    pmem.mkdir(parents=True)
    sysfs.link("class/block", pmem)
    assert "pmem0 (fsdax mode)" in refuse(sysfs, "serial:0xa1").message


def test_ambiguous_serials_are_refused(sysfs):
    sysfs.memdev(0, 0xA1)
    region = sysfs.region(0, [0])
    sysfs.dax("dax0.0", region)
    sysfs.dax("dax0.1", region)
    assert "dax0.0, dax0.1" in refuse(sysfs, "serial:0xa1").message
    sysfs.memdev(1, 0xA1)
    assert "mem0, mem1" in refuse(sysfs, "serial:0xa1").message


def test_interleaved_memdev_is_not_taken_for_the_whole(sysfs):
    sysfs.memdev(0, 0xA1)
    sysfs.memdev(1, 0xB2)
    sysfs.dax("dax0.0", sysfs.region(0, [0, 1]))
    error = refuse(sysfs, "serial:0xa1")
    assert "interleaved" in error.message
    assert resolve("/dev/dax0.0", sysfs.root).kind == "devdax"


def test_system_ram_mode_is_refused(sysfs):
    sysfs.memdev(0, 1)
    sysfs.dax("dax0.0", sysfs.region(0, [0]), driver="kmem")
    error = refuse(sysfs, "/dev/dax0.0")
    assert (error.code, "daxctl" in error.hint) == (Code.INVALID, True)


@pytest.mark.parametrize("content", ["", "many", "-5", "0x", "99999999999999999999999"])
def test_sysfs_that_makes_no_sense_is_named(sysfs, content):
    sysfs.memdev(0, 1)
    sysfs.dax("dax0.0", sysfs.region(0, [0]))
    (sysfs.root / "bus/dax/devices/dax0.0/size").write_text(content)
    error = refuse(sysfs, "/dev/dax0.0")
    assert error.code == Code.CORRUPT
    assert "dax0.0/size" in error.object


def test_hostile_links_in_sysfs_are_survived(sysfs):
    sysfs.memdev(0, 0xA1)
    region = sysfs.region(0, [0])
    sysfs.dax("dax0.0", region)
    (region / "target0").write_text("../../../etc/passwd\n")
    assert refuse(sysfs, "serial:0xa1").code == Code.NOT_FOUND


@pytest.mark.parametrize(
    "spec",
    ["", "dax0.0", "serial:", "serial:xyz", "serial:0x1ffffffffffffffff", "relative/path", "/a\nb", "/" + "x" * 300, 5, None],
)
def test_what_is_no_memory_name(spec):
    with pytest.raises(DatapathError) as caught:
        check_spec(spec)
    assert caught.value.code == Code.INVALID


def test_files(shared_file, tmp_path):
    path = shared_file(8192)
    assert resolve(str(path)) == Memory(str(path), str(path), 8192, "file")
    link = tmp_path / "link"
    link.symlink_to(path)
    assert resolve(str(link)).path == str(path)


@pytest.mark.parametrize(
    ("make", "code"), [("missing", Code.NOT_FOUND), ("folder", Code.INVALID), ("odd", Code.INVALID), ("empty", Code.INVALID)]
)
def test_files_that_are_no_memory(tmp_path, make, code):
    path = tmp_path / make
    if make == "folder":
        path.mkdir()
    elif make != "missing":
        path.write_bytes(b"x" * (5000 if make == "odd" else 0))
    with pytest.raises(DatapathError) as caught:
        resolve(str(path))
    assert (caught.value.code, caught.value.object) == (code, str(path))


@pytest.mark.skipif(not Path("/dev/loop0").exists(), reason="needs a block device")
def test_a_block_device_is_no_memory():
    with pytest.raises(DatapathError) as caught:
        resolve("/dev/loop0")
    assert "block device" in caught.value.message


def test_two_mappings_share_bytes_and_bounds_are_kept(shared_file):
    memory = resolve(str(shared_file(8192)))
    with Mapping(memory) as one, Mapping(memory, writable=False) as two:
        one.write(100, b"hello")
        assert two.read(100, 5) == b"hello"
        for offset, length in ((8190, 3), (8192, 1), ((1 << 64) - 1, 2)):
            with pytest.raises(DatapathError) as caught:
                one.read(offset, length)
            assert caught.value.code == Code.RANGE
        with pytest.raises(DatapathError) as caught:
            one.write(8190, b"123")
        assert caught.value.code == Code.RANGE
    with pytest.raises(DatapathError, match="not mapped"):
        one.read(0, 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
def test_no_permission_is_said(shared_file):
    memory = resolve(str(shared_file(4096)))
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        try:
            Mapping(memory)
        except DatapathError as error:
            os._exit(42 if error.code == Code.DENIED else 43)
        os._exit(44)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
