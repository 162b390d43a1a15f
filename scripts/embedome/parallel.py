"""Work on many items at once, few of them in memory, results in the items' order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Map `work` over `items` in a pool, at most `ahead` of them begun and not yet given back."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def ahead(pool: Executor, items: Iterable[Item]) -> Iterator[Item]:
    """Pass items on, the next one being made in the pool meanwhile; one at a time, as generators want it."""
    iterator, end = iter(items), object()
    following = pool.submit(next, iterator, end)
    while (item := following.result()) is not end:
        following = pool.submit(next, iterator, end)
        yield item
