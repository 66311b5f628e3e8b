"""Plans of the laboratory: which runs there are, and which of them start from another one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from yolo_lite.utils.errors import UserError

KEYS = {"name", "config", "data", "settings", "seeds", "weights", "teacher", "pruned", "quantised"}
TRAINED_KEYS = ("config", "settings", "weights", "teacher", "pruned")  # of what is trained, not of a model in int8
NAME = re.compile(r"[\w.-]*\w[\w.-]*")  # what may be part of the name of a file
MOST_NAMES = 24  # that a figure tells apart
WIDTH = "model.width"  # setting of a pruned run: how much is left


def run_name(name: str, data: str, seed: int) -> str:
    """Of one run's folder and of its result's file."""
    return f"{name}-{data}-seed{seed}"


@dataclass(frozen=True)
class Run:
    """One training, or a trained model in int8.

    Attributes:
        plan: name of its plan.
        name: of the run, unique in the plan for each data set.
        config: file of the model's settings, from the repository's root; of a model in int8, that of its source.
        data: name of the data set.
        seed: of order, augmentation and initial weights.
        settings: options of train.py and their values; of a model in int8, those of its source.
        weights, teacher: runs of the plan with the same seed whose best checkpoint it starts from or learns from.
        pruned: another one whose best checkpoint it starts from, after it was pruned to this run's `model.width`.
        quantised: another one whose best checkpoint is written in int8; nothing is trained.
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
    quantised: str | None = None

    @property
    def folder_name(self) -> str:
        return run_name(self.name, self.data, self.seed)

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

    @property
    def names(self) -> list[str]:
        """Of its runs, in order, each once for all seeds and data sets."""
        return list(dict.fromkeys(run.name for run in self.runs))

    @staticmethod
    def read(path: Path) -> Plan:
        """From YAML: `settings` and `seeds` of all, and a list of `runs`; `data` maps sets to settings of their own.

        A run names its set, or several, or none: then it is made with all of `data`; so with `seeds`. The settings of a
        run come before those of a set, and those before the settings of all.

        Raises:
            UserError: it is not there, or holds something else.
        """
        try:
            content = yaml.safe_load(path.read_text())
            shared, entries, sets = content.get("settings") or {}, content["runs"], content.get("data") or {}
            for entry in entries:
                if unknown := entry.keys() - KEYS:
                    raise UserError(
                        f"{path}: unknown {', '.join(sorted(unknown))}: there are {', '.join(sorted(KEYS))}"
                    )
                if entry.get("quantised") and (needless := [key for key in TRAINED_KEYS if entry.get(key)]):
                    told = f"is quantised, not trained: leave out {', '.join(needless)}"
                    raise UserError(f"{path}: run {entry.get('name')} {told}")
            own_seeds = [named_seeds(entry, content.get("seeds") or [0]) for entry in entries]
            runs = []
            for seed in dict.fromkeys(seed for seeds in own_seeds for seed in seeds):
                for entry in [entry for entry, seeds in zip(entries, own_seeds, strict=True) if seed in seeds]:
                    facts = {name: value for name, value in entry.items() if name != "seeds"}
                    if entry.get("quantised"):
                        facts["config"] = ""  # its source's, below
                    for data in named_sets(entry, sets):
                        facts |= {"data": data, "settings": merged(shared, sets.get(data), entry)}
                        runs.append(Run(path.stem, seed=seed, **facts))
        except OSError as error:
            raise UserError(f"cannot read the plan {path}: {error.strerror}") from None
        except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no plan: {' '.join(str(error).split())}") from None
        plan = Plan(path.stem, runs)
        for run in runs:
            for part in (run.name, run.data):
                if not isinstance(part, str) or not NAME.fullmatch(part):
                    raise UserError(f"{path}: {part!r} cannot name a run or its data")
            if not isinstance(run.config, str):
                raise UserError(f"{path}: {run.config!r} cannot name the config of {run.name}")
            if run.pruned is not None and (run.weights is not None or WIDTH not in run.settings):
                raise UserError(f"{path}: run {run.name} is pruned: give it {WIDTH} and no weights")
        names = [run.folder_name for run in runs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"{path}: {sorted(twice)[0]} is there twice: give each run a name of its own")
        if len(plan.names) > MOST_NAMES:
            raise UserError(
                f"{path} has {len(plan.names)} runs, and figures tell {MOST_NAMES} apart: make two plans of it"
            )
        for run in runs:
            if quantised := [other.name for other in plan.needed_by(run) if other.quantised is not None]:
                raise UserError(f"{path}: run {run.name} starts from {quantised[0]}, which is not trained")
        return Plan(path.stem, [plan.described(run) for run in runs])

    def described(self, run: Run) -> Run:
        """A run with the model of its source, where it is one in int8."""
        if run.quantised is None:
            return run
        source = self.source(run.quantised, run)
        return replace(run, config=source.config, settings=source.settings)

    def needed_by(self, run: Run) -> list[Run]:
        """The runs that one starts from, see `source`."""
        names = [*run.sources.values(), *([run.quantised] if run.quantised else [])]
        return [self.source(name, run) for name in names]

    def source(self, name: str, needed_by: Run) -> Run:
        """The run of a name that another one starts from: before it in the plan, of the same seed, and of the same data
        where there is one.

        Raises:
            UserError: there is none before it.
        """
        earlier = self.runs[: self.runs.index(needed_by)]
        found = [run for run in earlier if (run.name, run.seed) == (name, needed_by.seed)]
        if not found:
            raise UserError(f"plan {self.name}: no run {name} comes before the run that needs it")
        return next((run for run in found if run.data == needed_by.data), found[0])


def named_sets(entry: dict[str, Any], sets: dict[str, Any]) -> list[str]:
    """The data sets of a run: its own `data`, a name or several, or all that the plan has."""
    data = entry.get("data", list(sets))
    if not data:
        raise TypeError(f"run {entry.get('name')} has no data")
    return [data] if isinstance(data, str) else list(data)


def named_seeds(entry: dict[str, Any], seeds: Any) -> list[int]:
    """The seeds of a run: its own, or those of the plan."""
    found = entry.get("seeds", seeds)
    if not isinstance(found, list) or not found or not all(type(seed) is int for seed in found):
        raise TypeError(f"seeds {found!r} are not whole numbers in a list")
    return found


def merged(shared: dict[str, Any], of_data: dict[str, Any] | None, entry: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run: its own before those of its data set, and those before the ones of all."""
    return {**shared, **(of_data or {}), **(entry.get("settings") or {})}
