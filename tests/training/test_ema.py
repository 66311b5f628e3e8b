"""The average of the weights: its arithmetic, and constants that go with the length of the run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolo_lite.training.ema import WeightEMA
from yolo_lite.utils.errors import UserError


def started(total_steps: float, **constants: float) -> WeightEMA:
    """At the start of a run of so many optimiser steps."""
    ema = WeightEMA(**constants)
    trainer: Any = SimpleNamespace(global_step=0, estimated_stepping_batches=total_steps)
    ema.on_train_start(trainer, None)  # type: ignore[arg-type]
    return ema


def test_average_follows_a_calculation_by_hand() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    ema = started(500, decay=0.9, ramp=20)
    ema._average = {name: value.detach().clone() for name, value in layer.state_dict().items()}
    expected = {name: value.double() for name, value in ema._average.items()}
    for step in range(1, 501):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        ema.updates += 1
        ema.update(layer.state_dict())
        decay = 0.9 * (1 - torch.exp(torch.tensor(-step / 20, dtype=torch.float64)))
        expected = {name: decay * v + (1 - decay) * layer.state_dict()[name].double() for name, v in expected.items()}
    for name, value in ema._average.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)


def shares(ema: WeightEMA, total_steps: int) -> list[float]:
    """How much the weights after each step have in the average at the end of a run."""
    decays = []
    for ema.updates in range(1, total_steps + 1):
        decays.append(ema.current_decay())
    left, found = 1.0, []
    for decay in reversed(decays):
        found.append(left * (1 - decay))
        left *= decay
    return found[::-1]


@given(st.integers(1, 3000))
def test_the_average_of_a_run_of_any_length_is_of_its_end(total_steps: int) -> None:
    """Next to nothing of the first half is in it, and where there are enough steps it is more than the last few."""
    found = shares(started(total_steps), total_steps)
    assert sum(found[: total_steps // 2]) < 0.01
    if total_steps >= 200:
        assert max(found) < 0.1


def test_long_runs_average_as_the_authors_do() -> None:
    ema = started(1_000_000)
    assert ema.final_decay == pytest.approx(0.9999)
    assert ema.ramp_updates == pytest.approx(2000)


def test_what_is_given_is_taken() -> None:
    ema = started(100, decay=0.5, ramp=7.0)
    assert (ema.final_decay, ema.ramp_updates) == (0.5, 7.0)
    assert started(100, decay=0.99).ramp_updates == pytest.approx(20)


@pytest.mark.parametrize("constants", [{"decay": 1.0}, {"decay": -0.1}, {"ramp": 0.0}])
def test_constants_out_of_range_are_refused(constants: dict[str, float]) -> None:
    with pytest.raises(UserError, match="give a decay in"):
        WeightEMA(**constants)
