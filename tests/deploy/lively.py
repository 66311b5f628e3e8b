"""Detectors that find something without having been trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from yolo_lite.deploy.model_info import ModelInfo
from yolo_lite.deploy.verification import probe_images
from yolo_lite.models.yolo import YOLO, build_model
from yolo_lite.training.module import DetectionModule

NAMES = ["circle", "square", "tree"]


def make_lively(model: YOLO, seed: int = 0) -> YOLO:
    """Give a fresh detector statistics such as training leaves, so that it sees its input, and scores that differ."""
    generator = torch.Generator().manual_seed(seed)
    batches = [probe_images((2, 3, *size), seed).float() / 255 for size in ((320, 320), (256, 384), (64, 96))]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = None  # the average of what it sees
        # Blocks that start as the identity add little: chains of random ones would make rounding grow to what one sees.
        low, high = (0.1, 0.3) if not norm.weight.any() else (0.7, 1.3)
        norm.weight.data.uniform_(low, high, generator=generator)
        norm.bias.data.normal_(0, 0.1, generator=generator)
    with torch.no_grad():
        model.train()
        for images in batches:
            model(images)
        model.eval()
        for norm in norms:
            norm.momentum = momentum
        features = [model.neck(model.backbone(images)) for images in batches]
        for level, (classes, box) in enumerate(zip(model.head.classes, model.head.box, strict=True)):
            last: nn.Conv2d = classes[-1]  # type: ignore[index, assignment]
            last.weight.normal_(0, 1, generator=generator)
            last.bias.zero_()  # type: ignore[union-attr]
            logits = torch.cat([classes(x[level]).flatten() for x in features])
            scale = 1 / logits.std()
            last.weight.mul_(scale)
            last.bias.fill_(-1 - float((logits * scale).quantile(0.99)))  # type: ignore[union-attr]
            box[-1].weight.normal_(0, 0.03, generator=generator)  # type: ignore[index, operator]
    return model


def lively(variant: str = "yolov8n", image_size: int = 64, seed: int = 0, **parts: Any) -> tuple[YOLO, ModelInfo]:
    """A detector of three classes and its description."""
    torch.manual_seed(seed)
    model = make_lively(build_model(variant, len(NAMES), **parts), seed)
    return model, ModelInfo.of(model, variant, NAMES, image_size)


def make_checkpoint(path: Path, class_names: Sequence[str], image_size: int = 64, seed: int = 0) -> Path:
    """A checkpoint as train.py writes it of a detector that nobody trained, which finds a lot in every image: noise has
    set its statistics, so that what it finds depends on the pixels, with scores of all sizes."""
    torch.manual_seed(seed)
    module = DetectionModule("yolov8n", list(class_names), image_size)
    for branch in module.model.head.classes:
        torch.nn.init.normal_(branch[-1].weight, std=0.3)
        torch.nn.init.constant_(branch[-1].bias, -0.8)
    for part in module.model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # the mean of all batches
    module.model.train()
    with torch.no_grad():
        for size in (2, 4, 8, 16, 32, 64):
            module.model(torch.nn.functional.interpolate(torch.rand(8, 3, size, size), size=64))
    identity = {"format": 1, "class_names": list(class_names), "variant": "yolov8n", "image_size": image_size}
    content: dict[str, Any] = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "yolo_lite": identity,
        "pytorch-lightning_version": L.__version__,
    }
    torch.save(content, path)
    return path
