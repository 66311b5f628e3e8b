"""The laboratory: train and score every run of a plan, by the ordinary train.py and eval.py, one after the other.

    python -m benchmarks.lab run configs/lab/transfer.yaml --data_root FOLDER
    python -m benchmarks.lab time configs/lab/transfer.yaml
    python -m benchmarks.lab show configs/lab/transfer.yaml

What is stopped goes on where it was: runs that have a result are passed over, the others resumed. Exit codes: 0 all
runs are done, 2 something that you can mend (one line says what), 130 or 143 stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.lab_latency import LATENCY_NAME, measure_costs, read_costs, structure, write_costs
from benchmarks.lab_results import (
    REPOSITORY,
    RESULTS,
    Result,
    current_commit,
    describe_machine,
    read_curve,
    read_results,
)
from benchmarks.lab_tables import write_pages
from yolo_lite.utils.console import clock, run_command
from yolo_lite.utils.errors import EXIT_SIGNAL, StoppedError, UserError
from yolo_lite.utils.runs import BEST_NAME, CHECKPOINTS, occupied, run_folders

log = logging.getLogger("yolo_lite.lab")  # shown as the others are

KEYS = {"name", "config", "data", "settings", "weights", "teacher", "pruned"}
PRUNED_NAME = "pruned.ckpt"
WIDTH = "model.width"  # setting of a pruned run: how much is left


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        plan: name of its plan.
        name: of the run, unique in the plan for each data set.
        config: file of the model's settings, from the repository's root.
        data: name of the data set.
        seed: of order, augmentation and initial weights.
        settings: options of train.py and their values.
        weights, teacher: runs of the plan with the same seed whose best checkpoint it starts from or learns from.
        pruned: another one whose best checkpoint it starts from, after it was pruned to this run's `model.width`.
    """

    plan: str
    name: str
    config: str
    data: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    teacher: str | None = None
    pruned: str | None = None

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.data}-seed{self.seed}"

    @property
    def sources(self) -> dict[str, str]:
        """The runs whose checkpoints it needs, by the option of train.py that takes them."""
        named = {"--weights": self.weights or self.pruned, "--model.teacher": self.teacher}
        return {option: name for option, name in named.items() if name is not None}


@dataclass(frozen=True)
class Plan:
    """Runs that belong together."""

    name: str
    runs: list[Run]

    @staticmethod
    def read(path: Path) -> Plan:
        """From YAML: `settings` and `seeds` of all, and a list of `runs`; `data` maps sets to settings of their own.

        A run names its set, or several, or none: then it is made with all of `data`. The settings of a run come before
        those of a set, and those before the settings of all.

        Raises:
            UserError: it is not there, or holds something else.
        """
        try:
            content = yaml.safe_load(path.read_text())
            shared, seeds, entries = content.get("settings") or {}, content.get("seeds") or [0], content["runs"]
            sets = content.get("data") or {}
            for entry in entries:
                if unknown := entry.keys() - KEYS:
                    raise UserError(
                        f"{path}: unknown {', '.join(sorted(unknown))}: there are {', '.join(sorted(KEYS))}"
                    )
            runs = [
                Run(path.stem, seed=seed, **{**entry, "data": data, "settings": merged(shared, sets.get(data), entry)})
                for seed in seeds
                for entry in entries
                for data in named_sets(entry, sets)
            ]
        except OSError as error:
            raise UserError(f"cannot read the plan {path}: {error.strerror}") from None
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no plan: {' '.join(str(error).split())}") from None
        plan = Plan(path.stem, runs)
        for run in runs:
            if run.pruned is not None and (run.weights is not None or WIDTH not in run.settings):
                raise UserError(f"{path}: run {run.name} is pruned: give it {WIDTH} and no weights")
        names = [run.folder_name for run in runs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"{path}: {sorted(twice)[0]} is there twice: give each run a name of its own")
        for number, run in enumerate(runs):
            for other in run.sources.values():
                plan.source(other, run, number)
        return plan

    def source(self, name: str, needed_by: Run, before: int | None = None) -> Run:
        """The run of a name that another one starts from: of the same seed, and of the same data where there is one.

        Raises:
            UserError: there is none before it.
        """
        found = [run for run in self.runs[:before] if (run.name, run.seed) == (name, needed_by.seed)]
        if not found:
            raise UserError(f"plan {self.name}: no run {name} comes before the run that needs it")
        return next((run for run in found if run.data == needed_by.data), found[0])


class Laboratory:
    """Works on a plan.

    Args:
        plan: what to do.
        data_root: folder that holds the data sets.
        runs_dir: where run folders are made.
        results: folder of the results of this plan.
    """

    def __init__(self, plan: Plan, data_root: Path, runs_dir: Path, results: Path) -> None:
        self.plan = plan
        self.data_root = data_root
        self.home = runs_dir / plan.name
        self.results = results

    def result_path(self, run: Run) -> Path:
        """Where what came of it is kept."""
        return self.results / f"{run.folder_name}.json"

    def best(self, run: Run) -> Path:
        """The best checkpoint of a run.

        Raises:
            UserError: it has none.
        """
        folders = run_folders(self.home / run.folder_name)
        path = folders[-1] / CHECKPOINTS / BEST_NAME if folders else self.home / run.folder_name
        if not path.is_file():
            raise UserError(
                f"no best checkpoint of {run.folder_name} in {self.home}: delete its result to train it again"
            )
        return path

    def options(self, run: Run) -> list[str]:
        """Of train.py, without the places of this machine."""
        options = ["--config", run.config]
        for name, value in run.settings.items():
            options += [f"--{name}", yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("\n...")]
        return [*options, "--seed_everything", str(run.seed)]

    def command(self, run: Run) -> str:
        """What a reader types to train it."""
        options = ["python", "train.py", *self.options(run), "--data.root", f"DATA/{run.data}"]
        for option, other in run.sources.items():
            is_pruned = run.pruned is not None and option == "--weights"
            options += [option, PRUNED_NAME if is_pruned else f"{other}/{BEST_NAME}"]
        before = []
        if run.pruned is not None:
            prune = ["python", "-m", "benchmarks.prune", f"{run.pruned}/{BEST_NAME}"]
            before = [shlex.join([*prune, "--width", str(run.settings[WIDTH]), "--out", PRUNED_NAME])]
        return " && ".join([*before, shlex.join(options)])

    def start(self, run: Run, option: str, name: str) -> Path:
        """The checkpoint that an option of a run takes, made from that of the run of a name where it is pruned."""
        best = self.best(self.plan.source(name, run))
        if run.pruned is None or option != "--weights":
            return best
        path = self.home / f"{run.folder_name}-{PRUNED_NAME}"
        if not path.is_file():
            from benchmarks.prune import prune_file  # torch-pruning is needed here alone

            path.parent.mkdir(parents=True, exist_ok=True)
            prune_file(best, run.settings[WIDTH], path)
        return path

    def train(self, run: Run) -> None:
        """Train, or go on with it."""
        options = [*self.options(run), "--data.root", str(self.data_root / run.data), "--ckpt_path", "last"]
        for option, other in run.sources.items():
            options += [option, str(self.start(run, option, other))]
        begun = time.monotonic()
        try:
            call("train.py", [*options, "--runs_dir", str(self.home), "--name", run.folder_name])
        finally:
            self.add_minutes(run, (time.monotonic() - begun) / 60)

    def add_minutes(self, run: Run, minutes: float) -> float:
        """What it has taken so far, all its parts together."""
        path = self.home / run.folder_name / "minutes.txt"
        total = minutes + (float(path.read_text()) if path.is_file() else 0.0)
        if path.parent.is_dir():
            path.write_text(f"{total:.3f}\n")
        return total

    def score(self, run: Run) -> dict[str, Any]:
        """By eval.py, on the validation images."""
        target = self.home / run.folder_name / "scores.json"
        given = ["--checkpoint", str(self.best(run)), "--data.root", str(self.data_root / run.data)]
        call("eval.py", [*given, "--split", "val", "--report", "none", "--json", str(target)])
        return json.loads(target.read_text())

    def result(self, run: Run, commit: str) -> Result:
        """Score it and gather what came of it."""
        scores = self.score(run)
        curve = read_curve(run_folders(self.home / run.folder_name)[-1])
        return Result(
            plan=self.plan.name,
            name=run.name,
            data=run.data,
            seed=run.seed,
            command=self.command(run),
            commit=commit,
            machine=describe_machine(),
            parameters=scores["parameters"],
            gflops=scores["gflops"],
            minutes=round(self.add_minutes(run, 0.0), 1),
            map_50_95=round(scores["map"], 5),
            map_50=round(scores["map_50"], 5),
            last_map_50_95=curve["map_50_95"][-1],
            curve=curve,
        )

    def work(self, only: Sequence[str] = ()) -> None:
        """Train and score whatever has no result yet.

        Args:
            only: names of runs, or of their folders (NAME-DATA-seedK); empty: all.

        Raises:
            UserError: a run cannot be made; those before it are done.
        """
        wanted = [run for run in self.plan.runs if not only or {run.name, run.folder_name} & set(only)]
        open_runs = [run for run in wanted if not self.result_path(run).is_file()]
        log.info("%d of %d runs have a result", len(wanted) - len(open_runs), len(wanted))
        started = time.monotonic()
        with occupied(self.home):
            for number, run in enumerate(open_runs):
                spent = time.monotonic() - started
                left = f", about {clock(spent / number * (len(open_runs) - number))} left" if number else ""
                log.info("run %d of %d: %s%s", number + 1, len(open_runs), run.folder_name, left)
                commit = current_commit()
                self.train(run)
                result = self.result(run, commit)
                result.write(self.result_path(run))
                log.info("%s: mAP50-95 %.4f; %s", run.folder_name, result.map_50_95, self.result_path(run))


def named_sets(entry: dict[str, Any], sets: dict[str, Any]) -> list[str]:
    """The data sets of a run: its own `data`, a name or several, or all that the plan has."""
    data = entry.get("data", list(sets))
    if not data:
        raise TypeError(f"run {entry.get('name')} has no data")
    return [data] if isinstance(data, str) else list(data)


def merged(shared: dict[str, Any], of_data: dict[str, Any] | None, entry: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run: its own before those of its data set, and those before the ones of all."""
    return {**shared, **(of_data or {}), **(entry.get("settings") or {})}


def call(script: str, options: Sequence[str]) -> None:
    """Run train.py or eval.py in a process of its own, as a user would.

    Raises:
        StoppedError: it was stopped by a signal.
        UserError: it failed; it has said why.
    """
    process = subprocess.Popen([sys.executable, str(REPOSITORY / script), *options], cwd=REPOSITORY)
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:  # the terminal sends it to both: let it save
            continue
    if code > EXIT_SIGNAL:
        raise StoppedError(f"in {script}; the same command goes on from here", code - EXIT_SIGNAL)
    if code:
        raise UserError(f"{script} ended with {code}: {shlex.join(options)}")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="action", required=True)
    run = commands.add_parser("run", help="train and score what has no result yet")
    run.add_argument("plan", type=Path)
    run.add_argument("--data_root", type=Path, required=True, help="folder that holds the data sets by name")
    run.add_argument("--runs_dir", type=Path, default=REPOSITORY / "runs" / "lab")
    run.add_argument("--only", nargs="*", default=[], help="names of runs, or NAME-DATA-seedK")
    timing = commands.add_parser("time", help="measure what the plan's models cost on this CPU")
    timing.add_argument("plan", type=Path)
    timing.add_argument("--threads", type=int, default=2)
    timing.add_argument("--rounds", type=int, default=30)
    show = commands.add_parser("show", help="write tables and figures from the results")
    show.add_argument("plan", type=Path)
    for command in (run, timing, show):
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of the results of all plans")
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    config = build_parser().parse_args(args)

    def command() -> None:
        plan = Plan.read(config.plan)
        results = config.results / plan.name
        if config.action == "run":
            Laboratory(plan, config.data_root.resolve(), config.runs_dir.resolve(), results).work(config.only)
        names = list(dict.fromkeys(run.name for run in plan.runs))
        if config.action == "time":
            structures = {run.name: structure(run.config, run.settings) for run in plan.runs}
            costs = measure_costs(structures, config.threads, config.rounds)
            write_costs(costs, config.threads, config.rounds, results / LATENCY_NAME)
        documents = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")] if config.results == RESULTS else []
        for path in write_pages(results, names, read_results(results), read_costs(results, names), documents):
            log.info("%s", path)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
