"""Distributions over distances: expectation and focal loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.ops.dfl import distribution_focal_loss, expected_distance

R = 16


def logs(probability: torch.Tensor) -> torch.Tensor:
    """(R,) -> (1, 4, R, 1) log-probabilities, the same for every side."""
    return probability.clamp(min=1e-12).log().view(1, 1, -1, 1).expand(1, 4, -1, 1)


@pytest.mark.parametrize("position", [0, 1, 7, 15])
def test_expectation_of_a_one_hot(position: int) -> None:
    one_hot = torch.zeros(R)
    one_hot[position] = 1
    torch.testing.assert_close(expected_distance(logs(one_hot)), torch.full((1, 1, 4), float(position)))


def test_expectation_of_a_uniform_distribution_and_its_layout() -> None:
    torch.testing.assert_close(expected_distance(logs(torch.full((R,), 1 / R))), torch.full((1, 1, 4), (R - 1) / 2))
    assert expected_distance(torch.zeros(2, 4, R, 5).log_softmax(2)).shape == (2, 5, 4)


def two_bins(target: float) -> torch.Tensor:
    """All the mass on the two bins around `target`, so that its expectation is the target."""
    lower = math.floor(target)
    probability = torch.zeros(R)
    probability[lower] = 1 - (target - lower)
    probability[lower + 1] = target - lower
    return probability


@settings(deadline=None)
@given(st.floats(0.0, 14.98), st.integers(0, 2**31 - 1))
def test_loss_is_least_where_the_distribution_is_concentrated_on_the_target(target: float, seed: int) -> None:
    ltrb = torch.full((1, 1, 4), target)
    best = distribution_focal_loss(logs(two_bins(target)), ltrb)
    share = target - math.floor(target)
    entropy = -sum(p * math.log(p) for p in (share, 1 - share) if p > 0)
    assert best.item() == pytest.approx(entropy, abs=1e-3)
    other = torch.randn(1, 4, R, 1, generator=torch.Generator().manual_seed(seed)).log_softmax(2)
    assert distribution_focal_loss(other, ltrb).item() >= best.item() - 1e-3


def test_loss_is_the_mean_over_the_sides() -> None:
    torch.manual_seed(0)
    log_probability = torch.randn(2, 4, R, 3).log_softmax(2)
    target = torch.rand(2, 3, 4) * 14
    loss = distribution_focal_loss(log_probability, target)
    assert loss.shape == (2, 3)
    for b in range(2):
        for a in range(3):
            total = 0.0
            for side in range(4):
                t = target[b, a, side].item()
                lower, share = math.floor(t), t - math.floor(t)
                total -= (1 - share) * log_probability[b, side, lower, a].item()
                total -= share * log_probability[b, side, lower + 1, a].item()
            assert loss[b, a].item() == pytest.approx(total / 4, rel=1e-4)


def test_targets_out_of_range_are_clamped() -> None:
    torch.manual_seed(0)
    log_probability = torch.randn(1, 4, R, 2).log_softmax(2)
    far = torch.tensor([[[-3.0, 15.0, 16.0, 1000.0], [-0.1, 14.995, 99.0, 20.0]]])
    near = torch.tensor([[[0.0, 14.99, 14.99, 14.99], [0.0, 14.99, 14.99, 14.99]]])
    assert torch.equal(distribution_focal_loss(log_probability, far), distribution_focal_loss(log_probability, near))
