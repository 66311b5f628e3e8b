"""Progress: silent where a job is short, a line now and then in a log, a bar on a terminal."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from yolo_lite.utils import progress
from yolo_lite.utils.progress import LongJob


class Clock:
    """Time that passes when told."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_every_few_seconds(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="yolo_lite"), LongJob("reading", 200) as job:
        for step in range(1, 121):
            clock.now += 0.125
            job.update(step, f"{step} images")
    assert [r.getMessage() for r in caplog.records] == [
        "reading: 20 %, 40 images",
        "reading: 40 %, 80 images",
        "reading: 60 %, 120 images",
    ]


def test_short_jobs_say_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="yolo_lite"), LongJob("reading", 0) as job:
        job.update(0)
    assert not caplog.records


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    with caplog.at_level(logging.INFO, logger="yolo_lite"), LongJob("reading", 200) as job:
        clock.now += 6
        job.update(100, "100 images")
    assert not caplog.records
    assert "reading" in screen.getvalue()
    assert "100 images" in screen.getvalue()
