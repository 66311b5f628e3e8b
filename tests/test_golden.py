"""The numeric reference cases: CIoU, assignment, loss with gradients, non-maximum suppression."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from yolo_lite.data.collate import pad_targets
from yolo_lite.losses.assigner import TaskAlignedAssigner
from yolo_lite.losses.detection import DetectionLoss
from yolo_lite.ops.boxes import complete_iou
from yolo_lite.ops.postprocess import EVAL_IOU, EVAL_SCORE, select_detections

GOLDEN = Path(os.environ.get("YOLO_LITE_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no numeric cases at {GOLDEN} (YOLO_LITE_GOLDEN)")


def load(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: torch.from_numpy(archive[key]) for key in archive.files}


def cases(name: str) -> list[str]:
    if not GOLDEN.is_dir():  # then everything here is skipped; a file that is missing from the folder is an error
        return []
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return sorted({key.split("_", 1)[0] for key in archive.files})


def case(name: str, prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{prefix}_"): value for key, value in load(name).items() if key.startswith(f"{prefix}_")}


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 1e-4 relative to the largest expected value: single entries near zero carry rounding only."""
    scale = expected.abs().max().clamp(min=1e-12)
    torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-4, atol=1e-6, check_dtype=False)


def test_complete_iou() -> None:
    data = load("ciou")
    torch.testing.assert_close(complete_iou(data["a"], data["b"]), data["ciou"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prefix", cases("tal"))
def test_assignment(prefix: str) -> None:
    data = case("tal", prefix)
    mask = data["gt_mask"].bool().view(data["gt_mask"].shape[:2])
    labels = data["gt_labels"].long().view(mask.shape)
    result = TaskAlignedAssigner()(data["scores"], data["pred_xyxy"], data["points"], labels, data["gt_xyxy"], mask)
    foreground = data["out_fg"].bool()
    assert torch.equal(result.foreground, foreground)
    assert torch.equal(result.gt_index[foreground], data["out_gt_index"].long()[foreground])
    assert torch.equal(result.boxes_xyxy[foreground], data["out_boxes"][foreground])
    assert_close(result.scores, data["out_scores"])


@pytest.mark.parametrize("prefix", cases("loss"))
def test_loss_and_gradients(prefix: str) -> None:
    data = case("loss", prefix)
    maps = [data[f"map{i}"].clone().requires_grad_() for i in range(3)]
    batch = len(maps[0])
    targets = pad_targets(
        data["image_index"].long().view(-1), data["labels"].long().view(-1), data["boxes_xyxy"], batch
    )
    items = DetectionLoss(strides=(8, 16, 32))(maps, targets)
    assert_close(torch.stack([items.box, items.classes, items.dfl]), data["out_items_box_cls_dfl"])
    total = items.total * batch
    assert_close(total, data["out_total_times_batch"].view(()))
    total.backward()
    for i, x in enumerate(maps):
        assert x.grad is not None
        assert_close(x.grad, data[f"grad{i}"])


@pytest.mark.parametrize(
    ("output", "score", "iou", "multi_label"),
    [("out_val", EVAL_SCORE, EVAL_IOU, True), ("out_predict", 0.25, 0.45, False)],
)
def test_non_maximum_suppression(output: str, score: float, iou: float, multi_label: bool) -> None:
    data = load("nms")
    found = select_detections(data["boxes_xyxy"], data["scores"], score, iou, multi_label=multi_label)
    expected = data[output]
    assert len(found) == len(expected)
    assert torch.equal(found.labels, expected[:, 5].long())
    torch.testing.assert_close(found.scores, expected[:, 4], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.boxes_xyxy, expected[:, :4], rtol=1e-4, atol=1e-3)
