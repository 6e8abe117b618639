# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket of a real daemon, talked to by raw bytes."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys

import pytest
from hosts import Host
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.methods import METHODS
from cxl_datapath.peers import may_talk
from cxl_datapath.schema import Field, boolean, choice, integer, optional, parse
from cxl_datapath.server import LINE_MAX


def talk(host: Host, data: bytes) -> list[dict]:
    """Sends bytes, closes our direction, returns every answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(20)
        peer.connect(str(host.socket))
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the daemon hung up on us: its answer is still to be read
        received = b""
        try:
            while chunk := peer.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
    return [json.loads(line) for line in received.splitlines()]


def error_of(host: Host, data: bytes) -> dict:
    (answer,) = talk(host, data)
    assert set(answer["error"]) == {"code", "message", "object", "hint"}
    return answer["error"]


def test_hello(node):
    (answer,) = talk(node, b'{"id": 7, "method": "hello", "params": {}}\n')
    assert answer["id"] == 7
    assert answer["result"]["protocol"] == 1
    assert (answer["result"]["host"], answer["result"]["pid"]) == (node.name, node.pid)


def test_several_requests_on_one_connection(node):
    answers = talk(node, b'{"id": "a", "method": "hello"}\n{"id": "b", "method": "nope"}\n{"id": "c", "method": "hello"}\n')
    assert [answer["id"] for answer in answers] == ["a", "b", "c"]
    assert ["error" in answer for answer in answers] == [False, True, False]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"[]",
        b"5",
        b'"hello"',
        b"{}",
        b'{"id": 1, "method": 5}',
        b'{"id": [], "method": "hello"}',
        b'{"id": 1, "method": "hello", "extra": 1}',
        b'{"id": 1, "method": "hello", "params": []}',
        b'{"id": 1, "method": "hello", "params": {"x": 1}}',
        b'{"id": 1, "method": "cbd.transport.fly", "params": {}}',
        b'{"id": 1, "method": "cbd.host.list", "params": {}}',
        b'{"id": 1, "method": "cbd.host.list", "params": {"transport": "../x"}}',
        b'{"id": 1, "method": "cbd.blkdev.start", "params": {"transport": "t", "backend": true}}',
        b'{"id": 1, "method": "cbd.blkdev.start", "params": {"transport": "t", "backend": 0, "queues": 17}}',
        b'{"id": 1, "method": "cbd.blkdev.start", "params": {"transport": "t", "backend": 0, "frontend": "iscsi"}}',
        b"\xff\xfe\x00",
        b"[" * 100000,
    ],
)
def test_bad_requests_get_an_error_and_the_connection_goes_on(node, line):
    first, second = talk(node, line + b'\n{"id": 2, "method": "hello"}\n')
    assert first["error"]["code"] == "invalid"
    assert second["result"]["host"] == node.name


def test_a_line_that_is_too_long_ends_the_connection(node):
    assert "longer" in error_of(node, b"x" * (LINE_MAX + 10) + b"\n")["message"]
    assert talk(node, b'{"id": 1, "method": "hello"}\n')[0]["id"] == 1


def test_half_a_line_is_no_request(node):
    assert talk(node, b'{"id": 1, "method": "hello"}') == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(METHODS)),
    st.dictionaries(
        st.sampled_from(["transport", "memory", "backend", "id", "path", "name", "queues", "force", "junk"]),
        st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=2),
        max_size=5,
    ),
)
def test_random_parameters_never_reach_anything(node, method, params):
    (answer,) = talk(node, json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")
    if "error" in answer:
        assert answer["error"]["code"] in ("invalid", "not_found", "range", "denied"), answer
        assert "defect" not in answer["error"]["hint"]
    else:
        assert method in ("hello", "status") or method.endswith(".list")


def test_the_socket_is_for_its_owner(node):
    mode = node.socket.stat().st_mode
    assert (stat.S_ISSOCK(mode), mode & 0o777) == (True, 0o600)


def test_who_may_talk():
    me = os.geteuid()
    assert may_talk(0, 0, None)
    assert may_talk(me, 12345, None)
    assert not may_talk(me + 4242, 0, None)
    assert may_talk(me + 4242, 50, 50)
    assert not may_talk(me + 4242, 51, 50)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_peer_that_is_not_allowed_is_told_so_and_nothing_else(node):
    node.socket.chmod(0o666)
    node.runtime.chmod(0o755)
    node.folder.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            answers = talk(node, b'{"id": 1, "method": "status"}\n')
            os._exit(42 if [answer["error"]["code"] for answer in answers] == ["denied"] else 43)
        finally:
            os._exit(44)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


@pytest.mark.parametrize(("target", "reason"), [("/dev/full", "No space left on device"), ("|", "Broken pipe")])
def test_an_answer_that_cannot_be_written_is_one_line(node, target, reason):
    command = [sys.executable, "-P", "-m", "cxl_datapath.cli", "--runtime", str(node.runtime), "--json", "status"]
    if target == "|":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(target, os.O_WRONLY)
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, f"cxl-datapath: status: cannot write the answer: {reason}\n")


FIELDS = {"n": Field(integer(1, 3)), "b": Field(boolean, False), "c": Field(optional(choice(["x", "y"])), None)}


def test_parameters_are_checked_and_completed():
    assert parse("m", FIELDS, {"n": 2}) == {"n": 2, "b": False, "c": None}
    assert parse("m", FIELDS, {"n": 3, "b": True, "c": "y"}) == {"n": 3, "b": True, "c": "y"}


@pytest.mark.parametrize(
    "params",
    [{}, {"n": 0}, {"n": 4}, {"n": "1"}, {"n": True}, {"n": 1.0}, {"n": 1, "b": 1}, {"n": 1, "c": "z"}, {"n": 1, "d": 1}, 5],
)
def test_parameters_that_are_refused(params):
    with pytest.raises(DatapathError):
        parse("m", FIELDS, params)


# ---- the log


def test_a_change_that_is_refused_is_a_line_of_the_log(node):
    error = node.refuse(Code.NOT_FOUND, "cbd.transport.format", memory="/dev/shm/no-such-memory", name="pool0", force=True)
    assert logged(node, "cbd.transport.format") == [
        'INFO cbd.transport.format {"memory": "/dev/shm/no-such-memory", "name": "pool0", "force": true',
        f"WARNING cbd.transport.format failed: {error}",
    ]


def test_a_look_that_fails_is_no_line_of_the_log(node):
    node.refuse(Code.NOT_FOUND, "cbd.host.list", transport="pool7")
    assert logged(node, "cbd.host.list") == []


def logged(node: Host, method: str) -> list[str]:
    """The lines about a method, without their clock and what a request was completed with."""
    lines = [line for line in node.log.read_text().splitlines() if f" {method}" in line]
    return [re.sub(r"^.*?(INFO|WARNING)", r"\1", line).partition(', "hosts"')[0] for line in lines]
