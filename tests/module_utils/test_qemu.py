# SPDX-License-Identifier: GPL-3.0-or-later
"""Which QEMU is taken, and the wrapper that runs it out of its tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.qemu import choose, make_qemu, qemu_recipe, qemu_version, wrapper, wrapper_script
from ansible.module_utils.cxl_lab.runner import Result
from fakes import FakeRunner
from hypothesis import given
from hypothesis import strategies as st

TREE = Path("/cache/qemu-0123456789abcdef")
DISTRO, OWN = "/usr/bin/qemu-system-x86_64", str(TREE / "bin/qemu-system-x86_64")
versions = st.one_of(st.none(), st.tuples(st.integers(0, 20), st.integers(0, 9)))


@pytest.mark.parametrize(
    ("source", "distro", "candidate", "path", "reason"),
    [
        ("auto", None, None, OWN, "the distribution's QEMU (none) is older than 11.1"),
        ("auto", None, (10, 0), OWN, "the distribution's QEMU (10.0) is older than 11.1"),
        ("auto", None, (11, 1), DISTRO, "QEMU 11.1 maps regions directly"),
        ("auto", (10, 0), (12, 0), OWN, "the distribution's QEMU (10.0) is older than 11.1"),
        ("auto", (11, 0), None, OWN, "the distribution's QEMU (11.0) is older than 11.1"),
        ("auto", (11, 1), None, DISTRO, "QEMU 11.1 maps regions directly"),
        ("auto", (12, 0), (10, 0), DISTRO, "QEMU 12.0 maps regions directly"),
        ("trixie", (12, 0), None, OWN, "as asked for"),
        ("trixie", None, None, OWN, "as asked for"),
        ("distro", (10, 0), None, DISTRO, "QEMU 10.0, as asked for"),
        ("distro", None, (10, 0), DISTRO, "QEMU 10.0, as asked for"),
    ],
)
def test_choice(source, distro, candidate, path, reason):
    choice = choose(source, distro, candidate, TREE)
    assert (choice.path, choice.reason) == (path, reason)
    assert choice.source == ("distro" if path == DISTRO else "trixie")


@pytest.mark.parametrize(
    ("distro", "candidate", "shown"),
    [(None, None, "none"), ((7, 2), None, "7.2"), ((7, 2), (11, 1), "7.2"), (None, (9, 2), "9.2")],
)
def test_too_old_for_cxl(distro, candidate, shown):
    with pytest.raises(
        LabError, match=rf'^cxl_hypervisor_qemu_source: .* QEMU {shown}, too old for CXL; use "trixie" or "auto"$'
    ):
        choose("distro", distro, candidate, TREE)


@given(versions, versions)
def test_auto_always_finds_one_that_maps_directly(distro, candidate):
    choice = choose("auto", distro, candidate, TREE)
    assert choice.path == OWN or (distro or candidate) >= (11, 1)


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        ("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright (c) 2003-2026\n", (11, 1)),
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\n", (7, 2)),
        ("something else\n", None),
        ("", None),
        (Result(1, "QEMU emulator version 11.1.3\n", "cannot load module\n"), None),
        (lambda: (_ for _ in ()).throw(LabError("qemu", "command is not installed")), None),
    ],
)
def test_version(answer, version):
    assert qemu_version(FakeRunner({DISTRO: answer}), DISTRO) == version


def test_the_tree_is_only_unpacked():
    recipe = qemu_recipe("http://example.org/debian")
    assert recipe.variant == "extract" and recipe.mirror == "http://example.org/debian" and "qemu-system-x86" in recipe.packages
    assert recipe.digest() != qemu_recipe("http://deb.debian.org/debian").digest()


LOADER = """\
#!/bin/sh
echo "modules=$QEMU_MODULE_DIR"
for word in "$@"; do echo "$word"; done
exit 7
"""


@pytest.mark.parametrize("name", ["tree", "my tree", "it's a tree", 'tree "$HOME"'])
def test_the_wrapper_runs_the_tree_with_its_own_libraries(tmp_path, name):
    tree = tmp_path / name
    libraries = tree / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    (libraries / "ld-linux-x86-64.so.2").write_text(LOADER)
    (libraries / "ld-linux-x86-64.so.2").chmod(0o755)
    script = wrapper(tree)
    script.parent.mkdir()
    script.write_text(wrapper_script(tree))
    script.chmod(0o755)
    done = subprocess.run([str(script), "-name", "a b", "-S", "*"], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines() == [
        f"modules={libraries}/qemu",
        *("--argv0", str(script), "--library-path", str(libraries), f"{tree}/usr/bin/qemu-system-x86_64"),
        *("-L", f"{tree}/usr/share/qemu", "-L", f"{tree}/usr/share/seabios", "-name", "a b", "-S", "*"),
    ]


def test_the_tree_is_built_once_and_names_its_final_place(tmp_path):
    recipe = qemu_recipe("http://example.org/debian")
    runner = FakeRunner({"mmdebstrap": ""})
    assert make_qemu(recipe, tmp_path, runner) is True
    final = recipe.folder(tmp_path)
    assert wrapper(final).read_text() == wrapper_script(final) and wrapper(final).stat().st_mode & 0o777 == 0o755
    assert final.stat().st_mode & 0o777 == 0o755, "the emulator's user goes through here"
    assert make_qemu(recipe, tmp_path, runner) is False and len(runner.ran) == 1


def test_a_failed_build_leaves_no_tree(tmp_path):
    recipe = qemu_recipe("http://example.org/debian")
    with pytest.raises(LabError, match="qemu tree of trixie"):
        make_qemu(recipe, tmp_path, FakeRunner({"mmdebstrap": Result(25, "", "E: no network\n")}))
    assert not recipe.folder(tmp_path).exists()
    assert make_qemu(recipe, tmp_path, FakeRunner({"mmdebstrap": ""})) is True
