"""The command line of train.py: links between arguments, defaults of the trainer, the run folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.transforms import AugmentConfig
from yolo_lite.training.callbacks import (
    BestCheckpoint,
    EpochLine,
    LastCheckpoint,
    NominalBatch,
    NonFiniteGuard,
    Speed,
    check_classes,
)
from yolo_lite.training.ema import WeightEMA
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.pictures import PictureLogger
from yolo_lite.training.progress import ProgressBar
from yolo_lite.training.trainer import Trainer
from yolo_lite.utils.checkpoints import read_checkpoint
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.runs import is_main_process, reserve_version

# Settings of the model that decide which tensors it has.
STRUCTURE = ("block", "downsample", "neck", "levels", "neck_divisor", "neck_width", "reg_max")


def trainer_defaults() -> dict[str, Any]:
    """What differs from Lightning's defaults, and the callbacks of every run: new ones each time, they hold state."""
    return {
        "max_epochs": 100,
        "devices": 1,  # several by intention only: they change the batch of a step, and with it the recipe
        "enable_model_summary": False,
        "gradient_clip_val": 10.0,
        "log_every_n_steps": 10,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,  # our samplers split the data themselves, evaluation without padding
        "callbacks": [NominalBatch(), NonFiniteGuard(), EpochLine(), LastCheckpoint()],
    }


class TrainCLI(LightningCLI):
    """Parse, check the data, build; nothing is run."""

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(
            DetectionModule,
            DetectionDataModule,
            trainer_class=Trainer,
            trainer_defaults=trainer_defaults(),
            save_config_callback=SaveConfigCallback,
            seed_everything_default=0,
            parser_kwargs={
                "prog": "train.py",
                "description": "Train a light-weight YOLOv8. Without arguments: yolov8n-lite on embedded data.",
                "exit_on_error": False,
            },
            args=args,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="resume this interrupted run")
        parser.add_argument("--weights", type=str | None, default=None, help="start from this checkpoint's weights")
        parser.add_argument("--runs_dir", type=str, default="runs", help="where run folders are made")
        parser.add_argument("--name", type=str | None, default=None, help="of the run; default: variant and data")
        parser.add_argument(
            "--patience",
            type=int | None,
            default=None,
            help="stop early after so many epochs without a better mAP50-95",
        )
        parser.link_arguments("data.image_size", "model.image_size")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=seed_number)
        parser.add_lightning_class_args(WeightEMA, "ema")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(PictureLogger, "pictures")
        parser.add_lightning_class_args(Speed, "speed")

    def before_instantiate_classes(self) -> None:
        """Open the data first: it knows the classes, and what is wrong with it shows before anything is built."""
        config = self.config
        if config.ckpt_path and config.weights:
            raise UserError("--ckpt_path resumes a run and --weights starts a new one: give one of them")
        self.initial = read_checkpoint(Path(config.weights)) if config.weights else None
        settings = config.data.as_dict()
        self.checked_data = DetectionDataModule(**{**settings, "augment": AugmentConfig(**settings["augment"])})
        names = self.checked_data.check()
        check_classes(config.model.class_names or names, names)
        config.model.class_names = names
        data_name = self.checked_data.root.resolve().name if self.checked_data.root is not None else "shapes"
        config.name = config.name or f"{config.model.variant}-{data_name}"
        if config.ckpt_path:
            self.check_resume(read_checkpoint(Path(config.ckpt_path)), names)

    def check_resume(self, checkpoint: dict[str, Any], names: list[str]) -> None:
        """The run that goes on must be the one that was interrupted: same classes, structure and optimiser.

        Raises:
            UserError: it is not.
        """
        model = self.config.model
        check_classes(checkpoint["yolo_lite"]["class_names"], names)
        given = checkpoint["hyper_parameters"]
        for key in ("variant", *STRUCTURE):
            if given.get(key) != model[key]:
                raise UserError(
                    f"{self.config.ckpt_path} was trained with model.{key}={given.get(key)}, this command says "
                    f"{model[key]}: give --config with the config.yaml of its run folder, before --ckpt_path"
                )
        used = checkpoint["yolo_lite"]["optimizer"]
        if model.optimizer not in ("auto", used):
            raise UserError(
                f"{self.config.ckpt_path} was trained with model.optimizer={used}, this command says {model.optimizer}"
            )
        model.optimizer = used  # auto might choose another one for another number of steps

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (MisconfigurationException, ValueError) as error:
            raise UserError(str(error)) from error
        self.datamodule = self.checked_data  # the one that has its annotations parsed already

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with the loggers of a run folder of its own unless the config names others."""
        config = self.config_init
        callbacks: list[L.Callback] = [ProgressBar()] if sys.stderr.isatty() else []
        if config.patience is not None:
            callbacks.append(EarlyStopping("val/map_50_95", patience=config.patience, mode="max"))
        logger = config.trainer.get("logger")
        version = reserve_version(Path(config.runs_dir), config.name) if is_main_process() else None
        if logger is None:
            kwargs["logger"] = [
                TensorBoardLogger(config.runs_dir, config.name, version, default_hp_metric=False),
                CSVLogger(config.runs_dir, config.name, version),
            ]
            callbacks.append(LearningRateMonitor("step"))
        elif not logger and version is not None:  # checkpoints and config.yaml still have a folder of their own
            kwargs["default_root_dir"] = str(Path(config.runs_dir) / config.name / f"version_{version}")
        given = config.trainer.get("callbacks") or []
        kwargs["callbacks"] = [*(given if isinstance(given, list) else [given]), *callbacks]
        kwargs["enable_progress_bar"] = sys.stderr.isatty() and config.trainer.get("enable_progress_bar") is not False
        return super().instantiate_trainer(**kwargs)


def seed_number(seed: bool | int | None) -> int:
    """The seed of order and augmentation."""
    if seed is not None and not 0 <= int(seed) < 2**32:
        raise UserError(f"seed_everything={seed}: give a number from 0 to {2**32 - 1}")
    return int(seed or 0)
