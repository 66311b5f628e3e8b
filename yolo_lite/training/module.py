"""The LightningModule: one step of training, one of scoring, the optimiser.

Notation: B images, C classes. Boxes are xyxy in pixels.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Self

import yolo_lite
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.types import Batch, Targets
from yolo_lite.evaluation.coco_scores import CocoScores
from yolo_lite.evaluation.detections import DetectionTable
from yolo_lite.losses.detection import BatchSum, DetectionLoss, LossItems, whole
from yolo_lite.losses.distillation import DistillationLoss
from yolo_lite.models.afpn import NeckInit
from yolo_lite.models.backbone import Block, Downsample
from yolo_lite.models.blocks import Act
from yolo_lite.models.head import Head
from yolo_lite.models.yolo import YOLO, Levels, Neck, build_model
from yolo_lite.ops.postprocess import EVAL_IOU, EVAL_SCORE, MAX_DETECTIONS, Detections, detect, to_original
from yolo_lite.training.distillation import Distillation, Teacher
from yolo_lite.training.freezing import Freeze, freeze_parts, frozen_names, keep_statistics
from yolo_lite.training.metrics import CocoMetric
from yolo_lite.training.norm_statistics import default_norm_momentum, set_norm_momentum
from yolo_lite.training.optim import (
    OptimizerName,
    Schedule,
    WarmupDecay,
    build_optimizer,
    choose_optimizer,
    default_lr,
    default_momentum,
)
from yolo_lite.training.report import HostCopy, StepReport
from yolo_lite.utils.checkpoints import CHECKPOINT_FORMAT
from yolo_lite.utils.distributed import send_from_main, sum_over_processes
from yolo_lite.utils.errors import UserError

# Of a checkpoint: the adapters of distillation, which are no part of the detector.
ADAPTERS = "adapters"


class DetectionModule(L.LightningModule):
    """A detector with its loss, its optimiser and its scoring.

    Args:
        variant: the detector: yolov8n|s|m|l|x, each also with -lite or -lite-adown, n|s|m also with -edge.
        class_names: names of the classes; train.py takes them from the data.
        image_size: side of the training images, pixels; kept for scoring and prediction.
        depth: factor on the number of blocks in a stage in place of the scale's (0.33 for n).
        width: factor on the number of channels in place of the scale's (0.25 for n); channels are multiples of 8.
        block: backbone block in place of the variant's, one or a list for the four stages.
        downsample: backbone down-sampling in place of the variant's, likewise.
        neck: neck in place of the variant's.
        levels: pyramid levels in place of the neck's usual ones (P2-P5 for afpn, otherwise P3-P5).
        neck_divisor: afpn: the pyramid works on the backbone's channels divided by this (8).
        neck_width: afpn: channels of its outputs (those of P4).
        neck_init: afpn: identity (residual blocks start as identities), published, or PyTorch's default.
        reg_max: bins of a box side's distribution (16).
        head: dense or separable 3x3 convolutions, in place of the variant's.
        act: silu or relu, in place of the variant's.
        optimizer: auto takes AdamW below 10,000 steps and SGD above.
        lr: first learning rate at the nominal batch; None: 0.01 for SGD, 0.003 for AdamW.
        final_lr_fraction: last learning rate as a share of the first.
        schedule: how it falls.
        warmup_epochs: epochs of linear warm-up.
        momentum: of SGD, or AdamW's first beta; None: 0.937 for SGD, 0.9 for AdamW.
        weight_decay: on convolution weights, at the nominal batch.
        nominal_batch: gradients are accumulated until about so many images contributed to a step.
        norm_momentum: share of a batch in BatchNorm's running statistics; None: 0.1 below 10,000 steps, 0.03 above.
        box_gain: weight of the CIoU loss.
        class_gain: weight of the classification loss.
        dfl_gain: weight of the distribution focal loss.
        assign_top_k: candidates per object in the assignment.
        freeze: parts that keep their weights: backbone, names such as [backbone.stem, neck], or how many parts from
            the image on (5: the backbone without its pooling).
        teacher: checkpoint of a trained detector that teaches this one.
        distill_weight: weight of what the teacher says; the ground truth has 1.
        teacher_cache: folder to keep what the teacher says, for runs that meet the same images (same seed and data
            settings, or no augmentation); None: it is asked every time.
    """

    def __init__(
        self,
        variant: str = "yolov8n-lite",
        class_names: list[str] | None = None,
        image_size: int = 640,
        depth: float | None = None,
        width: float | None = None,
        block: Block | list[Block] | None = None,
        downsample: Downsample | list[Downsample] | None = None,
        neck: Neck | None = None,
        levels: Levels | None = None,
        neck_divisor: int | None = None,
        neck_width: int | None = None,
        neck_init: NeckInit | None = None,
        reg_max: int | None = None,
        head: Head | None = None,
        act: Act | None = None,
        optimizer: OptimizerName = "auto",
        lr: float | None = None,
        final_lr_fraction: float = 0.01,
        schedule: Schedule = "linear",
        warmup_epochs: float = 3.0,
        momentum: float | None = None,
        weight_decay: float = 5e-4,
        nominal_batch: int = 64,
        norm_momentum: float | None = None,
        box_gain: float = 7.5,
        class_gain: float = 0.5,
        dfl_gain: float = 1.5,
        assign_top_k: int = 10,
        freeze: Freeze | None = None,
        teacher: str | None = None,
        distill_weight: float = 1.0,
        teacher_cache: str | None = None,
    ) -> None:
        super().__init__()
        if not class_names:
            raise UserError("model.class_names is empty: train.py takes it from the data; in Python give the names")
        limits = {"lr": lr or 0.0, "final_lr_fraction": final_lr_fraction, "warmup_epochs": warmup_epochs}
        limits |= {"box_gain": box_gain, "class_gain": class_gain, "dfl_gain": dfl_gain}
        limits |= {"weight_decay": weight_decay, "distill_weight": distill_weight}
        for name, value in limits.items():
            if not 0 <= value < math.inf:
                raise UserError(f"model.{name}={value}: give a number of at least 0")
        if nominal_batch < 1 or assign_top_k < 1:
            raise UserError(f"model.nominal_batch={nominal_batch}, assign_top_k={assign_top_k}: give at least 1")
        if momentum is not None and not 0 <= momentum < 1:
            raise UserError(f"model.momentum={momentum}: give a share from 0 up to below 1")
        if norm_momentum is not None and not 0 < norm_momentum <= 1:
            raise UserError(f"model.norm_momentum={norm_momentum}: give a share above 0 and up to 1")
        if teacher_cache and not teacher:
            raise UserError(f"model.teacher_cache={teacher_cache} without model.teacher: there is nobody to remember")
        self.save_hyperparameters()
        self.class_names = list(class_names)
        self.image_size = image_size
        self.model = build_model(
            variant,
            len(class_names),
            depth=depth,
            width=width,
            block=block,
            downsample=downsample,
            neck=neck,
            levels=levels,
            neck_divisor=neck_divisor,
            neck_width=neck_width,
            neck_init=neck_init,
            reg_max=reg_max,
            head=head,
            act=act,
        )
        self.frozen = frozen_names(self.model, freeze)
        freeze_parts(self.model, self.frozen)
        self.reg_max = self.model.spec.reg_max
        self.model.to(memory_format=torch.channels_last)  # 1.2 x faster with bf16, see benchmarks/README.md
        self.loss = DetectionLoss(self.model.strides, self.reg_max, box_gain, class_gain, dfl_gain, assign_top_k)
        self.distillation: Distillation | None = None  # from `learn_from` on
        self.metric = CocoMetric()
        self.scores: CocoScores | None = None
        self.detections: DetectionTable | None = None  # on rank 0, what was scored last
        self.report: StepReport | None = None  # of the latest training step
        self.gradient_norm: HostCopy | None = None  # of the latest optimiser step, before clipping
        self.measure_stage: Callable[[str], AbstractContextManager[None]] = unmeasured  # of scoring: forward, nms
        self.stop_requested = False  # by a signal to this process; the next step tells the others

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) uint8 -> raw head maps per level."""
        return self.model(images.to(self.dtype) / 255)

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch, but frozen parts stay in eval mode: their BatchNorm statistics belong to their weights."""
        super().train(mode)
        keep_statistics(self.model, self.frozen)
        return self

    def learn_from(self, teacher: Teacher) -> None:
        """Distil a teacher from now on.

        Raises:
            UserError: it has no level in common with this detector.
        """
        p: Any = self.hparams
        loss = DistillationLoss(p.box_gain, p.class_gain, p.dfl_gain)
        self.distillation = Distillation(teacher, self.model, self.class_names, loss, p.distill_weight)

    def setup(self, stage: str) -> None:
        p: Any = self.hparams
        if stage == "fit" and self.distillation is None and p.teacher:
            cache = Path(p.teacher_cache) if p.teacher_cache else None
            self.learn_from(Teacher.read(Path(p.teacher), self.class_names, cache))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The detector's weights: neither a teacher nor the adapters to it."""
        state = super().state_dict(*args, **kwargs)
        for name in [name for name in state if name.startswith("distillation.")]:
            del state[name]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take the detector's weights."""
        own = {name: value for name, value in super().state_dict().items() if name.startswith("distillation.")}
        return super().load_state_dict({**own, **state_dict}, strict, assign)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = batch.images.to(self.dtype) / 255
        items = training_loss(self.model, self.loss, self.distillation, images, batch.targets, sum_over_processes)
        self.report = StepReport.make(items, self.stop_requested)
        # Equal on every process, the last step's value; the means over an epoch are EpochMeans'.
        values = dict(
            zip([*(f"train/loss_{name}" for name in items.terms), "train/positives"], self.report.means, strict=True)
        )
        self.log_dict(values, on_step=True, on_epoch=False, prog_bar=True, batch_size=len(batch))
        # Every image of an accumulated step weighs the same, in a short last window too: the trainer divides by the
        # number of windows and DDP by the number of ranks, so both are multiplied back.
        return items.total * items.images * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def detect_batch(self, batch: Batch) -> tuple[list[Tensor], list[Detections]]:
        """Raw maps, and detections at the evaluation threshold in pixels of the original images.

        In float32 whatever the precision of training (see `Precision` for the choice), so that a checkpoint scores
        the same everywhere.
        """
        with torch.autocast(self.device.type, enabled=False), self.measure_stage("forward"):
            maps = self(batch.images)
        with self.measure_stage("nms"):
            found = detect(maps, self.model.strides, self.reg_max, EVAL_SCORE, EVAL_IOU, MAX_DETECTIONS)
            detections = [
                to_original(d, letterbox, size)
                for d, letterbox, size in zip(found, batch.letterboxes, batch.original_sizes.tolist(), strict=True)
            ]
        return maps, detections

    def on_validation_epoch_start(self) -> None:
        self.metric.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        maps, detections = self.detect_batch(batch)
        # Each process's batches are its own: ranks may have different numbers of them.
        items = self.loss(maps, batch.targets)
        values = {f"val/loss_{name}": value for name, value in items.terms.items()}
        self.log_dict(values, batch_size=len(batch), sync_dist=True)
        self.metric.update(batch.image_ids, detections)
        return {"detections": detections}

    def on_validation_start(self) -> None:
        """Score the same tensors on every process: those of rank 0, which are saved.

        BatchNorm statistics are each rank's own; DistributedDataParallel sends them round in training steps only.
        """
        send_from_main(self.buffers())

    def on_validation_epoch_end(self) -> None:
        self.scores = self.metric.compute(self.ground_truth())
        self.detections = self.metric.gathered
        self.metric.reset()
        values = {f"val/{name}": value for name, value in self.scores.numbers.items()}
        values |= {f"val/ap/{name}": value for name, value in self.scores.per_class.items()}
        # Equal on every process; averaged all the same, for Lightning warns at each of these numbers otherwise.
        self.log_dict(values, sync_dist=True)

    def ground_truth(self) -> DetectionIndex:
        """The index of the split that is being scored."""
        index = getattr(self.trainer.datamodule, "eval_index", None)  # type: ignore[attr-defined]
        if index is None:
            raise UserError("scoring needs the ground truth of a DetectionDataModule: pass it as `datamodule`")
        return index

    def configure_optimizers(self) -> OptimizerLRScheduler:
        p: Any = self.hparams
        total_steps = self.trainer.estimated_stepping_batches
        norm_momentum = default_norm_momentum(total_steps) if p.norm_momentum is None else p.norm_momentum
        set_norm_momentum(self.model, norm_momentum)
        name = choose_optimizer(p.optimizer, total_steps)
        lr = default_lr(name) if p.lr is None else p.lr
        images = self.images_per_step()
        if name == "adamw":
            # SGD follows the batch by itself, for the loss is a sum over images; Adam's step does not depend on the
            # gradient's scale. The square root: Malladi et al., arXiv:2205.10287.
            lr *= math.sqrt(images / p.nominal_batch)
        trained = nn.ModuleList([self.model, *([self.distillation] if self.distillation is not None else [])])
        momentum = default_momentum(name) if p.momentum is None else p.momentum
        optimizer = build_optimizer(trained, name, lr, momentum, p.weight_decay * images / p.nominal_batch)
        if not math.isfinite(total_steps):
            raise UserError("the learning rate schedule needs an end: give --trainer.max_epochs or --trainer.max_steps")
        self.trainer.fit_loop.setup_data()  # where only steps limit the run, nobody has counted the batches yet
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        warmup = min(round(p.warmup_epochs * steps_per_epoch), int(total_steps) // 2)
        scheduler = WarmupDecay(optimizer, int(total_steps), warmup, p.final_lr_fraction, p.schedule, steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does it, keeping the norm from before: the guard against NaN looks at it."""
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or math.inf)
        self.gradient_norm = HostCopy(norm.detach().reshape(1))
        self.log("train/gradient_norm", norm)

    def images_per_step(self) -> int:
        """Images that contribute to an optimiser step."""
        batch_size = getattr(self.trainer.datamodule, "images_per_batch", None) or self.hparams.nominal_batch  # type: ignore[attr-defined]
        return batch_size * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.distillation is not None and ADAPTERS in checkpoint:
            self.distillation.adapters.load_state_dict(checkpoint[ADAPTERS])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.distillation is not None:
            checkpoint[ADAPTERS] = self.distillation.adapters.state_dict()
        checkpoint["yolo_lite"] = {
            "format": CHECKPOINT_FORMAT,
            "version": yolo_lite.__version__,
            "torch": str(torch.__version__),
            "lightning": L.__version__,
            "python": platform.python_version(),
            "class_names": self.class_names,
            "variant": self.hparams["variant"],
            "optimizer": type(self.trainer.optimizers[0]).__name__.lower() if self.trainer.optimizers else None,
            "image_size": self.image_size,
            "seed": self.trainer.datamodule.seed if self.trainer.datamodule else None,  # type: ignore[attr-defined]
        }


def training_loss(
    model: YOLO,
    loss: DetectionLoss,
    distillation: Distillation | None,
    images: Tensor,
    targets: Targets,
    batch_sum: BatchSum = whole,
) -> LossItems:
    """(B, 3, H, W) images in 0..1 and their targets to the loss of a training step, a teacher's share included."""
    features = model.features(images)
    maps = model.head(features)
    items = loss(maps, targets, batch_sum)
    if distillation is not None:
        items.distill = distillation(images, features, maps, batch_sum)
    return items


def unmeasured(stage: str) -> AbstractContextManager[None]:
    """Of a stage whose time nobody wants to know."""
    return nullcontext()
