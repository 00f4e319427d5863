"""Worker processes for building data sets. They are spawned, have one thread each, and stop if their parent process stops."""

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
    """Runs jobs and yields their results, in any order.

    Args:
        work: A module-level function.
        jobs: Arguments of each call.
        workers: Number of processes; 0 = this process.

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
            "shards: a worker was killed from outside, probably because memory ran out; give fewer --workers, or a smaller "
            "--max-seconds to `shards build`; finished work is kept, and the same command continues"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def die_with_parent() -> None:
    """Stops a worker whose parent process was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
