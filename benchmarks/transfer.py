"""What freezing and a teacher change about a training step: time, in turn, and what is kept for the backward pass.

python benchmarks/transfer.py --rounds 9
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from yolo_lite.data.collate import pad_targets
from yolo_lite.data.types import Targets
from yolo_lite.models.fuse import fuse_model
from yolo_lite.models.yolo import build_model
from yolo_lite.training.distillation import Teacher
from yolo_lite.training.module import DetectionModule, training_loss
from yolo_lite.training.teacher_cache import TeacherCache

NAMES = ["a", "b", "c"]


def make_modules(variant: str, teacher: str, cache: Path) -> dict[str, DetectionModule]:
    """The same detector in four kinds of training."""
    torch.manual_seed(0)
    modules = {
        "plain": DetectionModule(variant, NAMES),
        "frozen backbone": DetectionModule(variant, NAMES, freeze="backbone"),
        "teacher": DetectionModule(variant, NAMES),
        "teacher, kept": DetectionModule(variant, NAMES),
    }
    model = fuse_model(build_model(teacher, len(NAMES)))
    for name, kept in (("teacher", None), ("teacher, kept", TeacherCache(cache, model))):
        modules[name].learn_from(Teacher(model, teacher, NAMES, 320, kept))
    for module in modules.values():
        module.train()
    return modules


def make_batch(size: int, count: int, objects: int = 15) -> tuple[Tensor, Targets]:
    """Noise with so many boxes in each image."""
    corner = torch.rand(count * objects, 2) * 0.6 * size
    boxes = torch.cat([corner, corner + torch.rand(count * objects, 2) * size / 4 + size / 16], dim=1)
    owner = torch.arange(count).repeat_interleave(objects)
    targets = pad_targets(owner, torch.randint(0, len(NAMES), (count * objects,)), boxes, count)
    images = torch.randint(256, (count, 3, size, size)) / 255
    return images.contiguous(memory_format=torch.channels_last), targets


class Step:
    """One step after the other of one module on one batch."""

    def __init__(self, module: DetectionModule, images: Tensor, targets: Targets) -> None:
        self.module, self.images, self.targets = module, images, targets
        self.optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4)

    def __call__(self) -> float:
        """Seconds."""
        started = time.perf_counter()
        module = self.module
        training_loss(module.model, module.loss, module.distillation, self.images, self.targets).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - started

    def kept_mib(self) -> float:
        """MiB of different tensors kept for the backward pass of the detector, without weights."""
        storages: dict[int, int] = {}
        weights = {p.untyped_storage().data_ptr() for p in self.module.parameters()}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            maps = self.module.model(self.images)
        del maps
        return sum(storages.values()) / 2**20


def main() -> None:
    """Print one JSON line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="yolov8n-lite")
    parser.add_argument("--teacher", default="yolov8n")
    parser.add_argument("--image_size", type=int, default=320)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    images, targets = make_batch(args.image_size, args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        modules = make_modules(args.variant, args.teacher, Path(folder))
        steps = {name: Step(module, images, targets) for name, module in modules.items()}
        for step in steps.values():
            step()  # warms up, and fills the cache
        times: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.rounds):
            for name, step in steps.items():
                times[name].append(step())
        plain = statistics.median(times["plain"])
        for name, step in steps.items():
            median = statistics.median(times[name])
            ratio = round(median / plain, 3)
            facts = {"variant": args.variant, "training": name, "seconds": round(median, 3), "of plain": ratio}
            print(json.dumps({**facts, "kept for backward, MiB": round(step.kept_mib())}))


if __name__ == "__main__":
    main()
