"""The end of an export: it ends the read of the database, whatever that is doing, and is never refused."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from bindings.web.console import export
from bindings.web.executors import Executors
from bindings.web.problems import ConcurrencyLimited

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from bindings.web.console.page_context import PageContext

WAIT_S = 10
CALLER = "key:rides"


def context(executors: Executors, service: object = None) -> PageContext:
    """Return what a stream uses of the context of a page, for the caller `CALLER`."""
    parts = SimpleNamespace(
        app_state=SimpleNamespace(executors=executors),
        service=service,
        require_principal=SimpleNamespace(actor=CALLER),
    )
    return cast("PageContext", parts)


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
        chunks = export._file_chunks(context(executors), "export", "", batches_of_lines())

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

    with closing(Executors(bind_limit=1)) as executors:
        asyncio.run(give_up(executors))


def test_read_is_closed_if_the_download_is_cancelled_again_while_no_thread_is_free_for_it() -> None:
    blocked, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        assert go_on.wait(WAIT_S)

    def batches_of_lines() -> Generator[tuple[int, str], None, None]:
        try:
            yield 1, "1\n"
            yield 1, "2\n"
        finally:
            closed.set()

    async def give_up(executors: Executors) -> None:
        loop, sent = asyncio.get_running_loop(), asyncio.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        blocker = loop.run_in_executor(None, block)
        await executors.run_read(blocked.wait, WAIT_S)
        lines = batches_of_lines()  # kept: it would be closed with its last reference
        chunks = export._file_chunks(context(executors), "export", "", lines)

        async def download() -> None:
            try:
                async for _ in chunks:
                    sent.set()
                    await asyncio.Event().wait()
            finally:
                await cast("AsyncGenerator[bytes, None]", chunks).aclose()

        task = asyncio.create_task(download())
        await sent.wait()
        for _ in range(3):  # as a cancel scope does it, until the task has ended
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not closed.is_set()
        go_on.set()
        await blocker
        await loop.run_in_executor(None, lambda: None)
        assert closed.is_set()

    with closing(Executors(bind_limit=1)) as executors:
        asyncio.run(give_up(executors))


def take_every_place(executors: Executors) -> None:
    """Let other reads of the caller take its share, and one more."""
    while executors._reads.has_place(CALLER):
        executors._reads.add(CALLER)
    executors._reads.add(CALLER)
    with pytest.raises(ConcurrencyLimited):
        executors._reads.take(CALLER)


def test_read_is_closed_if_the_caller_has_no_place_for_another_one() -> None:
    closed = threading.Event()

    def batches_of_lines() -> Generator[tuple[int, str], None, None]:
        try:
            yield 1, "1\n"
            yield 1, "2\n"
        finally:
            closed.set()

    async def give_up(executors: Executors) -> None:
        chunks = export._file_chunks(context(executors), "export", "", batches_of_lines())
        assert await anext(chunks) == b"1\n"
        take_every_place(executors)
        await cast("AsyncGenerator[bytes, None]", chunks).aclose()

    with closing(Executors(bind_limit=1)) as executors:
        asyncio.run(give_up(executors))
    assert closed.is_set()


def test_file_that_is_complete_is_recorded_if_the_caller_has_no_place_for_another_read() -> None:
    finished: list[tuple[str, int]] = []

    def finish_export(export_id: str, *, row_count: int, sha256: str) -> None:
        assert sha256
        finished.append((export_id, row_count))

    async def download(executors: Executors) -> list[bytes]:
        loop, has_taken = asyncio.get_running_loop(), threading.Event()

        def others() -> None:
            take_every_place(executors)
            has_taken.set()

        def batches_of_lines() -> Generator[tuple[int, str], None, None]:
            yield 1, "1\n"
            loop.call_soon_threadsafe(others)
            assert has_taken.wait(WAIT_S)

        service = SimpleNamespace(access_log=SimpleNamespace(finish_export=finish_export))
        chunks = export._file_chunks(context(executors, service), "export", "", batches_of_lines())
        return [chunk async for chunk in chunks]

    with closing(Executors(bind_limit=1)) as executors:
        assert asyncio.run(download(executors)) == [b"1\n"]
    assert finished == [("export", 1)]


def test_file_is_not_cut_off_if_the_caller_has_no_place_for_another_read() -> None:
    async def download(executors: Executors) -> list[bytes]:
        batches_of_lines = ((1, f"{number}\n") for number in range(3))
        service = SimpleNamespace(access_log=SimpleNamespace(finish_export=lambda *_, **__: None))
        chunks = export._file_chunks(context(executors, service), "export", "", batches_of_lines)
        first = await anext(chunks)
        take_every_place(executors)
        return [first, *[chunk async for chunk in chunks]]

    with closing(Executors(bind_limit=1)) as executors:
        assert asyncio.run(download(executors)) == [b"0\n", b"1\n", b"2\n"]
