# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports are really bound."""

from __future__ import annotations

import socket

from ansible.module_utils.cxl_lab.ports import free_port, port_problem


def test_a_port_that_is_taken_says_why_and_is_free_afterwards():
    port = free_port()
    assert port_problem(port) == ""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        assert port_problem(port) == "Address already in use"
    assert port_problem(port) == ""
