"""Do scores mean what they say? Expected calibration error (arXiv:1706.04599). Notation: D detections, K bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_BINS = 15  # the paper's


@dataclass(frozen=True)
class Calibration:
    """How often detections of a score are right.

    Attributes:
        edges: (K + 1,) of the bins of scores; a bin has its upper edge.
        counts: (K,) detections.
        mean_score: (K,) of them, NaN in empty bins.
        hit_share: (K,) share that matches an object, NaN in empty bins.
        error: expected calibration error, weighted by counts; NaN without detections.
    """

    edges: np.ndarray
    counts: np.ndarray
    mean_score: np.ndarray
    hit_share: np.ndarray
    error: float


def calibrate(scores: np.ndarray, is_hit: np.ndarray, num_bins: int = NUM_BINS) -> Calibration:
    """Compare scores with the share of detections that are right.

    Args:
        scores: (D,) in 0..1 of hits and wrong detections.
        is_hit: (D,) which found an object.
        num_bins: K, of equal width.
    """
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        mean_score = np.bincount(bins, weights=scores, minlength=num_bins) / counts
        hit_share = np.bincount(bins, weights=is_hit, minlength=num_bins) / counts
    error = np.nansum(counts * np.abs(mean_score - hit_share)) / len(scores) if len(scores) else np.nan
    return Calibration(edges, counts, mean_score, hit_share, float(error))
