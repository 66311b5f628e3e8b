"""Decoding and non-maximum suppression, against a greedy reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from yolo_lite.ops import postprocess
from yolo_lite.ops.postprocess import decode_maps, detect, select_detections


def random_case(seed: int, anchors: int, classes: int, side: float = 60.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Crowded boxes with scores that are all different."""
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(0, 100, (anchors, 2)), rng.uniform(side / 3, side, (anchors, 2))], axis=1)
    scores = (rng.permutation(anchors * classes) + 1.0).reshape(anchors, classes) / (anchors * classes + 1)
    boxes_xyxy = box_convert(torch.tensor(boxes, dtype=torch.float32), "xywh", "xyxy")
    return boxes_xyxy, torch.tensor(scores, dtype=torch.float32)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0.0, width) * max(0.0, height)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def reference(
    boxes: torch.Tensor, scores: torch.Tensor, threshold: float, iou: float, limit: int, multi_label: bool
) -> list[tuple[int, int]]:
    """(anchor, label) of what stays, best first: one greedy pass over all candidates."""
    b, s = boxes.double().numpy(), scores.double().numpy()
    if multi_label:
        found = [(s[a, c], a, c) for a in range(len(s)) for c in range(s.shape[1]) if s[a, c] > threshold]
    else:
        found = [(s[a].max(), a, int(s[a].argmax())) for a in range(len(s)) if s[a].max() > threshold]
    kept: list[tuple[int, int]] = []
    for _, a, c in sorted(found, reverse=True):
        if all(other != c or overlap(b[a], b[k]) <= iou for k, other in kept):
            kept.append((a, c))
    return kept[:limit]


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("threshold", "iou", "limit"), [(0.001, 0.7, 300), (0.25, 0.45, 300), (0.3, 0.5, 7)])
def test_equals_the_greedy_reference(seed: int, threshold: float, iou: float, limit: int, multi_label: bool) -> None:
    boxes, scores = random_case(seed, anchors=60, classes=3)
    found = select_detections(boxes, scores, threshold, iou, limit, multi_label)
    expected = reference(boxes, scores, threshold, iou, limit, multi_label)
    assert expected
    anchors, labels = torch.tensor(expected).unbind(1)
    assert torch.equal(found.labels, labels)
    assert torch.equal(found.boxes_xyxy, boxes[anchors])
    assert torch.equal(found.scores, scores[anchors, labels])


def test_best_first_and_at_most_the_limit() -> None:
    boxes, scores = random_case(0, anchors=400, classes=2, side=5.0)
    everything = select_detections(boxes, scores, 0.001, 0.7, max_detections=10_000)
    assert len(everything) > 300
    found = select_detections(boxes, scores, 0.001, 0.7)
    assert len(found) == 300
    assert (found.scores[1:] <= found.scores[:-1]).all()
    assert torch.equal(found.scores, everything.scores[:300])


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("anchors", [0, 20])
def test_no_detections(multi_label: bool, anchors: int) -> None:
    boxes, scores = torch.rand(anchors, 4), torch.full((anchors, 3), 0.2)
    found = select_detections(boxes, scores, 0.25, 0.7, multi_label=multi_label)
    assert len(found) == 0
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.labels.shape == found.scores.shape == (0,)
    assert found.labels.dtype == torch.int64


def test_the_threshold_itself_is_not_enough() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    assert len(select_detections(boxes, torch.tensor([[0.25], [0.26]]), 0.25, 0.7)) == 1


@pytest.mark.parametrize("multi_label", [True, False])
def test_limit_on_candidates_keeps_the_best_whatever_the_order(
    monkeypatch: pytest.MonkeyPatch, multi_label: bool
) -> None:
    monkeypatch.setattr(postprocess, "MAX_CANDIDATES", 40)
    boxes, scores = random_case(3, anchors=100, classes=2)
    first = select_detections(boxes, scores, 0.001, 0.7, multi_label=multi_label)
    for seed in range(3):
        order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
        again = select_detections(boxes[order], scores[order], 0.001, 0.7, multi_label=multi_label)
        assert torch.equal(again.boxes_xyxy, first.boxes_xyxy)
        assert torch.equal(again.scores, first.scores)
        assert torch.equal(again.labels, first.labels)
    values = scores.flatten() if multi_label else scores.max(dim=1).values
    assert first.scores.min() >= values.sort(descending=True).values[39]


def test_classes_never_suppress_each_other() -> None:
    """Two boxes of two classes, each alone in its class; one reaches far outside the image, as raw boxes do.

    Moving each class by the largest coordinate separates only boxes whose coordinates are not negative.
    """
    boxes = torch.tensor([[130.0, 130, 600, 600], [-450, -450, 20, 20]])
    scores = torch.tensor([[0.9, 0.0], [0.0, 0.8]])
    found = select_detections(boxes, scores, 0.25, 0.7)
    assert found.labels.tolist() == [0, 1]


def test_far_classes_do_not_blur_the_overlap() -> None:
    """80 classes at large coordinates: each class must be treated as it is alone."""
    boxes, scores = random_case(5, anchors=40, classes=1)
    boxes = boxes + 3000
    alone = select_detections(boxes, scores, 0.1, 0.5)
    many = torch.zeros(40, 80)
    many[:, 79:] = scores
    found = select_detections(boxes, many, 0.1, 0.5)
    assert torch.equal(found.boxes_xyxy, alone.boxes_xyxy)
    assert set(found.labels.tolist()) == {79}


def test_decoding_one_hot_distributions() -> None:
    """One certain cell: left 1, top 2, right 3, bottom 4 cells of 8 pixels around the centre of row 1, column 2."""
    maps = [torch.zeros(1, 4 * 16 + 2, 3, 4)]
    for side, distance in enumerate((1, 2, 3, 4)):
        maps[0][0, side * 16 + distance, 1, 2] = 100.0
    maps[0][0, 64:] = -10.0
    maps[0][0, 65, 1, 2] = 2.0
    decoded = decode_maps(maps, [8], 16)
    expected = torch.tensor([(2.5 - 1) * 8, (1.5 - 2) * 8, (2.5 + 3) * 8, (1.5 + 4) * 8])
    torch.testing.assert_close(decoded.boxes_xyxy[0, 1 * 4 + 2], expected)
    assert decoded.logits.shape == (1, 2, 12)

    (found,) = detect(maps, [8], 16)
    assert found.labels.tolist() == [1]
    torch.testing.assert_close(found.boxes_xyxy[0], expected)
    torch.testing.assert_close(found.scores[0], torch.tensor(2.0).sigmoid())


@pytest.mark.parametrize("first", [1, 7, 64])
def test_stopping_early_changes_nothing(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        boxes, scores = random_case(seed, 80, 3)
        whole = select_detections(boxes, scores, 0.1, 0.5, max_detections=20)
        with monkeypatch.context() as patch:
            patch.setattr(postprocess, "FIRST_CANDIDATES", first)
            stepwise = select_detections(boxes, scores, 0.1, 0.5, max_detections=20)
        assert torch.equal(whole.boxes_xyxy, stepwise.boxes_xyxy)
        assert torch.equal(whole.labels, stepwise.labels)


def test_images_of_a_batch_are_independent() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(3, 4 * 16 + 2, s, s) for s in (8, 4)]
    together = detect(maps, [8, 16], 16)
    for i in range(3):
        (alone,) = detect([x[i : i + 1] for x in maps], [8, 16], 16)
        assert torch.equal(alone.labels, together[i].labels)
        torch.testing.assert_close(alone.boxes_xyxy, together[i].boxes_xyxy)


def test_decoding_is_float32_for_low_precision_maps() -> None:
    maps = [torch.randn(1, 4 * 16 + 1, 4, 4, dtype=torch.bfloat16)]
    decoded = decode_maps(maps, [8], 16)
    assert decoded.boxes_xyxy.dtype == decoded.logits.dtype == decoded.log_probability.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = decode_maps(maps, [8], 16)
    assert torch.equal(inside.boxes_xyxy, decoded.boxes_xyxy)


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize(
    ("dtype", "threshold"),
    [*((torch.float32, threshold) for threshold in (0.0, 0.001, 0.25, 0.9, 1.0)), (torch.bfloat16, 0.25)],
)
def test_decoding_candidates_alone_finds_the_same(multi_label: bool, threshold: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 4 * 16 + 3, s, s + 2).mul(3).to(dtype) for s in (8, 4)]
    decoded = decode_maps(maps, [8, 16], 16)
    scores = decoded.logits.sigmoid().transpose(1, 2)
    found = detect(maps, [8, 16], 16, threshold, 0.6, multi_label=multi_label)
    for i in range(2):
        dense = select_detections(decoded.boxes_xyxy[i], scores[i], threshold, 0.6, multi_label=multi_label)
        torch.testing.assert_close(found[i].scores, dense.scores)
        assert torch.equal(found[i].labels, dense.labels)
        torch.testing.assert_close(found[i].boxes_xyxy, dense.boxes_xyxy, atol=1e-4, rtol=1e-5)
