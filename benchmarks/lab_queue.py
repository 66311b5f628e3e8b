"""Runs one after the other or several at a time, each after those that it starts from."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from statistics import fmean

from benchmarks.lab_plan import Run
from yolo_lite.utils.console import clock
from yolo_lite.utils.signals import Terminated, raising_sigterm

log = logging.getLogger("yolo_lite.lab")  # a child of the package's logger, which has the handlers


def work_through(
    runs: Sequence[Run],
    needed_by: Callable[[Run], Sequence[Run]],
    make: Callable[[Run], None],
    stop: Callable[[int], None],
    jobs: int,
) -> None:
    """Make all runs in their order, and say how long the rest will take.

    After a failure or a signal nothing more is started; what is at work is waited for.

    Args:
        runs: to be made.
        needed_by: what a run starts from; where that is among the runs, it comes before.
        make: does it, in a thread.
        stop: told the number of a signal that asks for an end, SIGINT or SIGTERM.
        jobs: how many at a time.

    Raises:
        The first failure.
    """
    waiting = list(runs)
    active: dict[Future[None], tuple[Run, float]] = {}
    seconds: list[float] = []
    failures: list[BaseException] = []
    with raising_sigterm(), ThreadPoolExecutor(jobs) as pool:
        while waiting or active:
            try:
                unfinished = [*waiting, *(run for run, _ in active.values())]
                ready = [run for run in waiting if not any(other in unfinished for other in needed_by(run))]
                for run in ready[: jobs - len(active)]:
                    left = ""
                    if seconds:
                        left = f", about {clock(fmean(seconds) * math.ceil(len(unfinished) / jobs))} left"
                    log.info("run %d of %d: %s%s", len(runs) - len(waiting) + 1, len(runs), run.folder_name, left)
                    waiting.remove(run)
                    active[pool.submit(make, run)] = run, time.monotonic()
                for future in wait(active, return_when=FIRST_COMPLETED).done:
                    run, begun = active[future]
                    seconds.append(time.monotonic() - begun)
                    failure = future.exception()
                    if failure is not None:
                        failures.append(failure)
                        waiting.clear()
                    del active[future]  # last: a signal before it has what ended looked at once more, not lost
                    if failure is not None and active:  # the first one is told again at the end, which may be far
                        log.error("%s: %s; first %d runs beside it are finished", run.folder_name, failure, len(active))
            except KeyboardInterrupt as error:
                stop(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
                waiting.clear()
    if failures:
        raise failures[0]
