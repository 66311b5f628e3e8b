"""What a depthwise convolution costs in training, by the size of its kernel: `python benchmarks/depthwise.py`.

Milliseconds of forward and backward pass together, bf16 in channels-last order as in training, kernels in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn


def time_step(kernel: int, images: torch.Tensor) -> float:
    """Seconds of one forward and backward pass."""
    channels = images.shape[1]
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = conv(images)
    torch.autograd.grad(outputs, [images, conv.weight], torch.ones_like(outputs))
    return time.perf_counter() - started


def main() -> None:
    """Print a line for each size of map."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    config = parser.parse_args()
    torch.set_num_threads(config.threads)
    for channels, size in ((64, 40), (64, 20), (128, 20), (192, 10)):
        images = torch.rand(config.batch, channels, size, size).to(memory_format=torch.channels_last).requires_grad_()
        seconds: dict[int, list[float]] = {kernel: [] for kernel in config.kernels}
        for _ in range(config.rounds):
            for kernel in config.kernels:
                seconds[kernel].append(time_step(kernel, images))
        cells = (f"{k}x{k} {1000 * statistics.median(values):7.1f} ms" for k, values in seconds.items())
        print(f"{channels:4d} channels, {size}x{size}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
