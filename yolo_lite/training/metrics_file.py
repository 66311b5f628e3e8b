"""`metrics.csv`: one row per epoch, none missing and none twice, however often the run was stopped."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any

import lightning as L

from yolo_lite.utils.files import replacing
from yolo_lite.utils.runs import METRICS_NAME

log = logging.getLogger(__name__)


def read_rows(path: Path, before: int) -> list[dict[str, Any]]:
    """The rows of the epochs below `before`; none if there is no file. One that is none of ours is set aside."""
    if not path.is_file():
        return []
    try:
        with open(path, newline="") as file:
            rows = [dict(row) for row in csv.DictReader(file)]
        return [row for row in rows if int(row["epoch"]) < before]
    except (KeyError, TypeError, ValueError, csv.Error):
        number = len(list(path.parent.glob(f"{path.name}.damaged*")))
        aside = path.rename(path.with_name(f"{path.name}.damaged{number or ''}"))
        log.warning("%s is not as it was written: it is now %s, and a new one begins", path, aside.name)
        return []


class MetricsFile(L.Callback):
    """Write the file anew after each epoch, before the checkpoint of that epoch.

    A run that is killed in between has a row more than checkpoints; on resume, rows from the epoch on that is trained
    again are dropped.
    """

    def __init__(self) -> None:
        self._path = Path()
        self._rows: list[dict[str, Any]] = []
        self._scored = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._path = Path(trainer.log_dir or trainer.default_root_dir) / METRICS_NAME
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._rows = read_rows(self._path, trainer.current_epoch)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._scored = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scored, self._scored = self._scored, False
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        row: dict[str, Any] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        kinds = ("train/", "time/", "val/") if scored else ("train/", "time/")  # an earlier epoch's scores linger
        row |= {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(kinds)}
        self._rows.append(row)
        self._write()

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as file:
            file.write(text.getvalue().encode())
