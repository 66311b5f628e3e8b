"""What rewriting blocks for inference is worth: ONNX files with and without it, timed in turn.

python -m benchmarks.rewritten yolov8n yolov8n-edge yolov8n-lite --threads 2
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

from benchmarks.lab_latency import IMAGE_SIZE, NUM_CLASSES, fixed_info
from benchmarks.lab_results import describe_machine
from yolo_lite.deploy.exporting import WRITERS
from yolo_lite.deploy.latency import measure_latency
from yolo_lite.deploy.runtimes import OnnxRuntime, Runtime
from yolo_lite.models import build_model
from yolo_lite.models.fuse import REWRITTEN


def main() -> None:
    """Print one JSON line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="yolo-lite-rewritten-") as folder:
        runtimes: dict[str, Runtime] = {}
        for variant in args.variants:
            model = build_model(variant, NUM_CLASSES)
            for kind in ("as it is", "rewritten"):
                path = Path(folder) / f"{variant} {kind}.onnx"
                with patch.dict(REWRITTEN, clear=kind == "as it is"):
                    WRITERS["onnx"](model, fixed_info(model, variant), path)
                runtimes[f"{variant} {kind}"] = OnnxRuntime(path, threads=args.threads)
        images = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
        latencies = measure_latency(runtimes, images, args.rounds)
    for variant in args.variants:
        before, after = (latencies[f"{variant} {kind}"] for kind in ("as it is", "rewritten"))
        ratio = median(a / b for a, b in zip(after.seconds, before.seconds, strict=True))
        times = {"before_ms": round(1000 * before.median, 1), "after_ms": round(1000 * after.median, 1)}
        facts = {"machine": describe_machine(), "rounds": args.rounds}
        print(json.dumps({"variant": variant, **times, "ratio": round(ratio, 3), **facts}))


if __name__ == "__main__":
    main()
