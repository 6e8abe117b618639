# SPDX-License-Identifier: GPL-3.0-or-later
"""A head as a process of its own: it claims and releases at random, and proves by a file of its own that it was alone.

Arguments: state file, witness file, number of the head, rounds. While a head has a block it adds to the block's cell in the
witness without any atomics: two at once would lose additions. It prints how often it added to each block.
"""

from __future__ import annotations

import json
import mmap
import random
import struct
import sys
from pathlib import Path

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.mhsld.state import StateFile

CELL = struct.Struct("<Q")


def main() -> None:
    path, witness, head, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(head)
    with StateFile(path) as state, witness.open("r+b") as file:
        cells = mmap.mmap(file.fileno(), 0)
        added = [0] * state.layout.blocks
        for _ in range(rounds):
            first = chance.randrange(state.layout.blocks)
            count = chance.randint(1, state.layout.blocks - first)
            try:
                state.claim(head, [(first, count)])
            except DatapathError as error:
                assert error.code == Code.BUSY, error
                continue
            for block in range(first, first + count):
                CELL.pack_into(cells, block * CELL.size, CELL.unpack_from(cells, block * CELL.size)[0] + 1)
                added[block] += 1
            assert state.release(head, [(first, count)]) == count, "a claim was lost"
    print(json.dumps(added))


if __name__ == "__main__":
    main()
