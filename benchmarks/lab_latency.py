"""How long the models of a plan take on a CPU, all of them in turn, as ratios to the baseline."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from benchmarks.lab_plan import Plan
from benchmarks.lab_results import REPOSITORY, check_numbers, current_commit, describe_machine, write_facts
from yolo_lite.deploy.exporting import WRITERS
from yolo_lite.deploy.latency import measure_latency
from yolo_lite.deploy.model_info import ModelInfo
from yolo_lite.deploy.runtimes import OnnxRuntime, Runtime, TorchRuntime
from yolo_lite.models import build_model
from yolo_lite.models.yolo import YOLO, ModelSpec
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.profiling import count_gflops, count_parameters

LATENCY_NAME = "latency.json"
BASELINE = "yolov8n"
IMAGE_SIZE = 640
NUM_CLASSES = 1


@dataclass(frozen=True)
class Cost:
    """What a model costs for one image of 640 px and one class.

    Attributes:
        parameters: exact.
        gflops: 2 x multiply-accumulate, convolutions only.
        onnx_mb: megabytes of its ONNX file.
        onnx_ms, torch_ms: median latency, raw maps, BatchNorm folded.
        onnx_ratio, torch_ratio: to `BASELINE`, measured in the same rounds: the median of the rounds' ratios.
            torch_ratio is None where PyTorch does not run it.
    """

    parameters: int
    gflops: float
    onnx_mb: float
    onnx_ms: float
    torch_ms: float | None
    onnx_ratio: float
    torch_ratio: float | None


def structures_of(plan: Plan) -> dict[str, dict[str, Any]]:
    """The detectors of a plan by the names of its runs, see `structure`.

    Raises:
        UserError: runs of one name have different ones, or a config or a setting is not there.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in plan.runs:
        try:
            parts = structure(run.config, run.settings)
        except (OSError, yaml.YAMLError, AttributeError) as error:
            raise UserError(f"plan {plan.name}: {run.name} has no config {run.config}: {error}") from None
        except UserError as error:
            raise UserError(f"plan {plan.name}: {run.name} cannot be built: {error}") from None
        if found.setdefault(run.name, parts) != parts:
            raise UserError(f"plan {plan.name}: the models of {run.name} differ: give each a name of its own")
    return found


def structure(config: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `build_model` makes a run's detector from: its variant and the parts that differ.

    Raises:
        UserError: train.py has no such setting.
    """
    from yolo_lite.training.module import DetectionModule  # Lightning, which showing results does without

    content = yaml.safe_load((REPOSITORY / config).read_text()).get("model") or {}
    content |= {name.removeprefix("model."): value for name, value in settings.items() if name.startswith("model.")}
    if unknown := content.keys() - inspect.signature(DetectionModule).parameters.keys():
        raise UserError(f"there is no setting model.{sorted(unknown)[0]}")
    wanted = {"variant", *(field.name for field in fields(ModelSpec))}
    return {name: value for name, value in content.items() if name in wanted}


def measure_costs(structures: Mapping[str, dict[str, Any]], threads: int, rounds: int) -> dict[str, Cost]:
    """Time every model and the baseline in turn; models that are made alike are timed once.

    Args:
        structures: of the models, by name, see `structure`.
        threads: of the CPU.
        rounds: timed calls of each model.

    Raises:
        UserError: none of either.
    """
    for name, number in (("threads", threads), ("rounds", rounds)):
        if number < 1:
            raise UserError(f"--{name} {number}: give at least 1")
    torch.set_num_threads(threads)
    keys = {name: json.dumps(parts, sort_keys=True) for name, parts in structures.items()}
    baseline = json.dumps({"variant": BASELINE})
    models = {key: build_model(num_classes=NUM_CLASSES, **json.loads(key)) for key in (baseline, *keys.values())}
    with tempfile.TemporaryDirectory(prefix="yolo-lite-lab-") as folder:
        runtimes: dict[str, Runtime] = {}
        sizes: dict[str, int] = {}
        for number, (key, model) in enumerate(models.items()):
            path = Path(folder) / f"{number}.onnx"
            info = fixed_info(model, key)
            WRITERS["onnx"](model, info, path)
            sizes[key] = path.stat().st_size
            runtimes[f"onnx {key}"] = OnnxRuntime(path, threads=threads)
            runtimes[f"torch {key}"] = TorchRuntime(model, info)
        images = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
        latencies = measure_latency(runtimes, images, rounds)

    def ratio(key: str, kind: str) -> float:
        own, other = (latencies[f"{kind} {name}"].seconds for name in (key, baseline))
        return round(median(a / b for a, b in zip(own, other, strict=True)), 3)

    def cost(key: str) -> Cost:
        return Cost(
            parameters=count_parameters(models[key]),
            gflops=round(count_gflops(models[key], IMAGE_SIZE), 5),
            onnx_mb=round(sizes[key] / 1e6, 3),
            onnx_ms=round(1000 * latencies[f"onnx {key}"].median, 1),
            torch_ms=round(1000 * latencies[f"torch {key}"].median, 1),
            onnx_ratio=ratio(key, "onnx"),
            torch_ratio=ratio(key, "torch"),
        )

    return {name: cost(key) for name, key in keys.items()}


def fixed_info(model: YOLO, name: str) -> ModelInfo:
    """Raw maps of one image of the one size."""
    names = tuple(str(number) for number in range(NUM_CLASSES))
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return ModelInfo(name, names, IMAGE_SIZE, model.strides, model.spec.reg_max, batch=1, input_size=size)


def write_costs(costs: Mapping[str, Cost], threads: int, rounds: int, path: Path) -> None:
    """One line for each model, with what they were measured on."""
    facts = {"commit": current_commit(), "machine": describe_machine("cpu"), "threads": threads, "rounds": rounds}
    write_facts({**facts, "models": {name: asdict(cost) for name, cost in costs.items()}}, path)


def read_costs(folder: Path, names: Sequence[str]) -> dict[str, Cost]:
    """Those of a plan's runs that were measured; none where nothing was.

    Raises:
        UserError: the file is not ours.
    """
    path = folder / LATENCY_NAME
    if not path.is_file():
        return {}
    try:
        models = json.loads(path.read_text())["models"]
        costs = {name: Cost(**models[name]) for name in names if name in models}
        for cost in costs.values():
            check_numbers(value for value in asdict(cost).values() if value is not None)
        return costs
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no latencies of the laboratory: {error}") from None
