"""Images per second of whole training runs, ours and another trainer's in turn on the same machine.

python benchmarks/throughput.py DIR --rounds 3
python benchmarks/throughput.py DIR --rounds 3 --other "PYTHON SCRIPT train DIR --imgsz 320 --epochs 4 --batch 16"

A run's number is the median of its epochs after the first, from the start of an epoch to the end of its last step,
data loading included and validation not. The other command must print a JSON object with `images_per_second` last.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import compare

REPOSITORY = Path(__file__).parents[1]


def our_speed(args: argparse.Namespace, seed: int) -> float:
    """Train for a few epochs in a scratch folder; images per second."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(REPOSITORY / "train.py"), "--data.root", str(args.data.resolve())]
        command += ["--model.variant", args.variant, "--model.nominal_batch", str(args.batch_size)]
        command += ["--data.image_size", str(args.image_size), "--data.batch_size", str(args.batch_size)]
        command += ["--data.num_workers", str(args.workers), "--trainer.max_epochs", str(args.epochs)]
        command += ["--trainer.precision", args.precision, "--seed_everything", str(seed), "--name", "speed"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with open(Path(folder) / "runs" / "speed" / "version_0" / "metrics.csv", newline="") as file:
            rows = [row["time/images_per_second"] for row in csv.DictReader(file)]
    speeds = [float(value) for value in rows if value]
    return statistics.median(speeds[1:] or speeds)


def main() -> None:
    """Print a line per run and a last one with the medians and their ratio, all JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--variant", default="yolov8n")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--image_size", type=int, default=320)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--other", help="command of another trainer")
    args = parser.parse_args()
    compare(lambda seed: our_speed(args, seed), args.other, args.rounds, digits=2)


if __name__ == "__main__":
    main()
