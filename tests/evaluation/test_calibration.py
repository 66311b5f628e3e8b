"""Expected calibration error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_lite.evaluation.calibration import calibrate


def test_by_hand() -> None:
    """Bins of 0.5: (0, 0.5] has 0.25 and 0.5, one of two right; (0.5, 1] has 0.75 twice, both right."""
    result = calibrate(np.array([0.25, 0.75, 0.5, 0.75]), np.array([True, True, False, True]), num_bins=2)
    assert result.counts.tolist() == [2, 2]
    assert result.mean_score.tolist() == [0.375, 0.75] and result.hit_share.tolist() == [0.5, 1.0]
    assert result.error == pytest.approx(0.5 * 0.125 + 0.5 * 0.25)


def test_honest_scores_have_no_error() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(200_000)
    assert calibrate(scores, rng.random(len(scores)) < scores).error < 0.01
    assert calibrate(scores, rng.random(len(scores)) < scores**2).error > 0.1


def test_empty_bins_and_nothing_at_all() -> None:
    result = calibrate(np.array([0.0, 1.0]), np.array([False, True]))
    assert result.error == 0 and result.counts[[0, -1]].tolist() == [1, 1] and np.isnan(result.hit_share[1:-1]).all()
    assert np.isnan(calibrate(np.zeros(0), np.zeros(0, bool)).error)


@given(rows=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1))
def test_every_detection_is_in_the_bin_of_its_score(rows: list[tuple[float, bool]]) -> None:
    scores, hits = (np.array(column) for column in zip(*rows, strict=True))
    result = calibrate(scores, hits)
    assert result.counts.sum() == len(rows) and 0 <= result.error <= 1
    filled = result.counts > 0
    assert (result.mean_score[filled] >= result.edges[:-1][filled] - 1e-12).all()
    assert (result.mean_score[filled] <= result.edges[1:][filled] + 1e-12).all()
