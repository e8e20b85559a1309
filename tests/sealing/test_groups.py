"""Records are grouped by key in the order in which they were added, in memory and past it."""

from __future__ import annotations

from contextlib import closing

import pytest

from bindings.sealing.groups import MEMORY_BYTES, Groups

KEYS = ["binding 1", "binding 1\tx", "text 1 x\nbinding 2", "hold \ud800", ""]


@pytest.mark.parametrize("memory_bytes", [MEMORY_BYTES, 0, 20])
def test_each_group_has_its_records_in_their_order(memory_bytes: int) -> None:
    records = {key: [b"%d %d\n\t\0" % (number, turn) for turn in range(9)] for number, key in enumerate(KEYS)}
    with closing(Groups(memory_bytes)) as groups:
        for turn in range(9):
            for key in KEYS:
                groups.add(key, records[key][turn])
        read = list(groups.groups())
    assert len(read) == len(KEYS)
    assert dict(read) == records
