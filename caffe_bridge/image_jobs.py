"""Works through many images in several processes, with a progress bar; an image that fails does not stop the rest."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

import cv2
import torch
from tqdm import tqdm

from caffe_bridge.errors import CaffeError

Task = TypeVar("Task")


def _single_threaded() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def work(function: Callable[[Task], str | None], tasks: Sequence[Task], processes: int) -> int:
    """Call a function of a module with each task.

    What it returns, if anything, and the message of a CaffeError that it raises are printed on stderr. With one
    process it is called in this one.

    Returns:
        How many tasks failed.

    Raises:
        CaffeError: a process ended without an answer, as it does where memory runs out.
    """
    if processes <= 1 or len(tasks) <= 1:
        return _report((partial(function, task) for task in tasks), len(tasks))
    # Processes that are copies of this one could wait forever for threads that were not copied.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _single_threaded) as pool:
        futures: list[Future[str | None]] = [pool.submit(function, task) for task in tasks]
        try:
            return _report((future.result for future in as_completed(futures)), len(tasks))
        except BrokenProcessPool as error:
            raise CaffeError("a process ended unexpectedly; fewer of them take less memory") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _report(answers: Iterable[Callable[[], str | None]], count: int) -> int:
    failed = 0
    for answer in tqdm(answers, total=count, unit="image", disable=True if count < 2 else None):
        try:
            note = answer()
        except CaffeError as error:
            failed, note = failed + 1, f"failed: {error}"
        if note:
            tqdm.write(note, file=sys.stderr)
    return failed
