"""The laboratory: make every run of a plan by the ordinary train.py, eval.py and quantise.

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
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from benchmarks.lab_latency import LATENCY_NAME, measure_costs, structures_of, write_costs
from benchmarks.lab_pages import documents, known_of, write_pages
from benchmarks.lab_plan import WIDTH, Plan, Run
from benchmarks.lab_queue import work_through
from benchmarks.lab_results import (
    REPOSITORY,
    RESULTS,
    Result,
    current_commit,
    describe_machine,
    read_curve,
    read_result,
)
from yolo_lite.utils.console import run_command
from yolo_lite.utils.errors import EXIT_SIGNAL, StoppedError, UserError
from yolo_lite.utils.files import replacing
from yolo_lite.utils.runs import BEST_NAME, CHECKPOINTS, occupied, run_folders

log = logging.getLogger("yolo_lite.lab")  # a child of the package's logger, which has the handlers

PRUNED_NAME = "pruned.ckpt"
COMMAND_NAME = "command.txt"
QUANTISE = ("-m", "yolo_lite.quantise")


class Laboratory:
    """Works on a plan.

    Args:
        plan: what to do.
        data_root: folder that holds the data sets.
        runs_dir: where run folders are made.
        results: folder of the results of this plan.
        jobs: runs at a time; where it is more than one, what a run prints goes to a file beside its folder.
    """

    def __init__(self, plan: Plan, data_root: Path, runs_dir: Path, results: Path, jobs: int = 1) -> None:
        if jobs < 1:
            raise UserError(f"--jobs {jobs}: give at least 1")
        self.plan = plan
        self.jobs = jobs
        self.children: list[subprocess.Popen[bytes]] = []  # at work now
        self.stopped_by: int | None = None  # the signal that asked for an end
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
            told = "delete its result, and its folder if there is one, to train it again"
            raise UserError(f"no best checkpoint of {run.folder_name} in {self.home}: {told}")
        return path

    def claim_folder(self, run: Run) -> None:
        """Note in a run's folder by which command it is trained: what another one trained is not to have its name.

        Raises:
            UserError: another one did.
        """
        folder = self.home / run.folder_name
        path = folder / COMMAND_NAME
        if run_folders(folder) and (not path.is_file() or path.read_text().rstrip("\n") != self.command(run)):
            raise UserError(f"{folder} was trained by another command than the plan's: move it away or delete it")
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(f"{self.command(run)}\n".encode())

    def call(self, run: Run, program: Sequence[str], options: Sequence[str]) -> None:
        """A part of the work on a run, see `call`."""
        if self.stopped_by is not None:
            raise StoppedError(f"before {' '.join(program)} of {run.folder_name}", self.stopped_by)
        self.home.mkdir(parents=True, exist_ok=True)
        call(program, options, self.home / f"{run.folder_name}.log" if self.jobs > 1 else None, self.children)

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
        if not run_folders(self.home / run.folder_name):
            path.unlink(missing_ok=True)  # of another width, or of a source that was trained again
        if not path.is_file():
            from benchmarks.prune import prune_file  # torch-pruning is needed here alone

            path.parent.mkdir(parents=True, exist_ok=True)
            prune_file(best, run.settings[WIDTH], path)
        return path

    def train(self, run: Run) -> None:
        """Train, or go on with it."""
        self.claim_folder(run)
        options = [*self.options(run), "--data.root", str(self.data_root / run.data), "--ckpt_path", "last"]
        for option, other in run.sources.items():
            options += [option, str(self.start(run, option, other))]
        begun = time.monotonic()
        try:
            self.call(run, ["train.py"], [*options, "--runs_dir", str(self.home), "--name", run.folder_name])
        finally:
            self.add_minutes(run, (time.monotonic() - begun) / 60)

    def add_minutes(self, run: Run, minutes: float) -> float:
        """What it has taken so far, all its parts together."""
        path = self.home / run.folder_name / "minutes.txt"
        total = minutes + (float(path.read_text()) if path.is_file() else 0.0)
        with replacing(path) as file:
            file.write(f"{total:.3f}\n".encode())
        return total

    def quantise(self, run: Run, commit: str) -> Result:
        """Write another run's best checkpoint in int8, whatever that loses, and gather what came of it."""
        assert run.quantised is not None
        source = self.plan.source(run.quantised, run)
        trained = read_result(self.result_path(source))
        target = self.home / f"{run.folder_name}.onnx"
        limits = ["--max_loss", "1", "--max_size", "1"]
        given = ["--checkpoint", str(self.best(source)), "--data.root", str(self.data_root / run.data), *limits]
        begun = time.monotonic()
        numbers_file = target.with_suffix(".json")
        self.call(run, QUANTISE, [*given, "--out", str(target), "--overwrite", "true", "--json", str(numbers_file)])
        numbers = json.loads(numbers_file.read_text())
        plain, int8 = numbers["float32"], numbers["int8"]
        shown = ["--checkpoint", f"{run.quantised}/{BEST_NAME}", "--data.root", f"DATA/{run.data}", *limits]
        return Result(
            plan=self.plan.name,
            name=run.name,
            data=run.data,
            seed=run.seed,
            command=shlex.join(["python", *QUANTISE, *shown]),
            commit=commit,
            machine=describe_machine(),
            parameters=trained.parameters,
            gflops=trained.gflops,
            minutes=round((time.monotonic() - begun) / 60, 1),
            map_50_95=round(int8["map_50_95"], 5),
            map_50=round(int8["map_50"], 5),
            int8={
                "megabytes": round(int8["bytes"] / 1e6, 3),
                "latency_ratio": round(int8["latency_ms"] / plain["latency_ms"], 3),
            },
        )

    def score(self, run: Run) -> dict[str, Any]:
        """By eval.py, on the validation images."""
        target = self.home / run.folder_name / "scores.json"
        given = ["--checkpoint", str(self.best(run)), "--data.root", str(self.data_root / run.data)]
        self.call(run, ["eval.py"], [*given, "--split", "val", "--report", "none", "--json", str(target)])
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

    def make(self, run: Run) -> None:
        """Train and score a run, or write it in int8, and keep what came of it."""
        commit = current_commit()
        if run.quantised is not None:
            result = self.quantise(run, commit)
        else:
            self.train(run)
            result = self.result(run, commit)
        result.write(self.result_path(run))
        log.info("%s: mAP50-95 %.4f; %s", run.folder_name, result.map_50_95, self.result_path(run))

    def work(self, only: Sequence[str] = ()) -> None:
        """Train and score whatever has no result yet, in the order of the plan; what starts from a run waits for it.

        Args:
            only: names of runs, or of their folders (NAME-DATA-seedK); empty: all.

        Raises:
            StoppedError: a signal asked for an end; what was at work has saved.
            UserError: a run cannot be made; those before it are done, and those beside it.
        """
        wanted = [run for run in self.plan.runs if not only or {run.name, run.folder_name} & set(only)]
        known = {name for run in wanted for name in (run.name, run.folder_name)}
        if unknown := [name for name in only if name not in known]:
            raise UserError(f"--only {unknown[0]}: plan {self.plan.name} has no such run")
        waiting = [run for run in wanted if not self.result_path(run).is_file()]
        for run in waiting:
            for source in self.plan.needed_by(run):
                if source not in waiting and not self.result_path(source).is_file():
                    raise UserError(
                        f"{run.folder_name} starts from {source.folder_name}, which has no result: add it to --only"
                    )
        log.info("%d of %d runs have a result", len(wanted) - len(waiting), len(wanted))
        for run in wanted:
            if run not in waiting and run.quantised is None:
                self.compare(run)
        with occupied(self.home):
            work_through(waiting, self.plan.needed_by, self.make, self.stop, self.jobs)
        if self.stopped_by is not None:  # and what was at work came to its end
            raise StoppedError("the laboratory; the same command goes on from here", self.stopped_by)

    def compare(self, run: Run) -> None:
        """Say where a result is of other settings than the plan has now."""
        path = self.result_path(run)
        if read_result(path).command != self.command(run):
            folder = self.home / run.folder_name
            told = "was made by another command than the plan's: to make it again, delete it and"
            log.warning("%s %s %s", path, told, folder)

    def stop(self, number: int) -> None:
        """Start nothing more. The terminal sends Ctrl-C to what is at work as well; SIGTERM is passed on here."""
        self.stopped_by = number
        log.info("%s: waiting for %d at work to save", signal.Signals(number).name, len(self.children))
        if number == signal.SIGTERM:
            for child in list(self.children):
                child.send_signal(number)


def call(
    program: Sequence[str],
    options: Sequence[str],
    output: Path | None,
    children: list[subprocess.Popen[bytes]],
) -> None:
    """Run a script or a module of the repository in a process of its own, as a user would.

    Args:
        program: file of the script, or -m and the module's name.
        options: its own.
        output: file that what it prints is added to; None: it is shown.
        children: has the process for as long as it runs.

    Raises:
        StoppedError: it was stopped by a signal.
        UserError: it failed; it has said why.
    """
    with open(output, "a") if output is not None else nullcontext() as file:
        command = [sys.executable, *program, *options]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=file, stderr=file)
        children.append(process)
        try:
            code = process.wait()
        finally:
            children.remove(process)
    if code < 0:  # killed by a signal, before it could answer it
        code = EXIT_SIGNAL - code
    if code > EXIT_SIGNAL:
        raise StoppedError(f"in {' '.join(program)}; the same command goes on from here", code - EXIT_SIGNAL)
    if code:
        said = f"; {output} says why" if output is not None else ""
        raise UserError(f"{' '.join(program)} ended with {code}{said}: {shlex.join(options)}")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="action", required=True)
    run = commands.add_parser("run", help="train and score what has no result yet")
    run.add_argument("plan", type=Path)
    run.add_argument("--data_root", type=Path, required=True, help="folder that holds the data sets by name")
    run.add_argument("--runs_dir", type=Path, default=REPOSITORY / "runs" / "lab")
    run.add_argument("--only", nargs="*", default=[], help="names of runs, or NAME-DATA-seedK")
    run.add_argument("--jobs", type=int, default=1, help="runs at a time, for a machine that one does not fill")
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
            places = config.data_root.resolve(), config.runs_dir.resolve()
            Laboratory(plan, *places, results, config.jobs).work(config.only)
        if config.action == "time":
            costs = measure_costs(structures_of(plan), config.threads, config.rounds)
            write_costs(costs, config.threads, config.rounds, results / LATENCY_NAME)
        shown_in = documents() if config.results.resolve() == RESULTS.resolve() else []
        pages = write_pages(results, plan.names, *known_of(plan, results), shown_in)
        for path in pages:
            log.info("%s", path)
        if config.action == "show" and not pages:
            log.info("nothing to show: there is no result of the plan %s in %s", plan.name, results)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
