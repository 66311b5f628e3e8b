"""Checkpoints of a run: written whole or not at all, with everything that going on exactly needs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from yolo_lite.evaluation.coco_scores import COCO_NUMBERS
from yolo_lite.training.stopping import StopSignals
from yolo_lite.utils.distributed import gather_on_all, sum_over_processes
from yolo_lite.utils.errors import StoppedError, UserError
from yolo_lite.utils.files import replacing
from yolo_lite.utils.runs import BEST_NAME, LAST_NAME

RANDOM_STATES = "random_states"
CHECKPOINT_SETTINGS: dict[str, Any] = {
    "save_top_k": 1,
    "auto_insert_metric_name": False,
    "enable_version_counter": False,
    # After validation, when the epoch is complete: resuming starts the next one.
    "save_on_train_epoch_end": True,
}


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file, has it on the disk, and only then takes its name."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(Path(path)) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch's writer reports a full disk as a failed assertion about positions
            raise UserError(
                f"cannot write {path}: {str(error).splitlines()[0]}; is the disk full? The file of that name that was "
                "there before is untouched"
            ) from error


class BestCheckpoint(ModelCheckpoint):
    """`best.ckpt` by a validation number, in the run's `checkpoints` folder.

    Args:
        monitor: the number, the higher the better.
    """

    def __init__(self, monitor: str = "val/map_50_95") -> None:
        known = [f"val/{name}" for name in COCO_NUMBERS]
        if monitor not in known and not monitor.startswith("val/ap/"):
            raise UserError(f"checkpoint.monitor={monitor}: choose val/ap/CLASS or one of {', '.join(known)}")
        super().__init__(monitor=monitor, mode="max", filename="best", **CHECKPOINT_SETTINGS)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the score to beat along with the file that reached it, wherever the run folder lies by now."""
        path = Path(self.dirpath or "") / BEST_NAME
        score = state_dict["best_model_score"]
        if score is None or not path.is_file():
            return  # another run folder: its best one is still to come
        known = {"best_model_path": str(path), "best_k_models": {str(path): score}, "kth_best_model_path": str(path)}
        super().load_state_dict({**state_dict, "dirpath": self.dirpath, **known})


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt` after every epoch, and inside one when the run is asked to stop.

    ModelCheckpoint's `save_last` would renew it only along with the best one.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", **CHECKPOINT_SETTINGS)
        self._epoch_is_saved = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: the next file takes the place of the last one whatever that was."""

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and leave after a whole optimiser step, as soon as any process was asked to.

        Not after the epoch's last batch: what belongs to the epoch, its validation first of all, comes before; then
        the start of the next epoch is the end.

        Raises:
            StoppedError: on all processes.
        """
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        report: Any = getattr(pl_module, "report", None)
        steps_whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if report is None or batch_idx + 1 == trainer.num_training_batches or not steps_whole or not report.stop:
            return
        assert self.dirpath is not None
        trainer.save_checkpoint(Path(self.dirpath) / LAST_NAME)
        batches = f"after {batch_idx + 1} of its {trainer.num_training_batches} batches"
        self._stop(trainer, f"in epoch {trainer.current_epoch + 1}, {batches}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._epoch_is_saved = True

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Leave between two epochs, if a process was asked to since the last step that could answer.

        Raises:
            StoppedError: on all processes.
        """
        if not self._epoch_is_saved:  # the run's first epoch: there is nothing to save yet
            return
        asked = sum_over_processes(torch.tensor(float(pl_module.stop_requested), device=pl_module.device))
        if asked > 0:
            self._stop(trainer, f"after epoch {trainer.current_epoch}")

    def _stop(self, trainer: L.Trainer, when: str) -> None:
        number = next((c.received for c in trainer.callbacks if isinstance(c, StopSignals)), None)  # type: ignore[attr-defined]
        path = Path(self.dirpath or "") / LAST_NAME
        raise StoppedError(f"{when}; saved {path}: the same command with --ckpt_path last goes on from there", number)


class RandomStates(L.Callback):
    """The generators of every process in the checkpoint. Augmentation and order need none of it: seed, epoch and image
    decide them; this is for what else draws numbers, a user's transform or a layer with dropout."""

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[RANDOM_STATES] = gather_on_all(random_state(pl_module.device))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint.get(RANDOM_STATES, [])
        if len(states) == trainer.world_size:  # of another number of processes none is a continuation
            self._restored = states[trainer.global_rank]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._restored is not None:
            set_random_state(self._restored, pl_module.device)
            self._restored = None


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, as tensors and plain values."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": (version, list(internal), gauss),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on from what `random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
