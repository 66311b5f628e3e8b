"""The LightningDataModule for COCO-format data, in a folder or streamed."""

from __future__ import annotations

import logging
import math
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import lightning as L
import torch
from torch.utils.data import DataLoader

from yolo_lite.data.augment import AugmentConfig
from yolo_lite.data.batch_memory import BatchMemory
from yolo_lite.data.catalog import check_same_classes, open_split
from yolo_lite.data.collate import collate
from yolo_lite.data.dataset import STRIDE, Cache, EvalDataset, ImageSource, TrainDataset
from yolo_lite.data.images import ImageFiles
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.layouts import Split
from yolo_lite.data.quick_check import warn_before_training
from yolo_lite.data.sampler import EvalSampler, ShapeBatches, TrainSampler
from yolo_lite.data.shapes import make_shapes
from yolo_lite.data.stream_plan import StreamPlan, StreamSampler
from yolo_lite.data.stream_store import Stream, open_stream
from yolo_lite.data.streaming import StreamedFiles
from yolo_lite.data.transforms import check_albumentations
from yolo_lite.data.types import Batch, Sample
from yolo_lite.utils.distributed import is_main_process
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.signals import STOP_SIGNALS

log = logging.getLogger(__name__)

SHAPES_ROOT = Path("datasets/shapes")
MAX_WORKERS = 8
# Without a cache, mosaics take their partners from so many batches that the worker loaded before.
RECENT_BATCHES = 7


def start_worker(worker_id: int) -> None:
    """One thread per worker: several would only fight with the training step.

    What is sent to the whole process group, by Ctrl-C or by a scheduler, is the training process's to answer: it still
    needs its batches while it saves, and its end is the workers' end.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class DetectionDataModule(L.LightningDataModule):
    """COCO-format data: finds it, checks it, loads it.

    Args:
        root: folder of the data; None generates and uses the embedded shapes in datasets/shapes. Or the folder or URL
            (s3://, gs://, r2://, azure://) of data that python -m yolo_lite.data.stream has made ready for streaming.
        image_size: side of the square network input, pixels, a multiple of 32.
        batch_size: images per process and step; auto (train.py only): the most that the memory holds, at most the
            nominal batch over all processes.
        num_workers: loader processes; None: one per core, at most 8.
        cache: keep decoded images: ram (in memory that the workers share), disk (in a file, also for later runs), none,
            or auto (in memory where they fit easily).
        cache_dir: folder of the disk cache; None: image_cache in the run's working directory. Of streamed data: for
            chunks and annotations that are fetched; None: ~/.lightning/chunks and ~/.cache/yolo-lite.
        multi_scale: each batch has a side between `1 - x` and `1 + x` times image_size, a multiple of 32.
        rect_validation: pad validation images to the next multiple of 32 instead of a square: quicker, and the numbers
            differ a little.
        augment: strength of the training augmentation.
        max_bad_images: share of missing or broken images that is tolerated (they are left out and named).
        train_annotations: annotation file of the training split, if it is not where it is looked for.
        train_images: image folder of the training split, likewise.
        val_annotations: annotation file of the validation split.
        val_images: image folder of the validation split.
        test_annotations: annotation file of the test split.
        test_images: image folder of the test split.
        index_cache: folder in which the indices of annotation files from 50 MB on are kept for later runs; None:
            .yolo-lite-index beside the file, or ~/.cache/yolo-lite where that cannot be written to.
        seed: of order and augmentation; train.py passes --seed_everything.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        image_size: int = 640,
        batch_size: int | Literal["auto"] = 16,
        num_workers: int | None = None,
        cache: Cache = "auto",
        cache_dir: Path | str | None = None,
        multi_scale: float = 0.0,
        rect_validation: bool = False,
        augment: AugmentConfig = AugmentConfig(),  # noqa: B008 (frozen)
        max_bad_images: float = 0.1,
        train_annotations: Path | str | None = None,
        train_images: Path | str | None = None,
        val_annotations: Path | str | None = None,
        val_images: Path | str | None = None,
        test_annotations: Path | str | None = None,
        test_images: Path | str | None = None,
        index_cache: Path | str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_albumentations()
        if image_size < STRIDE or image_size % STRIDE:
            near = max(1, round(image_size / STRIDE)) * STRIDE
            raise UserError(f"data.image_size={image_size} is not a multiple of {STRIDE}: use {near}")
        if batch_size != "auto" and batch_size < 1:
            raise UserError(f"data.batch_size={batch_size}: give at least 1")
        if num_workers is not None and num_workers < 0:
            raise UserError(f"data.num_workers={num_workers}: give at least 0")
        if not 0 <= multi_scale < 1:
            raise UserError(f"data.multi_scale={multi_scale}: give a share in [0, 1)")
        if not 0 <= max_bad_images <= 1:
            raise UserError(f"data.max_bad_images={max_bad_images}: give a share from 0 to 1")
        self.root = None if root is None else Path(root)
        self.image_size = image_size
        self.batch_size: int | Literal["auto"] = batch_size
        self.num_workers = min(MAX_WORKERS, os.cpu_count() or 1) if num_workers is None else num_workers
        self.cache: Cache = cache
        self.cache_dir = as_path(cache_dir)
        self.multi_scale = multi_scale
        self.rect_validation = rect_validation
        self.augment = augment
        self.max_bad_images = max_bad_images
        self.sources: dict[Split, tuple[Path | None, Path | None]] = {
            "train": (as_path(train_annotations), as_path(train_images)),
            "val": (as_path(val_annotations), as_path(val_images)),
            "test": (as_path(test_annotations), as_path(test_images)),
        }
        self.index_cache = as_path(index_cache)
        self.seed = seed
        self.eval_split: Split = "val"
        self._indexes: dict[Split, DetectionIndex] = {}
        self._stream: Stream | None = None
        self._is_located = False
        self._resumed: dict[str, int] | None = None

    def index(self, split: Split) -> DetectionIndex:
        """The checked index of a split; opened at first use."""
        if split not in self._indexes:
            stream, source = self.stream, self.sources[split]
            if stream is not None:
                if any(source):
                    raise UserError(f"--data.{split}_annotations and _images go with folders; {self.root} is streamed")
                self._indexes[split] = stream.index(split)
            else:
                root = make_shapes(SHAPES_ROOT) if self.root is None else self.root
                self._indexes[split] = open_split(root, split, *source, self.max_bad_images, self.index_cache)
        return self._indexes[split]

    def share(self, other: DetectionDataModule) -> None:
        """Use what another data module of the same files has opened, and let it use what is opened here."""
        self._indexes, self._stream, self._is_located = other._indexes, other.stream, True

    @property
    def stream(self) -> Stream | None:
        """The streamed data set; None: the data is in a folder. Looked for at first use."""
        if not self._is_located and self.root is not None:
            self._stream = open_stream(self.root, self.cache_dir)
        self._is_located = True
        return self._stream

    def files(self, split: Split, plan: StreamPlan | None = None) -> ImageFiles:
        """The image files of a split; in the order of the plan, if they are streamed."""
        if self.stream is None:
            return ImageFiles(self.index(split))
        rank, nodes = (self.trainer.global_rank, self.trainer.num_nodes) if self.trainer is not None else (0, 1)
        return StreamedFiles(self.stream, split, self.index(split), plan, rank, nodes)

    def source(self, split: Split, plan: StreamPlan | None = None, recent: int = 0) -> ImageSource:
        """The images of a split."""
        folder = self.cache_dir or Path("image_cache")
        processes = self.trainer.num_devices if self.trainer is not None else 1  # of this machine
        files = self.files(split, plan)
        return ImageSource(self.index(split), self.image_size, self.cache, folder, recent, files, processes)

    @property
    def eval_index(self) -> DetectionIndex:
        """The split that validation scores."""
        return self.index(self.eval_split)

    def check(self) -> list[str]:
        """Open both splits of a training run, before anything expensive starts; returns the class names."""
        check_same_classes(self.index("train"), self.index("val"))
        warn_before_training(self.index("train"), self.index("val"), self.image_size, self.root)
        if self.stream is not None and 0 < (self.stream.image_size or 0) < self.image_size and is_main_process():
            log.warning("%s was stored at %d px, less than data.image_size", self.root, self.stream.image_size)
        return self.index("train").class_names

    @property
    def images_per_batch(self) -> int:
        """The batch size, by now a number.

        Raises:
            UserError: it is still to be found.
        """
        if self.batch_size == "auto":
            raise UserError("data.batch_size=auto is resolved by train.py alone: give a number")
        return self.batch_size

    def train_dataloader(self) -> DataLoader[Sample]:
        trainer = self.trainer
        assert trainer is not None
        rank, processes, batch_size = trainer.global_rank, trainer.world_size, self.images_per_batch
        index, workers = self.index("train"), max(1, self.num_workers)
        stream, plan = self.stream, None
        if stream is not None:
            plan = StreamPlan(tuple(stream.chunk_sizes("train")), self.seed, processes, workers, batch_size)
        source = self.source("train", plan, recent=(RECENT_BATCHES + 1) * batch_size)
        source.fill()  # otherwise the first epoch would decode four images for every mosaic
        sizes = scales(self.image_size, self.multi_scale)
        recent = 0 if source.is_cached else RECENT_BATCHES
        if stream is None or plan is None:
            sampler = TrainSampler(len(index), self.seed, rank, processes, batch_size, sizes, recent, workers)
        else:
            sampler = StreamSampler(plan, stream.places("train"), rank, sizes, recent)
        # Lightning asks for the loader, and starts its workers, before it restores its own counters.
        epoch, batches_done = self.resumed_position(len(index), processes)
        sampler.set_epoch(epoch)
        sampler.skip(batches_done)
        steps_per_epoch = math.ceil(sampler.num_batches / trainer.accumulate_grad_batches)
        mosaic_epochs = self.augment.mosaic_epochs(planned_epochs(trainer, steps_per_epoch))
        dataset = TrainDataset(source, self.augment, mosaic_epochs, self.seed)
        return self.loader(dataset, sampler=sampler, batch_size=batch_size)

    def state_dict(self) -> dict[str, int]:
        """Which epoch is next or under way, how many of its batches are done, and what a batch is."""
        trainer = self.trainer
        assert trainer is not None
        done = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        epochs: Any = trainer.fit_loop.epoch_progress.current
        return {
            "epoch": epochs.processed,
            "batches_done": done if done < trainer.num_training_batches else 0,
            "batch_size": self.images_per_batch,
            "processes": trainer.world_size,
            "images": len(self.index("train")),
            "seed": self.seed,
            "batches_per_step": trainer.accumulate_grad_batches,
            "stream_workers": self.stream_workers,
        }

    @property
    def stream_workers(self) -> int:
        """Workers of each process where the order depends on them; 0 where it does not."""
        return max(1, self.num_workers) if self.stream is not None else 0

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resumed = state_dict

    def resumed_position(self, num_images: int, processes: int) -> tuple[int, int]:
        """Epoch of a resumed run's first batch, and batches of that epoch that it has trained on already.

        Raises:
            UserError: it stopped inside an epoch whose batches were others.
        """
        before, self._resumed = self._resumed, None
        if before is None:
            return 0, 0
        now = {"batch_size": self.images_per_batch, "processes": processes, "images": num_images, "seed": self.seed}
        assert self.trainer is not None
        now["batches_per_step"] = self.trainer.accumulate_grad_batches
        now["stream_workers"] = self.stream_workers
        for name, value in now.items():
            was = before.get(name, 0)
            if before["batches_done"] and was != value:
                raise UserError(
                    f"the run stopped inside an epoch, after {before['batches_done']} batches with {name}="
                    f"{was}; this command has {value}: finish that epoch as it was begun, or start a new run "
                    "with --weights"
                )
        return before["epoch"], before["batches_done"]

    def val_dataloader(self) -> DataLoader[Sample]:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        dataset = EvalDataset(self.source(self.eval_split), self.rect_validation)
        sampler = EvalSampler(len(dataset), rank, world_size)
        return self.loader(dataset, batch_sampler=ShapeBatches(sampler, dataset.shapes, self.images_per_batch))

    def loader(self, dataset: TrainDataset | EvalDataset, **batches: Any) -> DataLoader[Sample]:
        """A loader with persistent workers."""
        largest = max(scales(self.image_size, self.multi_scale), default=self.image_size)
        memory = BatchMemory(self.num_workers, self.images_per_batch * largest**2 * 3)
        return DataLoader(
            dataset,
            **batches,
            num_workers=self.num_workers,
            collate_fn=partial(collate, memory=memory),
            worker_init_fn=start_worker,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Of its own: it draws seeds for its workers whenever it starts them, which a resumed run does more often.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)


def planned_epochs(trainer: L.Trainer, steps_per_epoch: int) -> int:
    """Epochs of the whole run, whether it is limited by epochs, by optimiser steps, or by both."""
    limits = []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(trainer.max_epochs)
    if trainer.max_steps >= 0:
        limits.append(math.ceil(trainer.max_steps / steps_per_epoch))
    return min(limits, default=1)


def scales(image_size: int, share: float) -> list[int]:
    """The multiples of the stride between `1 - share` and `1 + share` times a size; none if it does not change."""
    if share == 0:
        return []
    low, high = math.ceil(image_size * (1 - share) / STRIDE), math.floor(image_size * (1 + share) / STRIDE)
    return [STRIDE * k for k in range(max(1, low), high + 1)]


def as_path(value: Path | str | None) -> Path | None:
    """A path, or None."""
    return None if value is None else Path(value)
