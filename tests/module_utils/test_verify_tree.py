# SPDX-License-Identifier: GPL-3.0-or-later
"""The verification tree on ordinary folders."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.verify_tree import (
    FILE_MAX,
    MANIFEST,
    SIZE_MIN,
    Manifest,
    compare_tree,
    content,
    parse_manifest,
    plan_tree,
    read_manifest,
    write_tree,
)
from hypothesis import given
from hypothesis import strategies as st

SIZE = 300_000


@pytest.fixture
def tree(tmp_path: Path):
    root = tmp_path / "tree"
    manifest = write_tree(root, plan_tree(SIZE), "5eed", "transport-uuid", "fs-uuid")
    return root, manifest


@given(st.integers(SIZE_MIN, 1 << 33))
def test_a_plan_has_exactly_the_bytes(size):
    files = plan_tree(size)
    assert sum(file.size for file in files) == size
    assert files[0].size == 0 and all(0 <= file.size <= FILE_MAX for file in files)
    paths = [file.path for file in files]
    assert len(set(paths)) == len(paths)
    assert not any(PurePosixPath(path).is_absolute() or ".." in path for path in paths)


def test_a_plan_is_nested_and_reaches_the_largest_file():
    files = plan_tree(32 << 20)
    assert max(file.size for file in files) == FILE_MAX
    assert {file.path.count("/") for file in files} == {0, 1, 3}


@pytest.mark.parametrize("size", [0, SIZE_MIN - 1, (64 << 30) + 1])
def test_totals_that_are_not_possible(size):
    with pytest.raises(LabError, match="not possible"):
        plan_tree(size)


def test_content_follows_from_seed_and_path():
    first, second = plan_tree(SIZE)[-2:]
    assert content("a", second) == content("a", second)
    assert content("a", second) != content("b", second)
    assert len(content("a", first)) == first.size


def test_written_tree_compares_equal_and_survives_as_text(tree):
    root, manifest = tree
    assert compare_tree(root, manifest) == []
    assert read_manifest(root) == manifest
    assert (manifest.size, manifest.transport, manifest.filesystem) == (SIZE, "transport-uuid", "fs-uuid")


def test_sha256sum_reads_the_manifest(tree):
    root, manifest = tree
    done = subprocess.run(["sha256sum", "-c", MANIFEST], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count(": OK") == len(manifest.sums)


def test_each_bad_file_is_named(tree):
    root, manifest = tree
    flipped, gone, empty, linked = [path for path in sorted(manifest.sums) if (root / path).stat().st_size][:4]
    data = bytearray((root / flipped).read_bytes())
    data[-1] ^= 1
    (root / flipped).write_bytes(data)
    (root / gone).unlink()
    (root / empty).write_bytes(b"")
    (root / linked).unlink()
    (root / linked).symlink_to("/etc/passwd")
    (root / "extra").write_text("")
    problems = compare_tree(root, manifest)
    assert [problem.split(":")[0] for problem in problems] == [*sorted([flipped, gone, empty, linked]), "extra"]
    assert any("No such file" in problem for problem in problems)


def test_a_tree_that_was_cut_short_has_no_manifest(tree):
    root, _ = tree
    (root / MANIFEST).unlink()
    assert read_manifest(root) is None
    assert read_manifest(root / "nowhere") is None


def test_any_change_of_the_manifest_is_noticed(tree):
    _, manifest = tree
    text = manifest.text()
    for damaged in (
        text[:-1],
        text.replace("# bytes: 3", "# bytes: 4"),
        text + "x",
        text.replace("file", "../file"),
        "",
        "\0" * 50,
    ):
        with pytest.raises(LabError, match="damaged"):
            parsed = parse_manifest(damaged)
            assert parsed.digest != manifest.digest
            raise LabError(MANIFEST, "is damaged by its digest")


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text):
    try:
        manifest = parse_manifest(text)
    except LabError:
        return
    assert manifest.text() == text


@given(
    st.dictionaries(
        st.sampled_from(["a", "b/c", "/etc/passwd", "../x", "b/../c", MANIFEST, "b//c"]), st.just("0" * 64), max_size=4
    )
)
def test_a_manifest_never_leads_out_of_its_tree(sums):
    text = Manifest("s", "t", "f", 1, sums).text()
    safe = set(sums) <= {"a", "b/c"}
    try:
        assert parse_manifest(text).sums == sums and safe
    except LabError:
        assert not safe
