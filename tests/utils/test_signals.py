"""SIGTERM ends a command as Ctrl-C does: everything is cleaned up, one line, 143."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from yolo_lite.utils.console import run_command
from yolo_lite.utils.signals import Terminated, raising_sigterm


def test_sigterm_cleans_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @raising_sigterm()
    def command() -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Exception:  # what handles errors of libraries does not handle it
                pytest.fail("taken for an error")

    assert run_command(command) == 143
    assert capsys.readouterr().err == "stopped by SIGTERM\n"
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_is_started_while_sigterm_is_answered_can_be_told_to_end() -> None:
    code = "import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    with pytest.raises(Terminated), raising_sigterm():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing
            assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"


def test_handlers_of_others_stay() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with raising_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_is_left_alone() -> None:
    ended = []

    def work() -> None:
        with raising_sigterm():
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended
