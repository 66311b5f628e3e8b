"""A trained detector teaches the one in training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from yolo_lite.deploy.loading import load_weights
from yolo_lite.losses.detection import BatchSum
from yolo_lite.losses.distillation import DistillationLoss
from yolo_lite.models.fuse import fuse_model
from yolo_lite.models.yolo import YOLO
from yolo_lite.ops.postprocess import Decoded, decode_maps
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
    """

    model: YOLO
    variant: str
    class_names: list[str]
    image_size: int

    @staticmethod
    def read(path: Path, class_names: Sequence[str]) -> Teacher:
        """From a checkpoint or .safetensors file.

        Args:
            path: the file.
            class_names: those of the student.

        Raises:
            UserError: it cannot be read, or knows none of the classes.
        """
        model, info = load_weights(path)
        if not set(class_names) & set(info.class_names):
            known, wanted = list(info.class_names)[:5], list(class_names)[:5]
            raise UserError(f"the teacher {path} knows {known}, none of {wanted}: fine-tune it on this data first")
        return Teacher(fuse_model(model), info.variant, list(info.class_names), info.image_size)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(B, 3, H, W) in 0..1 -> the neck's and the head's maps, per level."""
        features = self.model.features(images)
        return features, self.model.head(features)


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
        if next(self.teacher.model.parameters()).device != images.device:
            self.teacher.model.to(images.device).to(memory_format=torch.channels_last)
        teacher_features, teacher_maps = self.teacher(images)
        adapted = [adapter(features[i]) for adapter, i in zip(self.adapters, self.own_levels, strict=True)]
        with torch.autocast(images.device.type, enabled=False):
            student = self._decode([maps[i] for i in self.own_levels], self.own_rows, self.reg_max)
            teacher = self._decode(
                [teacher_maps[i] for i in self.teacher_levels], self.teacher_rows, self.teacher_reg_max
            )
            targets = [teacher_features[i] for i in self.teacher_levels]
            return self.weight * self.loss(student, teacher, adapted, targets, batch_sum)

    def _decode(self, maps: list[Tensor], rows: list[int], reg_max: int) -> Decoded:
        return decode_maps([x[:, rows] for x in maps], self.strides, reg_max)

    def trial(self) -> Distillation:
        """A copy with adapters of its own and the same teacher."""
        return copy.deepcopy(self, {id(self.teacher): self.teacher})


def rows(model: YOLO, classes: Sequence[int]) -> list[int]:
    """Channels of a head's maps that hold the boxes and these classes."""
    start = 4 * model.spec.reg_max
    return [*range(start), *(start + c for c in classes)]
