"""Work on many items at once, few of them in memory, results in the items' order."""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from embedome.common.errors import UserError
from embedome.common.process import keep_freed_memory
from embedome.common.work_count import Current

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Return how many cores this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_server(module: str) -> None:
    """Start the process that workers are forked from, so that it loads a module while others do other things."""
    forkserver.set_forkserver_preload([module])
    # It unblocks signals itself when it starts.
    resource_tracker.ensure_running()
    # It does not take over this process's sys.path, and passes over a module that it does not find.
    with variable("PYTHONPATH", os.pathsep.join(filter(None, sys.path))), interrupts_held():
        forkserver.ensure_running()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back for a while; a process that is started meanwhile never gets it, and its parent answers it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def process_pool(workers: int, module: str) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of worker processes that have a module loaded, and add to this process's count of work.

    Raises
    ------
    UserError
        Where one of them is killed.
    """
    start_server(module)
    try:
        with ProcessPoolExecutor(
            workers, get_context("forkserver"), initializer=begin_worker, initargs=(Current.count,)
        ) as pool:
            start_first(pool)
            yield pool
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; use fewer workers (threads), or more memory"
        ) from None


def start_first(pool: Executor) -> None:
    """Start a pool's first worker, once its server has loaded the module.

    Another thread waits for that: Ctrl-C would leave a worker that nobody knows, and that complains of what is gone.
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(pool.submit, os.getpid).result()


def begin_worker(count: "Synchronized[int] | None" = None) -> None:
    """Begin a worker process, which adds to a count."""
    Current.count = count
    keep_freed_memory()
    end_with_parent()


def end_with_parent() -> None:
    """End this process when its parent is gone, even by kill -9: it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None, "not a worker process"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of threads. On SIGTERM or Ctrl-C what they have not begun is dropped."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        except (SystemExit, KeyboardInterrupt, GeneratorExit):
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def map_in_order(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Map `work` over `items` in a pool, at most `ahead` of them begun and not yet yielded."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def look_ahead(pool: Executor, items: Iterable[Item]) -> Iterator[Item]:
    """Pass items on, while the pool computes the next one; one at a time, as generators want it."""
    iterator = iter(items)

    def take() -> list[Item]:
        return list(islice(iterator, 1))

    following = pool.submit(take)
    while item := following.result():
        following = pool.submit(take)
        yield from item
