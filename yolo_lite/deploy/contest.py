"""Models in several formats, measured side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from yolo_lite.data.classes import check_classes
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.deploy.exporting import FORMATS, SUFFIXES, Format, export_model
from yolo_lite.deploy.latency import Latency, added_memory, measure_latency
from yolo_lite.deploy.loading import check_file, check_threads, load_weights, model_file, open_runtime
from yolo_lite.deploy.model_info import ModelInfo, Precision
from yolo_lite.deploy.quantisation import QUANTISERS, QuantiseOptions, Quantiser, quantise_model, size_of
from yolo_lite.deploy.runtimes import Runtime
from yolo_lite.deploy.scoring import score_runtime
from yolo_lite.models.yolo import YOLO
from yolo_lite.utils.errors import MissingPackageError, UserError
from yolo_lite.utils.profiling import count_parameters

log = logging.getLogger(__name__)

TORCH = "torch"
RUN = tuple(name for name in FORMATS if name != "safetensors")  # which holds no graph: it runs as torch
CHOICES = (
    TORCH,
    *RUN,
    *(f"{name}-fp16" for name in RUN),
    *(f"{name}-int8" for name in QUANTISERS),
)
WEIGHTS = (".ckpt", ".safetensors")  # of any case


@dataclass(frozen=True)
class Entry:
    """A model that takes part.

    Attributes:
        name: tells it from the others.
        format: one of `CHOICES`, or the ending of a given file.
        path: what is run.
        parameters: of its checkpoint; None: a file that does not say.
    """

    name: str
    format: str
    path: Path
    parameters: int | None

    @property
    def family(self) -> str:
        """The format without its precision."""
        return self.format.partition("-")[0]


@dataclass(frozen=True)
class Result:
    """What was measured of an entry.

    Attributes:
        entry: the model.
        info: what its file says of it.
        latency: of `batch` images.
        crowd: of many images at once, for the throughput.
        size: bytes of the file.
        memory: bytes that opening and running it adds; None: not measured.
        scores: COCO's numbers; None: there is no data.
    """

    entry: Entry
    info: ModelInfo
    latency: Latency
    crowd: Latency
    size: int
    memory: int | None
    scores: dict[str, float] | None

    def to_json(self, reference: Result) -> dict[str, Any]:
        """All numbers; seconds of every round too."""
        return {
            "name": self.entry.name,
            "format": self.entry.format,
            "precision": self.info.precision,
            "parameters": self.entry.parameters,
            "bytes": self.size,
            "batch": self.latency.batch,
            "latency_ms": 1000 * self.latency.median,
            "latency_p90_ms": 1000 * self.latency.p90,
            "speed": reference.latency.median / self.latency.median,
            "throughput_batch": self.crowd.batch,
            "images_per_second": self.crowd.throughput,
            "added_bytes": self.memory,
            "map": self.scores["map_50_95"] if self.scores else None,
            "map_50": self.scores["map_50"] if self.scores else None,
            "seconds": list(self.latency.seconds),
        }


@dataclass(frozen=True)
class Contest:
    """How to measure.

    Attributes:
        device: cpu, cuda or cuda:N.
        threads: of the CPU, the same for all.
        batch: images of a call whose latency is taken.
        throughput_batch: images of a call whose throughput is taken.
        rounds: calls.
        memory: take the memory too, on the CPU.
    """

    device: str
    threads: int
    batch: int
    throughput_batch: int
    rounds: int
    memory: bool

    def __post_init__(self) -> None:
        check_threads(self.threads)
        for name in ("batch", "throughput_batch", "rounds"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: give at least 1")

    def describe(self, size: tuple[int, int]) -> str:
        """What the times depend on: images of (height, width), device, threads."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{size[0]}x{size[1]} px, {self.device}, {threads}"

    def measure(
        self, entries: Sequence[Entry], size: tuple[int, int], data: DetectionDataModule | None
    ) -> list[Result]:
        """Run them all in turn on images of (height, width); what cannot be run is said in a line, and left out.

        Raises:
            UserError: none can be run.
        """
        torch.set_num_threads(self.threads)
        runtimes: dict[str, Runtime] = {}
        for entry in entries:
            runtime = attempt(entry.name, partial(open_runtime, entry.path, self.device, self.threads))
            if runtime is not None:
                runtimes[entry.name] = runtime
        if not runtimes:
            raise UserError("there is nothing to measure: none of the models can be run here")
        images = torch.randint(0, 256, (max(self.batch, self.throughput_batch), 3, *size), dtype=torch.uint8)
        latency = measure_latency(runtimes, images[: self.batch], self.rounds)
        crowd = measure_latency(runtimes, images[: self.throughput_batch], max(3, self.rounds // 3))
        results = []
        for entry in entries:
            if entry.name in runtimes:
                runtime = runtimes[entry.name]
                memory = self.memory_of(entry, size) if self.memory else None
                scores = score_runtime(runtime, data).numbers if data is not None else None
                times = latency[entry.name], crowd[entry.name]
                results.append(Result(entry, runtime.info, *times, size_of(entry.path), memory, scores))
        return results

    def memory_of(self, entry: Entry, size: tuple[int, int]) -> int | None:
        """What one file needs for images of (height, width); None where that cannot be told."""
        return attempt(f"memory of {entry.name}", lambda: added_memory(entry.path, size, self.batch, self.threads))


def attempt(name: str, work: Callable[[], Any], hindrance: type[UserError] = UserError) -> Any:
    """What the work gives; None, and a line that says why, where it cannot be done."""
    try:
        return work()
    except hindrance as error:
        log.info("skipped %s: %s", name, error)
        return None


def common_size(infos: Sequence[ModelInfo]) -> tuple[int, int]:
    """(height, width) that all models look at.

    Raises:
        UserError: they differ, or there are none.
    """
    if not infos:
        raise UserError("there is nothing to measure: none of the models can be run here")
    sizes = {info.input_size or (info.image_size, info.image_size) for info in infos}
    if len(sizes) > 1:
        listed = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise UserError(
            f"the models take images of {listed}: --image_size makes them of one size, or measure one by one"
        )
    return sizes.pop()


def parse_formats(text: str) -> list[str]:
    """The formats of a list with commas, each once.

    Raises:
        UserError: one of them is unknown.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in CHOICES:
            raise UserError(f"--formats {name}: choose of {', '.join(CHOICES)}")
    if not names:
        raise UserError(f"--formats names none: choose of {', '.join(CHOICES)}")
    return names


def known_files(paths: Sequence[Path], image_size: int | None) -> dict[Path, ModelInfo]:
    """What each file says of its model; one whose package is missing is said in a line, and left out.

    Raises:
        UserError: a file is named twice, is not there, cannot be read or takes no images of that size.
    """
    places: set[Path] = set()
    for path in paths:
        place = model_file(path).resolve()
        if path.suffix.lower() not in WEIGHTS:  # their reader says more
            check_file(model_file(path))
        if place in places:
            raise UserError(f"--checkpoint names {path} twice: give each file once")
        places.add(place)
    found: dict[Path, ModelInfo] = {}
    for path in paths:
        if path.suffix.lower() in WEIGHTS:
            found[path] = with_size(path, load_weights(path)[1], image_size)
        elif runtime := attempt(str(path), partial(open_runtime, path, "cpu"), MissingPackageError):
            found[path] = with_size(path, runtime.info, image_size)
    return found


def with_size(path: Path, info: ModelInfo, image_size: int | None) -> ModelInfo:
    """As the method of that name; of several files it says which one takes no such size.

    Raises:
        UserError: the model takes no such size.
    """
    try:
        return info.with_size(image_size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def prepare_entries(
    files: Mapping[Path, ModelInfo],
    formats: Sequence[str],
    data: DetectionDataModule | None,
    options: QuantiseOptions,
    folder: Path,
) -> list[Entry]:
    """Checkpoints in all formats, exported into a folder; other files as they are.

    What cannot be exported is said in a line, and left out.

    Raises:
        UserError: a file is of other classes than the data.
    """
    entries = []
    for number, (name, (path, info)) in enumerate(zip(short_names(list(files)), files.items(), strict=True)):
        if data is not None:
            check_classes(list(info.class_names), data.eval_index.class_names)
        if path.suffix.lower() not in WEIGHTS:
            file = model_file(path)
            entries.append(Entry(name, file.suffix.lower().lstrip("."), file, None))
            continue
        model, _ = load_weights(path)
        place = folder / str(number)
        place.mkdir()
        for choice in formats:
            title = choice if len(files) == 1 else f"{name} {choice}"
            work = partial(write_format, model, info, choice, place, data, options)
            if (target := attempt(title, work)) is not None:
                entries.append(Entry(title, choice, target, count_parameters(model)))
    return entries


def write_format(
    model: YOLO,
    info: ModelInfo,
    choice: str,
    folder: Path,
    data: DetectionDataModule | None,
    options: QuantiseOptions,
) -> Path:
    """One of `CHOICES` as a file; that of PyTorch holds the weights alone, without what training goes on with.

    Raises:
        UserError: it cannot be had here.
    """
    kind, _, precision = choice.partition("-")
    if kind == TORCH:
        target = folder / f"{choice}.safetensors"
        export_model(model, replace(info, output="raw"), "safetensors", target)
        return target
    target = folder / f"{choice}{SUFFIXES[kind]}"
    decoded = replace(info, output="decoded")
    log.info("writing %s", choice)
    if precision == "int8":
        if data is None:
            raise UserError("int8 is calibrated on data: give --data.root")
        quantise_model(model, decoded, cast(Quantiser, kind), target, data, options)
    else:
        export_model(
            model, replace(decoded, precision=cast(Precision, precision or "fp32")), cast(Format, kind), target
        )
    return target


def short_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as many folders as tell them apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names
