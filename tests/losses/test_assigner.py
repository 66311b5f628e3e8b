"""Task-aligned assignment against a slow reference that goes image by image, box by box."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from yolo_lite.losses import assigner
from yolo_lite.losses.assigner import Assignment, TaskAlignedAssigner, centers_inside
from yolo_lite.ops.anchors import make_anchors

Case = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
IMAGE = 64


def random_case(seed: int, batch: int = 3, num_gt: int = 6, classes: int = 3, size: int = IMAGE) -> Case:
    """Predictions near the boxes at their anchors, so that overlaps are neither zero nor one."""
    g = torch.Generator().manual_seed(seed)
    centers, stride = make_anchors([torch.zeros(1, 1, size // s, size // s) for s in (8, 16)], (8, 16))
    centers = centers * stride
    anchors = len(centers)
    scores = torch.rand(batch, anchors, classes, generator=g) * 0.8 + 0.1
    half = torch.rand(batch, anchors, 4, generator=g) * size / 3 + 2
    pred = torch.cat([centers - half[..., :2], centers + half[..., 2:]], dim=-1)
    low = torch.rand(batch, num_gt, 2, generator=g) * size * 0.7
    high = low + torch.rand(batch, num_gt, 2, generator=g) * size * 0.5 + 3
    labels = torch.randint(classes, (batch, num_gt), generator=g)
    counts = torch.randint(0, num_gt + 1, (batch,), generator=g)
    mask = torch.arange(num_gt) < counts[:, None]
    boxes = torch.cat([low, high], dim=-1) * mask[..., None]
    return scores, pred, centers, labels * mask, boxes, mask


def ciou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    aw, ah, bw, bh = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    iou = width * height / (aw * ah + bw * bh - width * height)
    outer = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    distance = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    v = 4 / math.pi**2 * (math.atan(aw / ah) - math.atan(bw / bh)) ** 2
    return iou - distance / outer - (v * v / (1 - iou + v) if v else 0.0)


def reference(case: Case, top_k: int = 10) -> list[dict[int, tuple[int, int, float]]]:
    """Per image: anchor -> (ground truth, class, target score), for anchors with a positive score."""
    scores, pred, centers, labels, boxes, mask = (x.tolist() for x in case)
    result = []
    for b in range(len(scores)):
        real = [g for g in range(len(mask[b])) if mask[b][g]]
        overlap: dict[tuple[int, int], float] = {}
        metric: dict[tuple[int, int], float] = {}
        claims: dict[int, list[int]] = {}
        for g in real:
            x1, y1, x2, y2 = boxes[b][g]
            for a, (x, y) in enumerate(centers):
                if x1 < x < x2 and y1 < y < y2:
                    overlap[g, a] = max(0.0, ciou(boxes[b][g], pred[b][a]))
                    metric[g, a] = scores[b][a][labels[b][g]] ** 0.5 * overlap[g, a] ** 6
            inside = sorted((a for k, a in metric if k == g and metric[k, a] > 0), key=lambda a: -metric[g, a])
            for a in inside[:top_k]:
                claims.setdefault(a, []).append(g)
        owner: dict[int, int] = {}
        for a, owners in claims.items():
            # Of several, the one that overlaps most among all boxes around the centre, as in the reference cases.
            around = [g for g in real if (g, a) in overlap] if len(owners) > 1 else owners
            owner[a] = max(around, key=lambda g: overlap[g, a])
        image = {}
        for a, g in owner.items():
            mine = [k for k, o in owner.items() if o == g]
            best_metric, best_overlap = max(metric[g, k] for k in mine), max(overlap[g, k] for k in mine)
            image[a] = (g, labels[b][g], metric[g, a] * best_overlap / (best_metric + 1e-9))
        result.append(image)
    return result


def assert_same_as_reference(result: Assignment, case: Case) -> None:
    scores, boxes = case[0], case[4]
    expected_scores = torch.zeros_like(scores)
    for b, image in enumerate(reference(case)):
        for a, (g, label, strength) in image.items():
            expected_scores[b, a, label] = strength
            assert result.foreground[b, a]
            assert result.gt_index[b, a] == g
            assert torch.equal(result.boxes_xyxy[b, a], boxes[b, g])
    torch.testing.assert_close(result.scores, expected_scores, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_reference(seed: int) -> None:
    case = random_case(seed, num_gt=1 + 2 * seed)
    assert_same_as_reference(TaskAlignedAssigner()(*case), case)


@pytest.mark.parametrize("seed", range(3))
def test_invariants(seed: int) -> None:
    scores, _, centers, labels, boxes, mask = case = random_case(seed, num_gt=12)
    result = TaskAlignedAssigner()(*case)
    background = ~result.foreground
    assert (result.scores[background] == 0).all()
    assert (result.boxes_xyxy[background] == 0).all()
    assert (result.gt_index[background] == 0).all()
    assert ((result.scores > 0).sum(dim=2) <= 1).all()
    assert result.scores.max() <= 1
    positive = result.scores.sum(dim=2) > 0
    for b, a in positive.nonzero().tolist():
        g = result.gt_index[b, a]
        assert mask[b, g]
        assert result.scores[b, a].argmax() == labels[b, g]
        assert centers_inside(centers[a : a + 1], boxes[b : b + 1, g : g + 1]).item()
    for b in range(len(scores)):
        for g in range(12):
            assert (positive[b] & (result.gt_index[b] == g)).sum() <= 10


@pytest.mark.parametrize("num_gt", [0, 4])
def test_no_ground_truth_gives_the_same_types(num_gt: int) -> None:
    scores, pred, centers, labels, boxes, mask = random_case(0, num_gt=4)
    filled = TaskAlignedAssigner()(scores, pred, centers, labels, boxes, mask)
    empty = TaskAlignedAssigner()(
        scores, pred, centers, labels[:, :num_gt], boxes[:, :num_gt], torch.zeros_like(mask[:, :num_gt])
    )
    for field in dataclasses.fields(Assignment):
        a, b = getattr(empty, field.name), getattr(filled, field.name)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert not a.any()


def test_padding_changes_nothing() -> None:
    """What stands where the mask is False is of no interest, whatever label it carries."""
    scores, pred, centers, labels, boxes, mask = case = random_case(1, num_gt=6)
    expected = TaskAlignedAssigner()(*case)
    padded = ~mask
    labels = torch.where(padded, 2, labels)
    boxes = torch.where(padded[..., None], torch.tensor([0.0, 0, IMAGE, IMAGE]), boxes)
    result = TaskAlignedAssigner()(scores, pred, centers, labels, boxes, mask)
    assert torch.equal(result.foreground, expected.foreground)
    assert torch.equal(result.scores, expected.scores)


@pytest.mark.parametrize("filler", [-1, 255])
def test_padded_labels_may_be_anything(filler: int) -> None:
    scores, pred, centers, labels, boxes, mask = case = random_case(1, num_gt=6)
    assert not mask.all()
    expected = TaskAlignedAssigner()(*case)
    result = TaskAlignedAssigner()(scores, pred, centers, torch.where(mask, labels, filler), boxes, mask)
    assert torch.equal(result.scores, expected.scores)


def test_images_are_independent_of_their_batch() -> None:
    case = random_case(2, batch=4, num_gt=8)
    together = TaskAlignedAssigner()(*case)
    scores, pred, centers, labels, boxes, mask = case
    for i in range(4):
        j = slice(i, i + 1)
        alone = TaskAlignedAssigner()(scores[j], pred[j], centers, labels[j], boxes[j], mask[j])
        torch.testing.assert_close(alone.scores, together.scores[j])
        assert torch.equal(alone.foreground, together.foreground[j])


def test_fewer_anchors_than_candidates() -> None:
    scores, pred, centers, labels, boxes, mask = random_case(0)
    few = (scores[:, :4], pred[:, :4], centers[:4], labels, boxes, mask)
    assert_same_as_reference(TaskAlignedAssigner()(*few), few)


@pytest.mark.parametrize("limit", [1, 3 * 80 * 12, 2 * 80 * 12, 80 * 12 + 1])
def test_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    case = random_case(4, batch=5, num_gt=12)
    expected = TaskAlignedAssigner()(*case)
    monkeypatch.setattr(assigner, "MAX_TABLE", limit)
    result = TaskAlignedAssigner()(*case)
    for field in dataclasses.fields(Assignment):
        assert torch.equal(getattr(result, field.name), getattr(expected, field.name))


def test_more_than_300_boxes_in_an_image() -> None:
    """A crowd beside an empty image, in chunks and at once."""
    scores, pred, centers, labels, boxes, mask = random_case(5, batch=2, num_gt=320, size=96)
    mask = torch.stack([torch.ones(320, dtype=torch.bool), torch.zeros(320, dtype=torch.bool)])
    g = torch.Generator().manual_seed(0)
    low = torch.rand(2, 320, 2, generator=g) * 80
    boxes = torch.cat([low, low + torch.rand(2, 320, 2, generator=g) * 30 + 4], dim=-1)
    case = (scores, pred, centers, labels, boxes, mask)
    result = TaskAlignedAssigner()(*case)
    assert result.foreground[0].any()
    assert not result.foreground[1].any()
    assert_same_as_reference(result, case)


def test_inputs_are_not_changed_and_nothing_is_recorded() -> None:
    case = random_case(6)
    copies = [x.clone() for x in case]
    result = TaskAlignedAssigner()(case[0].requires_grad_(), *case[1:])
    assert not result.scores.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(case, copies, strict=True))


def test_perfect_prediction_has_target_score_one() -> None:
    scores, pred, centers, *_ = random_case(0, batch=1)
    box = torch.tensor([[[8.0, 8, 56, 56]]])
    pred[0, 20] = box[0, 0]  # row 2, column 4 of the finer level
    result = TaskAlignedAssigner()(scores, pred, centers, torch.tensor([[1]]), box, torch.ones(1, 1, dtype=torch.bool))
    assert result.scores[0, 20, 1].item() == pytest.approx(1, abs=1e-3)


def test_an_anchor_on_the_edge_is_outside() -> None:
    centers = torch.tensor([[4.0, 4.0], [5.0, 5.0]])
    assert centers_inside(centers, torch.tensor([[[4.0, 0, 10, 10]]])).tolist() == [[[False, True]]]
