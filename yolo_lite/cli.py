"""The command line of train.py: links between arguments, defaults of the trainer, the run folder."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from yolo_lite.data.augment import AugmentConfig
from yolo_lite.data.classes import check_classes
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.training.batch_size import AutoBatchSize
from yolo_lite.training.callbacks import (
    EpochLine,
    EpochMeans,
    LogInterval,
    Memory,
    NominalBatch,
    PositivesWatch,
    SameEverywhere,
    Speed,
)
from yolo_lite.training.checkpoints import BestCheckpoint, LastCheckpoint, RandomStates
from yolo_lite.training.distillation import Teacher
from yolo_lite.training.ema import WeightEMA
from yolo_lite.training.freezing import not_given
from yolo_lite.training.initial_weights import InitialWeights, transfer_weights
from yolo_lite.training.loggers import check_packages, make_loggers
from yolo_lite.training.metrics_file import MetricsFile
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.pictures import PictureLogger
from yolo_lite.training.progress import ProgressBar
from yolo_lite.training.resume import DATA_STATE, LAST, Resume, check_position, check_same_run, find_last, why_finished
from yolo_lite.training.score_pictures import ScorePictures
from yolo_lite.training.stopping import NonFiniteGuard, StopSignals
from yolo_lite.training.tensorboard import Comparison, ModelPage
from yolo_lite.training.trainer import Trainer
from yolo_lite.utils.checkpoints import read_checkpoint
from yolo_lite.utils.distributed import is_main_process
from yolo_lite.utils.errors import FinishedError, UserError
from yolo_lite.utils.files import replacing
from yolo_lite.utils.runs import METRICS_NAME, RunFolder, reserve_version

log = logging.getLogger(__name__)

RUNS_DIR = "runs"


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
        # In this order, and behind those that have arguments of their own: the average before it is saved, the means
        # before they are printed and written, the row of an epoch before its checkpoint, the best one before the last
        # one, which holds the score to beat.
        "callbacks": [
            AutoBatchSize(),
            NominalBatch(),
            LogInterval(),
            StopSignals(),
            NonFiniteGuard(),
            EpochMeans(),
            PositivesWatch(),
            Memory(),
            ModelPage(),
            Comparison(),
            EpochLine(),
            MetricsFile(),
            RandomStates(),
            LastCheckpoint(),
        ],
    }


class TrainCLI(LightningCLI):
    """Parse, check the data, build; nothing is run."""

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(
            DetectionModule,
            DetectionDataModule,
            trainer_class=Trainer,
            trainer_defaults=trainer_defaults(),
            save_config_callback=RunConfig,
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
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="go on with an interrupted run: a checkpoint, or `last`"
        )
        parser.add_argument("--weights", type=str | None, default=None, help="start from this checkpoint's weights")
        parser.add_argument("--runs_dir", type=str, default=RUNS_DIR, help="where run folders are made")
        parser.add_argument("--name", type=str | None, default=None, help="of the run; default: variant and data")
        parser.add_argument(
            "--patience",
            type=int | None,
            default=None,
            help="stop early after so many validations, one an epoch, without a better mAP50-95",
        )
        parser.link_arguments("data.image_size", "model.image_size")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=seed_number)
        parser.add_lightning_class_args(WeightEMA, "ema")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(PictureLogger, "pictures")
        parser.add_lightning_class_args(ScorePictures, "curves")
        parser.add_lightning_class_args(Speed, "speed")

    def before_instantiate_classes(self) -> None:
        """Open the data first: it knows the classes, and what is wrong with it shows before anything is built."""
        config = self.config
        self.check_scoring()
        settings = config.data.as_dict()
        self.checked_data = DetectionDataModule(**{**settings, "augment": AugmentConfig(**settings["augment"])})
        names = self.checked_data.check()
        check_classes(config.model.class_names or names, names)
        config.model.class_names = names
        root = self.checked_data.root.resolve() if self.checked_data.root is not None else Path("shapes")
        data_name = root.parent.name if root.is_file() else root.name  # a data.yaml has the name of its folder
        self.home = None if config.name is None and config.runs_dir == RUNS_DIR else Path(config.runs_dir)
        config.name = config.name or f"{config.model.variant}-{data_name}"
        if self.home is not None:
            self.home /= config.name
        self.resume = self.find_resume(names) if config.ckpt_path else None
        config.ckpt_path = str(self.resume.path) if self.resume is not None else None
        # A run that goes on has weights: those that it started from have done their part.
        is_new = self.resume is None
        self.initial = InitialWeights.read(Path(config.weights)) if config.weights and is_new else None
        if config.model.freeze and is_new and self.initial is None:
            raise UserError(
                f"model.freeze={config.model.freeze} without --weights would keep random weights: give the checkpoint "
                "that they come from"
            )
        cache = Path(config.model.teacher_cache) if config.model.teacher_cache else None
        self.teacher = Teacher.read(Path(config.model.teacher), names, cache) if config.model.teacher else None

    def check_scoring(self) -> None:
        """Warn where the last epochs are not scored, or none.

        Raises:
            UserError: nothing would ever be scored that patience could wait for.
        """
        trainer = self.config.trainer
        every = trainer.check_val_every_n_epoch or 1  # None: val_check_interval counts steps over epochs
        epochs = max(trainer.max_epochs or 0, 0)  # at most; 0: no limit
        is_asked_for = trainer.limit_val_batches != 0
        is_scored = is_asked_for and (every <= epochs or not epochs)
        if self.config.patience is not None and not is_scored:
            raise UserError(
                f"patience={self.config.patience} needs validation: limit_val_batches is {trainer.limit_val_batches}, "
                f"check_val_every_n_epoch {trainer.check_val_every_n_epoch}"
            )
        is_certain = trainer.max_steps < 0 or not is_scored  # which epoch is the last, or that it does not matter
        if is_asked_for and is_certain and (left := epochs % every) and is_main_process():
            log.warning("the last %d of %d epochs are not scored: check_val_every_n_epoch is %d", left, epochs, every)

    def find_resume(self, names: list[str]) -> Resume | None:
        """What `--ckpt_path` means: a file, or the newest checkpoint of the run's name; None if it has none yet.

        Raises:
            UserError: it cannot be gone on with by this command.
        """
        config = self.config
        found: tuple[Path, dict[str, Any]] | None
        if config.ckpt_path == LAST:
            runs = Path(config.runs_dir) / config.name
            found = find_last(runs)
            if found is None:
                if is_main_process():
                    log.info("no checkpoint in %s yet: a new run", runs)
                return None
        else:
            found = Path(config.ckpt_path), read_checkpoint(Path(config.ckpt_path))
        path, checkpoint = found
        check_same_run(path, checkpoint, config.model, names)
        reason = why_finished(checkpoint, config.trainer.max_epochs, config.trainer.max_steps, config.patience)
        if reason is not None:
            raise FinishedError(f"{path} {reason}") if config.ckpt_path == LAST else UserError(f"{path} {reason}")
        check_position(path, checkpoint)
        if self.checked_data.batch_size == "auto" and (position := checkpoint.get(DATA_STATE)):
            self.checked_data.batch_size = config.data.batch_size = position["batch_size"]  # of the run's epochs so far
        if is_main_process():
            log.info("going on from %s, step %d", path, checkpoint["global_step"])
        return Resume.of(path, checkpoint, self.home)

    def instantiate_classes(self) -> None:
        # The loggers are made in the run folder, which is not there before everything else has been.
        self.loggers, self.config.trainer.logger = self.config.trainer.logger, None
        try:
            super().instantiate_classes()
        except (MisconfigurationException, ValueError) as error:
            raise UserError(str(error)) from error
        finally:
            self.config.trainer.logger = self.loggers
        self.datamodule = self.checked_data  # the one that has its annotations parsed already

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with the loggers of its run folder unless the config names others."""
        config = self.config_init
        facts = {"checkpoint's step": self.resume.step if self.resume else None, "seed": self.checked_data.seed}
        facts |= {"training images": len(self.checked_data.index("train")), "batch size": config.data.batch_size}
        callbacks: list[L.Callback] = [SameEverywhere(facts)]
        if sys.stderr.isatty():
            callbacks.append(ProgressBar())
        if config.patience is not None:
            callbacks.append(EarlyStopping("val/map_50_95", patience=config.patience, mode="max"))
        check_packages(self.loggers)
        self.start_model()
        folder = self.run_folder()
        first_step = self.resume.step if self.resume is not None and self.resume.folder is not None else 0
        loggers = make_loggers(self.loggers, Path(config.runs_dir), config.name, folder, first_step)
        kwargs["logger"] = loggers or False
        if loggers:
            callbacks.append(LearningRateMonitor("step"))
        given = config.trainer.get("callbacks") or []
        kwargs["callbacks"] = [*(given if isinstance(given, list) else [given]), *callbacks]
        kwargs["enable_progress_bar"] = sys.stderr.isatty() and config.trainer.get("enable_progress_bar") is not False
        trainer = super().instantiate_trainer(**kwargs)
        if folder is not None:
            assert isinstance(trainer, Trainer)
            trainer.use_run_folder(folder.path)
        return trainer

    def start_model(self) -> None:
        """Give the model the weights and the teacher that it starts with; what is moved is one line of the log.

        Raises:
            UserError: next to nothing fits, or a frozen part would stay random.
        """
        model: Any = self.model
        if self.initial is not None:
            transfer = transfer_weights(model.model, model.class_names, self.initial)
            if lacking := not_given(model.frozen, transfer.new):
                raise UserError(
                    f"model.freeze={model.hparams['freeze']}: {self.initial.path} lacks {len(lacking)} of their "
                    f"tensors ({lacking[0]}, ...), which would stay random: freeze less, or give other --weights"
                )
            if is_main_process():
                log.info("%s: %s", self.initial.path, transfer)
        if self.teacher is not None:
            model.learn_from(self.teacher)

    def run_folder(self) -> RunFolder | None:
        """Where the run writes: the folder it goes on in, or a new one, which the main process alone knows."""
        if self.resume is not None and self.resume.folder is not None:
            return self.resume.folder
        config = self.config_init
        if not is_main_process() or config.trainer.fast_dev_run:
            return None
        root, name = Path(config.runs_dir), config.name
        origin = self.resume.origin if self.resume is not None else None
        if origin is not None and self.home is None:  # a branch lies beside its trunk
            root, name = origin.root, origin.name
        folder = RunFolder(root, name, reserve_version(root, name))
        if origin is not None and (history := origin.path / METRICS_NAME).is_file():
            with replacing(folder.path / METRICS_NAME) as file:
                file.write(history.read_bytes())
        return folder


class RunConfig(SaveConfigCallback):
    """`config.yaml` in the run folder; each resume leaves what it ran with beside it."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        resumed = [int(path.stem.rpartition("_")[2]) for path in folder.glob("config.resumed_*.yaml")]
        number = max(resumed, default=0) + 1 if resumed or (folder / self.config_filename).exists() else 0
        number = trainer.strategy.broadcast(number)
        if number:
            self.config_filename = f"config.resumed_{number}.yaml"
        super().setup(trainer, pl_module, stage)


def seed_number(seed: bool | int | None) -> int:
    """The seed of order and augmentation."""
    if seed is not None and not 0 <= int(seed) < 2**32:
        raise UserError(f"seed_everything={seed}: give a number from 0 to {2**32 - 1}")
    return int(seed or 0)
