"""An export that the browser gives up ends its read of the database, whatever the read is doing."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from bindings.web.console import export
from bindings.web.executors import Executors

if TYPE_CHECKING:
    from collections.abc import Generator

WAIT_S = 10


@pytest.mark.parametrize("batch", [1, 2], ids=["the first batch", "a later batch"])
def test_read_is_closed_if_the_download_ends_while_a_batch_is_read(batch: int) -> None:
    reads, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def batches_of_lines() -> Generator[tuple[int, str], None, None]:
        try:
            for number in (1, 2):
                if number == batch:
                    reads.set()
                    assert go_on.wait(WAIT_S)
                yield 1, f"{number}\n"
        finally:
            closed.set()

    async def give_up(executors: Executors) -> None:
        context = SimpleNamespace(
            app_state=SimpleNamespace(executors=executors),
            service=None,
            require_principal=SimpleNamespace(actor="key:rides"),
        )
        chunks = export._file_chunks(cast("Any", context), "export", "", batches_of_lines())

        async def download() -> None:
            async for _ in chunks:
                pass

        task = asyncio.create_task(download())
        await asyncio.to_thread(reads.wait, WAIT_S)
        task.cancel()
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed.is_set()

    executors = Executors(bind_limit=1)
    try:
        asyncio.run(give_up(executors))
    finally:
        executors.close()
