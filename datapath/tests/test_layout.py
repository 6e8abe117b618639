# SPDX-License-Identifier: GPL-3.0-or-later
"""Records as bytes: what goes in comes out, and nothing that comes in from outside does harm."""

from __future__ import annotations

import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxl_datapath.cbd import layout, lines, metadata
from cxl_datapath.cbd.geometry import CHANNELS_MAX, ENTRIES_MAX, FormatOptions, channel_size, plan
from cxl_datapath.cbd.layout import BackendEntry, BlkdevEntry, HostEntry, Info, State
from cxl_datapath.cbd.lines import Bell, Claim, ControlLine, Fence, Heartbeat, Intent
from cxl_datapath.errors import Code, DatapathError

u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, (1 << 64) - 1)
states = st.sampled_from(State)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True).filter(lambda name: not name.isdigit())
paths = st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=60).map(lambda text: f"/{text}")

infos = st.builds(
    lambda identity, name, features, coherence, hosts, power, pages, spare, lease_ms: Info(
        identity,
        name,
        features,
        coherence,
        plan(
            FormatOptions(hosts=hosts, ring_depth=1 << power, slot_bytes=4096 * pages),
            (1 << 20) + hosts * 4096 + spare + 2 * channel_size(1 << power, 4096 * pages),
        ),
        lease_ms,
    ),
    st.uuids(),
    names,
    st.sampled_from([0, 1]),
    st.sampled_from([0, 1]),
    st.integers(1, ENTRIES_MAX),
    st.integers(1, 10),
    st.integers(1, 256),
    st.integers(0, 1 << 24),
    st.integers(1000, 600_000),
)
hosts = st.builds(HostEntry, states, u32, u32, names, st.binary(min_size=16, max_size=16))
backends = st.builds(
    lambda block, blocks, physical, unit, **rest: BackendEntry(
        logical_block_size=block,
        capacity=block * blocks,
        physical_block_size=block << physical,
        discard_granularity=block * unit,
        **rest,
    ),
    st.sampled_from([512, 4096]),
    st.integers(1, 1 << 40),
    st.integers(0, 4),
    st.integers(0, 1 << 10),
    state=states,
    id=u32,
    host_id=u32,
    epoch=u32,
    flags=st.integers(0, 7),
    path=paths,
    host_epoch=u32,
    life=u32,
)
blkdevs = st.builds(
    lambda channels, **rest: BlkdevEntry(channels=tuple(channels), channel_epochs=tuple(c ^ 1 for c in channels), **rest),
    st.lists(st.integers(0, CHANNELS_MAX), min_size=1, max_size=16, unique=True),
    state=states,
    id=u32,
    host_id=u32,
    backend_id=u32,
    backend_epoch=u32,
    epoch=u32,
    flags=st.integers(0, 3),
    host_epoch=u32,
)
records = st.one_of(infos, hosts, backends, blkdevs)
KINDS = (Info, HostEntry, BackendEntry, BlkdevEntry)
counter_lines = st.one_of(
    st.builds(Heartbeat, u64, u32), st.builds(Bell, u64), st.builds(Fence, u64), st.builds(Claim, u64, st.booleans())
) | st.builds(Intent, u64)
control_lines = st.builds(ControlLine, states, u32, u32, u32, u32, u32, u32)
LINES = (Heartbeat, Bell, Fence, Claim, Intent, ControlLine)


def an_info() -> Info:
    return Info(uuid.UUID(bytes=bytes(range(16))), "pool0", 1, 1, plan(FormatOptions(), 64 << 20), 5000)


@given(records)
def test_a_record_survives_its_bytes(record):
    assert type(record).unpack(record.pack()) == record


@given(counter_lines | control_lines)
def test_a_line_survives_its_bytes(line):
    raw = line.pack()
    assert len(raw) == 64
    assert type(line).unpack(raw) == line


@given(counter_lines, st.integers(0, 16 * 8 - 1))
def test_a_counter_line_with_a_flipped_bit_is_no_line(line, bit):
    raw = bytearray(line.pack())
    raw[bit // 8] ^= 1 << bit % 8
    assert type(line).unpack(bytes(raw)) is None


@given(control_lines, st.integers(0, 64 * 8 - 1))
def test_a_control_line_with_a_flipped_bit_is_no_line(line, bit):
    raw = bytearray(line.pack())
    raw[bit // 8] ^= 1 << bit % 8
    assert ControlLine.unpack(bytes(raw)) is None


@given(counter_lines, counter_lines)
def test_half_a_counter_line_is_no_line(old, new):
    """What a reader may see of a line that is overwritten: the new first word beside the old second one, or the reverse."""
    for torn in (new.pack()[:8] + old.pack()[8:], old.pack()[:8] + new.pack()[8:]):
        assert torn in (old.pack(), new.pack()) or Heartbeat.unpack(torn) is None


@given(st.sampled_from(KINDS), st.binary(max_size=400))
def test_random_payload_is_refused_or_valid(kind, raw):
    try:
        record = kind.unpack(raw)
    except DatapathError as error:
        assert error.code in (Code.CORRUPT, Code.UNSUPPORTED)
    else:
        assert kind.unpack(record.pack()) == record


@given(records, st.data())
def test_a_flipped_bit_in_a_payload_is_refused_or_another_valid_record(record, data):
    raw = bytearray(record.pack())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    try:
        changed = type(record).unpack(bytes(raw))
    except DatapathError:
        return
    if isinstance(changed, Info):
        changed.geometry.check()


@given(st.binary(max_size=200))
def test_random_lines_and_copies_never_raise(raw):
    for line in LINES:
        line.unpack(raw)
    metadata.unseal(b"CXTI", raw)


@given(st.binary(min_size=12, max_size=64))
def test_a_hostile_geometry_with_a_valid_crc_is_refused(raw):
    """Numbers straight from the attacker: the payload of an info whose areas are random."""
    good = an_info().pack()
    changed = good[:100] + raw + good[100 + len(raw) :]
    try:
        info = Info.unpack(changed)
    except DatapathError:
        return
    g = info.geometry
    assert g.channel_off(g.channel_count - 1) + g.channel_size <= g.total_size


def test_golden_offsets():
    """The document's numbers, by hand."""
    assert (layout.INFO.size, layout.HOST.size, layout.BACKEND.size, layout.BLKDEV.size) == (176, 96, 304, 168)
    info = an_info().pack()
    assert info[:8] == bytes((8, 7, 6, 5, 4, 3, 2, 1))
    assert info[8:24] == bytes(range(16))
    assert info[24:30] == b"pool0\0"
    assert struct.unpack_from("<QI", info, 88) == (1, 1)
    assert struct.unpack_from("<III", info, 116) == (64, 65536, 5000)
    assert struct.unpack_from("<QQ", info, 128) == (64 << 20, 8192)
    sealed = metadata.seal(b"CXTI", 7, info, 4096)
    assert (sealed[:4], struct.unpack_from("<QII", sealed, 8)) == (b"CXTI", (7, 176, 2))
    entry = BlkdevEntry(State.RUNNING, 3, 9, 1, 2, 5, 0, (4, 6), (10, 11), 12).pack()
    assert struct.unpack_from("<8I", entry) == (1, 3, 1, 2, 5, 9, 0, 2)
    assert struct.unpack_from("<3I", entry, 32) == (4, 6, 0xFFFFFFFF)
    assert struct.unpack_from("<3I", entry, 96) == (10, 11, 0)
    assert struct.unpack_from("<I", entry, 160) == (12,)
    entry = BackendEntry(State.RUNNING, 3, 9, 1, 2, 512, 1 << 20, "/dev/sdx", 4096, 8192, 12, 7).pack()
    assert struct.unpack_from("<6IQ", entry) == (1, 3, 1, 9, 2, 512, 1 << 20)
    assert struct.unpack_from("<4I", entry, 288) == (4096, 8192, 12, 7)
    line = ControlLine(State.RUNNING, 7, 1, 2, 3, 4, 5).pack()
    assert (line[:4], struct.unpack_from("<7I", line, 4)) == (b"CXCH", (1, 7, 1, 2, 3, 4, 5))
    assert struct.unpack_from("<QI", Claim(9, True).pack()) == (9, 1)
    assert (lines.HEARTBEAT_OFF, lines.BELL_OFF, lines.FENCE_OFF) == (2048, 2112, 2176)
    assert (lines.CLAIM_OFF, lines.INTENT_OFF) == (3072, 3136)


@pytest.mark.parametrize(
    ("offset", "value", "code"),
    [
        (0, struct.pack(">Q", 0x0102030405060708), Code.UNSUPPORTED),  # another byte order
        (88, struct.pack("<Q", 3), Code.UNSUPPORTED),  # an unknown feature
        (96, struct.pack("<I", 2), Code.CORRUPT),  # an unknown coherence
        (116, struct.pack("<I", 48), Code.CORRUPT),  # a ring that is no power of two
        (124, struct.pack("<I", 999), Code.CORRUPT),  # a lease that no host can keep
        (124, struct.pack("<I", 600_001), Code.CORRUPT),
        (24, b"../../etc\0", Code.CORRUPT),  # a name that is a path
        (160, struct.pack("<Q", (1 << 64) - 4096), Code.CORRUPT),  # channels behind the end, by wrap-around
    ],
)
def test_info_that_must_be_refused(offset, value, code):
    raw = bytearray(an_info().pack())
    raw[offset : offset + len(value)] = value
    with pytest.raises(DatapathError) as caught:
        Info.unpack(bytes(raw))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (288, 0),  # a physical block of nothing
        (288, 256),  # below the logical one
        (288, 4608),  # no power of two
        (288, 131072),  # too large
        (292, 100),  # discards that are no blocks
    ],
)
def test_backend_limits_that_must_be_refused(offset, value):
    raw = bytearray(BackendEntry(State.RUNNING, 0, 1, 0, 0, 512, 1 << 20, "/dev/sdx", 4096, 4096, 1, 1).pack())
    raw[offset : offset + 4] = struct.pack("<I", value)
    with pytest.raises(DatapathError) as caught:
        BackendEntry.unpack(bytes(raw))
    assert caught.value.code == Code.CORRUPT
