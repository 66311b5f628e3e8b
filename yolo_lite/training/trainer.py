"""The Lightning Trainer with the defaults of this project and `precision: auto`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint

from yolo_lite.training.checkpoints import WholeCheckpointIO
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.runs import CHECKPOINTS

# No bf16-true or 16-true: pixel coordinates above 256 do not fit their 8 or 11 bits.
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


def pick_precision(accelerator: str) -> str:
    """bf16 where the hardware computes it, fp16 on older GPUs, float32 elsewhere."""
    if torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda"):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if cpu_has_bf16() else "32-true"


def cpu_has_bf16() -> bool:
    """The CPU multiplies bf16 itself (AVX-512 BF16 or AMX); emulating it would be slower than float32."""
    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.10
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


class Trainer(L.Trainer):
    """`lightning.Trainer`, with `precision` also "auto", and accumulation left to the nominal batch unless given.

    Args:
        precision: auto, 32-true, bf16-mixed or 16-mixed; auto takes bf16 where the hardware has it.
        accumulate_grad_batches: batches per optimiser step; None: as many as make up the nominal batch.
        **kwargs: as `lightning.Trainer`.
    """

    def __init__(
        self, *, precision: Precision = "auto", accumulate_grad_batches: int | None = None, **kwargs: Any
    ) -> None:
        self.accumulation_is_given = accumulate_grad_batches is not None
        chosen = pick_precision(str(kwargs.get("accelerator", "auto"))) if precision == "auto" else precision
        given = kwargs.pop("plugins", None) or []
        plugins = list(given) if isinstance(given, (list, tuple)) else [given]
        if SLURMEnvironment.detect() and not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
            # Lightning would answer SLURM's signal with a checkpoint of its own and queue the job, and train on.
            plugins.append(SLURMEnvironment(auto_requeue=False))
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(WholeCheckpointIO())
        super().__init__(
            precision=chosen,  # type: ignore[arg-type]
            accumulate_grad_batches=accumulate_grad_batches or 1,
            plugins=plugins,
            **kwargs,
        )
        if kwargs.get("sync_batchnorm") and not isinstance(self.accelerator, CUDAAccelerator):
            raise UserError("trainer.sync_batchnorm=true: PyTorch has it for CUDA devices only; leave it out")
        self.run_folder: Path | None = None
        # With several processes Lightning asks rank 0 before every step whether it got SIGTERM, and waits for the
        # answer, so for all work of the device. Our steps carry the question along (StopSignals).
        self.fit_loop.epoch_loop._broadcast_sigterm_tensor = ask_nobody  # type: ignore[method-assign]

    def use_run_folder(self, folder: Path) -> None:
        """Keep what a run writes here, whichever loggers it has. The main process decides."""
        self.run_folder = folder
        for callback in self.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(folder / CHECKPOINTS)

    @property
    def log_dir(self) -> str | None:
        """The run folder, where there is one; Lightning's choice elsewhere. Every process must ask."""
        if self.fast_dev_run:  # type: ignore[attr-defined]
            return None
        folder = self.strategy.broadcast(self.run_folder)
        return str(folder) if folder is not None else super().log_dir


def ask_nobody() -> None:
    """In place of a question that our steps carry along."""


# Of a trainer that writes and shows nothing, for scoring: in float32, where a checkpoint scores the same everywhere.
SILENT: dict[str, Any] = {
    "precision": "32-true",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


def silent_trainer(**options: Any) -> Trainer:
    """A trainer with the settings of `SILENT`. Options as `Trainer`'s; they win."""
    return Trainer(**(SILENT | options))
