# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench: one short run of all of it, and what its rows, checks, tables and plots do with figures. No figure is judged."""

from __future__ import annotations

import copy
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hosts import wait_until
from hypothesis import given
from hypothesis import strategies as st
from lab import children, running

from bench import __main__ as bench
from bench import doc, lab, results, run, schema, table
from bench.cases import CASES, LAB_LOADS, LAB_NAMES, TARGETS, Case, Target
from bench.errors import BenchError
from bench.plots import plots
from bench.probes import Direct, Figure, Load, Nbd, Sample, Tools, measure

ROOT = Path(__file__).resolve().parents[2]
LONGEST_S = 180  # only a hang takes as long
NAMES = [case.name for case in CASES]
ASKED = [
    *("limit_memcpy", "limit_pingpong_coherent", "limit_pingpong_flushed", "ring_rtt_coherent", "ring_rtt_flushed"),
    *("direct_4k_qd1_read", "direct_4k_qd32_read", "direct_1m_read", "nbdkit_4k_qd1_read", "idle_cpu", "wakeup"),
    *("kmem_blk_4k_qd1_read", "cblk_4k_qd1_read", "cblk_4k_qd1_write", "cblk_4k_qd32_read", "cblk_4k_qd32_write"),
    *("lab_4k_qd1_read", "lab_4k_qd32_read", "lab_1m_read"),
]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that one real, short run leaves."""
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "bench", "--out", str(folder), "run", "--quick"]
    done = subprocess.run(command, cwd=ROOT / "datapath", check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    yield folder


@pytest.fixture
def document(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "latest.json").read_text()))


def test_one_run_has_every_row(out: Path, document: dict[str, Any]) -> None:
    assert [row["name"] for row in document["results"]] == NAMES
    assert schema.problems(document, NAMES, 1) == []
    for row in document["results"]:
        assert row["ratios"].keys() == row["peers"].keys() <= {"nbd_unix", "nbd_tcp", "uring"}
        assert bool(row["peers"]) == row["name"].startswith(("direct_", "nbdkit_", "kmem_blk_", "cblk_"))
    table_lines = (out / "stdout").read_text().splitlines()
    assert [line.split()[0] for line in table_lines[1 : len(NAMES) + 1]] == NAMES
    assert not list(out.glob("*.new"))


def test_nothing_stays_behind(out: Path) -> None:
    assert not list(Path("/dev/shm").glob("cxl-lab-bench-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_before_the_end_leaves_nothing_either(out: Path, tmp_path: Path, number: signal.Signals) -> None:
    # A shell that starts something in the background has it ignore SIGINT, and so would all that it starts.
    listens = ["env", f"--default-signal={number.name.removeprefix('SIG')}"]
    command = [*listens, sys.executable, "-m", "bench", "--out", str(tmp_path), "run", "--runs", "1000", "--seconds", "0.1"]
    with subprocess.Popen(command, cwd=ROOT / "datapath", stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        started = wait_until(
            lambda: children(process.pid) and list(Path("/dev/shm").glob("cxl-lab-bench-*/nbd_tcp.pid")), "it measures"
        )
        descendants = children(process.pid)
        process.send_signal(number)
        try:
            assert process.wait(LONGEST_S) == 128 + number
        finally:
            process.kill()
    assert started and not list(tmp_path.iterdir()) and not list(Path("/dev/shm").glob("cxl-lab-bench-*"))
    wait_until(lambda: not any(map(running, descendants)), "every process has ended")


def test_the_environment_says_where_figures_come_from(document: dict[str, Any]) -> None:
    environment = document["environment"]
    assert environment["runs"] == 1 and environment["cores"] >= 1 and environment["versions"]["nbdkit"][0].isdigit()
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|unknown", environment["commit"])


def test_plots_are_svg(out: Path) -> None:
    files = sorted(out.glob("*.svg"))
    assert [file.name for file in files] == ["latency.svg", "speedup.svg", "stream.svg"]
    for file in files:
        bars = ElementTree.fromstring(file.read_text()).findall("{http://www.w3.org/2000/svg}rect")
        assert len(bars) >= 5 and all(float(bar.attrib["width"]) > 0 for bar in bars)


def test_every_asked_name_is_there() -> None:
    assert set(ASKED) <= {*NAMES, *LAB_NAMES}
    assert len({*NAMES, *LAB_NAMES}) == len(NAMES) + len(LAB_NAMES)
    assert TARGETS.keys() >= {"ring_rtt_coherent", "direct_4k_qd1_read", "direct_1m_read", "idle_cpu", "wakeup", "lab_1m_read"}


def test_ours_and_theirs_take_turns() -> None:
    peers = {"nbd_unix": Nbd("nbd_unix", Load("read", 4096, 1)), "nbd_tcp": Nbd("nbd_tcp", Load("read", 4096, 1))}
    direct, front = Direct(Load("read", 4096, 1)), Nbd("nbdkit", Load("read", 4096, 1))
    cases = [Case("a", "IOPS", direct, peers), Case("b", "IOPS", front, peers)]
    taken: list[object] = []

    def take(probe: object) -> Sample:
        taken.append(probe)
        return Sample(len(taken), 1)

    samples = run.take(run.schedule(cases), 5, take, lambda line: None)
    assert taken == [direct, peers["nbd_unix"], peers["nbd_tcp"], front] * 5
    assert [sample.value for sample in samples[direct]] == [1, 5, 9, 13, 17]
    first, second = results.rows(cases, samples)
    assert (first["median"], first["runs"], first["peers"]) == (9, 5, {"nbd_unix": 10, "nbd_tcp": 11})
    assert first["ratios"] == {"nbd_unix": 0.9, "nbd_tcp": 9 / 11} and second["peers"] == first["peers"]


def test_a_limit_comes_from_the_medians_of_other_rows() -> None:
    pingpong, ring = Figure("pingpong"), Figure("ring-rtt")
    cases = [Case("p", "ns", pingpong), Case("r", "ns", ring, limit=lambda medians: medians["p"])]
    samples: run.Samples = {pingpong: [Sample(100, 1)] * 5, ring: [Sample(v, 1) for v in (130, 999, 140, 150, 1)]}
    row = results.rows(cases, samples)[1]
    assert (row["median"], row["limit"]) == (140, 100)
    assert table.met(row, Target("limit", at_most=1.5)) and not table.met(row, Target("limit", at_most=1.3))


def test_a_limit_that_was_taken_beside_the_figure_counts_as_it_was_then() -> None:
    """The CPUs of a virtual machine are near to each other in one run and far in the next: medians of two rows would mix both."""
    ring = Figure("ring-rtt")
    samples: run.Samples = {
        ring: [Sample(150, 1, 100), Sample(520, 1, 450), Sample(530, 1, 460), Sample(140, 1, 95), Sample(540, 1, 470)]
    }
    row = results.rows([Case("r", "ns", ring)], samples)[0]
    assert (row["median"], row["limit"]) == (520, 450)


@pytest.mark.parametrize(
    ("load", "iops", "latency", "sample"),
    [
        (Load("read", 4096, 1), 100_000, 20, Sample(100_000, 50_000)),
        (Load("read", 4096, 32, 2), 400_000, 640, Sample(400_000, 100_000)),
        (Load("read", 1_000_000, 4), 5_000, 2000, Sample(5, 2)),
    ],
)
def test_the_p99_of_a_rate_is_a_rate(load: Load, iops: float, latency: float, sample: Sample) -> None:
    assert load.sample(iops, latency) == sample


def broken(document: dict[str, Any], row: int, **changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(document)
    made["results"][row] |= changes
    return made


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": "fast"}, "the rows are not limit_memcpy"),
        ({"median": float("nan")}, "median is nan"),
        ({"median": -1}, "median is -1"),
        ({"median": True}, "median is True"),
        ({"p99": "3"}, "p99 is '3'"),
        ({"p99": None}, "p99 is None"),
        ({"runs": 0}, "has 0 runs, not 1 or more"),
        ({"runs": 5.0}, "has 5.0 runs"),
        ({"unit": ""}, "has no unit"),
        ({"limit": 0}, "limit is 0"),
        ({"peers": {}}, "peers and ratios name different things"),
        ({"peers": {"nbd_unix": 0, "nbd_tcp": 1}}, "peer nbd_unix has no figure"),
        ({"ratios": {"nbd_unix": 9, "nbd_tcp": 9}}, "ratio to nbd_unix is not ours over theirs"),
        ({"extra": 1}, "has extra, limit"),
    ],
)
def test_a_wrong_document_is_not_written(document: dict[str, Any], out: Path, changes: dict[str, Any], problem: str) -> None:
    wrong = broken(document, NAMES.index("direct_4k_qd1_read"), **changes)
    assert any(problem in found for found in schema.problems(wrong, NAMES, 1)), schema.problems(wrong, NAMES, 1)
    with pytest.raises(BenchError, match="run: make bench"):
        bench.check(wrong, out / "latest.json", 1)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["environment", "results", "name", "peers", "ratios", "lab"]), inner, max_size=4)
        ),
    )
)
def test_anything_else_is_a_problem_and_no_crash(document: Any) -> None:
    assert schema.problems(document, NAMES, 1)


def test_too_few_runs_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for options in (["--runs", "4"], ["--seconds", "0"], ["--seconds", "nan"]):
        assert bench.main(["--out", str(tmp_path), "run", *options]) == 1
    assert "RUNS has to be 5 or more, SECONDS 0.1 to 60" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_lab_needs_a_run_of_the_machine_before(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bench.main(["--out", str(tmp_path), "lab", "inventories/local"]) == 1
    assert "latest.json: is not there; run: make bench" in capsys.readouterr().err
    (tmp_path / "latest.json").write_text("{")
    assert bench.main(["--out", str(tmp_path), "doc"]) == 1
    assert "is no JSON" in capsys.readouterr().err


def test_figures_of_a_lab_join_those_of_the_machine(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in document["results"]:
        row["runs"] = 5
    (tmp_path / "latest.json").write_text(json.dumps(document))
    for iops in (5000.0, 7000.0):  # a second run takes the place of the first
        taken = {"cbd": [{"iops": iops, "p99_us": 500.0}] * 5, "nbd_tcp": [{"iops": 1000.0, "p99_us": 2.0}] * 5}
        measured = {"kernel": "6.12"}, lab.rows(dict.fromkeys(LAB_LOADS, taken))
        monkeypatch.setattr(lab, "measure", lambda inventory, runs, seconds, measured=measured: measured)
        assert bench.main(["--out", str(tmp_path), "lab", "inventories/two_node"]) == 0
        have = json.loads((tmp_path / "latest.json").read_text())
        assert [row["name"] for row in have["results"]] == [*NAMES, *LAB_NAMES]
        assert have["environment"] == {**document["environment"], "lab": {"kernel": "6.12"}}
        assert have["results"][-len(LAB_NAMES)]["ratios"] == {"nbd_tcp": iops / 1000}
    assert "lab_1m_read" in capsys.readouterr().out and (tmp_path / "lab.svg").exists()


def test_a_probe_that_fails_names_the_command(tmp_path: Path) -> None:
    program = tmp_path / "cxl-bench"
    for script, problem in (
        ("exit 3", "exit code 3"),
        ("echo no room >&2; exit 2", "no room"),
        ("echo '{}'", "printed no result"),
    ):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        with pytest.raises(BenchError, match=problem) as caught:
            measure(Figure("memcpy"), Tools(program, program, program), 0.1)
        assert "cxl-bench" in str(caught.value)
    with pytest.raises(BenchError, match="is not installed"):
        measure(Figure("memcpy"), Tools(tmp_path / "nothing", program, program), 0.1)


def test_the_document_is_refreshed_between_its_marks(out: Path, document: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in (doc.DOCUMENT, doc.README):
        (tmp_path / name).write_text((ROOT / name).read_text())
    for _ in range(2):
        doc.refresh(tmp_path, out, document)
    text = (tmp_path / doc.DOCUMENT).read_text()
    assert table.markdown(document) in text and text.count("bench:table") == 2
    assert text.partition("<!-- bench:table -->")[0] == (ROOT / doc.DOCUMENT).read_text().partition("<!-- bench:table -->")[0]
    assert doc.headline(document) in (tmp_path / doc.README).read_text()
    assert {path.name for path in (tmp_path / doc.PLOTS).iterdir()} == set(plots(document))
    (tmp_path / doc.DOCUMENT).write_text("no marks")
    with pytest.raises(BenchError, match="has no mark bench:table"):
        doc.refresh(tmp_path, out, document)


@pytest.mark.parametrize(("load", "nice", "is_busy"), [(0.4, 0, False), (3.0, 0, True), (0.4, 19, True)])
def test_a_busy_machine_makes_no_headline(document: dict[str, Any], load: float, nice: int, is_busy: bool) -> None:
    document["environment"] |= {"load_before": load, "nice": nice, "cores": 2}
    assert ("busy machine" in table.markdown(document)) == is_busy
    ratio = document["results"][NAMES.index("direct_4k_qd1_read")]["ratios"]["nbd_unix"]
    assert doc.headline(document).startswith(f"{ratio:.1f} and ") != is_busy


def test_the_document_has_the_rows_that_the_bench_has() -> None:
    text = (ROOT / doc.DOCUMENT).read_text()
    between = text.partition("<!-- bench:table -->")[2].partition("<!-- /bench:table -->")[0]
    rows = re.findall(r"^\| `(\w+)` \|", between, re.MULTILINE)
    assert rows in (NAMES, [*NAMES, *LAB_NAMES])
    for name in re.findall(r"\(performance/([\w.]+)\)", text):
        assert (ROOT / doc.PLOTS / name).is_file(), name
