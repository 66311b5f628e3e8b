"""How far a long job is: a bar on a terminal, otherwise a line in the log every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import Progress as RichProgress

log = logging.getLogger(__name__)

INTERVAL = 5.0  # seconds; what is done before the first is not spoken of


class LongJob:
    """Progress of a job of `total` steps, as a context.

    Args:
        what: names it.
        total: steps; None: nobody knows.
    """

    def __init__(self, what: str, total: int | None) -> None:
        self.what = what
        self.total = total
        self._next_report = time.monotonic() + INTERVAL
        self._bar: RichProgress | None = None

    def __enter__(self) -> LongJob:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, detail: str = "") -> None:
        """Report, if the last time was long enough ago.

        Args:
            done: steps so far.
            detail: what else to say.
        """
        now = time.monotonic()
        if now < self._next_report:
            return
        if sys.stdout.isatty():
            self._next_report = now + INTERVAL / 50
            self._draw(done, detail)
        else:
            self._next_report = now + INTERVAL
            share = f"{done} so far" if self.total is None else f"{100 * done / max(1, self.total):.0f} %"
            log.info("%s: %s%s", self.what, share, f", {detail}" if detail else "")

    def _draw(self, done: int, detail: str) -> None:
        if self._bar is None:
            # A console of its own: on the common one, the bar of a library that did not stop its own would hide this.
            self._bar = RichProgress(console=Console(), transient=True)
            self._bar.start()
            self._bar.add_task(self.what, total=self.total)
        self._bar.update(self._bar.task_ids[0], completed=done, description=f"{self.what} {detail}".strip())
