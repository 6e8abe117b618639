# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest's cure for devices that a warm reboot left half set up, on a configuration space of the test."""

from __future__ import annotations

import struct
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "roles/cxl_guest_image/files/guest/usr/local/lib/cxl-lab/clear-mem-enable"
LOADER = SourceFileLoader("clear_mem_enable", str(SCRIPT))
cure = module_from_spec(spec_from_loader("clear_mem_enable", LOADER))
LOADER.exec_module(cure)


def space(capabilities: list[tuple[int, int, int]], control: int = 0x4) -> bytes:
    """A configuration space with extended capabilities (id, vendor, DVSEC id) and this value in each control register."""
    config = bytearray(4096)
    for index, (capability, vendor, identity) in enumerate(capabilities):
        offset = 0x100 + index * 0x40
        following = offset + 0x40 if index + 1 < len(capabilities) else 0
        struct.pack_into("<IIHH", config, offset, capability | 1 << 16 | following << 20, vendor, identity, 0)
        struct.pack_into("<H", config, offset + 0x0C, control)
    return bytes(config)


@pytest.fixture
def devices(tmp_path):
    def add(name: str, kind: str, config: bytes) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "class").write_text(kind + "\n")
        (tmp_path / name / "config").write_bytes(config)
        return tmp_path / name / "config"

    return add


def test_the_bit_is_cleared_and_nothing_else(devices, tmp_path):
    before = space([(0x23, 0x1AF4, 0), (0x01, 0, 0), (0x23, 0x1E98, 8), (0x23, 0x1E98, 0)], control=0x16)
    config = devices("0000:41:00.0", "0x050210", before)
    other = devices("0000:00:01.0", "0x020000", before)
    cure.main(tmp_path)
    assert config.read_bytes() == before[:0x1CC] + struct.pack("<H", 0x12) + before[0x1CE:]
    assert other.read_bytes() == before


def test_a_clean_device_is_left_alone(devices, tmp_path):
    before = space([(0x23, 0x1E98, 0)], control=0x12)
    config = devices("0000:41:00.0", "0x050210", before)
    config.chmod(0o444)
    cure.main(tmp_path)
    assert config.read_bytes() == before


@given(st.binary(max_size=4096))
def test_any_configuration_space_has_an_end(config):
    register = cure.control_register(config)
    assert register == 0 or 0x100 <= register < len(config)
