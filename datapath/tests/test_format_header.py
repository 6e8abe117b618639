# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python layout against `core/cbd_format.h`, asked of the C compiler."""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from cxl_datapath import core
from cxl_datapath.cbd import geometry, layout, lines, metadata
from cxl_datapath.cbd.registry import ENTRY_COPY
from cxl_datapath.cbd.transport import INFO_COPY

CORE = Path(__file__).parent.parent / "core"

# C structure -> its Python layout and the fields in order; an empty name is not compared (reserved bytes).
STRUCTS = {
    "cbd_copy_header": (metadata.HEADER, "magic crc seq payload_len version reserved"),
    "cbd_info": (
        layout.INFO,
        "endian uuid name features coherence host_count backend_count blkdev_count channel_count ring_depth slot_bytes lease_ms "
        "total_size hosts_off backends_off blkdevs_off channels_off channel_size",
    ),
    "cbd_host": (layout.HOST, "state id epoch flags name boot_id"),
    "cbd_backend_entry": (
        layout.BACKEND,
        "state id host_id epoch flags logical_block_size capacity path physical_block_size discard_granularity host_epoch life",
    ),
    "cbd_blkdev_entry": (
        layout.BLKDEV,
        "state id host_id backend_id backend_epoch epoch flags queues channels channel_epochs host_epoch reserved",
    ),
    "cbd_control_line": (lines.CONTROL, "magic state epoch blkdev_id backend_id queue host_id host_epoch zero crc"),
}
CONSTANTS = {
    "sizeof(struct cbd_entry_page)": geometry.ENTRY_PAGE,
    "offsetof(struct cbd_entry_page, heartbeat)": lines.HEARTBEAT_OFF,
    "offsetof(struct cbd_entry_page, bell)": lines.BELL_OFF,
    "offsetof(struct cbd_entry_page, fence)": lines.FENCE_OFF,
    "offsetof(struct cbd_entry_page, claim)": lines.CLAIM_OFF,
    "offsetof(struct cbd_entry_page, intent)": lines.INTENT_OFF,
    "sizeof(struct cbd_slot)": geometry.SLOT,
    "CBD_LINE": lines.LINE,
    "CBD_VERSION": metadata.VERSION,
    "CBD_ENDIAN": geometry.ENDIAN,
    "CBD_INFO_COPY_BYTES": INFO_COPY,
    "CBD_ENTRY_COPY_BYTES": ENTRY_COPY,
    "CBD_HOSTS_OFF": geometry.INFO_AREA,
    "CBD_NO_CHANNEL": layout.NO_CHANNEL,
    "CBD_MAX_QUEUES": layout.QUEUES_MAX,
    "CBD_MIN_DEPTH": geometry.RING_DEPTHS[0],
    "CBD_MAX_DEPTH": geometry.RING_DEPTHS[-1],
    "CBD_MAX_SLOT_BYTES": geometry.SLOT_BYTES_MAX,
    "CBD_CHANNEL_BLKDEV_CTRL": lines.BLKDEV_LINE_OFF,
    "CBD_CHANNEL_BACKEND_CTRL": lines.BACKEND_LINE_OFF,
    "CBD_CHANNEL_RINGS": geometry.CHANNEL_RINGS,
}


def offsets(fields: struct.Struct) -> list[int]:
    """Offset of each element: a repeat count is one element for bytes and an array of numbers alike."""
    parts = re.findall(r"[0-9]*[a-zA-Z]", fields.format.lstrip("<"))
    found, at = [], 0
    for part in parts:
        count = int(part[:-1] or 1)
        alone = part[-1] == "s" or count == QUEUE_ARRAY
        for _ in range(1 if alone else count):
            found.append(at)
            at += struct.calcsize("<" + part) if alone else struct.calcsize("<" + part[-1])
    return found


QUEUE_ARRAY = 16

# The lines of an entry page share one Python layout; their numbers have names of their own in C.
COUNTER_LINES = {"heartbeat": "counter epoch", "bell": "generation zero", "fence": "epoch zero", "claim": "number choosing"} | {
    "intent": "nonce zero"
}


def test_python_and_c_agree(tmp_path):
    asked: dict[str, int] = dict(CONSTANTS)
    for name, (fields, members) in STRUCTS.items():
        asked[f"sizeof(struct {name})"] = fields.size
        for member, offset in zip(members.split(), offsets(fields), strict=True):
            asked[f"offsetof(struct {name}, {member})"] = offset
    for name, members in COUNTER_LINES.items():
        asked[f"sizeof(struct cbd_{name}_line)"] = lines.LINE
        for member, offset in zip([*members.split(), "crc"], offsets(lines.COUNTER), strict=True):
            asked[f"offsetof(struct cbd_{name}_line, {member})"] = offset
    assert ask(tmp_path, "cbd_format.h", asked) == asked


def ask(folder: Path, header: str, questions: Iterable[str]) -> dict[str, int]:
    """What the compiler says of each expression."""
    questions = list(questions)
    body = "\n".join(f'    printf("%llu\\n", (unsigned long long)({question}));' for question in questions)
    source = folder / "ask.c"
    source.write_text(f'#include <stdio.h>\n#include "{header}"\nint main(void)\n{{\n{body}\n    return 0;\n}}\n')
    subprocess.run(["gcc", "-std=c11", f"-I{CORE}", "-o", folder / "ask", source], check=True)
    answers = subprocess.run([folder / "ask"], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(questions, map(int, answers), strict=True))


# C structure of cxl_core.h -> its ctypes mirror
CTYPES = {
    "cxl_mem": core.CxlMem,
    "cbd_channel_conf": core.ChannelConf,
    "cbd_idle_conf": core.IdleConf,
    "cbd_stats": core.Stats,
    "cbd_backend_conf": core.BackendConf,
    "cbd_ublk_conf": core.UblkConf,
    "mhsld_map": core.MhsldMap,
    "mhsld_conflict": core.MhsldConflict,
}


def test_ctypes_and_c_agree(tmp_path):
    asked = {"CXL_CORE_ABI": core.ABI}
    for name, mirror in CTYPES.items():
        asked[f"sizeof(struct {name})"] = ctypes.sizeof(mirror)
        for field, *_ in mirror._fields_:
            asked[f"offsetof(struct {name}, {field})"] = getattr(mirror, field).offset
    assert ask(tmp_path, "cxl_core.h", asked) == asked


def test_magics_agree():
    header = (CORE / "cbd_format.h").read_text()
    found = dict(re.findall(r"CBD_MAGIC_(\w+) CBD_MAGIC\((.*)\)", header))
    in_c = {name: "".join(re.findall(r"'(.)'", text)).encode() for name, text in found.items()}
    ours = {"INFO": layout.Info.MAGIC, "HOST": layout.HostEntry.MAGIC, "BACKEND": layout.BackendEntry.MAGIC}
    assert in_c == ours | {"BLKDEV": layout.BlkdevEntry.MAGIC, "CHANNEL": lines.CONTROL_MAGIC}
