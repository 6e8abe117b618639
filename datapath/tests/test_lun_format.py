# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python mirror of `core/cxlflash_format.h` and the structures of `cblk.h`, asked of the C compiler."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cxl_datapath import cblk
from cxl_datapath.cxlflash import engine, wire

CORE = Path(__file__).parent.parent / "core"
SAME = {
    "CXLFLASH_VERSION": wire.VERSION,
    "CXLFLASH_BLOCK": wire.BLOCK,
    "CXLFLASH_LINE": wire.LINE,
    "CXLFLASH_CONTEXTS_MAX": wire.CONTEXTS_MAX,
    "CXLFLASH_HANDLES_MAX": wire.HANDLES_MAX,
    "CXLFLASH_DEPTH_MIN": wire.DEPTH_MIN,
    "CXLFLASH_DEPTH_MAX": wire.DEPTH_MAX,
    "CXLFLASH_TRANSFER_BLOCKS": wire.TRANSFER_BLOCKS,
    "CXLFLASH_UNMAP_BLOCKS": wire.UNMAP_BLOCKS,
    "CXLFLASH_RINGS": wire.RINGS,
    "CXLFLASH_ERROR": wire.ERROR,
    "CXLFLASH_NO_LBA": wire.NO_LBA,
    "sizeof(struct cxlflash_request)": wire.REQUEST.size,
    "sizeof(struct cxlflash_answer)": wire.ANSWER.size,
    **{f"CXLFLASH_{service.name}": service.value for service in wire.Service},
    "CXLFLASH_ATTACH_REUSE": wire.ATTACH_REUSE,
    "CXLFLASH_ATTACH_READ_ONLY": wire.ATTACH_READ_ONLY,
    "CXLFLASH_SCRUB": wire.SCRUB,
    "CXLFLASH_HINT_SENSE": wire.HINT_SENSE,
    "CXLFLASH_ENABLE_SUPERPIPE": wire.ENABLE_SUPERPIPE,
    "CXLFLASH_DISABLE_SUPERPIPE": wire.DISABLE_SUPERPIPE,
    "CXLFLASH_APP_CLOSE_ADAP_FD": wire.APP_CLOSE_ADAP_FD,
    "CXLFLASH_ALL_PORTS_ACTIVE": wire.ALL_PORTS_ACTIVE,
    "CXLFLASH_CONTEXT_RESET": wire.CONTEXT_RESET,
    "offsetof(struct cxlflash_request, lun)": 40,
    "offsetof(struct cxlflash_request, sense)": 104,
    "offsetof(struct cxlflash_answer, last_lba)": 24,
    "offsetof(struct cxlflash_answer, text)": 48,
    **{f"cxlflash_area_bytes({depth}U)": wire.area_bytes(depth) for depth in (2, 8, 64, 128, 256)},
    **{f"cxlflash_data_off({depth}U)": wire.data_off(depth) for depth in (2, 64, 256)},
    "sizeof(struct cxl_lun_conf)": ctypes.sizeof(engine.LunConf),
    "sizeof(struct cxl_lun_context_conf)": ctypes.sizeof(engine.ContextConf),
    "sizeof(struct cxl_lun_stats)": ctypes.sizeof(engine.LunStats),
    "sizeof(struct cblk_stats)": ctypes.sizeof(cblk.Stats),
    "sizeof(struct cblk_attrs)": ctypes.sizeof(cblk.Attrs),
    "sizeof(cblk_io_t)": ctypes.sizeof(cblk._Io),
    "offsetof(cblk_io_t, stat)": cblk._Io.stat.offset,
    "CBLK_BLOCK_SIZE": cblk.BLOCK_SIZE,
    "CBLK_OPN_VIRT_LUN": cblk.OPN_VIRT_LUN,
    "CBLK_SCRUB_DATA_FLG": cblk.SCRUB_DATA_FLG,
    "CBLK_ARW_WAIT_CMD_FLAG": cblk.ARW_WAIT_CMD_FLAG,
    "CBLK_ARW_USER_TAG_FLAG": cblk.ARW_USER_TAG_FLAG,
    "CBLK_ARESULT_BLOCKING": cblk.ARESULT_BLOCKING,
    "CBLK_ARESULT_NEXT_TAG": cblk.ARESULT_NEXT_TAG,
    "CBLK_ARESULT_USER_TAG": cblk.ARESULT_USER_TAG,
    **{f"CBLK_ARW_STATUS_{status.name}": status.value for status in cblk.Status},
    **{f"CBLK_IO_TYPE_{kind.name}": kind.value for kind in cblk.Type},
}


def test_the_mirror_says_what_the_headers_say(tmp_path):
    lines = "\n".join(f'    printf("%llu\\n", (unsigned long long)({name}));' for name in SAME)
    includes = "".join(f'#include "{name}"\n' for name in ("cxlflash_format.h", "cxl_lun.h", "cblk.h"))
    source = f"#include <stddef.h>\n#include <stdio.h>\n{includes}int main(void)\n{{\n{lines}\n    return 0;\n}}\n"
    (tmp_path / "ask.c").write_text(source)
    subprocess.run(["cc", "-std=c11", "-I", CORE, "-o", tmp_path / "ask", tmp_path / "ask.c"], check=True)
    said = subprocess.run([tmp_path / "ask"], check=True, capture_output=True, text=True).stdout.split()
    assert dict(zip(SAME, map(int, said), strict=True)) == SAME


_U64, _U32 = st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1)


@given(st.integers(0, 65535), _U32, _U64, _U64, _U64, _U32, _U32, st.binary(max_size=64), st.binary(max_size=32))
def test_a_request_survives_the_way(service, flags, context, source, size, handle, depth, lun, sense):  # noqa: PLR0917
    lun, sense = lun.rstrip(b"\0"), sense.rstrip(b"\0")
    request = wire.Request(service, flags, context, source, size, handle, depth, lun, sense)
    assert wire.Request.unpack(request.pack()) == request


@given(st.text(max_size=300))
def test_the_text_of_an_answer_always_ends(text):
    packet = wire.Answer(error=5, text=text).pack(1)
    assert len(packet) == wire.ANSWER.size
    assert packet[-1] == 0


def test_the_last_lba_of_nothing_is_all_ones():
    assert [wire.last_lba(blocks) for blocks in (0, 1, 4096)] == [wire.NO_LBA, 0, 4095]
