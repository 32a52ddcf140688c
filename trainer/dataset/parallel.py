"""Doing the same to many things in several threads, in order and in bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_CHUNK = 16  # things for one turn of a thread: handing over costs as much as a small picture
_AHEAD = 3  # chunks that wait for each thread

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def cores() -> int:
    """How many this process may use, which is fewer than the machine has in most containers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[Thing], Result], things: Iterable[Thing], workers: int) -> Generator[Result, None, None]:
    """`map`, with up to `workers` at a time. `things` is read no more than a few hundred ahead."""
    if workers <= 1:
        yield from map(work, things)
        return
    source = iter(things)
    pending: deque[Future[list[Result]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="check")
    try:
        while True:
            while len(pending) < workers * _AHEAD and (chunk := list(islice(source, _CHUNK))):
                pending.append(pool.submit(_work_through, work, chunk))
            if not pending:
                return
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _work_through(work: Callable[[Thing], Result], chunk: list[Thing]) -> list[Result]:
    return list(map(work, chunk))
