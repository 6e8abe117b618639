# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_service as Ansible runs it, with real daemons."""

from __future__ import annotations

import socket
import sys

import pytest
from ansible.module_utils.cxl_lab import detached
from ansible.module_utils.cxl_lab.detached import Daemon
from ansible.modules import cxl_service
from fakes import run_module

SERVER = """
import os, socket, sys
if os.path.exists(sys.argv[1]):
    os.unlink(sys.argv[1])
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
while True:
    server.accept()
"""


@pytest.fixture
def folder(tmp_path):
    """Below it the module keeps its pid files in this test; whatever runs is ended afterwards."""
    yield tmp_path
    for name, run in (("server", "run"), ("other", "run"), ("server", "run2")):
        Daemon(name, [], tmp_path / "socket", tmp_path / run).stop(timeout=0)


@pytest.fixture
def service(folder, monkeypatch, capsys):
    def run(*, check=False, **args):
        command = [sys.executable, "-c", SERVER, str(folder / "socket")]
        return run_module(
            cxl_service,
            monkeypatch,
            capsys,
            check=check,
            **{"name": "server", "command": command, "socket": str(folder / "socket"), "run_dir": str(folder / "run"), **args},
        )

    return run


def test_start_twice_and_stop_twice(service, folder):
    first = service()
    assert first["changed"] is True and first["service"]["running"] is True and first["service"]["pid"] > 0
    second = service()
    assert second["changed"] is False and second["service"] == first["service"]
    gone = service(state="stopped")
    assert gone["changed"] is True and gone["service"] == {"name": "server", "running": False, "pid": 0, "users": []}
    assert service(state="stopped")["changed"] is False and list((folder / "run").iterdir()) == []


def test_restart_is_another_process(service):
    first = service()["service"]
    second = service(state="restarted")
    assert second["changed"] is True and second["service"]["running"] is True and second["service"]["pid"] != first["pid"]


def test_another_command_takes_the_place_of_the_first_and_stays(service, folder):
    first = service()["service"]
    command = [sys.executable, "-c", SERVER, str(folder / "socket"), "another"]
    planned = service(check=True, command=command)
    assert planned["changed"] is True and planned["service"] == first
    second = service(command=command)
    assert second["changed"] is True and second["service"]["running"] is True and second["service"]["pid"] != first["pid"]
    assert detached.start_time(first["pid"]) == "", "the first one has ended"
    assert service(command=command)["changed"] is False
    assert service(command=command[:-1])["changed"] is True, "what was left out counts as well"


def test_a_script_is_known_by_its_name_whatever_runs_it(service, folder):
    script = folder / "server"
    script.write_text(f"#!{sys.executable} -E\n{SERVER}")
    script.chmod(0o755)
    command = [str(script), str(folder / "socket")]
    assert service(command=command)["changed"] is True
    assert service(command=command)["changed"] is False
    copy = folder / "copy"
    copy.symlink_to(script)
    assert service(command=[str(copy), str(folder / "socket")])["changed"] is True


def test_restart_starts_what_does_not_run(service):
    result = service(state="restarted")
    assert result["changed"] is True and result["service"]["running"] is True


def test_check_mode_starts_and_stops_nothing(service, folder):
    planned = service(check=True)
    assert planned["changed"] is True and planned["service"]["running"] is False and not (folder / "run").exists()
    pid = service()["service"]["pid"]
    for state in ("stopped", "restarted"):
        planned = service(check=True, state=state)
        assert planned["changed"] is True and planned["service"] == {"name": "server", "running": True, "pid": pid, "users": []}


@pytest.mark.parametrize("state", ["started", "stopped", "restarted"])
def test_a_daemon_of_somebody_else_is_left_alone(service, folder, state):
    other = Daemon("other", [sys.executable, "-c", SERVER, str(folder / "socket")], folder / "socket", folder / "run")
    other.start()
    result = service(state=state)
    assert result["changed"] is False and result["service"] == {"name": "server", "running": True, "pid": 0, "users": []}
    assert other.own_pid() != 0


def test_one_of_ours_that_hangs_is_replaced_and_not_doubled(service, folder):
    pid = service()["service"]["pid"]
    (folder / "socket").unlink()
    result = service()
    assert result["changed"] is True and result["service"]["running"] is True and result["service"]["pid"] != pid
    assert detached.start_time(pid) == "", "the first one has ended"


def test_a_daemon_that_cannot_start(service, folder):
    result = service(command=[sys.executable, "-c", "import sys; sys.exit('no configuration')"])
    assert result["failed"] is True and result["msg"] == f"daemon server: did not come up; look at {folder}/run/server.log"
    assert result["stderr"] == "no configuration\n" and result["cmd"][0] == sys.executable


@pytest.mark.parametrize("name", ["../x", "a b", "", "A"])
def test_a_bad_name_reaches_no_file(service, folder, name):
    result = service(name=name)
    assert result["failed"] is True and result["msg"].startswith(f"name: {name!r} is no valid name")
    assert list(folder.iterdir()) == []


def test_two_daemons_of_one_name_in_two_folders(service, folder):
    first = service(run_dir=str(folder / "run"))["service"]
    command = [sys.executable, "-c", SERVER, str(folder / "other")]
    second = service(run_dir=str(folder / "run2"), command=command, socket=str(folder / "other"))
    assert second["changed"] is True and second["service"]["pid"] != first["pid"]
    stopped = service(run_dir=str(folder / "run2"), command=command, socket=str(folder / "other"), state="stopped")
    assert stopped["changed"] is True and service()["service"] == first


TCP_SERVER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    server.accept()
"""


def test_a_daemon_that_listens_at_a_port(service):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    asked = {"command": [sys.executable, "-c", TCP_SERVER, port], "socket": f"127.0.0.1:{port}"}
    assert service(**asked)["service"]["running"] is True
    assert service(**asked)["changed"] is False
    assert service(**asked, state="stopped")["service"]["running"] is False


@pytest.mark.parametrize("address", ["relative", "host", "host:0", "host:65536", "a b:1", "[::1]:1", ""])
def test_what_is_no_address(service, address):
    assert service(socket=address)["msg"].startswith(f"socket: {address!r} is no address")


def test_it_stays_while_somebody_else_needs_it(service, folder):
    first = service(user="alpha")
    assert first["changed"] is True and first["service"]["users"] == ["alpha"]
    assert service(user="alpha")["changed"] is False
    planned = service(user="beta", check=True)
    assert planned["changed"] is True and planned["service"]["users"] == ["alpha"]
    assert service(user="beta")["service"] == {**first["service"], "users": ["alpha", "beta"]}
    left = service(user="alpha", state="stopped")
    assert left["changed"] is True and left["service"] == {**first["service"], "users": ["beta"]}
    assert service(user="alpha", state="stopped")["changed"] is False
    gone = service(user="beta", state="stopped")
    assert gone["changed"] is True and gone["service"]["running"] is False
    assert list((folder / "run").iterdir()) == []


def test_a_user_that_goes_twice_leaves_no_folder(service, folder):
    assert service(user="alpha", state="stopped")["changed"] is False
    assert list(folder.iterdir()) == []


def test_the_name_of_a_user_is_a_name(service):
    assert "user" in service(user="../x")["msg"]
