"""Processes that build parts of a data set: fresh ones, one thread each, which stop when the process that started them does."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_jobs(work: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], workers: int) -> Iterator[Result]:
    """Does jobs and yields each result when it is there, in no order.

    Args:
        work: A function of a module.
        jobs: Its arguments, each time.
        workers: Processes; 0 works in this one.

    Raises:
        ValueError: If a worker was killed.
    """
    if not workers:
        yield from (work(*job) for job in jobs)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the workers when they start
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=die_with_parent)
    try:
        for future in as_completed([pool.submit(work, *job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise ValueError(
            "shards: a worker was killed from outside, probably for want of memory; give fewer --workers, or let less lie in memory at a "
            "time (`shards build` has --max-seconds for it); what was finished is kept, the same command goes on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def die_with_parent() -> None:
    """A worker whose parent was killed stops as well."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
