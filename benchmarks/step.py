"""Time one training step: forward, loss, backward, optimiser. Median of a few, on random images.

python benchmarks/step.py yolov8n --precision bf16 --channels_last
python benchmarks/step.py yolov8n --precision fp32 --channels_last --device cuda
"""

from __future__ import annotations

import argparse
import itertools
import json
import time

import torch

from yolo_lite.data.collate import pad_targets
from yolo_lite.losses.detection import DetectionLoss
from yolo_lite.models import build_model


def now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--image_size", type=int, default=320)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--objects", type=int, default=15)
    parser.add_argument("--steps", type=int, default=7)
    args = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device(args.device)
    batch, size, count = args.batch_size, args.image_size, args.batch_size * args.objects
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    model = build_model(args.variant, args.classes).to(device, memory_format=layout)  # type: ignore[call-overload]
    loss = DetectionLoss(model.strides)
    images = torch.rand(batch, 3, size, size).to(device).contiguous(memory_format=layout)
    corner = torch.rand(count, 2) * 0.6 * size
    boxes = torch.cat([corner, corner + torch.rand(count, 2) * size / 4 + size / 16], dim=1)
    index = torch.arange(batch).repeat_interleave(args.objects)
    targets = pad_targets(index, torch.randint(0, args.classes, (count,)), boxes, batch).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    times = []
    for _ in range(args.steps + 2):
        marks = [now(device)]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            maps = model(images)
        marks.append(now(device))
        items = loss(maps, targets)
        marks.append(now(device))
        (items.total * batch).backward()
        marks.append(now(device))
        optimizer.step()
        optimizer.zero_grad()
        marks.append(now(device))
        times.append([b - a for a, b in itertools.pairwise(marks)])
    middle = sorted(times[2:], key=sum)[args.steps // 2]  # the first two warm up
    parts = dict(zip(["forward", "loss", "backward", "optimizer"], [round(t, 3) for t in middle], strict=True))
    print(json.dumps({**vars(args), **parts, "images_per_second": round(batch / sum(middle), 1)}))


if __name__ == "__main__":
    main()
