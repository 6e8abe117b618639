# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on this host, and what their failures say."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.runner import HostRunner, Result, last_line, must, must_json
from fakes import FakeRunner
from hypothesis import given
from hypothesis import strategies as st


def test_a_command_is_an_argument_list_and_never_a_shell_line():
    assert HostRunner().run(["printf", "%s", "$(id); `id` | *"]) == Result(0, "$(id); `id` | *", "")


def test_input_output_and_exit_code():
    assert HostRunner().run(["cat"], stdin="words\n").stdout == "words\n"
    done = HostRunner().run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert done == Result(3, "out\n", "err\n")


def test_bytes_that_are_no_text_do_no_harm():
    assert HostRunner().run(["printf", r"a\377b"]).stdout == "a\N{REPLACEMENT CHARACTER}b"


def test_the_environment_is_always_the_same(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/nowhere.so")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    environment = dict(line.split("=", 1) for line in HostRunner().run(["env"]).stdout.splitlines())
    assert environment["LC_ALL"] == "C.UTF-8" and not {"LD_PRELOAD", "LANG", "HOME"} & set(environment)


def test_a_command_is_looked_for_where_it_is_run(monkeypatch, tmp_path):
    """Root's folders are not on every caller's path, and the caller's own folders are not on ours."""
    tool = tmp_path / "only-mine"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert HostRunner().run(["true"]).rc == 0
    with pytest.raises(LabError, match="only-mine: command is not installed"):
        HostRunner().run(["only-mine"])


def test_a_missing_command_is_named():
    with pytest.raises(LabError, match=r"^no-such-tool: command is not installed on this host; install") as caught:
        HostRunner().run(["no-such-tool", "--version"])
    assert caught.value.details() == {"cmd": ["no-such-tool", "--version"]}


def test_a_program_that_cannot_run_is_named(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(LabError, match=r"broken: cannot be run: "):
        HostRunner().run([str(broken)])


def test_a_command_that_does_not_end_is_ended():
    with pytest.raises(LabError, match="did not end within 0 s") as caught:
        HostRunner().run(["sleep", "600"], timeout=0.1)
    assert caught.value.cmd == ["sleep", "600"]


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (Result(2, "out\n", "warning\nno space left\n\n"), "no space left"),
        (Result(2, "only out\n", " \n"), "only out"),
        (Result(2, "", ""), "tool ended with exit code 2"),
    ],
)
def test_must_says_the_last_words(result, problem):
    with pytest.raises(LabError) as caught:
        must(FakeRunner({"tool": result}), ["tool", "-x"], "disk a", "make room")
    assert str(caught.value) == f"disk a: {problem}; make room"
    assert caught.value.details() == {"cmd": ["tool", "-x"], "rc": 2, "stderr": result.stderr or result.stdout}


def test_must_returns_the_output():
    assert must(FakeRunner({"tool": "out\n"}), ["tool"], "disk a") == "out\n"


def test_json_answers():
    assert must_json(FakeRunner({"tool": '{"a": 1}\n'}), ["tool"], "list") == {"a": 1}
    assert must_json(FakeRunner({"tool": " \n"}), ["tool"], "list") == []
    with pytest.raises(LabError, match=r"^list: tool printed something that is no JSON: 'Usage"):
        must_json(FakeRunner({"tool": "Usage: tool"}), ["tool"], "list")


@given(st.text())
def test_any_answer_is_json_or_a_lab_error(text):
    try:
        answer = must_json(FakeRunner({"tool": text}), ["tool"], "list")
    except LabError:
        return
    assert answer == (json.loads(text) if text.strip() else [])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]))))
def test_last_line_is_the_last_that_says_something(lines):
    said = [line.strip() for line in lines if line.strip()]
    assert last_line("\n".join(lines)) == (said[-1] if said else "")


def test_a_control_character_after_json_is_no_json():
    with pytest.raises(LabError, match="is no JSON"):
        must_json(FakeRunner({"tool": "0\x1f"}), ["tool"], "list")
