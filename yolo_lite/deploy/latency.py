"""How long models take, in turn: a machine that slows down for a while slows all of them, and ratios hold.

And what memory one of them needs, in a process of its own, as memory that was used before does not show.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yolo_lite.deploy.loading import open_runtime
from yolo_lite.deploy.runtimes import Runtime, needed
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.progress import LongJob

# The first calls find algorithms and fill caches.
WARM_UP = 3
# What a file needs besides PyTorch; its library is there before memory is looked at.
PACKAGES = {".onnx": "onnxruntime", ".xml": "openvino", ".safetensors": "safetensors"}


@dataclass(frozen=True)
class Latency:
    """Times of one model.

    Attributes:
        seconds: of each call, in the order of the rounds.
        batch: images of a call.
    """

    seconds: tuple[float, ...]
    batch: int

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return float(np.median(self.seconds))

    @property
    def p90(self) -> float:
        """Seconds that nine of ten calls stay within."""
        return float(np.percentile(self.seconds, 90))

    @property
    def throughput(self) -> float:
        """Images per second."""
        return self.batch / self.median


def measure_latency(runtimes: Mapping[str, Runtime], images: Tensor, rounds: int) -> dict[str, Latency]:
    """Let each model see the images twice a round, and time the second time.

    Args:
        runtimes: by name; each begins a round as often as the others.
        images: (B, 3, H, W) uint8 on the CPU: bringing them to the device, and making floats of them, counts.
        rounds: how often.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runtimes}
    for runtime in runtimes.values():
        for _ in range(WARM_UP):
            time_call(runtime, images)
    order = list(runtimes)
    with LongJob("timing", rounds) as job:
        for number in range(1, rounds + 1):
            for name in order:
                # Not timed: threads of the model before may still look out for work, on cores that this one needs.
                time_call(runtimes[name], images)
                seconds[name].append(time_call(runtimes[name], images))
            order = order[1:] + order[:1]
            job.update(number)
    return {name: Latency(tuple(values), len(images)) for name, values in seconds.items()}


def time_call(runtime: Runtime, images: Tensor) -> float:
    """Seconds of one call, up to the outputs' being there."""
    started = time.perf_counter()
    runtime(images)
    if runtime.device.startswith("cuda"):
        torch.cuda.synchronize(runtime.device)
    return time.perf_counter() - started


def added_memory(path: Path, size: tuple[int, int], batch: int = 1, threads: int | None = None) -> int:
    """Bytes by which opening a file and running it on the CPU raises the peak of a new process.

    The libraries are loaded before and do not count. Weights, graph and what is computed in between do.

    Args:
        path: the file.
        size: (height, width) of the images.
        batch: images of a call.
        threads: of the CPU; None: all of them.

    Raises:
        UserError: the file cannot be run, or this system does not tell.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(peak_of_running, path, size, batch, threads).result()
        except BrokenProcessPool:
            raise UserError(
                f"{path}: the process that measured its memory was killed, perhaps for want of it"
            ) from None
        except UserError:
            raise
        except Exception as error:  # of whatever library; all else that was measured is worth more than this number
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{path} could not be run where its memory is measured: {reason}") from None


def peak_of_running(path: Path, size: tuple[int, int], batch: int, threads: int | None) -> int:
    """As `added_memory`, in this process, which should have done nothing before."""
    from yolo_lite.training.batch_size import process_memory, reset_peak

    if threads is not None:
        torch.set_num_threads(threads)
    images = torch.zeros(batch, 3, *size, dtype=torch.uint8)
    if package := PACKAGES.get(path.suffix.lower()):
        needed(package, path)
    reset_peak()
    before = process_memory("VmRSS")
    runtime = open_runtime(path, "cpu", threads)
    for _ in range(WARM_UP):
        runtime(images)
    return max(0, process_memory("VmHWM") - before)
