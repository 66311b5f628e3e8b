"""Two measurements in turn on the same machine, so that what else it does at the time hits both."""

from __future__ import annotations

import json
import shlex
import statistics
import subprocess
from collections.abc import Callable


def other_speed(command: str) -> float:
    """Run another program; images per second by its own account: a JSON object with `images_per_second` comes last."""
    result = subprocess.run(shlex.split(command), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return float(json.loads(result.stdout.decode().splitlines()[-1])["images_per_second"])


def compare(ours: Callable[[int], float], other: str | None, rounds: int, digits: int) -> None:
    """Print a line per run and a last one with the medians and their ratio, all JSON.

    Args:
        ours: number of the round -> images per second.
        other: command of the other program; None: ours alone.
        rounds: how many.
        digits: of the printed speeds.
    """
    speeds: dict[str, list[float]] = {"ours": []} | ({"other": []} if other else {})
    for number in range(rounds):
        for name, values in speeds.items():
            values.append(ours(number) if name == "ours" else other_speed(str(other)))
            print(json.dumps({"round": number, name: round(values[-1], digits)}), flush=True)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    summary = {name: round(value, digits) for name, value in medians.items()}
    if other:
        summary["ratio"] = round(medians["ours"] / medians["other"], 2)
    print(json.dumps(summary))
