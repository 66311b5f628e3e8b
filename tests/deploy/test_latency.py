"""Timing in turn, and memory in a process of its own. No test says how fast anything is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from yolo_lite.deploy.formats import write_onnx
from yolo_lite.deploy.latency import WARM_UP, Latency, added_memory, measure_latency, peak_of_running
from yolo_lite.deploy.runtimes import Runtime
from yolo_lite.utils.errors import UserError


class Noted(Runtime):
    """Writes down when it is called, and with how many images."""

    def __init__(self, name: str, calls: list[tuple[str, int]], info: Any) -> None:
        self.name, self.calls, self.info = name, calls, info

    def compute(self, images: Tensor) -> list[Tensor]:
        self.calls.append((self.name, len(images)))
        return [images]


def test_models_are_called_in_turn_and_each_is_first_as_often(trained: Any) -> None:
    calls: list[tuple[str, int]] = []
    runtimes = {name: Noted(name, calls, trained.info) for name in "abc"}
    found = measure_latency(runtimes, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), rounds=6)
    names = [name for name, _ in calls[3 * WARM_UP :]]
    assert names[::2] == names[1::2]  # the first of two calls is not timed: threads of the model before may be awake
    rounds = [names[i : i + 6 : 2] for i in range(0, len(names), 6)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert sorted(order[0] for order in rounds) == ["a", "a", "b", "b", "c", "c"]
    assert all(len(latency.seconds) == 6 and latency.batch == 2 for latency in found.values())
    assert {count for _, count in calls} == {2}


@given(seconds=st.lists(st.floats(1e-4, 10), min_size=1, max_size=30), batch=st.integers(1, 64))
def test_median_p90_and_throughput(seconds: Sequence[float], batch: int) -> None:
    latency = Latency(tuple(seconds), batch)
    assert min(seconds) <= latency.median <= latency.p90 * (1 + 1e-9) <= max(seconds) * (1 + 2e-9)
    assert np.isclose(latency.throughput * latency.median, batch)


def test_memory_is_that_of_the_model(trained_file: Path) -> None:
    assert 0 < added_memory(trained_file, (64, 64), batch=1, threads=1) < 2**30


def test_memory_of_a_file_for_images_that_are_no_squares(trained: Any, tmp_path: Path) -> None:
    """Such a file is fed what it takes; what its library says of anything else is one line."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "m.onnx"
    write_onnx(trained.model, replace(trained.info, output="decoded", input_size=(64, 96)), path)
    assert 0 < added_memory(path, (64, 96), threads=1) < 2**30
    with pytest.raises(UserError, match=r"m\.onnx could not be run .*: .+") as caught:
        added_memory(path, (96, 96), threads=1)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_run_is_said_by_name(tmp_path: Path) -> None:
    path = tmp_path / "none.ckpt"
    with pytest.raises(UserError, match=r"none\.ckpt"):
        peak_of_running(path, (64, 64), 1, None)
