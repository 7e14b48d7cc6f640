"""Where the store's blocking calls run.

SQLite blocks its caller for as long as the disk takes to flush.  The daemon therefore runs every call in
one thread (one, because there is one writer and the calls must not overtake each other), and a
simulation runs it inline, because a deterministic loop has no threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")


class Runner(Protocol):
    """Runs blocking jobs one at a time, in the order given."""

    def __call__(self, job: Callable[[], T], /) -> Awaitable[T]: ...


class ThreadRunner:
    """One thread of its own."""

    def __init__(self, name: str = "store") -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def __call__(self, job: Callable[[], T], /) -> T:
        """Run `job` in the thread. A job that has begun also ends when the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, job)

    def close(self) -> None:
        """Wait for the job that runs and end the thread."""
        self._executor.shutdown(wait=True)


async def inline(job: Callable[[], T], /) -> T:
    """Run `job` here and now."""
    return job()
