# SPDX-License-Identifier: GPL-3.0-or-later
"""Files from paths and addresses, with real files and a real server on the loopback interface."""

from __future__ import annotations

import hashlib
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.fetch import Checksum, Source

CONTENT = bytes(range(256)) * 9000
GOOD = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())
BAD = Checksum("sha256", "0" * 64)


@pytest.fixture
def file(tmp_path):
    folder = tmp_path / "my images"
    folder.mkdir()
    (folder / "disk.qcow2").write_bytes(CONTENT)
    return folder / "disk.qcow2"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_args):
        """Says nothing on the terminal of the tests."""


@pytest.fixture
def server(file):
    """The address of the folder of the file."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=file.parent)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_path_and_every_address_of_it(file, server, tmp_path):
    for number, where in enumerate((str(file), file.as_uri(), f"{server}/disk.qcow2")):
        source = Source("image", where, GOOD)
        source.check()
        source.fetch(tmp_path / str(number))
        assert (tmp_path / str(number)).read_bytes() == CONTENT and source.identity() == str(GOOD)


def test_a_path_without_a_checksum_is_known_by_its_content(file, tmp_path):
    assert Source("image", str(file)).identity() == Source("image", file.as_uri()).identity() == str(GOOD)
    Source("image", str(file)).fetch(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == CONTENT
    file.write_bytes(b"other")
    assert Source("image", str(file)).identity() != str(GOOD)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_both_kinds_of_checksum(file, tmp_path, algorithm):
    digits = hashlib.new(algorithm, CONTENT).hexdigest()
    Source("image", str(file), Checksum.parse(f" {algorithm.upper()}:{digits.upper()}\n", "checksum")).fetch(tmp_path / "got")


def test_another_content_is_refused_and_leaves_nothing(file, server, tmp_path):
    for where in (str(file), f"{server}/disk.qcow2"):
        with pytest.raises(LabError, match=f"has another checksum than it should: {GOOD}, not {BAD}; get the file anew"):
            Source("image", where, BAD).fetch(tmp_path / "got")
        assert not (tmp_path / "got").exists()


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:12", "md5:" + "0" * 32, "0" * 64, "sha256:" + "g" * 64, "sha512:" + "0" * 64]
)
def test_what_is_no_checksum(text):
    with pytest.raises(LabError, match='is no checksum; write "sha256:" or "sha512:"'):
        Checksum.parse(text, "checksum")


@pytest.mark.parametrize("where", ["disk.qcow2", "ftp://example.org/x", "http://", "file://elsewhere/x", "https:x", "~/x"])
def test_what_is_neither_a_path_nor_an_address(where):
    with pytest.raises(LabError, match="is neither a path nor an address; write an absolute path"):
        Source("image", where, GOOD).check()


def test_an_address_needs_a_checksum():
    with pytest.raises(LabError, match="comes over a network and has no checksum"):
        Source("image", "https://example.org/x").check()


def test_what_is_not_there(server, tmp_path):
    with pytest.raises(LabError, match="/no/such cannot be read: No such file or directory; correct the path"):
        Source("image", "/no/such", GOOD).fetch(tmp_path / "got")
    with pytest.raises(LabError, match=r"missing cannot be read: HTTP Error 404: .*; check the address and the network"):
        Source("image", f"{server}/missing", GOOD).fetch(tmp_path / "got")
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("answer", [b"", b"no web server\n", b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\nshort"])
def test_a_server_that_does_not_keep_its_word(answer, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(LabError, match=r"cannot be read|another checksum"):
            Source("image", f"http://127.0.0.1:{listener.getsockname()[1]}/x", GOOD).fetch(tmp_path / "got")
        thread.join()
    assert not (tmp_path / "got").exists()


def test_nobody_at_the_address(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(LabError, match=r"cannot be read: .*refused.*; check the address"):
        Source("image", f"http://127.0.0.1:{port}/x", GOOD).fetch(tmp_path / "got")


def test_a_place_that_cannot_be_written(file, tmp_path):
    with pytest.raises(LabError, match="cannot be written: No such file or directory; check its free space"):
        Source("image", str(file)).fetch(tmp_path / "missing" / "got")
