"""No setting is decoration: each one that can be typed changes what happens."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import yolo_lite
from yolo_lite.cli import TrainCLI
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.transforms import AugmentConfig, Augmenter
from yolo_lite.training.callbacks import BestCheckpoint, Speed
from yolo_lite.training.ema import WeightEMA
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.pictures import PictureLogger

PACKAGE = Path(yolo_lite.__file__).parent


def names_that_are_read() -> set[str]:
    """Variables, attributes and string keys that the package reads; `self.x = x` alone does not count as reading x."""
    trees = [ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    stored = {
        node.value
        for node in nodes
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Name)
        and isinstance(node.targets[0], ast.Attribute)
    }
    read = set()
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node not in stored:
            read.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            read.add(node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            read.add(node.slice.value)
    return read


@pytest.mark.parametrize(
    "owner", [DetectionModule, DetectionDataModule, WeightEMA, BestCheckpoint, PictureLogger, Speed]
)
def test_every_argument_is_read_somewhere(owner: type) -> None:
    assert set(inspect.signature(owner).parameters) - {"self"} <= names_that_are_read()


def test_every_argument_of_the_command_is_read() -> None:
    source = inspect.getsource(TrainCLI.add_arguments_to_parser)
    names = {line.split('"--')[1].split('"')[0] for line in source.splitlines() if '"--' in line}
    assert {"ckpt_path", "weights", "runs_dir", "name", "patience"} <= names
    assert names <= names_that_are_read()


WEAK = AugmentConfig(mosaic=0, mixup=0, scale=0, translate=0, hsv_hue=0, hsv_saturation=0, hsv_value=0, flip=0)
STRONG = {"mosaic": 1.0, "mixup": 1.0, "scale": 0.5, "translate": 0.3, "flip": 1.0}
STRONG |= {"hsv_hue": 0.3, "hsv_saturation": 0.9, "hsv_value": 0.9}


def view(config: AugmentConfig) -> np.ndarray:
    """An augmented sample of random images, always with the same random numbers."""

    def load(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        return image, np.array([[8.0, 8.0, 40.0, 40.0]]), np.array([0])

    image, *_ = Augmenter(config, 64, load, 8)(0, np.random.default_rng(0), use_mosaic=True)
    return np.asarray(image)


@pytest.mark.parametrize("name", STRONG)
def test_every_strength_changes_the_image(name: str) -> None:
    changed: dict[str, Any] = {name: STRONG[name]}
    assert not np.array_equal(view(dataclasses.replace(WEAK, **changed)), view(WEAK))


def test_close_mosaic_and_all_strengths_are_covered() -> None:
    assert {f.name for f in dataclasses.fields(AugmentConfig)} == {*STRONG, "close_mosaic"}
    assert AugmentConfig(close_mosaic=5).mosaic_epochs(100) != AugmentConfig(close_mosaic=10).mosaic_epochs(100)
