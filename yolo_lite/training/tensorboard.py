"""What a run is, in TensorBoard: the model as table and graph, and its settings with its scores to compare runs by."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import lightning as L
import torch
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams as hparams_summary

from yolo_lite.models.summary import build_apart, costs_of, to_markdown
from yolo_lite.models.yolo import YOLO
from yolo_lite.training.loggers import last_step, tensorboards

log = logging.getLogger(__name__)

GRAPH_SIZE = 64  # pixels: the graph is the same at every size, and tracing a large model takes seconds at 640
BEST = ("map_50_95", "map_50")
# Scalars that TensorBoard shows beside the settings, the latest value of each.
COMPARED = (
    *(f"val/{name}" for name in BEST),
    *(f"best/{name}" for name in BEST),
    "model/parameters",
    "model/gflops",
    "time/images_per_second",
)
# TensorBoard shows five settings unless asked for more: first those that are marked as different, then by name.
SHOWN_FIRST = ("data.batch_size", "data.image_size", "model.lr", "model.variant", "trainer.max_epochs")


class ModelPage(L.Callback):
    """Layers, parameters and GFLOPs as a text in TensorBoard, and the graph; of a copy without the run's weights."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        writers = [logger.experiment for logger in tensorboards(trainer)] if trainer.is_global_zero else []
        if not writers:
            return
        module: Any = pl_module
        spec, classes, size = module.model.spec, module.model.num_classes, module.image_size
        table = to_markdown(costs_of(spec, classes, size))
        title = f"{module.hparams['variant']}, {classes} classes, {size} px"
        for writer in writers:
            writer.add_text("model", f"**{title}**\n\n{table}", trainer.global_step)
            try:
                add_graph(writer, build_apart(spec, classes, "cpu"))
            except Exception as error:  # a picture of the model is not worth a run
                log.warning("no model graph in TensorBoard: %s", str(error).partition("\n")[0])


def add_graph(writer: Any, model: YOLO) -> None:
    """The graph of a model on the CPU."""
    image = torch.zeros(1, 3, GRAPH_SIZE, GRAPH_SIZE)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # that tracing is deprecated, and that it is a no-op the second time
        writer.add_graph(torch.jit.trace(model, image, check_trace=False), image)


class Comparison(L.Callback):
    """Settings, and what came of them, for TensorBoard's HPARAMS; other loggers get the settings and the best scores.

    The metrics are scalars that are logged as training goes on, so that a run that was killed is in the table too.
    """

    def __init__(self) -> None:
        self._best: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or not trainer.loggers:
            return
        module: Any = pl_module
        settings = run_settings(trainer, module)
        whole = costs_of(module.model.spec, module.model.num_classes, module.image_size).whole
        costs = {"parameters": whole.parameters, "gflops": whole.gflops}
        boards = tensorboards(trainer)
        for logger in boards:
            columns, session, _ = hparams_summary(settings, dict.fromkeys(COMPARED, 0.0))
            logger.experiment.file_writer.add_summary(with_first_columns(columns))
            logger.experiment.file_writer.add_summary(session)
            logger.log_metrics({f"model/{name}": float(value) for name, value in costs.items()}, trainer.global_step)
        for other in trainer.loggers:
            if other not in boards:
                other.log_hyperparams({**settings, **{f"model.{name}": value for name, value in costs.items()}})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module: Any = pl_module
        if trainer.sanity_checking or module.scores is None:
            return
        for name in BEST:
            self._best[name] = max(self._best.get(name, -1.0), float(module.scores.numbers[name]))
        best = {f"best/{name}": value for name, value in self._best.items() if value >= 0}
        if best and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(best, last_step(trainer))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            for logger in tensorboards(trainer):
                *_, end = hparams_summary({}, {})
                logger.experiment.file_writer.add_summary(end)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best = dict(state_dict)


def with_first_columns(columns: Any) -> Any:
    """TensorBoard's description of its columns, with those that it shows first."""
    metadata = columns.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(metadata.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in SHOWN_FIRST
    metadata.content = content.SerializeToString()
    return columns


def run_settings(trainer: L.Trainer, module: Any) -> dict[str, Any]:
    """What was set or chosen, flat, under the names of the command line; plain values only, lists are left out."""
    group = trainer.optimizers[0].param_groups[0] if trainer.optimizers else {}
    model = {
        **module.hparams,
        **{name: value for name, value in asdict(module.model.spec).items() if value is not None},
    }
    model |= {"num_classes": module.model.num_classes}
    if trainer.optimizers:  # what was chosen by itself
        model |= {"optimizer": type(trainer.optimizers[0]).__name__.lower(), "lr": group.get("initial_lr", group["lr"])}
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    names = ("root", "image_size", "batch_size", "num_workers", "cache", "multi_scale", "rect_validation", "seed")
    values = {name: getattr(data, name, None) for name in names}
    values["root"] = str(values["root"]) if values["root"] is not None else "shapes"
    values["augment"] = getattr(data, "augment", None)
    run = {
        "max_epochs": trainer.max_epochs,
        "precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "devices": trainer.world_size,
    }
    return flatten({"model": model, "data": values, "trainer": run})


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`: numbers, texts and yes or no; everything else is left out."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (bool, int, float, str)):
            flat[f"{prefix}{name}"] = value
    return flat
