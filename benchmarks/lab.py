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
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.lab_children import Children, call
from benchmarks.lab_latency import LATENCY_NAME, measure_costs, structures_of, write_costs
from benchmarks.lab_notes import NOTES_NAME, Notes, Start
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
from yolo_lite.utils.errors import StoppedError, UserError
from yolo_lite.utils.runs import BEST_NAME, CHECKPOINTS, METRICS_NAME, occupied, run_folders

log = logging.getLogger("yolo_lite.lab")  # a child of the package's logger, which has the handlers

PRUNED_NAME = "pruned.ckpt"
QUANTISE = ("-m", "yolo_lite.quantise")
QUANTISE_LIMITS = ("--max_loss", "1", "--max_size", "1")  # whatever it loses is what is asked for


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
        self.children = Children()
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
        if not folders or not (path := folders[-1] / CHECKPOINTS / BEST_NAME).is_file():
            told = "delete its result, and its folder if there is one, to train it again"
            raise UserError(f"no best checkpoint of {run.folder_name} in {self.home}: {told}")
        return path

    def scored(self, run: Run) -> dict[str, list[float]]:
        """Its epochs so far, by name; nothing where none has been scored."""
        folders = run_folders(self.home / run.folder_name)
        return read_curve(folders[-1]) if folders and (folders[-1] / METRICS_NAME).is_file() else {}

    def call(self, run: Run, program: Sequence[str], options: Sequence[str]) -> None:
        """Run a script for a run, see `call`; where several are at work, it prints to a file of the run."""
        self.home.mkdir(parents=True, exist_ok=True)
        call(program, options, self.home / f"{run.folder_name}.log" if self.jobs > 1 else None, self.children)

    def options(self, run: Run) -> list[str]:
        """Of train.py, without the places of this machine."""
        options = ["--config", run.config]
        for name, value in run.settings.items():
            options += [f"--{name}", yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("\n...")]
        return [*options, "--seed_everything", str(run.seed)]

    def command(self, run: Run) -> str:
        """What a reader types to train it, or to write it in int8."""
        if run.quantised is not None:
            given = ["--checkpoint", f"{run.quantised}/{BEST_NAME}", "--data.root", f"DATA/{run.data}"]
            return shlex.join(["python", *QUANTISE, *given, *QUANTISE_LIMITS])
        options = ["python", "train.py", *self.options(run), "--data.root", f"DATA/{run.data}"]
        for option, other in run.sources.items():
            is_pruned = run.pruned is not None and option == "--weights"
            options += [option, PRUNED_NAME if is_pruned else f"{other}/{BEST_NAME}"]
        before = []
        if run.pruned is not None:
            prune = ["python", "-m", "benchmarks.prune", f"{run.pruned}/{BEST_NAME}"]
            before = [shlex.join([*prune, "--width", str(run.settings[WIDTH]), "--out", PRUNED_NAME])]
        return " && ".join([*before, shlex.join(options)])

    def initial_checkpoint(self, run: Run, option: str, name: str) -> Path:
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
        """Train, or go on with it.

        Raises:
            UserError: its folder holds what another command trained, or training failed.
        """
        folder = self.home / run.folder_name
        notes = Notes.of(folder, self.command(run), self.source_scores(run))
        machine = describe_machine(run.settings.get("trainer.accelerator", "auto"))
        notes.starts.append(Start(current_commit(), machine, len(self.scored(run).get("epoch", []))))
        notes.write(folder)
        options = [*self.options(run), "--data.root", str(self.data_root / run.data), "--ckpt_path", "last"]
        for option, other in run.sources.items():
            options += [option, str(self.initial_checkpoint(run, option, other))]
        begun = time.monotonic()
        try:
            self.call(run, ["train.py"], [*options, "--runs_dir", str(self.home), "--name", run.folder_name])
        finally:
            notes.minutes += (time.monotonic() - begun) / 60
            notes.write(folder)

    def source_scores(self, run: Run) -> dict[str, float]:
        """mAP50-95 of the runs that it starts from, by name, as their results have it."""
        paths = {source.name: self.result_path(source) for source in self.plan.needed_by(run)}
        return {name: read_result(path).map_50_95 for name, path in paths.items() if path.is_file()}

    def quantise(self, run: Run) -> Result:
        """Write another run's best checkpoint in int8, and gather what came of it."""
        assert run.quantised is not None
        source = self.plan.source(run.quantised, run)
        trained = read_result(self.result_path(source))
        target = self.home / f"{run.folder_name}.onnx"
        given = ["--checkpoint", str(self.best(source)), "--data.root", str(self.data_root / run.data)]
        given += QUANTISE_LIMITS
        begun, commit = time.monotonic(), current_commit()
        numbers_file = target.with_suffix(".json")
        self.call(run, QUANTISE, [*given, "--out", str(target), "--overwrite", "true", "--json", str(numbers_file)])
        numbers = json.loads(numbers_file.read_text())
        plain, int8 = numbers["float32"], numbers["int8"]
        return Result(
            plan=self.plan.name,
            name=run.name,
            data=run.data,
            seed=run.seed,
            command=self.command(run),
            commit=commit,
            machine=describe_machine("cpu"),
            parameters=trained.parameters,
            gflops=trained.gflops,
            minutes=round((time.monotonic() - begun) / 60, 1),
            map_50_95=round(int8["map_50_95"], 5),
            map_50=round(int8["map_50"], 5),
            int8={
                "megabytes": round(int8["bytes"] / 1e6, 3),
                "latency_ratio": round(int8["latency_ms"] / plain["latency_ms"], 3),
            },
            sources={source.name: trained.map_50_95},
        )

    def score(self, run: Run) -> dict[str, Any]:
        """By eval.py, on the validation images."""
        target = self.home / run.folder_name / "scores.json"
        given = ["--checkpoint", str(self.best(run)), "--data.root", str(self.data_root / run.data)]
        self.call(run, ["eval.py"], [*given, "--split", "val", "--report", "none", "--json", str(target)])
        return json.loads(target.read_text())

    def result(self, run: Run) -> Result:
        """Score it and gather what came of it."""
        scores = self.score(run)
        notes, curve = Notes.read(self.home / run.folder_name / NOTES_NAME), self.scored(run)
        commits, machines = notes.where(len(curve["epoch"]))
        return Result(
            plan=self.plan.name,
            name=run.name,
            data=run.data,
            seed=run.seed,
            command=self.command(run),
            commit=commits,
            machine=machines,
            parameters=scores["parameters"],
            gflops=scores["gflops"],
            minutes=round(notes.minutes, 1),
            map_50_95=round(scores["map"], 5),
            map_50=round(scores["map_50"], 5),
            last_map_50_95=curve["map_50_95"][-1],
            curve=curve,
            sources=notes.sources,
        )

    def make(self, run: Run) -> None:
        """Train and score a run, or write it in int8, and keep what came of it."""
        if run.quantised is not None:
            result = self.quantise(run)
        else:
            self.train(run)
            result = self.result(run)
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
        self.compare_commands([run for run in wanted if run not in waiting])
        self.check_settings(waiting)
        with occupied(self.home):
            work_through(waiting, self.plan.needed_by, self.make, self.stop, self.jobs)
        self.compare_sources([run for run in wanted if self.result_path(run).is_file()])
        if self.children.stopped_by is not None:  # and what was at work came to its end
            raise StoppedError("the laboratory; the same command goes on from here", self.children.stopped_by)

    def compare_commands(self, runs: Sequence[Run]) -> None:
        """Say which results are of other settings than the plan has now."""
        others = [run.folder_name for run in runs if read_result(self.result_path(run)).command != self.command(run)]
        if others:
            told = (
                "made by another command than the plan's; to make one again, delete its result and its folder in %s: %s"
            )
            log.warning(told, self.home, ", ".join(others))

    def compare_sources(self, runs: Sequence[Run]) -> None:
        """Say which results started from a training of a run that another one has replaced."""
        for run in runs:
            present = self.source_scores(run)
            for name, noted in read_result(self.result_path(run)).sources.items():
                if noted != present.get(name, noted):
                    log.warning(
                        "%s started from a %s of %.5f, which has %.5f now: to make it again, delete its result and %s",
                        *(run.folder_name, name, noted, present[name], self.home / run.folder_name),
                    )

    def check_settings(self, runs: Sequence[Run]) -> None:
        """Ask train.py's command line about those that are trained, see `check_settings`."""
        from benchmarks.lab_settings import check_settings  # Lightning, which showing results does without

        check_settings({run.folder_name: self.options(run) for run in runs if run.quantised is None})

    def stop(self, number: int) -> None:
        """Start nothing more; see `Children.stop`."""
        at_work = self.children.stop(number)
        log.info("%s: waiting for %d at work to save", signal.Signals(number).name, at_work)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="action", required=True)
    run = commands.add_parser("run", help="train and score what has no result yet")
    run.add_argument("plan", type=Path)
    run.add_argument("--data_root", type=Path, required=True, help="folder that holds the data sets by name")
    run.add_argument("--runs_dir", type=Path, default=REPOSITORY / "runs" / "lab")
    run.add_argument("--only", nargs="+", default=[], help="names of runs, or NAME-DATA-seedK")
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
