# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab's hosts look like from inside."""

from __future__ import annotations

import json

import pytest

testinfra_hosts = ["ssh://node1", "ssh://node2"]


def test_one_memdev_with_the_serial_of_the_topology(host):
    memdevs = json.loads(host.check_output("cxl list -M"))
    assert [memdev["serial"] for memdev in memdevs] == [0xC0DE0001]
    assert memdevs[0]["pmem_size"] == 512 << 20


def test_a_region_over_the_whole_memdev_and_a_devdax_namespace_on_it(host):
    regions = json.loads(host.check_output("cxl list -R"))
    assert [(region["type"], region["size"], region["decode_state"]) for region in regions] == [("pmem", 512 << 20, "commit")]
    namespaces = json.loads(host.check_output("ndctl list -N"))
    assert [(space["name"], space["mode"]) for space in namespaces] == [("pool0", "devdax")]


def test_no_password_opens_anything(host):
    for line in host.check_output("cat /etc/shadow").splitlines():
        assert line.split(":")[1].startswith(("*", "!")), line.split(":")[0]
    settings = host.check_output("sshd -T").splitlines()
    assert "passwordauthentication no" in settings
    assert "permitrootlogin without-password" in settings


def test_the_host_key_is_the_labs_and_none_is_in_the_image(host):
    assert host.run("ls /etc/ssh/ssh_host_*").rc != 0
    assert host.file("/run/credentials/ssh.service/cxl-lab.ssh-host-key").exists


def test_hosts_reach_each_other_by_name_and_nothing_else(host):
    other = {"node1": "node2", "node2": "node1"}[host.check_output("hostname")]
    assert host.run(f"timeout 5 bash -c '</dev/tcp/{other}/22'").rc == 0
    assert host.run("timeout 3 bash -c '</dev/tcp/10.0.2.2/22'").rc != 0


def test_the_daemon_is_a_service_with_a_private_socket(host):
    assert host.service("cxl-datapathd").is_enabled
    assert host.service("cxl-datapathd").is_running
    socket = host.file("/run/cxl-datapath/control.sock")
    assert socket.is_socket
    assert socket.mode == 0o600
    assert json.loads(host.check_output("cxl-datapath status --json"))["host"] == host.check_output("hostname")


@pytest.mark.parametrize("unit", ["cxl-datapathd", "ssh", "systemd-networkd"])
def test_no_unit_failed(host, unit):
    assert host.run(f"systemctl is-failed {unit}").rc != 0
