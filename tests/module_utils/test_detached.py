# SPDX-License-Identifier: GPL-3.0-or-later
"""Real daemons: small servers on unix sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.detached import Daemon, start_time
from ansible.module_utils.cxl_lab.errors import LabError

SERVER = """
import os, signal, socket, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "broken" in sys.argv:
    sys.exit("cannot open the configuration: nowhere.conf")
if "deaf" in sys.argv:
    time.sleep(600)
server = socket.socket(socket.AF_UNIX)
if os.path.exists(sys.argv[1]):
    os.unlink(sys.argv[1])
server.bind(sys.argv[1])
server.listen()
while True:
    connection, _ = server.accept()
    try:
        connection.sendall(str(os.getpid()).encode())
    except OSError:
        pass
    connection.close()
"""


@pytest.fixture
def daemon(tmp_path):
    """Makes daemons of this test; none of them outlives it."""
    made = []

    def make(*words, name="server"):
        command = [sys.executable, "-c", SERVER, str(tmp_path / "socket"), *words]
        made.append(Daemon(name, command, tmp_path / "socket", tmp_path / "run"))
        return made[-1]

    yield make
    for each in made:
        each.stop(timeout=0)


def who_answers(daemon) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(daemon.socket))
        return int(client.recv(64))


def test_a_daemon_runs_detached_until_it_is_stopped(daemon):
    server = daemon()
    assert server.answers() is False and server.own_pid() == 0
    server.start()
    assert server.answers() is True and who_answers(server) == server.own_pid() > 0
    assert os.getsid(server.own_pid()) == server.own_pid() != os.getsid(0)
    assert Path(f"/proc/{server.own_pid()}/cwd").readlink() == Path("/")
    assert server.stop() is True
    assert server.answers() is False and server.own_pid() == 0
    assert list(server.folder.iterdir()) == [] and server.stop() is False


def test_it_can_be_started_again(daemon):
    server = daemon()
    server.start()
    first = server.own_pid()
    server.stop()
    server.start()
    assert who_answers(server) == server.own_pid() != first


def test_what_it_said_before_it_died_is_still_there_when_it_runs_again(daemon):
    server = daemon()
    server.start()
    server.log.write_text("the last words\n")
    os.kill(server.own_pid(), signal.SIGKILL)
    server.start()
    assert server.log.read_text().startswith("the last words\n")


def test_who_does_not_listen_to_reason_is_killed(daemon):
    server = daemon("stubborn")
    server.start()
    pid = server.own_pid()
    assert server.stop(timeout=0.2) is True
    os.waitpid(pid, 0)
    assert start_time(pid) == "" and server.answers() is False


def test_a_daemon_that_dies_tells_why(daemon):
    server = daemon("broken")
    with pytest.raises(LabError, match=r"^daemon server: did not come up; look at .*/run/server.log$") as caught:
        server.start()
    assert caught.value.stderr == "cannot open the configuration: nowhere.conf\n" and caught.value.cmd == list(server.command)
    assert server.log.read_text() == caught.value.stderr, "the message sends the user there"
    assert server.own_pid() == 0 and not server.pid_file.exists()


def test_a_daemon_that_never_answers_is_ended(daemon):
    server = daemon("deaf")
    with pytest.raises(LabError, match="did not come up"):
        server.start(timeout=0.3)
    assert server.own_pid() == 0 and not server.pid_file.exists()


def test_a_program_that_is_not_there_is_named(tmp_path):
    server = Daemon("server", ["/no/such/program"], tmp_path / "socket", tmp_path / "run")
    with pytest.raises(LabError, match=r"^daemon server: cannot be run: No such file or directory; ") as caught:
        server.start()
    assert caught.value.cmd == ["/no/such/program"] and list(server.folder.iterdir()) == []


def test_a_daemon_of_somebody_else_is_left_alone(daemon):
    theirs, ours = daemon(name="theirs"), daemon()
    theirs.start()
    assert ours.answers() is True and ours.own_pid() == 0
    assert ours.stop() is False and theirs.answers() is True


def test_a_pid_that_belongs_to_another_program_is_left_alone(daemon):
    server = daemon()
    server.folder.mkdir()
    with subprocess.Popen(["sleep", "600"]) as other:
        server.pid_file.write_text(f"{other.pid} {int(start_time(other.pid)) - 1}\n")
        assert server.own_pid() == 0 and server.stop() is False
        assert other.poll() is None and not server.pid_file.exists()
        server.pid_file.write_text(f"{other.pid} {start_time(other.pid)}\n")
        assert server.own_pid() == other.pid
        other.kill()


@pytest.mark.parametrize(
    "content", ["", "17", "x y", "1 2 3", "-1 0", "999999999 1", f"{10**30} 1", "\udcff".encode("utf-8", "surrogateescape")]
)
def test_a_damaged_pid_file_names_nobody(daemon, content):
    server = daemon()
    server.folder.mkdir()
    server.pid_file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert server.own_pid() == 0 and server.stop() is False


def test_a_dead_child_has_no_start_time():
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert start_time(child.pid) == ""
    assert start_time(os.getpid()).isdigit() and start_time(2**22 + 1) == ""


def test_a_name_with_brackets_does_not_confuse_the_start_time(tmp_path):
    program = tmp_path / "a) S (b"
    program.symlink_to("/usr/bin/sleep")
    with subprocess.Popen([str(program), "600"]) as child:
        started = start_time(child.pid)
        child.kill()
    assert started.isdigit() and int(started) >= int(start_time(os.getpid()))


def test_a_socket_file_without_a_server_is_no_answer(daemon):
    server = daemon()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(server.socket))
    assert server.answers() is False
    server.start()
    assert server.answers() is True
