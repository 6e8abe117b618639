# SPDX-License-Identifier: GPL-3.0-or-later
"""The role cbd with real daemons: hosts that are processes of this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.modules import cbd_backend, cbd_blkdev, cbd_transport
from local_play import ROOT, LocalPlay, changed
from real_daemons import needs_daemon, real_lab

pytestmark = pytest.mark.slow

needs_nbdkit = pytest.mark.skipif(not shutil.which("nbdkit"), reason="needs nbdkit")
INVENTORIES = sorted(file for file in (ROOT / "inventories").glob("*/group_vars/cxl_hosts.yml") if "cbd_" in file.read_text())
HOSTS = ("node1", "node2", "node3")


@pytest.fixture
def lab():
    with real_lab(*HOSTS) as running:
        yield running


@pytest.fixture
def play(lab, tmp_path):
    return LocalPlay(tmp_path, {host: {"cbd_runtime_dir": lab.runtime(host)} for host in HOSTS})


def lists(lab):
    """node1 and node2 give disks away; every host uses what another one gives."""
    return {
        "cbd_transports": [
            {
                "name": "pool0",
                "memory": lab.memory,
                "format_on": "node1",
                "hosts": list(HOSTS),
                "geometry": {"ring_depth": 16, "lease_ms": 1000},
            }
        ],
        "cbd_backends": [
            {"transport": "pool0", "host": "node1", "path": lab.disk("a"), "id": 0},
            {"transport": "pool0", "host": "node1", "path": lab.disk("b"), "id": 3, "read_only": True},
            {"transport": "pool0", "host": "node2", "path": lab.disk("c"), "id": 1},
        ],
        "cbd_blkdevs": [
            {"transport": "pool0", "host": "node2", "backend": 0, "name": "a", "queues": 2, "frontend": "nbdkit"},
            {"transport": "pool0", "host": "node3", "backend": 3, "name": "b", "frontend": "nbdkit", "read_only": True},
            {"transport": "pool0", "host": "node3", "backend": 1, "frontend": "nbdkit", "io_timeout": 60},
        ],
    }


def inside(lab, observer="node3"):
    """Who has what in pool0: backends as (id, host), blkdevs as (backend, host)."""
    (pool,) = lab.hosts[observer].call("status")["transports"]
    return (
        sorted((row["id"], row["host"]) for row in pool["backend_list"]),
        sorted((row["backend"], row["host"]) for row in pool["blkdev_list"]),
    )


@needs_daemon
@needs_nbdkit
def test_any_number_of_objects_over_any_hosts(lab, play):
    role = play.role("cbd", **lists(lab))
    for options in (("--check", "--diff"), ()):
        code, output = play.run(role, *options)
        # One call for each host and kind: 1 format, 3 registrations, backends on two hosts and blkdevs on two.
        assert code == 0 and changed(output) == 8, output
    assert inside(lab) == ([(0, "node1"), (1, "node2"), (3, "node1")], [(0, "node2"), (1, "node3"), (3, "node3")])
    for options in ((), ("--check",)):
        code, output = play.run(role, *options)
        assert code == 0 and changed(output) == 0, output

    # One of them goes by its entry, the rest stays.
    fewer = lists(lab)
    for entry in (fewer["cbd_backends"][1], fewer["cbd_blkdevs"][1]):
        entry["state"] = "absent"
    role = play.role("cbd", **fewer)
    for options in (("--check",), ()):
        code, output = play.run(role, *options)
        assert code == 0 and changed(output) == 2, output
    assert inside(lab) == ([(0, "node1"), (1, "node2")], [(0, "node2"), (1, "node3")])
    assert changed(play.run(role)[1]) == 0

    role = play.role("cbd", **lists(lab), cbd_state="absent")
    for options in (("--check",), ()):
        code, output = play.run(role, *options)
        assert code == 0 and changed(output) == 7, output
    assert [lab.hosts[host].call("cbd.transport.list") for host in HOSTS] == [[], [], []]
    assert changed(play.run(role)[1]) == 0


@needs_daemon
def test_check_mode_before_the_memory_is_made_foresees_everything_and_a_run_says_who_makes_it(lab, play):
    unmade = lists(lab)
    unmade["cbd_transports"][0]["memory"] = memory = f"{lab.memory}.later"
    role = play.role("cbd", **unmade)
    code, output = play.run(role, "--check", "--diff")
    # As where it is there: 1 format, on node1 only, 3 registrations, backends on two hosts and blkdevs on two.
    assert code == 0 and changed(output) == 8, output
    formats = output.partition("Format each transport on one host]")[2].partition("TASK [")[0]
    assert formats.count("changed: [") == 1 and "changed: [node1]" in formats and memory in formats
    code, output = play.run(role)
    assert code != 0 and f"{memory}: cannot look at it" in output and "playbooks/memory.yml (or site.yml)" in output
    assert [lab.hosts[host].call("cbd.transport.list") for host in HOSTS] == [[], [], []]


@needs_daemon
def test_a_host_that_nobody_knows(lab, play):
    wrong = lists(lab)
    wrong["cbd_hosts"] = [{"host": "node7", "name": "node1"}]
    code, output = play.run(play.role("cbd", **wrong))
    assert code != 0 and "cbd_hosts: host node7 is no host of the inventory; correct the name" in output


@needs_daemon
def test_lists_that_do_not_fit_together_are_refused_with_all_that_is_wrong_and_nothing_starts(lab, play):
    wrong = lists(lab)
    wrong["cbd_backends"][2]["id"] = 0
    wrong["cbd_blkdevs"][1] |= {"host": "node2", "name": "a"}
    for options in (("--check",), ()):
        code, output = play.run(play.role("cbd", **wrong), *options)
        assert code != 0 and "3 problem(s) before the start" in output
        assert f"2 backends of transport pool0 have the id 0 ({lab.disk('a')} on node1, {lab.disk('c')} on node2)" in output
        assert "backend 1 of transport pool0, which cbd_backends does not start (it starts 0, 3)" in output
        assert "2 blkdevs of node2 have the name a (on backend 0 of transport pool0, on backend 3 of transport pool0)" in output
    assert lab.hosts["node1"].call("cbd.transport.probe", memory=lab.memory)["formatted"] is False


@needs_daemon
@needs_nbdkit
def test_where_one_host_fails_the_others_do_not_wait_for_it(lab, play):
    wrong = lists(lab)
    wrong["cbd_backends"][0]["path"] = "/no/such/disk"
    code, output = play.run(play.role("cbd", **wrong))
    assert code != 0 and "Start the blkdevs" not in output and "waited" not in output
    last = output.rpartition("PLAY RECAP")[2]
    assert "failed on node1: cbd : Bring the backends to their states" in last and "/no/such/disk" in last
    assert lab.hosts["node2"].call("cbd.blkdev.list", transport="pool0") == []


@needs_daemon
@needs_nbdkit
def test_a_host_dies_and_the_playbook_recovers(lab, play):
    """The inventory that says so afterwards finds everything done."""
    assert play.run(play.role("cbd", **lists(lab)))[0] == 0
    code, output = play.run("playbooks/recover.yml", recover_host="node1", recover_to="node3")
    assert code != 0 and "host node1: host node1 is alive, its heartbeat moves; make sure that it is stopped" in output
    assert "waited" not in output
    lab.hosts["node1"].kill()
    asked = {"recover_host": "node1", "recover_to": "node3", "recover_paths": {"0": lab.disk("replica")}}
    code, output = play.run("playbooks/recover.yml", "--check", **asked)
    assert code == 0 and changed(output) == 1, output
    code, output = play.run("playbooks/recover.yml", **asked)
    assert code == 0 and changed(output) == 1, output
    assert inside(lab) == ([(0, "node3"), (1, "node2"), (3, "node3")], [(0, "node2"), (1, "node3"), (3, "node3")])
    code, output = play.run("playbooks/recover.yml", **asked)
    assert code == 0 and changed(output) == 0 and "the transports of node3 know nothing of node1" in output

    after = lists(lab)
    after["cbd_transports"][0] |= {"format_on": "node2", "hosts": ["node2", "node3"]}
    for entry in after["cbd_backends"][:2]:
        entry |= {"host": "node3", "state": "recovered"}
    after["cbd_backends"][0]["path"] = asked["recover_paths"]["0"]
    after["cbd_hosts"] = [{"host": "node3", "name": "node1"}]
    code, output = play.run(play.role("cbd", **after), "--limit", "node2,node3")
    assert code == 0 and changed(output) == 0, output

    # It comes back. The lists do not know any more what it had, and clear it away with the rest.
    lab.hosts["node1"].start()
    lab.hosts["node1"].call("cbd.transport.register", memory=lab.memory)
    assert [row["state"] for row in lab.hosts["node1"].call("cbd.backend.list", transport="pool0")].count("lost") == 2
    after["cbd_transports"][0]["hosts"] = list(HOSTS)
    after["cbd_hosts"] = []
    role = play.role("cbd", **after, cbd_state="absent")
    for options in (("--check",), ()):
        code, output = play.run(role, *options)
        assert code == 0 and changed(output) == 7, output
    assert [lab.hosts[host].call("cbd.transport.list") for host in HOSTS] == [[], [], []]


@needs_daemon
@needs_nbdkit
def test_a_transport_that_was_lost_is_left_and_made_anew(lab, play):
    """Until then no run promises or does anything; two runs bring everything back, and a third one has nothing to do."""
    have = lists(lab)
    assert play.run(play.role("cbd", **have))[0] == 0
    for host in HOSTS:
        lab.hosts[host].kill()
    with Path(lab.memory).open("r+b") as memory:
        memory.write(bytes(1 << 20))
    for host in HOSTS:
        lab.hosts[host].start()
    for options in (("--check", "--diff"), ()):
        code, output = play.run(play.role("cbd", **have), *options)
        assert code != 0 and changed(output) == 0, output
        assert "transport pool0: this host is registered in pool0 on" in output and "cbd_state: absent" in output
    for state, options, number in (("absent", ("--check",), 7), ("absent", (), 7), ("present", (), 8), ("present", (), 0)):
        code, output = play.run(play.role("cbd", **have, cbd_state=state), *options)
        assert code == 0 and changed(output) == number, output
    assert inside(lab) == ([(0, "node1"), (1, "node2"), (3, "node1")], [(0, "node2"), (1, "node3"), (3, "node3")])


@needs_daemon
@needs_nbdkit
def test_check_mode_knows_the_rules_of_leases_and_writers_and_who_leaves(lab, play):
    """What it promises is done, what it refuses would be refused."""
    have = lists(lab)
    del have["cbd_transports"][0]["geometry"]["lease_ms"]  # so that only the daemons know the lease
    assert play.run(play.role("cbd", **have))[0] == 0
    node2 = have["cbd_blkdevs"][0]
    have["cbd_blkdevs"] = have["cbd_blkdevs"][1:]
    second = {**node2, "host": "node3", "name": "second", "queues": 1}
    for entry, why in ((second, "backend 0 is written by blkdev"), ({**second, "io_timeout": 1, "read_only": True}, "lease")):
        refused = {**have, "cbd_blkdevs": [entry]}
        for options in (("--check",), ()):
            code, output = play.run(play.role("cbd", **refused), *options)
            assert code != 0 and why in output, output

    # Its writer leaves, or its writer's host is dead and cleared away: then the place is free.
    moved = {**node2, "host": "node3", "name": "moved"}
    have["cbd_blkdevs"] += [{**node2, "state": "absent"}, moved]
    for options in (("--check",), ()):
        code, output = play.run(play.role("cbd", **have), *options)
        assert code == 0 and changed(output) == 2, output
    lab.hosts["node3"].kill()
    have["cbd_transports"][0]["hosts"] = ["node1", "node2"]
    have["cbd_blkdevs"] = [node2]
    have["cbd_hosts"] = [{"host": "node1", "name": "node3"}]
    for options in (("--check",), ()):
        code, output = play.run(play.role("cbd", **have), "--limit", "node1,node2", *options)
        assert code == 0 and changed(output) == 2, output


@pytest.mark.parametrize("file", INVENTORIES, ids=lambda file: file.parents[1].name)
@pytest.mark.parametrize(
    ("module", "noun", "whose"),
    [
        (cbd_transport, "transports", {"format_on", "hosts"}),
        (cbd_backend, "backends", {"host"}),
        (cbd_blkdev, "blkdevs", {"host"}),
    ],
)
def test_what_an_inventory_says_is_what_the_modules_take(file, module, noun, whose):
    entries = yaml.safe_load(file.read_text(encoding="utf-8")).get(f"cbd_{noun}", [])
    share = [{key: value for key, value in entry.items() if key not in whose} for entry in entries]
    assert ArgumentSpecValidator(module.SPEC["argument_spec"]).validate({noun: share}).error_messages == []
