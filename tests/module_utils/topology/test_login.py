# SPDX-License-Identifier: GPL-3.0-or-later
"""A host is ready when the right sshd lets the right key in; everything else is a reason or an alarm."""

from __future__ import annotations

import shutil
import subprocess
import time

import pytest
from ansible.module_utils.cxl_lab.ports import free_port
from ansible.module_utils.cxl_lab.topology.login import WrongHostKey, try_login
from ssh_server import listener, sshd

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Private key files of a host, of its user, and of a stranger."""
    folder = tmp_path_factory.mktemp("keys")
    files = {name: folder / name for name in ("host", "user", "stranger")}
    for name, file in files.items():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(file)], check=True)
    return files


def public(file):
    return file.with_suffix(".pub").read_text()


def test_the_right_key_gets_in(keys):
    with sshd(keys["host"], public(keys["user"])) as port:
        assert try_login(port, keys["user"], public(keys["host"])) == ""


def test_another_user_key_does_not(keys):
    with sshd(keys["host"], public(keys["user"])) as port:
        assert "uthentication" in try_login(port, keys["stranger"], public(keys["host"]))


def test_another_host_key_is_an_alarm(keys):
    with sshd(keys["stranger"], public(keys["user"])) as port, pytest.raises(WrongHostKey, match="ssh-ed25519"):
        try_login(port, keys["user"], public(keys["host"]))


def test_the_wrong_host_never_sees_the_user_key(keys, monkeypatch):
    import paramiko

    monkeypatch.setattr(paramiko.Transport, "auth_publickey", lambda *_: pytest.fail("offered the key to a stranger"))
    with sshd(keys["stranger"], public(keys["user"])) as port, pytest.raises(WrongHostKey):
        try_login(port, keys["user"], public(keys["host"]))


def test_a_closed_port_is_a_reason(keys):
    assert "refused" in try_login(free_port(), keys["user"], public(keys["host"]))


@pytest.mark.parametrize(
    "banner", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\xfe\x00\r\n" * 200, b"SSH-1.0-old\r\n", b"SSH-\r\n", b""]
)
def test_something_else_at_the_port_is_a_reason(keys, banner):
    def answer(connection):
        with connection:
            connection.sendall(banner)

    with listener(answer) as port:
        assert try_login(port, keys["user"], public(keys["host"]), timeout=5) != ""


def test_silence_at_the_port_is_a_reason(keys):
    """QEMU accepts for a guest whose sshd does not run yet."""
    with listener(lambda connection: time.sleep(30)) as port:
        assert try_login(port, keys["user"], public(keys["host"]), timeout=0.2) != ""


def test_a_damaged_key_of_ours_is_a_reason(keys, tmp_path):
    (tmp_path / "key").write_text("no key")
    with sshd(keys["host"], public(keys["user"])) as port:
        assert try_login(port, tmp_path / "key", public(keys["host"])) != ""
        assert "No such file" in try_login(port, tmp_path / "none", public(keys["host"]))
