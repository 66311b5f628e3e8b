"""train.py with a hook, for tests that need processes of their own: `python hooked_train.py HOOKS ARGUMENTS...`.

HOOKS is JSON: `signal` (name) is sent by rank `rank` to itself `when` "step" or "epoch" number `at` starts; `record` is
a folder for what every rank saw.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

import train
from yolo_lite import cli
from yolo_lite.data.types import Batch


class Hook(L.Callback):
    """Sends the signal, and writes down images and losses of every step."""

    def __init__(self, record: str, signal: str | None = None, when: str = "step", at: int = 0, rank: int = 0) -> None:
        self.record = Path(record)
        self.signal = signal
        self.when = when
        self.at = at
        self.rank = rank

    def _maybe(self, trainer: L.Trainer, when: str, at: int) -> None:
        if self.signal and (when, at, trainer.global_rank) == (self.when, self.at, self.rank):
            os.kill(os.getpid(), getattr(signal, self.signal))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._maybe(trainer, "epoch", trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._maybe(trainer, "step", trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        entry = {
            "step": trainer.global_step,
            "images": batch.image_ids.tolist(),
            "losses": pl_module.report.losses(),
            "pixels": int(batch.images.long().sum()),
            "weights": float(sum(p.double().sum() for p in pl_module.parameters())),
        }
        with open(self.record / f"rank{trainer.global_rank}.jsonl", "a") as file:
            file.write(json.dumps(entry) + "\n")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """By now the module holds the average."""
        torch.save(pl_module.state_dict(), self.record / f"average_rank{trainer.global_rank}.pt")


def main(hooks: dict[str, Any], arguments: list[str]) -> int:
    """Train with the hook; returns the exit code."""
    defaults = cli.trainer_defaults

    def with_hook() -> dict[str, Any]:
        settings = defaults()
        return {**settings, "callbacks": [Hook(**hooks), *settings["callbacks"]]}

    cli.trainer_defaults = with_hook  # type: ignore[assignment]
    try:
        return train.main(arguments)
    finally:
        cli.trainer_defaults = defaults  # type: ignore[assignment]


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[2:]))
