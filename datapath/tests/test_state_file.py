# SPDX-License-Identifier: GPL-3.0-or-later
"""The desired state on disk: whole or refused, never guessed."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.file_id import FileId
from cxl_datapath.state import BackendState, BlkdevState, StateFile, TransportState

SAMPLE = [
    TransportState(
        "serial:0xa1",
        "pool0",
        "12345678-0000-0000-0000-000000000000",
        [BackendState(0, "/dev/sdb", False), BackendState(3, "/srv/disk", True, 4, FileId(12, 2049, "b0" * 16))],
        [BlkdevState(1, 2, 4, "auto", "cbd1", False, True, 30, 7)],
    ),
    TransportState("/dev/dax1.0", "pool1", "22345678-0000-0000-0000-000000000000"),
]


def test_what_is_saved_is_loaded(tmp_path):
    file = StateFile(tmp_path)
    assert file.load() == []
    file.save(SAMPLE)
    assert StateFile(tmp_path).load() == SAMPLE
    assert file.path.stat().st_mode & 0o777 == 0o600
    file.save([])
    assert file.load() == []
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def _same_id(state):
    state[0].backends.append(replace(state[0].backends[0], path="/srv/other"))


def _same_name(state):
    state.append(state[0])


def _out_of_range(state):
    state[0].blkdevs[0].queues = 0


@pytest.mark.parametrize("damage", [_same_id, _same_name, _out_of_range])
def test_what_would_not_be_loaded_is_not_saved(tmp_path, damage):
    file = StateFile(tmp_path)
    file.save(SAMPLE)
    wrong = deepcopy(SAMPLE)
    damage(wrong)
    with pytest.raises(DatapathError) as caught:
        file.save(wrong)
    assert (caught.value.code, caught.value.object) == (Code.FAILED, str(file.path))
    assert file.load() == SAMPLE


@pytest.mark.parametrize("cut", range(0, 700, 13))
def test_a_torn_file_is_refused_with_its_name(tmp_path, cut):
    file = StateFile(tmp_path)
    file.save(SAMPLE)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(DatapathError) as caught:
        file.load()
    assert (caught.value.code, caught.value.object) == (Code.CORRUPT, str(file.path))
    assert "move it away" in caught.value.hint


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["version", "transports", "memory", "id", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from([None, "memory", "name", "uuid", "backends", "blkdevs"]))
def test_any_other_json_is_refused(tmp_path_factory, value, field):
    file = StateFile(tmp_path_factory.mktemp("state"))
    file.save(SAMPLE)
    raw = json.loads(file.path.read_text())
    if field is None:
        raw = value
    elif value == raw["transports"][0][field] or value == []:
        return
    else:
        raw["transports"][0][field] = value
    file.path.write_text(json.dumps(raw))
    try:
        loaded = file.load()
    except DatapathError as error:
        assert error.code == Code.CORRUPT
    else:
        assert field in ("name", "uuid")  # another valid name
        assert loaded[0].backends == SAMPLE[0].backends


def test_a_crash_between_write_and_rename_keeps_the_old_state(tmp_path, monkeypatch):
    file = StateFile(tmp_path)
    file.save(SAMPLE)

    def crash(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(DatapathError):
        file.save([])
    assert file.load() == SAMPLE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_full_folder_is_an_error_that_names_the_file(tmp_path):
    file = StateFile(tmp_path / "missing")
    with pytest.raises(DatapathError) as caught:
        file.save(SAMPLE)
    assert (caught.value.code, caught.value.object) == (Code.NOT_FOUND, str(file.path))
