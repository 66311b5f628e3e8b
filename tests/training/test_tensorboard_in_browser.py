"""TensorBoard on two runs, in a browser: what training wrote is shown, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

import train as train_script

FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--model.variant", "yolov8n"),
    *("--trainer.max_epochs", "1", "--model.nominal_batch", "4", "--pictures.num_images", "2"),
]
HERE = ("127.0.0.1", "localhost", "")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, make_coco: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("board")
    root = make_coco(folder / "data", num_train=4, num_val=2)
    for name in ("first-model", "second-model"):
        assert (
            train_script.main(["--data.root", str(root), "--runs_dir", str(folder / "runs"), "--name", name, *FAST])
            == 0
        )
    return folder / "runs"


@pytest.fixture(scope="module")
def address(runs: Path) -> Iterator[str]:
    """A server on the runs."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", "0", "--host", "127.0.0.1"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert server.stderr is not None
    killer = threading.Timer(120, server.kill)
    killer.start()
    found = next((m[0] for line in server.stderr if (m := re.search(r"http://127\.0\.0\.1:\d+/", line))), None)
    threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop the server
    try:
        assert found is not None, "tensorboard did not start"
        yield found
    finally:
        killer.cancel()
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("tab", "shown"),
    [
        ("timeseries", ["/map_50_95", "first-model/version_0", "second-model/version_0"]),
        ("images", ["val/truth_above_prediction", "train/batch"]),
        ("pr_curves", ["pr/all_classes", "second-model/version_0"]),
        ("hparams", ["val/map_50_95", "model.variant", "yolov8n"]),
        ("text", ["backbone", "head"]),
        ("graphs", ["YOLO", "input", "output"]),
    ],
)
def test_a_tab_shows_what_training_wrote(chromium: Any, address: str, tab: str, shown: list[str]) -> None:
    context = chromium.new_context(viewport={"width": 1600, "height": 1200})
    page = context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        page.goto(f"{address}#{tab}")
        for text in shown:
            page.get_by_text(text).first.wait_for(state="attached", timeout=45_000)
    finally:
        context.close()
    hosts = {urlparse(url).hostname or "" for url in requests if not url.startswith(("data:", "blob:"))}
    assert hosts <= set(HERE), hosts
    assert complaints == []
