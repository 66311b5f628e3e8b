"""Images per second of predicting against those of the bare network, in turn in one process; post-processing's share.

python benchmarks/predict.py FOLDER --checkpoint best.ckpt --image_size 640

A round runs over the same few images: the network alone (BatchNorm folded) on a batch that lies ready, `model.predict`
on the files, the command with `--save none` called in this process, by the speed that it prints. Rounds are short, so
that what else the machine does hits all of them; the last line compares the sums. `cpu_share` compares seconds of the
processor, threads that read images included: what is left of the network's speed where all cores are busy. Then
decoding and suppression of single images, each after its forward pass.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from yolo_lite import load_model, predict
from yolo_lite.deploy.detector import BATCH_SIZE, Detector, PredictOptions
from yolo_lite.deploy.sources import Frame, list_images
from yolo_lite.deploy.views import View, see
from yolo_lite.ops.postprocess import PREDICT_IOU, PREDICT_SCORE, detect

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Of one call: by the clock, and of the processor."""
    started = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def forward(detector: Detector, count: int, batch_size: int, layout: torch.memory_format) -> None:
    """The network alone on so many images."""
    runtime: Any = detector.runtime
    images = torch.rand(batch_size, 3, detector.image_size, detector.image_size).contiguous(memory_format=layout)
    with torch.inference_mode():
        for _ in range(count // batch_size):
            runtime.model(images)


def command(checkpoint: Path, image_size: int, paths: list[Path]) -> float:
    """Seconds, as a user calls it, without the loading of the model."""
    arguments = ["--checkpoint", str(checkpoint), "--image_size", str(image_size), "--device", "cpu", "--save", "none"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert predict.main([*arguments, *map(str, paths)]) == 0
    speed = re.search(r"([\d.]+) images per second", printed.getvalue())
    assert speed is not None
    return len(paths) / float(speed[1])


def single_images(detector: Detector, paths: list[Path]) -> dict[str, float]:
    """Milliseconds of the processor (medians) of the forward pass of one image and of decoding and suppression."""
    runtime: Any = detector.runtime
    info, side = detector.info, detector.image_size
    passes, afterwards, found = [], [], 0
    for frame in detector.open(paths, PredictOptions())[1]:
        assert isinstance(frame, Frame)
        image, _ = see(frame.pixels, View(0, 0, frame.size[1], frame.size[0]), (side, side), frame.scale)
        started = time.thread_time()
        maps = runtime(torch.from_numpy(image).permute(2, 0, 1)[None])
        middle = time.thread_time()
        (detections,) = detect(maps, info.strides, info.reg_max, PREDICT_SCORE, PREDICT_IOU, multi_label=False)
        passes.append(middle - started)
        afterwards.append(time.thread_time() - middle)
        found += len(detections)
    forward_ms, postprocess_ms = 1e3 * statistics.median(passes), 1e3 * statistics.median(afterwards)
    return {
        "forward_ms": round(forward_ms, 2),
        "postprocess_ms": round(postprocess_ms, 3),
        "postprocess_share": round(postprocess_ms / forward_ms, 4),
        "detections": round(found / len(passes), 1),
    }


def main() -> None:
    """Print a line per round, seconds per image, and a last one with the shares, all JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--image_size", type=int, default=640)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--single", type=int, default=40, help="images for post-processing")
    parser.add_argument("--per_round", type=int, default=16, help="images")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    detector = load_model(args.checkpoint, "cpu", args.image_size)
    listed = list_images(str(args.folder))
    paths = list(itertools.islice(itertools.cycle(listed), args.images))
    # The bare network in whichever form is fastest here.
    forms = {
        (name, size): seconds(lambda n=size, f=layout: forward(detector, BATCH_SIZE, n, f))[1]
        for name, layout in LAYOUTS.items()
        for size in (1, BATCH_SIZE)
        for _ in range(2)
    }
    layout, batch_size = min(forms, key=lambda form: forms[form])
    print(
        json.dumps({"network": detector.info.variant, "layout": layout, "batch": batch_size, "threads": args.threads})
    )
    rows: list[list[float]] = []
    for start in range(0, len(paths), args.per_round):
        chunk = paths[start : start + args.per_round]
        whole = len(chunk) // batch_size * batch_size
        bare = [
            value * len(chunk) / whole
            for value in seconds(lambda n=whole: forward(detector, n, batch_size, LAYOUTS[layout]))  # type: ignore[misc]
        ]
        ours = seconds(lambda some=chunk: detector.predict(some))  # type: ignore[misc]
        rows.append([*bare, *ours, command(args.checkpoint, args.image_size, chunk)])
        names = ("forward", "forward_cpu", "predict", "predict_cpu", "command")
        print(json.dumps({n: round(v / len(chunk), 4) for n, v in zip(names, rows[-1], strict=True)}), flush=True)
    bare_time, bare_cpu, ours_time, ours_cpu, command_time = map(sum, zip(*rows, strict=True))
    shares = {
        "predict_share": bare_time / ours_time,
        "predict_cpu_share": bare_cpu / ours_cpu,
        "command_share": bare_time / command_time,
    }
    single = single_images(detector, paths[: args.single])
    print(json.dumps({**{name: round(value, 3) for name, value in shares.items()}, **single}))


if __name__ == "__main__":
    main()
