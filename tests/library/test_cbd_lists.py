# SPDX-License-Identifier: GPL-3.0-or-later
"""What every cbd module does with its list, against a daemon that does what the test says."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import waiting
from ansible.modules import cbd_backend, cbd_blkdev, cbd_host, cbd_info, cbd_transport
from fake_daemon import FakeDaemon, Refused
from fakes import run_module


class Pool:
    """Transport pool0 as this host, node2, sees it. node1 is dead after ``looks_until_death`` looks."""

    def __init__(self) -> None:
        self.hosts = [{"id": 0, "name": "node1", "local": False}, {"id": 1, "name": "node2", "local": True, "alive": True}]
        self.backends: list[dict] = []
        self.blkdevs: list[dict] = []
        self.looks_until_death = 0
        self._looks = itertools.count()

    def status(self):
        alive = next(self._looks) < self.looks_until_death
        for row in (*self.hosts, *self.backends, *self.blkdevs):
            if not row["local"]:
                row["alive"] = alive
        lists = {"host_list": self.hosts, "backend_list": self.backends, "blkdev_list": self.blkdevs}
        return {"version": "0", "host": "node2", "protocol": 1, "transports": [{"name": "pool0", "lease_ms": 1000, **lists}]}

    def lost(self, number: int) -> None:
        """A backend of node1."""
        row = {"id": number, "host": "node1", "path": f"/dev/sd{number}", "state": "running", "read_only": False, "local": False}
        self.backends.append(row)

    def start_backend(self, transport, path, id, read_only):
        if path == "/dev/broken":
            raise Refused(code="failed", object=path, message="cannot open: Input/output error", hint="replace the disk")
        number = len(self.backends) if id is None else id
        row = {"id": number, "host": "node2", "path": path, "state": "running", "read_only": read_only, "local": True}
        self.backends.append({**row, "worker": {"state": "running"}})

    def recover(self, transport, id, path=None):
        row = next(row for row in self.backends if row["id"] == id)
        row.update(host="node2", local=True, alive=True, path=path or row["path"], worker={"state": "running"})

    def start_blkdev(self, transport, backend, queues, name):
        row = {"id": len(self.blkdevs), "backend": backend, "queues": queues, "name": name, "device": f"/dev/{name}"}
        row |= {"state": "running", "local": True, "worker": {"state": "running"}, "frontend": "ublk"}
        self.blkdevs.append(row)

    def clear_host(self, transport, id, force):
        self.hosts = [row for row in self.hosts if row["id"] != id]


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def daemon(pool: Pool) -> Iterator[FakeDaemon]:
    with tempfile.TemporaryDirectory(prefix="cxlt-") as folder:
        methods = {
            "status": pool.status,
            "cbd.backend.start": pool.start_backend,
            "cbd.backend.stop": lambda transport, id: None,
            "cbd.backend.recover": pool.recover,
            "cbd.blkdev.start": pool.start_blkdev,
            "cbd.host.clear": pool.clear_host,
        }
        serving = FakeDaemon(Path(folder), methods)
        serving.folder = folder
        yield serving
        serving.close()


@pytest.fixture
def call(daemon, monkeypatch, capsys):
    def run(module, **args):
        return run_module(module, monkeypatch, capsys, runtime_dir=daemon.folder, **args)

    return run


def backend(path, **more):
    return {"transport": "pool0", "path": path, **more}


def test_one_call_does_the_whole_list_and_reads_it_back(call, daemon):
    wanted = [backend("/dev/a", id=7), backend("/dev/b", id=3, read_only=True)]
    made = call(cbd_backend, backends=wanted)
    assert made["changed"] and made["steps"] == ["start a backend on /dev/a", "start a backend on /dev/b"]
    assert [(row["id"], row["path"], row["read_only"], row["host"], row["transport"]) for row in made["backends"]] == [
        (7, "/dev/a", False, "node2", "pool0"),
        (3, "/dev/b", True, "node2", "pool0"),
    ]
    again = call(cbd_backend, backends=wanted)
    assert again["changed"] is False and again["steps"] == [] and again["backends"] == made["backends"]
    assert len(daemon.did) == 2


def test_only_what_is_missing_is_a_change(call, daemon):
    call(cbd_backend, backends=[backend("/dev/a", id=0)])
    more = call(cbd_backend, backends=[backend("/dev/a", id=0), backend("/dev/b", id=1)])
    assert more["steps"] == ["start a backend on /dev/b"] and len(more["backends"]) == 2


def test_a_difference_shows_each_object_before_and_after(call):
    call(cbd_backend, backends=[backend("/dev/a", id=0)])
    wanted = [backend("/dev/a", id=0), backend("/dev/b", id=1)]
    after = {"transport": "pool0", "id": 1, "host": "node2", "path": "/dev/b", "read_only": False, "state": "running"}
    same = {**after, "id": 0, "path": "/dev/a"}
    foreseen = call(cbd_backend, backends=wanted, check=True)["diff"]
    assert foreseen["before"] == {"backend /dev/a of transport pool0": [same]}
    known = {key: after[key] for key in ("id", "path", "read_only", "state")}
    assert foreseen["after"] == {**foreseen["before"], "backend /dev/b of transport pool0": [known]}
    done = call(cbd_backend, backends=wanted)["diff"]
    assert done == {"before": foreseen["before"], "after": {**done["before"], "backend /dev/b of transport pool0": [after]}}


def test_check_mode_does_nothing(call, daemon):
    foreseen = call(cbd_backend, backends=[backend("/dev/a")], check=True)
    assert foreseen["changed"] and foreseen["backends"] == [{"path": "/dev/a", "read_only": False, "state": "running"}]
    blkdevs = [{"transport": "pool0", "backend": 5, "name": "disk0"}]
    assert call(cbd_blkdev, blkdevs=blkdevs, check=True)["steps"] == ["start a blkdev on backend 5"], "others make it meanwhile"
    assert daemon.did == []


def test_check_mode_says_why_what_is_there_does_not_run(call, pool):
    """It tries again in a run, which may fail."""
    call(cbd_backend, backends=[backend("/dev/a", id=0)])
    call(cbd_blkdev, blkdevs=[{"transport": "pool0", "backend": 0, "name": "disk0"}])
    error = {"object": "/dev/a", "message": "is not there", "hint": "bring it back"}
    pool.backends[0]["worker"] = pool.blkdevs[0]["worker"] = {"state": "waiting", "error": error, "pid": 7}
    for module, args, subject in (
        (cbd_backend, {"backends": [backend("/dev/a", id=0)]}, "backend /dev/a of transport pool0"),
        (cbd_blkdev, {"blkdevs": [{"transport": "pool0", "backend": 0, "name": "disk0"}]}, "blkdev disk0 of transport pool0"),
    ):
        foreseen = call(module, check=True, **args)
        assert foreseen["changed"]
        assert f"{subject} does not run on this host: /dev/a: is not there; bring it back" in str(foreseen["warnings"])
        (before,), (after,) = foreseen["diff"]["before"][subject], foreseen["diff"]["after"][subject]
        assert before["worker"] == "waiting" and "worker" not in after, "the difference shows what the change is about"


@pytest.mark.parametrize(
    ("second", "match"),
    [
        (backend("b"), "no absolute path"),
        (backend("/dev/a"), "is in the list twice"),
        (backend("/dev/b", id=4), "backend 4 is /dev/sd4 on node1"),
        ({**backend("/dev/b"), "transport": "pool9"}, "not registered in it"),
        ({"transport": "pool0", "state": "recovered"}, "id"),
        ({"transport": "pool0", "state": "present"}, "path"),
        ({"transport": "pool0", "state": "absent"}, "path, id"),
    ],
)
def test_nothing_is_done_when_one_entry_is_not_possible(call, daemon, pool, second, match):
    pool.lost(4)
    refused = call(cbd_backend, backends=[backend("/dev/a"), second])
    assert refused["failed"] and match in refused["msg"]
    assert daemon.did == []


def test_a_failure_half_way_tells_what_was_done(call, daemon):
    failed = call(cbd_backend, backends=[backend("/dev/a"), backend("/dev/broken"), backend("/dev/c")])
    assert failed["msg"] == "/dev/broken: cannot open: Input/output error; replace the disk"
    assert failed["observed"]["done"] == ["start a backend on /dev/a"] and failed["changed"] is True
    assert failed["observed"]["error"]["code"] == "failed"
    assert [params["path"] for _, params in daemon.did] == ["/dev/a", "/dev/broken"]


def test_a_daemon_that_says_done_and_did_nothing(call, pool):
    pool.start_backend("pool0", "/dev/a", 0, False)
    failed = call(cbd_backend, backends=[backend("/dev/a", state="absent")])
    assert "is not as wanted after the daemon said that it is" in failed["msg"] and failed["observed"][0]["path"] == "/dev/a"


@pytest.fixture
def clock(monkeypatch):
    """Time passes only while somebody sleeps."""
    now = [0.0]

    class Clock:
        monotonic = staticmethod(lambda: now[0])
        sleep = staticmethod(lambda seconds: now.__setitem__(0, now[0] + seconds))

    monkeypatch.setattr(waiting, "time", Clock)
    return now


def test_waits_until_the_host_is_dead_and_takes_over(call, daemon, pool, clock):
    pool.lost(0)
    pool.looks_until_death = 4
    wanted = [{"transport": "pool0", "id": 0, "path": "/dev/replica", "state": "recovered"}]
    done = call(cbd_backend, backends=wanted, wait_sleep=1)
    assert done["backends"][0]["host"] == "node2" and clock == [4.0]
    assert daemon.did == [("cbd.backend.recover", {"transport": "pool0", "id": 0, "path": "/dev/replica"})]
    assert call(cbd_backend, backends=wanted)["changed"] is False


@pytest.mark.parametrize(
    ("module", "args", "problem"),
    [
        (
            cbd_backend,
            {"backends": [{"transport": "pool0", "id": 0, "state": "recovered"}]},
            "backend 0 of transport pool0: waited 3 s for host node1 of backend 0 to be dead; make sure",
        ),
        (
            cbd_backend,
            {"backends": [{"transport": "pool0", "id": 0, "state": "cleared"}]},
            "backend 0 of transport pool0: waited 3 s for host node1 of backend 0 to be dead; make sure",
        ),
        (
            cbd_host,
            {"hosts": [{"transport": "pool0", "name": "node1"}]},
            "waited 3 s for host node1 of transport pool0 to be dead",
        ),
        (
            cbd_blkdev,
            {"blkdevs": [{"transport": "pool0", "backend": 9, "name": "disk0"}]},
            "blkdev disk0 of transport pool0: waited 3 s for backend 9; start it on its host",
        ),
    ],
)
def test_a_wait_that_ends_carries_the_last_state(call, daemon, pool, clock, module, args, problem):  # noqa: PLR0917
    pool.lost(0)
    pool.looks_until_death = 1000
    failed = call(module, wait_timeout=3, wait_sleep=1, **args)
    assert problem in failed["msg"] and clock == [3.0]
    assert failed["observed"]["transports"][0]["backend_list"][0]["alive"] is True
    assert "waited 0 s" in call(module, wait=False, **args)["msg"] and clock == [3.0]
    assert daemon.did == []


def test_a_conflict_is_told_without_waiting_for_the_rest(call, pool, clock):
    pool.lost(0)
    pool.looks_until_death = 1000
    wanted = [{"transport": "pool0", "id": 0, "state": "recovered"}, backend("/dev/a", id=0)]
    assert "is in the list twice" in call(cbd_backend, backends=wanted)["msg"]
    wanted[1] = {"transport": "pool0", "id": 8, "state": "recovered"}
    assert "backend 8: is not in transport pool0" in call(cbd_backend, backends=wanted)["msg"]
    assert clock == [0.0]


def test_a_survivor_takes_everything_over(call, daemon, pool):
    pool.lost(0)
    pool.lost(1)
    wanted = [{"name": "node1", "state": "recovered", "paths": {"1": "/dev/replica"}}]
    foreseen = call(cbd_host, hosts=wanted, check=True)
    assert foreseen["changed"] and daemon.did == []
    done = call(cbd_host, hosts=wanted)
    assert (
        done["steps"]
        == foreseen["steps"]
        == ["take backend 0 over", "take backend 1 over", "clear host node1 out of transport pool0"]
    )
    assert done["hosts"] == [] and [row["path"] for row in pool.backends] == ["/dev/sd0", "/dev/replica"]
    assert done["diff"]["after"] == {} and done["diff"]["before"]["host node1"][0]["name"] == "node1"
    assert call(cbd_host, hosts=wanted)["changed"] is False


def test_a_survivor_does_not_clear_itself_away(call, daemon):
    assert "is this host itself" in call(cbd_host, hosts=[{"name": "node2"}])["msg"] and daemon.did == []


def test_info_shows_everything_with_its_transport(call, pool):
    pool.lost(4)
    shown = call(cbd_info)
    assert shown["changed"] is False and shown["daemon"] == {"version": "0", "host": "node2", "protocol": 1}
    assert shown["transports"] == [{"name": "pool0", "lease_ms": 1000}]
    assert [(row["transport"], row["name"], row["alive"]) for row in shown["hosts"]] == [
        ("pool0", "node1", False),
        ("pool0", "node2", True),
    ]
    assert [(row["transport"], row["id"]) for row in shown["backends"]] == [("pool0", 4)] and shown["blkdevs"] == []
    assert call(cbd_info, transports=["other"])["hosts"] == []


@pytest.mark.parametrize(
    ("module", "noun"), [(cbd_transport, "transports"), (cbd_backend, "backends"), (cbd_blkdev, "blkdevs"), (cbd_host, "hosts")]
)
def test_an_empty_list_is_no_change(call, daemon, module, noun):
    daemon.methods["cbd.transport.list"] = list
    done = call(module, **{noun: []})
    assert done["changed"] is False and done[noun] == []


def test_a_host_whose_heart_beats_is_not_waited_for_unless_it_is_being_stopped(pool, daemon, call):
    """It beats until it dies."""
    pool.looks_until_death = 6
    pool.hosts[0] |= {"beat": 0, "epoch": 1}
    status = pool.status

    def beat():
        answer = status()
        for host in pool.hosts[:-1]:  # node1, until it is cleared away
            host["beat"] += host["alive"]
        return answer

    daemon.methods["status"] = beat
    hosts = {"hosts": [{"name": "node1"}]}
    refused = call(cbd_host, wait_timeout=60, **hosts)
    assert refused["failed"] and "host node1 is alive, its heartbeat moves" in refused["msg"]
    assert call(cbd_host, wait_timeout=60, wait_living=True, **hosts)["changed"]
