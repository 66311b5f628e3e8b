"""Static int8 after training: what suffers most stays in float32, and no file is written whose mAP was not measured."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from yolo_lite.data.classes import check_classes
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.dataset import EvalDataset
from yolo_lite.deploy.exporting import WRITERS, check_path, check_request, give_name, writing
from yolo_lite.deploy.latency import Latency, measure_latency
from yolo_lite.deploy.loading import check_threads, open_runtime
from yolo_lite.deploy.model_info import ModelInfo
from yolo_lite.deploy.quantisers import quantise_onnx, quantise_openvino
from yolo_lite.deploy.runtimes import needed
from yolo_lite.deploy.scoring import score_runtime
from yolo_lite.deploy.sensitivity import Damage, last_layers, measure_damage
from yolo_lite.models.yolo import YOLO
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

Quantiser = Literal["onnx", "openvino"]
PACKAGES: dict[str, tuple[str, ...]] = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino", "nncf")}

QUANTISERS: dict[str, Callable[[Path, Path, ModelInfo, Tensor, Collection[str], Collection[str], int], None]] = {
    "onnx": quantise_onnx,
    "openvino": quantise_openvino,
}
# A layer that does so much of all layers' damage stays in float from the start.
WORST_SHARE = 0.1
# What a weight in float32 takes more than one in int8.
EXTRA_BYTES = 3
MAP = "map_50_95"


class TooMuchLostError(UserError):
    """No int8 file keeps within the limits; nothing was written."""

    exit_code = 1


@dataclass(frozen=True)
class QuantiseOptions:
    """How to quantise.

    Attributes:
        calibration_images: of the training split, spread evenly over it.
        max_loss: of mAP50-95 on the validation split.
        max_size: of the file, as a share of the float32 file's size.
        max_rounds: files that are tried at most, each with more layers in float than the one before.
        weight_bits: 7 or 8. CPUs without VNNI add pairs of products in 16 bits, which 8 overflow.
        timing_rounds: calls of each file that are timed.
        threads: of the CPU; None: as many as PyTorch takes.
    """

    calibration_images: int = 100
    max_loss: float = 0.01
    max_size: float = 0.3
    max_rounds: int = 4
    weight_bits: int = 7
    timing_rounds: int = 30
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("calibration_images", "max_rounds", "timing_rounds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: give at least 1")
        if not 0 <= self.max_loss <= 1:
            raise UserError(f"max_loss={self.max_loss}: give a difference of mAP from 0 to 1")
        if not 0 < self.max_size <= 1:
            raise UserError(f"max_size={self.max_size}: give a share of the float32 file's size, up to 1")
        if self.weight_bits not in (7, 8):
            raise UserError(f"weight_bits={self.weight_bits}: give 7 or 8")
        check_threads(self.threads)


@dataclass(frozen=True)
class Measured:
    """A file as it was found.

    Attributes:
        size: bytes.
        scores: COCO's numbers on the validation split.
        latency: of one image.
    """

    size: int
    scores: dict[str, float]
    latency: Latency


@dataclass(frozen=True)
class Quantised:
    """A file in int8, beside the float32 file that it was made from.

    Attributes:
        path: where it is; of OpenVINO the .xml.
        before: the float32 file.
        after: the int8 file.
        damages: of every convolution, the worst first.
        kept: those that stayed in float32, likewise.
        rounds: files that were tried.
    """

    path: Path
    before: Measured
    after: Measured
    damages: list[Damage]
    kept: list[Damage]
    rounds: int


def quantise_model(
    model: YOLO,
    info: ModelInfo,
    kind: Quantiser,
    path: Path,
    data: DetectionDataModule,
    options: QuantiseOptions,
    overwrite: bool = False,
) -> Quantised:
    """Write a detector in int8.

    Convolutions are ranked by what int8 does to each alone. The worst stay in float32 while the file keeps within
    `max_size`: those above `WORST_SHARE` first, then twice as many a round, until no more than `max_loss` is lost.

    Args:
        model: with trained weights.
        info: what to write: `output`, `batch` as the file is to have them.
        kind: the format.
        path: where to; its folder must be there.
        data: calibrated on its training split, scored on its validation split.
        options: limits.
        overwrite: take the place of a file that is there.

    Raises:
        TooMuchLostError: that cannot be.
        UserError: there is a file of that name, the data is not there or not of this model, a package is missing.
    """
    check_path(path, kind, overwrite)
    check_request(info, kind)
    for package in PACKAGES[kind]:  # before minutes of measuring
        needed(package, f"--format {kind}")
    for split in ("train", "val"):
        check_classes(list(info.class_names), data.index(split).class_names)
    threads = options.threads or torch.get_num_threads()
    images = calibration_images(data, options.calibration_images)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.resolve().parent) as folder:
        source = make_folder(folder, "fp32") / path.name
        with writing(path):
            WRITERS[kind](model, replace(info, precision="fp32"), source)
        plain = open_runtime(source, "cpu", threads)
        expected = score_runtime(plain, data).numbers
        if expected[MAP] <= 0:
            raise UserError(
                f"in float32 the model has mAP50-95 {expected[MAP]:.3f} on the val split: nothing to compare int8 with"
            )
        damages = measure_damage(model, images, options.weight_bits)
        search = Search(damages, options, size_of(source), expected[MAP])
        last, wanted = last_layers(model), replace(info, precision="int8")
        while True:
            target = make_folder(folder, f"int8-{search.rounds}") / path.name
            names = [damage.layer for damage in search.kept]
            with writing(path):
                QUANTISERS[kind](source, target, wanted, images, names, last, options.weight_bits)
            runtime = open_runtime(target, "cpu", threads)
            if search.is_small(size_of(target)):
                scores = score_runtime(runtime, data).numbers
                if search.is_good(scores[MAP]):
                    break
        times = measure_latency({"before": plain, "after": runtime}, images[:1], options.timing_rounds)
        before = Measured(size_of(source), expected, times["before"])
        after = Measured(size_of(target), scores, times["after"])
        del plain, runtime  # Windows renames no file that is open
        give_name(target.parent, path)
    return Quantised(path, before, after, damages, search.kept, search.rounds)


class Search:
    """Which convolutions stay in float32, from round to round.

    Args:
        damages: of every convolution, the worst first.
        options: limits.
        float_size: bytes of the float32 file.
        float_map: its mAP50-95.
    """

    def __init__(self, damages: list[Damage], options: QuantiseOptions, float_size: int, float_map: float) -> None:
        self.damages, self.options = damages, options
        self.float_size, self.float_map = float_size, float_map
        self.room: float = float("inf")
        self.rounds = 1
        total = sum(damage.amount for damage in damages)
        self.kept = self.fitting(sum(damage.amount > WORST_SHARE * total for damage in damages))

    def fitting(self, count: int) -> list[Damage]:
        """So many of the worst that the file has room for."""
        kept: list[Damage] = []
        room = self.room
        for damage in self.damages:
            if len(kept) < count and EXTRA_BYTES * damage.weights <= room:
                room -= EXTRA_BYTES * damage.weights
                kept.append(damage)
        return kept

    def is_small(self, size: int) -> bool:
        """Whether the file of this round keeps within the size; if not, what stays in float is changed.

        Raises:
            TooMuchLostError: int8 alone is too large.
        """
        limit = self.options.max_size * self.float_size
        self.room = limit - size + EXTRA_BYTES * sum(damage.weights for damage in self.kept)
        if size <= limit:
            return True
        fewer = self.fitting(len(self.kept))
        if self.room < 0 or fewer == self.kept:
            raise TooMuchLostError(
                f"in int8 the file has {size / self.float_size:.1%} of its size in float32, max_size is "
                f"{self.options.max_size:.1%}: nothing was written; --max_size allows more"
            )
        self.next(fewer, f"{size / self.float_size:.1%} of the size")
        return False

    def is_good(self, value: float) -> bool:
        """Whether the file of this round keeps within the loss; if not, more stays in float.

        Raises:
            TooMuchLostError: nothing more can.
        """
        loss = self.float_map - value
        if loss <= self.options.max_loss:
            return True
        more = self.fitting(max(2 * len(self.kept), len(self.kept) + 4))
        if more == self.kept:
            raise TooMuchLostError(
                f"int8 loses {loss:.4f} mAP50-95 with the {len(self.kept)} worst layers in float32, max_loss is "
                f"{self.options.max_loss}, and no more fit into max_size={self.options.max_size}: nothing was written; "
                "--max_size or --max_loss allows more"
            )
        self.next(more, f"{loss:.4f} mAP50-95 lost")
        return False

    def next(self, kept: list[Damage], reason: str) -> None:
        """Go on to another round.

        Raises:
            TooMuchLostError: that was the last one.
        """
        if self.rounds == self.options.max_rounds:
            raise TooMuchLostError(
                f"{reason} after {self.rounds} rounds: nothing was written; --max_rounds tries on, --max_loss or "
                "--max_size allows more"
            )
        log.info("round %d: %s with %d layers in float32, now %d", self.rounds, reason, len(self.kept), len(kept))
        self.rounds += 1
        self.kept = kept


def make_folder(parent: str, name: str) -> Path:
    """A new folder, so that a file has its own name in it."""
    folder = Path(parent) / name
    folder.mkdir()
    return folder


def size_of(path: Path) -> int:
    """Bytes of a model file, OpenVINO's .bin with it."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix.lower() == ".xml" and weights.is_file() else 0)


def calibration_images(data: DetectionDataModule, count: int) -> Tensor:
    """(N, 3, S, S) uint8: images of the training split, spread evenly over it, letterboxed as for evaluation."""
    dataset = EvalDataset(data.source("train"))
    places = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int))
    images = np.stack([dataset[int(i)].image for i in places])  # (N, S, S, 3)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
