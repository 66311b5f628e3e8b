"""What finds coloured rectangles: a runtime, and a detector that learnt it; a checkpoint, small pictures and videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.deploy.lively import make_checkpoint
from yolo_lite.data.collate import collate
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.dataset import EvalDataset
from yolo_lite.deploy.detector import Detector
from yolo_lite.deploy.exporting import export_model
from yolo_lite.deploy.model_info import ModelInfo
from yolo_lite.deploy.runtimes import Runtime
from yolo_lite.losses.detection import DetectionLoss
from yolo_lite.models import build_model
from yolo_lite.models.yolo import YOLO

GREY = 40
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
NAMES = ("red", "green", "blue")
TOLERANCE = 60  # of a channel: edges that are half colour, half ground belong to nothing


class ColourRuntime(Runtime):
    """Finds each connected patch of a pure colour; exact up to the pixels of the input.

    Attributes:
        batches: shapes of the inputs so far.
    """

    def __init__(self, image_size: int = 128) -> None:
        self.info = ModelInfo("colours", NAMES, image_size, (8, 16, 32), 16, output="decoded")
        self.batches: list[tuple[int, ...]] = []

    def compute(self, images: Tensor) -> list[Tensor]:
        self.batches.append(tuple(images.shape))
        found = [self.patches(image.permute(1, 2, 0).numpy()) for image in images]
        most = max(len(boxes) for boxes, _ in found)
        boxes = torch.zeros(len(images), most, 4)
        scores = torch.zeros(len(images), most, len(NAMES))
        for i, (corners, labels) in enumerate(found):
            for k, (box, label) in enumerate(zip(corners, labels, strict=True)):
                boxes[i, k] = torch.tensor(box)
                scores[i, k, label] = 0.9
        return [boxes, scores]

    @staticmethod
    def patches(image: np.ndarray) -> tuple[list[list[float]], list[int]]:
        boxes, labels = [], []
        for label, colour in enumerate(COLOURS):
            mask = (np.abs(image.astype(int) - colour) < TOLERANCE).all(axis=2).astype(np.uint8)
            count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
            for x, y, w, h, _ in stats[1:count].tolist():
                boxes.append([float(x), float(y), float(x + w), float(y + h)])
                labels.append(label)
        return boxes, labels


def draw_rectangles(
    size: tuple[int, int], boxes_xyxy: Sequence[Sequence[int]], labels: Sequence[int] | None = None
) -> np.ndarray:
    """An (H, W, 3) uint8 RGB picture of coloured rectangles on grey."""
    picture = np.full((*size, 3), GREY, dtype=np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes_xyxy):
        picture[y1:y2, x1:x2] = COLOURS[labels[i] if labels is not None else 0]
    return picture


@pytest.fixture(scope="session", name="draw_rectangles")
def draw_rectangles_fixture() -> Callable[..., np.ndarray]:
    return draw_rectangles


@pytest.fixture
def colour_detector() -> Callable[..., Detector]:
    """A detector of coloured rectangles: `colour_detector(image_size=128)`."""

    def make(image_size: int = 128) -> Detector:
        return Detector(ColourRuntime(image_size))

    return make


@pytest.fixture(scope="session")
def save_image() -> Callable[[Path, np.ndarray], Path]:
    """Write an (H, W, 3) RGB picture; the folder is made."""

    def save(path: Path, image: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image[..., ::-1])
        return path

    return save


@pytest.fixture(scope="session")
def save_video() -> Callable[..., Path]:
    """Write pictures as a video."""

    def save(path: Path, pictures: Sequence[np.ndarray], rate: float = 10.0, code: str = "mp4v") -> Path:
        height, width = pictures[0].shape[:2]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), rate, (width, height))
        assert writer.isOpened()
        for picture in pictures:
            writer.write(np.ascontiguousarray(picture[..., ::-1]))
        writer.release()
        return path

    return save


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of three classes, 64 px."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "three.ckpt", NAMES)


@pytest.fixture(scope="session")
def one_class_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of one class, 64 px."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "one.ckpt", ["thing"])


STEPS = 100


@dataclass(frozen=True)
class Trained:
    """A detector, its data, and a checkpoint of it."""

    model: YOLO
    info: ModelInfo
    root: Path

    def data(self) -> DetectionDataModule:
        return DetectionDataModule(self.root, image_size=64, batch_size=8, num_workers=0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, make_coco: Callable[..., Any]) -> Trained:
    root = make_coco(tmp_path_factory.mktemp("trained"), num_train=16, num_val=6, size=(64, 64))
    torch.manual_seed(0)
    model = build_model("yolov8n", 2, width=0.125)
    data = DetectionDataModule(root, image_size=64, num_workers=0)
    dataset = EvalDataset(data.source("train"))
    batch = collate([dataset[i] for i in range(16)])
    loss, optimiser = DetectionLoss(model.strides, model.spec.reg_max), torch.optim.AdamW(model.parameters(), 5e-3)
    model.train()
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(model(batch.images.float() / 255), batch.targets).total.backward()
        optimiser.step()
    return Trained(model.eval(), ModelInfo.of(model, "yolov8n", ["class0", "class1"], 64), root)


@pytest.fixture(scope="session")
def trained_file(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained detector as `--format safetensors` writes it."""
    pytest.importorskip("safetensors")
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    export_model(trained.model, trained.info, "safetensors", path)
    return path
