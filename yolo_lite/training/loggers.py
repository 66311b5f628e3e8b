"""Where the numbers and pictures of a run go: to TensorBoard, or to the loggers that the configuration names."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.cli import instantiate_class
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from yolo_lite.utils.errors import UserError
from yolo_lite.utils.runs import METRICS_NAME, RunFolder

PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet-ml", "NeptuneLogger": "neptune"}
# The argument that names the run, by logger; Lightning calls every run the same where it is not given.
NAME_ARGUMENTS = {"WandbLogger": "name", "MLFlowLogger": "run_name", "CometLogger": "name"}


def logger_specs(given: Any) -> list[Any]:
    """The loggers that the configuration names; none for TensorBoard, which is the default, and for no logger."""
    if given is None or isinstance(given, bool):
        return []
    return given if isinstance(given, list) else [given]


def check_packages(given: Any) -> None:
    """Say what is missing before a run folder is made.

    Raises:
        UserError: the package of a logger is not installed.
    """
    for spec in logger_specs(given):
        kind = "" if isinstance(spec, Logger) else spec["class_path"].rpartition(".")[2]
        package = PACKAGES.get(kind)
        if package is not None and importlib.util.find_spec(package.replace("-", "_")) is None:
            raise missing_package(kind, package)


def missing_package(kind: str, package: str) -> UserError:
    return UserError(f"trainer.logger: {kind} needs a package that is not there: pip install {package}")


def make_loggers(given: Any, runs_dir: Path, name: str, folder: RunFolder | None, first_step: int) -> list[Logger]:
    """The loggers of a run.

    Args:
        given: `trainer.logger`: None or True for TensorBoard, False for none, a class_path with init_args, or several.
        runs_dir: where run folders are made.
        name: of the run.
        folder: the run folder; None on processes that do not write.
        first_step: of a run that goes on in its folder: TensorBoard forgets the steps that are done again.

    Raises:
        UserError: the package of a logger is not installed, or it would write over our files.
    """
    if given is False or given == []:
        return []
    root, name = (folder.root, folder.name) if folder is not None else (runs_dir, name)
    if given is None or given is True:
        given = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": str(root)}}
    loggers = []
    for spec in logger_specs(given):
        if isinstance(spec, Logger):
            loggers.append(spec)
            continue
        spec = spec if isinstance(spec, dict) else spec.as_dict()
        arguments = {**(spec.get("init_args") or {}), **(spec.get("dict_kwargs") or {})}
        kind = spec["class_path"].rpartition(".")[2]
        place(kind, arguments, name, folder.version if folder is not None else None, first_step)
        loggers.append(build(spec["class_path"], arguments))
    for logger in loggers:
        if isinstance(logger, CSVLogger) and folder is not None and is_same(logger.log_dir, folder.path):
            raise UserError(
                f"trainer.logger: this CSVLogger would write over {METRICS_NAME} in {folder.path}: leave out its name "
                "and version"
            )
    return loggers


def is_same(one: str | Path, other: str | Path) -> bool:
    """Two paths of one folder."""
    return Path(one).resolve() == Path(other).resolve()


def place(kind: str, arguments: dict[str, Any], name: str, version: int | None, first_step: int) -> None:
    """Give a logger the name of the run, in place, where it was not given one of its own."""
    run = name if version is None else f"{name}/version_{version}"
    if kind in ("TensorBoardLogger", "CSVLogger"):
        is_free = arguments.get("name", "lightning_logs") == "lightning_logs" and arguments.get("version") is None
        if kind == "TensorBoardLogger":
            arguments["default_hp_metric"] = False  # Comparison writes the metrics of the HPARAMS tab
            if is_free:
                arguments |= {"name": name, "version": version}
                if first_step:
                    arguments["purge_step"] = first_step
        elif is_free:
            # Below the run folder, which has a metrics.csv already; a new version for each resume, as the logger
            # deletes what it finds.
            arguments["name"] = f"{run}/csv"
    elif kind in NAME_ARGUMENTS and arguments.get(NAME_ARGUMENTS[kind]) is None:
        arguments[NAME_ARGUMENTS[kind]] = run


def build(class_path: str, arguments: dict[str, Any]) -> Logger:
    """The logger.

    Raises:
        UserError: its package is not installed.
    """
    kind = class_path.rpartition(".")[2]
    try:
        logger: Logger = instantiate_class((), {"class_path": class_path, "init_args": arguments})
    except ModuleNotFoundError as error:
        package = PACKAGES.get(kind) or error.name
        if package is None:
            raise UserError(f"trainer.logger: {kind}: {error}") from error
        raise missing_package(kind, package) from error
    return logger


def last_step(trainer: L.Trainer) -> int:
    """The step that was done last, counted from 0, under which Lightning logs the scores of a validation."""
    return max(0, trainer.global_step - 1)


def tensorboards(trainer: L.Trainer) -> list[TensorBoardLogger]:
    """Those of the loggers that write events."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def takes_pictures(logger: Logger) -> bool:
    """This logger has a place for pictures."""
    return isinstance(logger, (TensorBoardLogger, MLFlowLogger)) or hasattr(logger, "log_image")


def has_picture_loggers(trainer: L.Trainer) -> bool:
    """Some logger has a place for pictures."""
    return any(map(takes_pictures, trainer.loggers))


def log_picture(trainer: L.Trainer, tag: str, picture: np.ndarray, step: int) -> None:
    """Show a (H, W, 3) uint8 RGB picture in every logger that can; on the main process only."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, picture, step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, picture, key=tag, step=step)
        elif hasattr(logger, "log_image"):
            logger.log_image(tag, [picture], **({"step": step} if has_step(logger.log_image) else {}))


def has_step(function: Any) -> bool:
    """A function that takes a `step`."""
    return "step" in inspect.signature(function).parameters
