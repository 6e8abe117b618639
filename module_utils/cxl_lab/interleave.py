# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order the memdevs of a region take turns. Pure.

The kernel programs a decoder at each level between window and memdev, so neighbours in the order have to lie below different
children of the highest level that divides: with two bridges A0 B0 A1 B1 works, and A0 A1 B0 B1 is refused ("invalid target
position"). A user names the memdevs in any order; this finds the one that works, and always the same.
"""

from __future__ import annotations

from typing import Sequence

from .errors import LabError

#: CXL 3.1, table 8-118. Only a window and endpoints know multiples of three; bridges and switches divide by powers of two.
WAYS = (1, 2, 3, 4, 6, 8, 12, 16)


def turn_order(subject: str, paths: Sequence[tuple[str, ...]], roots: Sequence[str]) -> list[int]:
    """The indices of memdevs in interleave order.

    :param paths: where each memdev is: PCI root, root port, and every function below, down to itself.
    :param roots: PCI roots that the window interleaves over, in its order.
    :raises LabError: when the memdevs do not divide evenly over the tree.
    """
    if len(paths) not in WAYS:
        raise LabError(subject, f"{len(paths)} memdevs", f"use {', '.join(map(str, WAYS))} memdevs for a region")
    groups = {root: [index for index, path in enumerate(paths) if path[:1] == (root,)] for root in roots}
    _same_size(subject, groups)
    return _take_turns([_below(subject, group, paths, 1) for group in groups.values()])


def _below(subject: str, group: Sequence[int], paths: Sequence[tuple[str, ...]], depth: int) -> list[int]:
    """The order of the memdevs below one bridge, port or switch; those that were named first come first."""
    if len(group) == 1:
        return list(group)
    children: dict[str, list[int]] = {}
    for index in group:
        if len(paths[index]) <= depth:
            raise LabError(subject, "one memdev is named twice", "name each once")
        children.setdefault(paths[index][depth], []).append(index)
    _same_size(subject, children)
    if len(children) & (len(children) - 1):
        problem = f"{len(children)} ways below one bridge or switch"
        raise LabError(subject, problem, "there only 2, 4 and 8 work; 3 and 6 ways need a window over as many bridges")
    return _take_turns([_below(subject, child, paths, depth + 1) for child in children.values()])


def _same_size(subject: str, groups: dict[str, list[int]]) -> None:
    sizes = {name: len(group) for name, group in groups.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        shown = ", ".join(f"{size} below {name}" for name, size in sizes.items())
        raise LabError(subject, f"the memdevs do not divide evenly: {shown}", "name as many below each")


def _take_turns(groups: Sequence[Sequence[int]]) -> list[int]:
    return [index for turn in zip(*groups) for index in turn]
