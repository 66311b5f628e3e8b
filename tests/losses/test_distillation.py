"""The distance of a student from its teacher, against torch.distributions and NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, kl_divergence

from yolo_lite.losses.detection import whole
from yolo_lite.losses.distillation import (
    DistillationLoss,
    bernoulli_divergence,
    correlation_distance,
    side_divergence,
)
from yolo_lite.ops.boxes import complete_iou
from yolo_lite.ops.postprocess import Decoded, decode_maps

STRIDES = (8, 16)
CLASSES = 3
seeds = st.integers(0, 2**31)


def random(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def outputs(seed: int, batch: int = 2, bins: int = 16, scale: float = 1.0) -> tuple[Decoded, list[Tensor]]:
    """Decoded maps and features of two levels of a 32 px image."""
    maps = [random(seed + s, batch, 4 * bins + CLASSES, 32 // s, 32 // s, scale=scale) for s in STRIDES]
    features = [random(seed + s + 1, batch, 5, 32 // s, 32 // s) for s in STRIDES]
    return decode_maps(maps, STRIDES, bins), features


def distance(student: tuple[Decoded, list[Tensor]], teacher: tuple[Decoded, list[Tensor]]) -> float:
    return float(DistillationLoss()(student[0], teacher[0], student[1], teacher[1], whole))


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_divergences_are_those_of_the_distributions(seed: int) -> None:
    a, b = random(seed, 2, 3, 7), random(seed + 1, 2, 3, 7)
    expected = kl_divergence(Bernoulli(logits=b), Bernoulli(logits=a))
    torch.testing.assert_close(bernoulli_divergence(a, b), expected, atol=1e-5, rtol=1e-4)
    a, b = (random(seed + i, 2, 4, 16, 5).log_softmax(dim=2) for i in (2, 3))
    p, q = (Categorical(logits=x.transpose(2, 3)) for x in (b, a))
    torch.testing.assert_close(side_divergence(a, b), kl_divergence(p, q).mean(dim=1), atol=1e-5, rtol=1e-4)


@given(seeds, st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_features_are_compared_by_their_correlation(seed: int, scale: float, shift: float) -> None:
    a, b = random(seed, 2, 3, 4, 5), random(seed + 1, 2, 3, 4, 5)
    expected = [np.mean([1 - np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(i, j, strict=True)])
                for i, j in zip(a.numpy(), b.numpy(), strict=True)]  # fmt: skip
    found = correlation_distance(a, b)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    torch.testing.assert_close(correlation_distance(a * scale + shift, b), found, atol=1e-4, rtol=1e-4)


def test_channels_that_are_the_same_everywhere_give_no_gradient_that_is_not_finite() -> None:
    a = torch.ones(1, 2, 4, 4, requires_grad=True)
    distance = correlation_distance(a, torch.zeros(1, 2, 4, 4))
    assert distance.item() == 1
    distance.sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_nothing_is_left_to_learn_where_all_outputs_agree(scale: float) -> None:
    same = outputs(0, scale=scale)
    assert distance(same, same) == pytest.approx(0, abs=1e-5)
    assert distance(outputs(1, scale=scale), same) > 1


@given(seeds, st.sampled_from([-8.0, 0.0]))
@settings(max_examples=10, deadline=None)
def test_the_terms_are_weighed_as_documented(seed: int, shift: float) -> None:
    """Anchor by anchor in NumPy; with few sure anchors too, where the normaliser is 1 at least."""
    (own, own_features), (given, given_features) = outputs(seed), outputs(seed + 7)
    given.logits.add_(shift)
    sure = (1 / (1 + np.exp(-given.logits.numpy().astype(float)))).max(axis=1)
    total = max(1.0, sure.sum())
    expected = 0.0
    for image in range(2):
        for anchor in range(sure.shape[1]):
            logits, target = (Bernoulli(logits=x.logits[image, :, anchor]) for x in (own, given))
            expected += 2 * float(kl_divergence(target, logits).sum()) / total
            boxes = [x.boxes_xyxy[image, anchor] / x.stride[anchor] for x in (own, given)]
            sides = [Categorical(logits=x.log_probability[image, :, :, anchor]) for x in (given, own)]
            gap = 3 * (1 - float(complete_iou(*boxes))) + 5 * float(kl_divergence(*sides).mean())
            expected += sure[image, anchor] / total * gap
    distances = [correlation_distance(a, b).mean() for a, b in zip(own_features, given_features, strict=True)]
    expected += 7 * float(np.mean(distances))
    loss = DistillationLoss(box_gain=3, class_gain=2, dfl_gain=5, feature_gain=7)
    assert float(loss(own, given, own_features, given_features, whole)) == pytest.approx(expected, rel=1e-4)


def test_a_part_of_the_batch_is_its_share() -> None:
    """Two processes with an image each: their losses add up to that of the whole batch."""
    student, teacher = outputs(0), outputs(1)
    sure = teacher[0].logits.amax(dim=1).sigmoid().sum()

    def of_image(i: int, decoded: Decoded, features: Sequence[Tensor]) -> tuple[Decoded, list[Tensor]]:
        cut = [x[i : i + 1] for x in (decoded.log_probability, decoded.logits, decoded.boxes_xyxy)]
        return Decoded(*cut, decoded.centers_xy, decoded.stride), [x[i : i + 1] for x in features]

    shares = 0.0
    for i in range(2):
        (own, own_features), (given, given_features) = of_image(i, *student), of_image(i, *teacher)
        total = torch.stack([sure, torch.tensor(2.0)])
        shares += float(DistillationLoss()(own, given, own_features, given_features, lambda _, total=total: total))
    assert shares == pytest.approx(distance(student, teacher), rel=1e-5)


def test_where_the_teacher_sees_nothing_boxes_count_nothing() -> None:
    student, teacher = outputs(0), outputs(1)
    teacher[0].logits.fill_(-30)
    student[0].logits.fill_(-30)
    assert distance((student[0], teacher[1]), teacher) == pytest.approx(0, abs=1e-5)


def test_other_bins_are_taught_by_the_boxes() -> None:
    """Descending the loss moves boxes towards the teacher's, whose sides have half as many bins."""
    teacher, features = outputs(1, bins=8)
    maps = [random(s, 2, 64 + CLASSES, 32 // s, 32 // s, scale=1).requires_grad_() for s in STRIDES]
    optimizer = torch.optim.Adam(maps, lr=0.05)
    gaps = []
    for _ in range(60):
        student = decode_maps(maps, STRIDES, 16)
        gaps.append(float((student.boxes_xyxy - teacher.boxes_xyxy).abs().mean()))
        optimizer.zero_grad()
        DistillationLoss()(student, teacher, features, features, whole).backward()
        optimizer.step()
    assert gaps[-1] < 0.5 * gaps[0]
