"""The compact set of ids equals a set of them."""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from bindings.jobs import id_set
from bindings.jobs.id_set import IdSet


def set_of(texts: list[str]) -> IdSet:
    ids = IdSet()
    for text in texts:
        ids.add(text)
    return ids


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_id_set_has_what_a_set_has(texts: list[str], others: list[str]) -> None:
    ids, other_ids = set_of(texts), set_of(others)
    assert len(ids) == len(set(texts))
    assert all((text in ids) == (text in texts) for text in texts + others)
    assert (ids <= other_ids) == (set(texts) <= set(others))


def test_digest_that_lies_across_two_others_is_not_in_the_set() -> None:
    """Each digest of a part is compared at its place only."""
    rng = random.Random(7)
    first = bytes([1, 2, *rng.randbytes(5), 1, 2, *rng.randbytes(3)])
    second = bytes([1, 2, *rng.randbytes(10)])
    ids = IdSet()
    ids._parts[id_set._part(first)] = bytearray(first + second)
    across = (first + second)[7:19]
    assert id_set._part(across) == id_set._part(first)
    assert (ids._has(first), ids._has(second), ids._has(across)) == (True, True, False)


def test_digest_is_another_one_in_another_process() -> None:
    """So a provider cannot choose ids that count as one."""
    code = "from bindings.jobs import id_set; print(id_set._digest('bind-1').hex())"
    results = {
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout for _ in range(2)
    }
    assert len(results) == 2


def test_id_takes_less_than_24_bytes() -> None:
    tracemalloc.start()
    try:
        ids = set_of([f"bind-{number:020}" for number in range(50_000)])
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / len(ids) < 24
