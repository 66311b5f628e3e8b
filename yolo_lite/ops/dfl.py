"""Distribution focal loss and its expectation (GFL, arXiv:2006.04388).

Notation: B images, A anchors, R bins. A side's distance is a distribution over the bins 0..R-1, in grid units.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expected_distance(log_probability: Tensor) -> Tensor:
    """Expectation over the bins: (B, 4, R, A) log-probabilities -> (B, A, 4) distances in grid units."""
    bins = torch.arange(log_probability.shape[2], device=log_probability.device, dtype=log_probability.dtype)
    return torch.einsum("bsra,r->bas", log_probability.exp(), bins)


def distribution_focal_loss(log_probability: Tensor, target_ltrb: Tensor) -> Tensor:
    """Cross-entropy on the two bins around the target, weighted by closeness; mean over the four sides.

    Args:
        log_probability: (B, 4, R, A).
        target_ltrb: (B, A, 4) distances in grid units; clamped to 0 .. R - 1.01.

    Returns:
        (B, A).
    """
    num_bins = log_probability.shape[2]
    target = target_ltrb.transpose(1, 2).clamp(0, num_bins - 1 - 0.01)  # (B, 4, A)
    lower = target.floor()
    # Clamped for the sake of NaN alone: the loss must become NaN and be caught as such, not fail in `gather`.
    index = lower.long().clamp(0, num_bins - 2).unsqueeze(2)  # (B, 4, 1, A)
    upper_weight = target - lower
    at_lower = log_probability.gather(2, index).squeeze(2)
    at_upper = log_probability.gather(2, index + 1).squeeze(2)
    return -(at_lower * (1 - upper_weight) + at_upper * upper_weight).mean(dim=1)
