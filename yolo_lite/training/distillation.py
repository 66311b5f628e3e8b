"""A trained detector teaches the one in training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from yolo_lite.deploy.loading import load_weights
from yolo_lite.losses.detection import BatchSum
from yolo_lite.losses.distillation import DistillationLoss
from yolo_lite.models.fuse import fuse_model
from yolo_lite.models.yolo import YOLO
from yolo_lite.ops.postprocess import Decoded, decode_maps
from yolo_lite.training.teacher_cache import TeacherCache
from yolo_lite.utils.errors import UserError


@dataclass
class Teacher:
    """A detector in eval mode without gradients, BatchNorm folded. No `nn.Module`, so that nothing that goes through a
    module's parts, such as a checkpoint, finds it.

    Attributes:
        model: the network.
        variant: what it is.
        class_names: its classes.
        image_size: that it was trained at.
        cache: keeps what it says; None: nothing is kept.
    """

    model: YOLO
    variant: str
    class_names: list[str]
    image_size: int
    cache: TeacherCache | None = None

    @staticmethod
    def read(path: Path, class_names: Sequence[str], cache: Path | None = None) -> Teacher:
        """From a checkpoint or .safetensors file.

        Args:
            path: the file.
            class_names: those of the student.
            cache: folder for what it says; None: nothing is kept.

        Raises:
            UserError: it cannot be read, or knows none of the classes, or the folder cannot be written to.
        """
        model, info = load_weights(path)
        if not set(class_names) & set(info.class_names):
            known, wanted = list(info.class_names)[:5], list(class_names)[:5]
            raise UserError(f"the teacher {path} knows {known}, none of {wanted}: fine-tune it on this data first")
        fused = fuse_model(model)
        kept = TeacherCache(cache, fused) if cache is not None else None
        return Teacher(fused, info.variant, list(info.class_names), info.image_size, kept)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(B, 3, H, W) in 0..1 -> the neck's and the head's maps, per level."""
        maps = self.forward(images) if self.cache is None else self.remembered(images, self.cache)
        return maps[: len(maps) // 2], maps[len(maps) // 2 :]

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps of the neck, then those of the head."""
        if next(self.model.parameters()).device != images.device:
            self.model.to(images.device).to(memory_format=torch.channels_last)
        features = self.model.features(images)
        return [*features, *self.model.head(features)]

    def remembered(self, images: Tensor, cache: TeacherCache) -> list[Tensor]:
        """As `forward`, rounded to float16: from the cache where it has an image, computed and kept where not."""
        height, width = images.shape[2:]
        channels = [*self.model.neck.out_channels, *[self.model.head.num_outputs] * len(self.model.strides)]
        shapes = [
            torch.Size([c, height // s, width // s]) for c, s in zip(channels, self.model.strides * 2, strict=True)
        ]
        paths = [cache.path(image) for image in images]
        found = [cache.read(path, shapes) for path in paths]
        missing = [i for i, maps in enumerate(found) if maps is None]
        if missing:
            limit = torch.finfo(torch.float16).max  # beyond it float16 has nothing but infinity
            computed = [x.clamp(-limit, limit).half().float() for x in self.forward(images[missing])]
            for row, i in enumerate(missing):
                found[i] = [x[row] for x in computed]
                cache.write(paths[i], found[i])  # type: ignore[arg-type]
        return [torch.stack([x.to(images.device) for x in level]) for level in zip(*found, strict=True)]


class Distillation(nn.Module):
    """The loss between a student and its teacher; its own parameters are the adapters of the feature maps.

    Levels that only one of them has, and classes that the teacher does not know, are left to the ground truth.

    Args:
        teacher: gives the targets.
        student: the detector in training.
        class_names: its classes.
        loss: of what both have.
        weight: on that loss.

    Raises:
        UserError: they have no level in common.
    """

    def __init__(
        self, teacher: Teacher, student: YOLO, class_names: Sequence[str], loss: DistillationLoss, weight: float
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.loss = loss
        self.weight = weight
        self.strides = tuple(s for s in student.strides if s in teacher.model.strides)
        if not self.strides:
            raise UserError(f"teacher and student have no level in common: strides {teacher.model.strides}")
        self.own_levels = [student.strides.index(s) for s in self.strides]
        self.teacher_levels = [teacher.model.strides.index(s) for s in self.strides]
        common = [name for name in class_names if name in teacher.class_names]
        self.taught = len(common)
        self.own_rows = rows(student, [list(class_names).index(name) for name in common])
        self.teacher_rows = rows(teacher.model, [teacher.class_names.index(name) for name in common])
        self.reg_max, self.teacher_reg_max = student.spec.reg_max, teacher.model.spec.reg_max
        widths, teacher_widths = student.neck.out_channels, teacher.model.neck.out_channels
        self.adapters = nn.ModuleList(
            nn.Conv2d(widths[i], teacher_widths[j], 1, bias=False)
            for i, j in zip(self.own_levels, self.teacher_levels, strict=True)
        )

    def forward(
        self, images: Tensor, features: Sequence[Tensor], maps: Sequence[Tensor], batch_sum: BatchSum
    ) -> Tensor:
        """The weighted loss, a scalar.

        Args:
            images: (B, 3, H, W) in 0..1.
            features: of the student's neck, per level.
            maps: of its head.
            batch_sum: adds up over the processes that share the batch.
        """
        teacher_features, teacher_maps = self.teacher(images)
        adapted = [adapter(features[i]) for adapter, i in zip(self.adapters, self.own_levels, strict=True)]
        with torch.autocast(images.device.type, enabled=False):
            student = self._decode([maps[i] for i in self.own_levels], self.own_rows, self.reg_max)
            teacher = self._decode(
                [teacher_maps[i] for i in self.teacher_levels], self.teacher_rows, self.teacher_reg_max
            )
            targets = [teacher_features[i] for i in self.teacher_levels]
            return self.weight * self.loss(student, teacher, adapted, targets, batch_sum)

    def _decode(self, maps: list[Tensor], rows: list[int] | slice, reg_max: int) -> Decoded:
        return decode_maps([x[:, rows] for x in maps], self.strides, reg_max)

    def trial(self) -> Distillation:
        """A copy with adapters of its own and the same network as teacher, which keeps nothing of what it says: a trial
        shows it noise, and what is read from a cache takes none of the memory that is to be measured."""
        return copy.deepcopy(self, {id(self.teacher): replace(self.teacher, cache=None)})


def rows(model: YOLO, classes: Sequence[int]) -> list[int] | slice:
    """Channels of a head's maps that hold the boxes and these classes; all of them as a slice, which copies nothing."""
    if list(classes) == list(range(model.num_classes)):
        return slice(None)
    start = 4 * model.spec.reg_max
    return [*range(start), *(start + c for c in classes)]
