# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of the control socket, with daemons that cannot be asked."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mishaps import paused

from cxl_datapath import cli, client
from cxl_datapath.client import Client
from cxl_datapath.errors import Code, DatapathError


def unreachable(runtime: Path) -> DatapathError:
    with pytest.raises(DatapathError) as caught:
        Client(runtime)
    return caught.value


@pytest.mark.parametrize("words", [["status"], ["cbd", "backend", "stop", "pool0", "0"]])
def test_a_daemon_that_stands_still_is_an_error_and_no_endless_wait(make_host, monkeypatch, capsys, words):
    host = make_host("node1")
    monkeypatch.setattr(client, "HELLO_S", 0.5)
    with paused({host.pid}):
        assert cli.main(["--runtime", str(host.runtime), *words]) == 1
    said = capsys.readouterr().err
    assert f"{host.socket}: the daemon does not answer within 0.5 s; it stands still" in said
    assert host.call("status")["transports"] == []


def test_a_client_that_is_refused_before_it_asks_learns_why(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()

        def refuse() -> None:
            peer, _ = listener.accept()
            error = DatapathError(Code.BUSY, "socket", "is full").to_json()
            peer.sendall(json.dumps({"id": None, "error": error}).encode() + b"\n")
            peer.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        error = unreachable(tmp_path)
        thread.join(10)
    assert (error.code, error.message) == (Code.BUSY, "is full")


def test_a_path_that_no_socket_can_have_is_named(tmp_path):
    error = unreachable(tmp_path / ("x" * 200))
    assert error.code == Code.INVALID
    assert "too long" in error.message


def test_a_daemon_whose_socket_no_path_fits_says_what_to_shorten(tmp_path):
    runtime = tmp_path / ("x" * 100)
    command = [sys.executable, "-m", "cxl_datapath.daemon", "--runtime", str(runtime), "--state", str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stderr.endswith("that of a socket can have 107; use a shorter --runtime folder\n")
    assert not runtime.exists()


def test_a_name_that_the_terminal_cannot_show_does_not_cost_the_answer(make_host, tmp_path):
    disk = tmp_path / "d\u00efsk"
    disk.write_bytes(b"")
    host = make_host("node1")
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "cxl_datapath.cli", "--runtime", str(host.runtime), "cbd", "transport", "probe", str(disk)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert b"Traceback" not in done.stderr and rb"d\xefsk" in done.stdout + done.stderr


def test_without_a_daemon_the_hint_is_what_works_on_this_machine(tmp_path, monkeypatch):
    runtime = tmp_path / "node1"
    hint = unreachable(runtime).hint
    assert "is --runtime right?" in hint and "playbooks/datapath.yml" in hint
    assert "systemctl" not in hint and ".log" not in hint
    runtime.with_name("node1.log").touch()
    assert unreachable(runtime).hint.endswith(f"what it said: {tmp_path}/node1.log")
    monkeypatch.setattr(client, "RUNTIME", runtime)
    monkeypatch.setattr(client, "_SYSTEMD", tmp_path / "none")
    assert "systemctl" not in unreachable(runtime).hint
    monkeypatch.setattr(client, "_SYSTEMD", tmp_path)
    assert unreachable(runtime).hint.startswith("start it: systemctl start cxl-datapathd")


def test_a_wait_of_a_lease_is_told_and_outlasts_the_patience_of_the_client(make_host, shared_file, monkeypatch, capsys):
    first = make_host("node1")
    memory = str(shared_file(1 << 20))
    geometry = {"hosts": 2, "backends": 1, "blkdevs": 1, "channels": 1, "ring_depth": 2, "slot_bytes": 4096, "lease_ms": 3000}
    first.call("cbd.transport.format", memory=memory, name="pool0", **geometry)
    first.call("cbd.transport.register", memory=memory)
    first.kill()
    shutil.rmtree(first.state)  # it does not know any more that it was registered
    first.start()
    monkeypatch.setattr(client, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(client, "WORD_S", 0.1)
    assert cli.main(["--runtime", str(first.runtime), "cbd", "transport", "register", memory]) == 0
    words = "cxl-datapath: waiting for an earlier life of host node1 in transport pool0 to be silent for 3 s\n"
    assert capsys.readouterr().err == words
    assert first.call("hello")["waits_for"] == []


def test_a_daemon_that_neither_answers_nor_waits_is_given_up(make_host, monkeypatch):
    host = make_host("node1")
    monkeypatch.setattr(client, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(client, "WORD_S", 0.1)
    with Client(host.runtime) as asking:
        ours, kept = socket.socketpair()  # what goes there is never answered
        asking._answers.close()
        asking._socket.close()
        asking._socket, asking._answers = ours, ours.makefile("rb")
        with pytest.raises(DatapathError) as caught:
            asking.call("status")
        kept.close()
    assert (caught.value.code, caught.value.object) == (Code.TIMEOUT, "status")
