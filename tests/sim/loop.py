"""A deterministic asyncio loop in virtual time.

Nothing here waits.  When no callback is ready, the clock jumps to the next timer; when there is no timer
either, nobody can ever run again and `Deadlock` is raised instead of hanging.  Before every pass the
ready callbacks are shuffled by a seeded generator: asyncio promises an order, the world does not, so
each seed is another legal interleaving of the same program, and the same seed is always the same one.

Whatever could bring real time or real chance in is refused (`NotSimulated`): sockets, subprocesses,
signals, threads.  A simulation injects fakes at its protocol seams instead, and runs SQLite inline.

Rules for code under simulation: take time from `SimClock` and chance from a seeded `random.Random`, and do
not iterate over sets of tasks.  Run with a fixed PYTHONHASHSEED if anything iterates over sets of strings.

The loop replaces `_run_once` and reads `_ready` and `_scheduled`, which are private parts of asyncio's
base loop; `test_loop.py` is what tells when a new Python moves them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

SIMULATION_BEGINS = 1_700_000_000.0  # Unix seconds
MOST_PASSES_AT_ONE_INSTANT = 100_000


class Deadlock(Exception):
    """Nothing is ready and no timer is set: everybody waits for everybody."""


class Livelock(Exception):
    """Callbacks keep each other busy and time does not advance."""


class NotSimulated(Exception):
    """The program reached for something that only exists in the real world."""


class Unhandled(Exception):
    """Errors that nobody awaited; each is in `contexts` as asyncio reported it."""

    def __init__(self, contexts: list[dict[str, Any]]) -> None:
        super().__init__("; ".join(f"{one['message']}: {one.get('exception')!r}" for one in contexts))
        self.contexts = contexts


class _Task(asyncio.Task[Any]):
    """A task whose place in a set is its number: by its address it is another one in each process."""

    def __init__(self, work: Coroutine[Any, Any, Any], number: int, **options: Any) -> None:
        self._number = number  # before asyncio enters it into a set of its own
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    """The same for futures."""

    def __init__(self, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(**options)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """One thread, virtual seconds, seeded order."""

    _ready: Any  # deque of handles, from BaseEventLoop
    _scheduled: Any  # heap of timer handles, from BaseEventLoop
    _stopping: bool  # from BaseEventLoop
    _sealed = False

    def __init__(self, seed: int = 0) -> None:
        self._now = 0.0
        self._chance = random.Random(seed)
        self._passes = 0
        self._home = threading.get_ident()
        self._born: dict[int, asyncio.Task[Any]] = {}
        self._births = 0
        self._freezes: Callable[[contextvars.Context], bool] | None = None
        self._ice: list[asyncio.Handle] = []
        self.unhandled: list[dict[str, Any]] = []
        super().__init__()
        self._sealed = True
        self.set_task_factory(_register)  # type: ignore[arg-type]
        self.set_exception_handler(lambda _, context: self.unhandled.append(context))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def living(self) -> list[asyncio.Task[Any]]:
        """Tasks that have not ended, oldest first: an order that `asyncio.all_tasks` does not have."""
        return list(self._born.values())

    def freeze(self, frozen: Callable[[contextvars.Context], bool] | None) -> None:
        """From now on no callback in a context of which `frozen` says so runs; None: all of them again."""
        self._freezes = frozen
        self._ready.extend(self._ice)
        self._ice.clear()

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(self._number(), loop=self)

    def _number(self) -> int:
        self._births += 1
        return self._births

    def close(self) -> None:
        self._sealed = False  # closing unregisters the loop's own wake-up pipe
        super().close()

    def _run_once(self) -> None:
        self._wake_due()
        waiting = self._ready
        if self._freezes is not None:
            self._set_aside(self._freezes)
        if len(waiting) > 1:
            ready = list(waiting)
            self._chance.shuffle(ready)
            waiting.clear()
            waiting.extend(ready)
        for _ in range(len(waiting)):  # what they make ready in turn belongs to the next pass, as in asyncio
            handle = waiting.popleft()
            if not handle._cancelled:
                handle._run()

    def _set_aside(self, frozen: Callable[[contextvars.Context], bool]) -> None:
        ready = list(self._ready)
        self._ready.clear()
        for handle in ready:
            (self._ice if frozen(handle._context) else self._ready).append(handle)

    def _wake_due(self) -> None:
        """Move due timers to the ready queue, after a jump if nothing else could run."""
        timers = self._scheduled
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        if not self._ready and not self._stopping:
            if not timers:
                raise Deadlock(f"at {self._now:.3f} s: {len(self._born)} tasks wait and nothing can happen")
            if timers[0].when() > self._now:
                self._now, self._passes = timers[0].when(), 0
        self._passes += 1
        if self._passes > MOST_PASSES_AT_ONE_INSTANT:
            raise Livelock(f"time stands still at {self._now:.3f} s")
        while timers and timers[0].when() <= self._now:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            self._ready.append(timer)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *arguments: Any, context: Any = None
    ) -> asyncio.Handle:
        """Allowed from the loop's own thread, where asyncio itself uses it to finish generators."""
        if self._home != threading.get_ident():
            _refuse("another thread")
        return self.call_soon(callback, *arguments, context=context)

    def _add_reader(self, *arguments: Any) -> Any:
        if self._sealed:
            _refuse("a socket or pipe")
        return super()._add_reader(*arguments)  # type: ignore[misc]

    def _add_writer(self, *_: Any) -> NoReturn:
        _refuse("a socket or pipe")

    def run_in_executor(self, *_: Any) -> NoReturn:  # type: ignore[override]
        _refuse("an executor")

    def add_signal_handler(self, *_: Any) -> NoReturn:  # type: ignore[override]
        _refuse("a signal")

    async def subprocess_exec(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("a subprocess")

    async def subprocess_shell(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("a subprocess")


class SimClock:
    """`core.clock.Clock` in the loop's time. Only the wall clock can be made to jump."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._offset = SIMULATION_BEGINS

    def now(self) -> float:
        return self._offset + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back."""
        self._offset += seconds


def simulate(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], seed: int = 0) -> T:
    """Run `main` on a loop of its own, end what it left running, and return its result.

    Raises what `main` raises, `Deadlock` or `Livelock`, or `Unhandled` if a task or callback failed
    without anybody asking for its result.
    """
    loop = VirtualLoop(seed)
    try:
        result = loop.run_until_complete(main(loop))
        _end_all(loop)
        if loop.unhandled:
            raise Unhandled(loop.unhandled)
        return result
    except BaseException:
        with contextlib.suppress(Deadlock, Livelock):  # the first error is the one to see
            _end_all(loop)
        _bury(loop)
        raise
    finally:
        loop.close()


def _end_all(loop: VirtualLoop) -> None:
    left = loop.living()
    loop._passes = 0  # after a livelock the others still deserve their turn
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    for task in left:
        if not task.cancelled() and task.exception() is not None:
            loop.unhandled.append({"message": f"{task.get_name()} failed", "exception": task.exception()})
    loop.run_until_complete(loop.shutdown_asyncgens())


def _bury(loop: VirtualLoop) -> None:
    """After a failure tasks may be stuck for good; asyncio would complain about each of them."""
    for task in loop.living():
        task._log_destroy_pending = False  # type: ignore[attr-defined]


def _register(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], **options: Any
) -> asyncio.Task[T]:
    assert isinstance(loop, VirtualLoop)
    number = loop._number()
    options.setdefault("name", f"task-{number}")  # the default name counts over all loops
    task = _Task(work, number, loop=loop, **options)
    loop._born[number] = task
    task.add_done_callback(lambda _: loop._born.pop(number, None))
    return task


def _refuse(what: str) -> NoReturn:
    raise NotSimulated(f"{what} does not exist in a simulation: inject a fake where it is used")
