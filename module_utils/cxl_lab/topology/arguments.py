# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU arguments of a host that take back what the lab gave it. QEMU obeys the last one without a word; where two contradict
each other loudly, its own message will do."""

from __future__ import annotations

from typing import Iterable, Mapping, Sequence

#: What QEMU would do, and what to do instead.
_TAKEN_BACK: Mapping[str, tuple[str, str]] = {
    "m": ("takes the place of memory", "use memory"),
    "smp": ("takes the place of cpus", "use cpus"),
    "S": ("keeps the guest from starting", "leave it out; gdb_port lets a debugger stop it"),
    "preconfig": ("keeps the guest from starting", "leave it out"),
    "incoming": ("keeps the guest from starting", "leave it out"),
    "daemonize": ("takes QEMU away from libvirt", "leave it out"),
}


def argument_problems(words: Sequence[str], sees_memory: bool) -> Iterable[tuple[str, str]]:
    """(problem, fix) of each argument that contradicts the rest of the host.

    :param sees_memory: whether the host has CXL memory.
    """
    for word, value in zip(words, [*words[1:], ""]):
        option = word.lstrip("-") if word.startswith("-") else ""
        if option in _TAKEN_BACK:
            problem, fix = _TAKEN_BACK[option]
            yield f"{word} {problem}", fix
        hidden = {"hypervisor=off", "-hypervisor"} & set(value.split(","))
        if option == "cpu" and sees_memory and not hidden:
            yield (
                f"{word} {value} lets the guest see that it is virtual, and no stock kernel makes a region then",
                f"write {value},hypervisor=off",
            )
