"""The loss on batches with, without and with some objects, and in low precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from yolo_lite.data.collate import pad_targets
from yolo_lite.data.types import Targets
from yolo_lite.losses.detection import DetectionLoss, LossItems
from yolo_lite.models import build_model

STRIDES = (8, 16, 32)
CLASSES = 3


def random_maps(seed: int = 0, batch: int = 3, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 64 + CLASSES, 64 // s, 64 // s, generator=g).to(dtype).requires_grad_() for s in STRIDES]


def make_targets(counts: list[int], seed: int = 0) -> Targets:
    """So many boxes in each image, inside 64 x 64 pixels."""
    g = torch.Generator().manual_seed(seed)
    total = sum(counts)
    low = torch.rand(total, 2, generator=g) * 30
    boxes = torch.cat([low, low + 10 + torch.rand(total, 2, generator=g) * 20], dim=1)
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return pad_targets(owner, torch.randint(CLASSES, (total,), generator=g), boxes, len(counts))


def finite_gradients(maps: list[Tensor]) -> bool:
    return all(x.grad is not None and bool(x.grad.isfinite().all()) for x in maps)


def assert_scalars(items: LossItems) -> None:
    for x in (items.box, items.classes, items.dfl, items.total):
        assert x.shape == ()
        assert x.dtype == torch.float32
        assert x.isfinite()
        assert x >= 0


def test_batch_without_any_object_learns_the_background_only() -> None:
    maps = random_maps()
    items = DetectionLoss(STRIDES)(maps, make_targets([0, 0, 0]))
    assert_scalars(items)
    assert items.box == 0
    assert items.dfl == 0
    assert items.positives == 0
    expected = sum(F.softplus(x[:, 64:]).sum() for x in maps)  # cross-entropy against zero, over max(0, 1)
    torch.testing.assert_close(items.classes, 0.5 * expected)
    items.total.backward()
    assert finite_gradients(maps)
    for x in maps:
        assert x.grad is not None
        assert (x.grad[:, :64] == 0).all()
        assert (x.grad[:, 64:] > 0).all()


def test_padded_targets_without_objects_are_the_same_as_none() -> None:
    none = make_targets([0, 0, 0])
    padded = Targets(torch.zeros(3, 5, dtype=torch.long), torch.zeros(3, 5, 4), torch.zeros(3, 5, dtype=torch.bool))
    a, b = DetectionLoss(STRIDES)(random_maps(), none), DetectionLoss(STRIDES)(random_maps(), padded)
    assert torch.equal(a.classes, b.classes)
    assert b.box == b.dfl == 0


def test_empty_images_among_others() -> None:
    maps = random_maps()
    items = DetectionLoss(STRIDES)(maps, make_targets([2, 0, 5]))
    assert_scalars(items)
    assert items.box > 0
    assert items.dfl > 0
    assert items.positives > 0
    items.total.backward()
    assert finite_gradients(maps)
    for x in maps:
        assert x.grad is not None
        assert (x.grad[1, :64] == 0).all()  # nothing to locate there
        assert (x.grad[1, 64:] > 0).all()


def test_the_normaliser_is_shared_by_the_batch() -> None:
    """An empty image adds its background to the class loss and leaves the box terms alone."""
    maps = random_maps()
    with_empty = DetectionLoss(STRIDES)(maps, make_targets([2, 0, 5]))
    without = DetectionLoss(STRIDES)([x[[0, 2]] for x in maps], make_targets([2, 5]))
    torch.testing.assert_close(with_empty.box, without.box)
    torch.testing.assert_close(with_empty.dfl, without.dfl)
    assert with_empty.classes > without.classes
    torch.testing.assert_close(with_empty.positives * 3, without.positives * 2)


def test_order_of_images_and_boxes_does_not_matter() -> None:
    maps, targets = random_maps(), make_targets([2, 0, 5])
    first = DetectionLoss(STRIDES)(maps, targets)
    images, boxes = torch.tensor([2, 0, 1]), torch.tensor([4, 2, 0, 1, 3])
    shuffled = Targets(
        targets.labels[images][:, boxes], targets.boxes_xyxy[images][:, boxes], targets.mask[images][:, boxes]
    )
    second = DetectionLoss(STRIDES)([x[images] for x in maps], shuffled)
    for a, b in ((first.box, second.box), (first.classes, second.classes), (first.dfl, second.dfl)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("counts", [[0, 0, 0], [3, 0, 1], [4, 4, 4]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_maps_give_a_float32_loss(counts: list[int], dtype: torch.dtype) -> None:
    maps = random_maps(dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        items = DetectionLoss(STRIDES)(maps, make_targets(counts))
    assert_scalars(items)
    full = DetectionLoss(STRIDES)([x.detach().float() for x in maps], make_targets(counts))
    assert torch.equal(items.total, full.total)
    items.total.backward()
    assert finite_gradients(maps)
    assert maps[0].grad is not None
    assert maps[0].grad.dtype == dtype


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_maps_stay_finite(scale: float) -> None:
    maps = [(x.detach() * scale).requires_grad_() for x in random_maps()]
    items = DetectionLoss(STRIDES)(maps, make_targets([3, 1, 0]))
    assert_scalars(items)
    items.total.backward()
    assert finite_gradients(maps)


def test_gains_scale_their_terms() -> None:
    maps, targets = random_maps(), make_targets([2, 1, 3])
    one = DetectionLoss(STRIDES, box_gain=1, class_gain=1, dfl_gain=1)(maps, targets)
    many = DetectionLoss(STRIDES, box_gain=2, class_gain=3, dfl_gain=4)(maps, targets)
    torch.testing.assert_close(many.box, 2 * one.box)
    torch.testing.assert_close(many.classes, 3 * one.classes)
    torch.testing.assert_close(many.dfl, 4 * one.dfl)


def test_a_perfect_detector_has_next_to_no_loss() -> None:
    """One object, located exactly by every cell inside it that sees it, and by no other."""
    box = (8.0, 8.0, 40.0, 40.0)
    maps = [torch.full((1, 64 + CLASSES, 64 // s, 64 // s), -20.0) for s in STRIDES]
    row = column = 2  # centre (20, 20): distances 1.5 to the left and the top, 2.5 to the right and the bottom
    for side, lower in enumerate((1, 1, 2, 2)):
        maps[0][0, side * 16 + lower : side * 16 + lower + 2, row, column] = 20.0
    maps[0][0, 64, row, column] = 20.0
    targets = pad_targets(torch.tensor([0]), torch.tensor([0]), torch.tensor([box]), 1)
    items = DetectionLoss(STRIDES)(maps, targets)
    assert items.box < 1e-3
    assert items.classes < 1e-3


def test_a_few_steps_reduce_the_loss() -> None:
    torch.manual_seed(0)
    model = build_model("yolov8n-lite", CLASSES).train()
    loss, targets = DetectionLoss(model.strides), make_targets([2, 0])
    images = torch.rand(2, 3, 64, 64)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    history = []
    for _ in range(8):
        optimiser.zero_grad()
        total = loss(model(images), targets).total
        total.backward()
        optimiser.step()
        history.append(total.item())
    assert history[-1] < 0.7 * history[0]
