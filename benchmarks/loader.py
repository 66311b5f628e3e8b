"""Images per second of the training loader alone, ours and another one's in turn on the same machine.

python benchmarks/loader.py DIR --cache none --rounds 3 --other "COMMAND OF THE OTHER LOADER"

Timed from the end of the eighth batch on, over `--batches` of them, across epochs; nothing trains. The other command
must print a JSON object with `images_per_second` last.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from side_by_side import compare

WARM_UP = 8


def our_speed(args: argparse.Namespace) -> float:
    """In a process of its own: what one run leaves in memory must not help the next."""
    command = [sys.executable, __file__, str(args.data), "--once", "--cache", args.cache]
    for name in ("image_size", "batch_size", "workers", "batches"):
        command += [f"--{name}", str(getattr(args, name))]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return float(json.loads(result.stdout.decode().splitlines()[-1])["images_per_second"])


def measure(args: argparse.Namespace) -> float:
    """Load batches; images per second."""
    from yolo_lite.data.datamodule import DetectionDataModule

    data = DetectionDataModule(
        args.data, args.image_size, args.batch_size, num_workers=args.workers, cache=args.cache, seed=args.seed
    )
    trainer: Any = SimpleNamespace(
        global_rank=0, world_size=1, max_epochs=10_000, max_steps=-1, accumulate_grad_batches=1
    )
    data.trainer = trainer
    loader = data.train_dataloader()
    sampler: Any = loader.sampler
    done, epoch, images, started = -WARM_UP, 0, 0, 0.0
    while done < args.batches:
        sampler.set_epoch(epoch)
        for batch in loader:
            done += 1
            images += len(batch) if done > 0 else 0
            if done == 0:
                started = time.perf_counter()
            if done == args.batches:
                break
        epoch += 1
    return images / (time.perf_counter() - started)


def main() -> None:
    """Print a line per run and a last one with the medians and their ratio, all JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", default="none", choices=["none", "ram", "disk"])
    parser.add_argument("--image_size", type=int, default=640)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--once", action="store_true", help="one measurement of ours, in this process")
    parser.add_argument("--other", help="command of another loader")
    args = parser.parse_args()
    if args.once:
        print(json.dumps({"images_per_second": round(measure(args), 1)}))
        return
    compare(lambda _: our_speed(args), args.other, args.rounds, digits=1)


if __name__ == "__main__":
    main()
