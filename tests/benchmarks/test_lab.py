"""The laboratory: every run once, stopped or not, and tables that are what its files say."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import eval as eval_script
import train as train_script
from benchmarks import lab
from benchmarks.lab_children import Children
from benchmarks.lab_figures import SOURCE, curves_of, figures_of, fingerprint, frontier_of
from benchmarks.lab_latency import Cost, measure_costs, read_costs, structure, structures_of, write_costs
from benchmarks.lab_notes import NOTES_NAME, Notes, Start
from benchmarks.lab_pages import documents, known_of, write_pages
from benchmarks.lab_plan import Plan
from benchmarks.lab_results import CURVE, RESULTS, Result, describe_machine, read_results
from benchmarks.lab_tables import (
    after_a_third,
    gain_of_the_last_fifth,
    summary,
    table,
    tables,
    with_table,
    with_tables,
)
from yolo_lite import quantise
from yolo_lite.utils.errors import StoppedError, UserError

PLAN = """
settings:
  data.image_size: 64
  data.batch_size: 4
  data.num_workers: 0
  data.cache: none
  trainer.accelerator: cpu
  trainer.precision: 32-true
  trainer.logger: false
  trainer.max_epochs: 2
  model.nominal_batch: 4
seeds: [3]
runs:
  - {name: first, config: configs/yolov8n.yaml, data: boxes}
  - {name: second, config: configs/yolov8n.yaml, data: boxes, weights: first, teacher: first,
     settings: {model.block: cspc, trainer.max_epochs: 1}}
"""


MAINS = {"train.py": train_script.main, "eval.py": eval_script.main, "yolo_lite.quantise": quantise.main}


@pytest.fixture
def plan(tmp_path: Path, make_coco: Any) -> list[str]:
    """The command of a plan on a tiny data set."""
    make_coco(tmp_path / "data" / "boxes")
    (tmp_path / "tiny.yaml").write_text(PLAN)
    places = ["--data_root", str(tmp_path / "data"), "--runs_dir", str(tmp_path / "runs")]
    return ["run", str(tmp_path / "tiny.yaml"), *places, "--results", str(tmp_path / "results")]


def test_a_plan_is_worked_through_once(plan: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Stopped after an epoch of the first run, it goes on; done, it does nothing more."""
    calls: list[str] = []

    def in_this_process(program: Sequence[str], options: Sequence[str], output: Path | None, children: Any) -> None:
        calls.append(program[-1])
        given = list(options)
        is_first = len(calls) == 1
        if is_first:
            given += ["--trainer.max_epochs", "1"]  # as far as it comes
        assert MAINS[program[-1]](given) == 0
        if is_first:
            raise StoppedError("as planned")

    commit = ["before"]
    monkeypatch.setattr(lab, "call", in_this_process)
    monkeypatch.setattr(lab, "current_commit", lambda: commit[0])
    assert lab.main(plan) == 143
    commit[0] = "later"
    assert not list((tmp_path / "results").rglob("*.json"))
    assert lab.main(plan) == 0
    assert calls == ["train.py", "train.py", "eval.py", "train.py", "eval.py"]
    first, second = read_results(tmp_path / "results" / "tiny")
    assert (first.name, first.seed, first.curve["epoch"]) == ("first", 3, [0, 1])
    assert second.curve["epoch"] == [0]
    assert (first.commit, second.commit) == ("before; later", "later")
    assert (first.sources, second.sources) == ({}, {"first": first.map_50_95})
    assert second.parameters < first.parameters
    assert "--weights first/best.ckpt --model.teacher first/best.ckpt" in second.command
    assert str(tmp_path) not in second.command
    assert [len(list((tmp_path / "runs" / "tiny").glob(f"{r.name}*/version_*"))) for r in (first, second)] == [1, 1]
    config = next((tmp_path / "runs" / "tiny").glob("second*/version_0/config.yaml")).read_text()
    assert f"teacher: {tmp_path / 'runs' / 'tiny' / 'first-boxes-seed3'}" in config
    shown = (tmp_path / "results" / "tiny" / "table.md").read_text()
    assert f"| first | boxes | {first.parameters:,} |" in shown
    assert (tmp_path / "results" / "tiny" / "curves-boxes.png").read_bytes().startswith(b"\x89PNG")

    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.json")}
    calls.clear()
    assert lab.main(plan) == 0
    assert not calls
    assert {path: path.read_bytes() for path in before} == before
    output = capsys.readouterr().out
    assert "2 of 2 runs have a result" in output
    assert "another command" not in output

    path = Path(plan[1])  # a longer plan: the results are of the shorter one, which is said, and they are kept
    path.write_text(path.read_text().replace("max_epochs: 2", "max_epochs: 3"))
    assert lab.main(plan) == 0
    output = capsys.readouterr()
    told = f"delete its result and its folder in {tmp_path / 'runs' / 'tiny'}: first-boxes-seed3\n"
    assert told in output.out + output.err
    assert not calls

    trained_again = replace(first, map_50_95=0.5)
    trained_again.write(tmp_path / "results" / "tiny" / "first-boxes-seed3.json")
    assert lab.main(plan) == 0
    output = capsys.readouterr()
    told = f"second-boxes-seed3 started from a first of {first.map_50_95:.5f}, which has 0.50000 now"
    assert told in output.out + output.err
    (tmp_path / "results" / "tiny" / "second-boxes-seed3.json").unlink()  # its folder is of the earlier one
    assert lab.main(plan) == 2
    assert "second-boxes-seed3 was trained from another training of its source: move it away" in capsys.readouterr().err
    assert not calls

    (tmp_path / "results" / "tiny" / "first-boxes-seed3.json").unlink()  # what the folder holds is the shorter one too
    assert lab.main(plan) == 2
    assert "first-boxes-seed3 was trained by another command than the plan's: move it away" in capsys.readouterr().err
    assert not calls


def test_a_pruned_run_starts_from_what_is_left(plan: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """Of the other run's best checkpoint, in the width of its own, and again where that was changed."""
    pytest.importorskip("torch_pruning", reason="torch-pruning is not installed (requirements-dev.txt)")
    text = (tmp_path / "tiny.yaml").read_text()
    pruned = text.replace("weights: first, teacher: first", "pruned: first").replace("block: cspc", "width: 0.16")
    (tmp_path / "tiny.yaml").write_text(pruned)
    given: list[list[str]] = []

    def in_this_process(program: Sequence[str], options: Sequence[str], output: Path | None, children: Any) -> None:
        given.append(list(options))
        assert MAINS[program[-1]](list(options)) == 0

    monkeypatch.setattr(lab, "call", in_this_process)
    assert lab.main(plan) == 0
    _, second = read_results(tmp_path / "results" / "tiny")
    home = tmp_path / "runs" / "tiny"
    assert given[2][given[2].index("--weights") + 1] == str(home / "second-boxes-seed3-pruned.ckpt")
    assert second.parameters == 1_528_046
    prune, train = second.command.split(" && ")
    assert prune == "python -m benchmarks.prune first/best.ckpt --width 0.16 --out pruned.ckpt"
    assert "--model.width 0.16" in train and train.endswith("--weights pruned.ckpt")

    (tmp_path / "tiny.yaml").write_text(pruned.replace("width: 0.16", "width: 0.08"))
    (tmp_path / "results" / "tiny" / "second-boxes-seed3.json").unlink()
    (home / "second-boxes-seed3").rename(tmp_path / "elsewhere")
    assert lab.main(plan) == 0
    assert read_results(tmp_path / "results" / "tiny")[1].parameters < second.parameters


def test_a_trained_model_in_int8(plan: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    """Written from the other run's best checkpoint; its bytes and its latency are kept beside the scores."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements-export.txt)")
    text = (tmp_path / "tiny.yaml").read_text()
    end = text.index("  - {name: second")
    (tmp_path / "tiny.yaml").write_text(text[:end] + "  - {name: second, data: boxes, quantised: first}\n")
    calls: list[str] = []

    def in_this_process(program: Sequence[str], options: Sequence[str], output: Path | None, children: Any) -> None:
        calls.append(program[-1])
        if program[-1] != "yolo_lite.quantise":
            assert MAINS[program[-1]](list(options)) == 0
            return
        given = dict(zip(options[::2], options[1::2], strict=True))  # an untrained model has nothing to compare
        assert given["--checkpoint"] == str(lab_home / "first-boxes-seed3" / "version_0" / "checkpoints" / "best.ckpt")
        numbers = {"bytes": 12_000_000, "latency_ms": 40.0, "map_50_95": 0.5, "map_50": 0.7}
        int8 = {"bytes": 3_100_000, "latency_ms": 20.0, "map_50_95": 0.49, "map_50": 0.69}
        Path(given["--json"]).write_text(json.dumps({"float32": numbers, "int8": int8}))

    lab_home = tmp_path / "runs" / "tiny"
    monkeypatch.setattr(lab, "call", in_this_process)
    assert lab.main(plan) == 0
    assert calls == ["train.py", "eval.py", "yolo_lite.quantise"]
    first, second = read_results(tmp_path / "results" / "tiny")
    assert second.int8 == {"megabytes": 3.1, "latency_ratio": 0.5}
    assert (second.map_50_95, second.map_50, second.last_map_50_95) == (0.49, 0.69, None)
    assert (second.parameters, second.curve) == (first.parameters, {})
    assert second.command.startswith("python -m yolo_lite.quantise --checkpoint first/best.ckpt --data.root DATA/boxes")
    assert second.sources == {"first": first.map_50_95}


def test_a_script_that_fails_ends_the_plan(plan: list[str], tmp_path: Path, capsys: Any) -> None:
    text = (tmp_path / "tiny.yaml").read_text().replace("data: boxes", "data: elsewhere")
    (tmp_path / "tiny.yaml").write_text(text)
    assert lab.main(plan) == 2
    assert "train.py ended with 2: --config configs/yolov8n.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("weights: first", "weights: third", "no run third comes before"),
        ("name: second", "name: first", "first-boxes-seed3 is there twice"),
        ("teacher: first", "techer: first", "unknown techer"),
        ("weights: first", "pruned: first", "run second is pruned: give it model.width"),
        (
            "weights: first, teacher: first",
            "quantised: first",
            "run second is quantised, not trained: leave out config, sett",
        ),
        ("name: second", "name: ../second", r"'\.\./second' cannot name a run"),
        ("name: second", "name: ", "None cannot name a run"),
        ("config: configs/yolov8n.yaml, data: boxes}", "config: 3, data: boxes}", "3 cannot name the config of first"),
        ("seeds: [3]", 'seeds: "01"', "seeds '01' are not whole numbers"),
        ("seeds: [3]", "seeds: [0.5]", r"seeds \[0.5\] are not whole numbers"),
        ("name: second", 'name: ""', "'' cannot name a run"),
        ("runs:", "walks:", "is no plan"),
        ("runs:", "runs: [", "is no plan"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(old: str, new: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(PLAN.replace(old, new))
    with pytest.raises(UserError, match=expected) as error:
        Plan.read(path)
    assert "\n" not in str(error.value)


def test_what_was_not_trained_is_no_start(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "runs:\n  - {name: a, config: c, data: x}\n  - {name: b, data: x, quantised: a}\n"
        "  - {name: c, config: c, data: x, teacher: b}\n"
    )
    with pytest.raises(UserError, match="run c starts from b, which is not trained"):
        Plan.read(path)
    path.write_text(path.read_text().replace("teacher: b", "quantised: d"))
    with pytest.raises(UserError, match="run c is quantised, not trained: leave out config"):
        Plan.read(path)
    path.write_text(path.read_text().replace("config: c, data: x, quantised: d", "data: x, quantised: d"))
    with pytest.raises(UserError, match="no run d comes before"):
        Plan.read(path)
    path.write_text(path.read_text().replace("quantised: d", "quantised: a, teacher: a"))
    with pytest.raises(UserError, match="run c is quantised, not trained: leave out teacher"):
        Plan.read(path)


def test_a_model_in_int8_is_that_of_its_source(tmp_path: Path) -> None:
    """With the settings that it has there, so that its costs are those of that model."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "data: {x: }\nruns:\n  - {name: a, config: configs/yolov8n.yaml, settings: {model.width: 0.16}}\n"
        "  - {name: b, quantised: a}\n"
    )
    narrow, quantised = structures_of(Plan.read(path)).values()
    assert quantised == narrow == {"variant": "yolov8n", "width": 0.16}


SEVERAL = """
settings: {trainer.max_epochs: 1, data.batch_size: 2}
data: {a: {trainer.max_epochs: 2}, b: }
seeds: [0, 1]
runs:
  - {name: first, config: x.yaml}
  - {name: second, config: x.yaml, data: [b, c], weights: first, settings: {data.batch_size: 3}}
"""


def test_a_run_is_made_with_every_data_set(tmp_path: Path) -> None:
    path = tmp_path / "several.yaml"
    path.write_text(SEVERAL)
    plan = Plan.read(path)
    assert [run.folder_name for run in plan.runs if run.seed == 1] == [
        "first-a-seed1", "first-b-seed1", "second-b-seed1", "second-c-seed1",
    ]  # fmt: skip
    settings = [tuple(run.settings.values()) for run in plan.runs[:4]]
    assert settings == [(2, 2), (1, 2), (1, 3), (1, 3)]
    second_b, second_c = plan.runs[2:4]
    assert plan.source("first", second_b).data == "b"
    assert plan.source("first", second_c).data == "a"  # none of its own data: the first one
    path.write_text(SEVERAL + "  - {name: third, config: x.yaml, data: a, seeds: [1, 2]}\n")  # its own seeds
    assert [run.folder_name for run in Plan.read(path).runs][-2:] == ["third-a-seed1", "third-a-seed2"]
    path.write_text(SEVERAL.replace("data: {a: {trainer.max_epochs: 2}, b: }", ""))
    with pytest.raises(UserError, match="run first has no data"):
        Plan.read(path)


def test_every_plan_can_be_read() -> None:
    paths = sorted((lab.REPOSITORY / "configs" / "lab").glob("*.yaml"))
    assert paths
    for path in paths:
        for run in Plan.read(path).runs:
            assert (lab.REPOSITORY / run.config).is_file()


def make_result(name: str, seed: int, scores: list[float], data: str = "boxes") -> Result:
    curve = {"epoch": [float(i) for i in range(len(scores))], "map_50_95": scores, "map_50": scores}
    curve["images_per_second"] = [7.0] * len(scores)
    identity = ("tiny", name, data, seed, "command", "commit", "machine")
    return Result(*identity, 1_234_567, 1.5, 10.0, max(scores), 0.5, scores[-1], curve)


def test_rows_are_means_over_seeds() -> None:
    results = [make_result("b", 0, [0.1, 0.2, 0.3]), make_result("a", 1, [0.1, 0.5, 0.4])]
    results.append(make_result("a", 0, [0.3, 0.3, 0.3]))
    rows = table(results, ["a", "b"]).splitlines()[2:]
    assert rows == [
        "| a | boxes | 1,234,567 | 1.50 | 0.400 (0.300 to 0.500) | 0.500 (0.500 to 0.500) | 0.350 (0.300 to 0.400) "
        "| 0.200 (0.100 to 0.300) | 0.000 (0.000 to 0.000) | 0, 1 | 7.0 | 10 |",
        "| b | boxes | 1,234,567 | 1.50 | 0.300 | 0.500 | 0.300 | 0.100 | 0.100 | 0 | 7.0 | 10 |",
    ]
    assert after_a_third(results[0]) == 0.1


@pytest.mark.parametrize(
    ("scores", "gain"),
    [([0.1, 0.2, 0.3, 0.4, 0.6], 0.2), ([0.1, 0.5, 0.3, 0.4, 0.4], 0.0), ([0.3], 0.0), ([0.1, 0.4], 0.3)],
)
def test_what_the_last_fifth_gains(scores: list[float], gain: float) -> None:
    """Against the best before it, as the best checkpoint is chosen; nothing of what was not trained."""
    assert gain_of_the_last_fifth(make_result("a", 0, scores)) == pytest.approx(gain)
    assert gain_of_the_last_fifth(replace(make_result("a", 0, scores), curve={})) is None


COST = Cost(3_011_043, 8.08, 12.1, 40.0, 60.0, 1.0, 1.0)


def test_the_summary_of_one_data_set_has_no_mean() -> None:
    shown = summary([make_result("a", 0, [0.2])], ["a"], {"a": COST}).splitlines()
    assert shown[0] == "| run | parameters | MB | GFLOPs | ONNX Runtime | torch | boxes |"
    assert shown[2] == "| a | 3,011,043 | 12.10 | 8.08 | 1.00 | 1.00 | 0.200 |"


def test_a_model_in_int8_has_the_costs_of_its_file() -> None:
    """Bytes and latency of the file, means over the seeds; nothing of a training, and no curve."""
    files = [{"megabytes": 3.0, "latency_ratio": 0.5}, {"megabytes": 3.2, "latency_ratio": 0.7}]
    made = [replace(make_result("a", seed, [0.4]), last_map_50_95=None, curve={}, int8=files[seed]) for seed in (0, 1)]
    shown = tables(made, ["a"], {"a": COST}).splitlines()
    assert shown[2] == "| a | 3,011,043 | 3.10 | 8.08 | 0.60 |  | 0.400 |"
    assert (
        shown[-1]
        == "| a | boxes | 1,234,567 | 1.50 | 0.400 (0.400 to 0.400) | 0.500 (0.500 to 0.500) |  |  |  | 0, 1 |  | 10 |"
    )


def test_what_int8_costs_is_unknown_until_it_is_made(tmp_path: Path) -> None:
    """The timed costs are those of the model in float32."""
    path = tmp_path / "tiny.yaml"
    path.write_text("data: {x: }\nruns:\n  - {name: a, config: configs/yolov8n.yaml}\n  - {name: b, quantised: a}\n")
    plan = Plan.read(path)
    write_costs({"a": COST, "b": COST}, 1, 3, tmp_path / "latency.json")
    assert set(known_of(plan, tmp_path)[1]) == {"a"}
    file = {"megabytes": 3.0, "latency_ratio": 0.5}
    replace(make_result("b", 0, [0.4], "x"), curve={}, int8=file).write(tmp_path / "b-x-seed0.json")
    assert set(known_of(plan, tmp_path)[1]) == {"a", "b"}


def test_only_what_the_plan_asks_for_is_shown(tmp_path: Path) -> None:
    """Not another seed, another data set, or a run of another plan."""
    (tmp_path / "tiny.yaml").write_text("data: {x: }\nseeds: [0, 1]\nruns:\n  - {name: a, config: c}\n")
    own = make_result("a", 0, [0.4], "x")
    others = [make_result("a", 9, [0.9], "x"), make_result("a", 0, [0.9], "y"), make_result("b", 0, [0.9], "x")]
    for result in (own, *others, replace(make_result("a", 1, [0.9], "x"), plan="else")):
        result.write(tmp_path / f"{result.name}-{result.data}-seed{result.seed}.json")
    assert known_of(Plan.read(tmp_path / "tiny.yaml"), tmp_path)[0] == [own]


def test_the_summary_has_a_column_for_each_data_set(tmp_path: Path) -> None:
    """And a mean where a run has all of them."""
    results = [make_result("a", seed, [0.1 * (seed + 1)], data) for seed in (0, 1) for data in ("x", "y")]
    results.append(make_result("b", 0, [0.4], "y"))
    costs = {"a": COST, "c": COST}
    assert summary(results, ["a", "b", "c", "d"], costs).splitlines()[2:] == [
        "| a | 3,011,043 | 12.10 | 8.08 | 1.00 | 1.00 | 0.150 | 0.150 | 0.150 |",
        "| b |  |  |  |  |  |  | 0.400 |  |",
        "| c | 3,011,043 | 12.10 | 8.08 | 1.00 | 1.00 |  |  |  |",
    ]
    assert tables([], ["c"], costs).splitlines()[2:] == ["| c | 3,011,043 | 12.10 | 8.08 | 1.00 | 1.00 |"]
    pages = write_pages(tmp_path, ["a", "b"], results, costs)
    assert {path.name for path in pages} == {"table.md", "curves-y.png", "frontier.png"}
    assert (
        (tmp_path / "table.md")
        .read_text()
        .startswith("| run | parameters | MB | GFLOPs | ONNX Runtime | torch | x | y |")
    )


def test_a_line_has_the_epochs_that_every_seed_has() -> None:
    """Whatever else one of them was scored at; and the colour of its place in the plan, whatever was made of it."""
    first, second = make_result("b", 0, [0.1, 0.2, 0.3, 0.4]), make_result("b", 1, [0.3, 0.5])
    second = replace(second, curve={**second.curve, "epoch": [1.0, 3.0]})
    (line,) = curves_of([first, second], ["a", "b"], "boxes").lines
    assert (line.name, line.place, line.epochs, line.scores) == ("b", 1, [2, 4], [[0.2, 0.4], [0.3, 0.5]])


def test_lines_of_a_figure_can_be_told_apart() -> None:
    names = [str(number) for number in range(24)]
    results = [make_result(name, 0, [0.1, 0.2]) for name in names]
    curves, points = (
        drawing.draw().axes[0].lines
        for drawing in (curves_of(results, names, "boxes"), frontier_of(results, names, dict.fromkeys(names, COST)))
    )
    assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == 24
    assert len({(point.get_color(), point.get_marker()) for point in points}) == 24


def test_a_plan_of_more_runs_than_figures_tell_apart_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text("runs:\n" + "".join(f"  - {{name: n{number}, config: c, data: x}}\n" for number in range(25)))
    with pytest.raises(UserError, match="has 25 runs, and figures tell 24 apart"):
        Plan.read(path)


def test_a_point_is_a_run_on_all_data_sets() -> None:
    """Its bar: seeds that have all of them."""
    results = [make_result("a", 0, [0.2], "x"), make_result("a", 0, [0.4], "y"), make_result("a", 1, [0.6], "y")]
    (point,) = frontier_of([*results, make_result("b", 0, [0.9], "x")], ["a", "b"], {"a": COST, "b": COST}).points
    assert (point.name, point.score, point.of_seeds) == ("a", pytest.approx(0.35), [pytest.approx(0.3)])
    assert point.prices == [3.011043, 12.1, 8.08, 1.0]
    assert not point.is_int8


def test_a_fingerprint_is_that_of_what_is_shown() -> None:
    shown = make_result("a", 0, [0.1, 0.2])
    known = fingerprint(curves_of([shown], ["a"], "boxes"))
    assert fingerprint(curves_of([replace(shown, minutes=99.0, commit="other")], ["a"], "boxes")) == known
    assert fingerprint(curves_of([make_result("a", 0, [0.1, 0.3])], ["a"], "boxes")) != known


def test_costs_are_those_of_the_runs_models(tmp_path: Path, monkeypatch: Any) -> None:
    """Two runs of one model are timed once; the baseline is always there, and is its own measure."""
    monkeypatch.setattr("benchmarks.lab_latency.IMAGE_SIZE", 64)
    edge = structure("configs/yolov8n-edge.yaml", {"model.head": "dense", "model.lr": 0.1, "trainer.max_epochs": 3})
    assert edge == {"variant": "yolov8n-edge", "head": "dense"}
    plain = structure("configs/yolov8n.yaml", {})
    costs = measure_costs({"plain": plain, "again": dict(plain), "edge": edge}, threads=1, rounds=3)
    assert costs["plain"] == costs["again"]
    assert costs["plain"].parameters == 3_011_043
    assert costs["plain"].onnx_ratio == costs["plain"].torch_ratio == 1
    assert costs["edge"].parameters < costs["plain"].parameters
    assert costs["edge"].gflops < costs["plain"].gflops
    write_costs(costs, 1, 3, tmp_path / "latency.json")
    assert read_costs(tmp_path, ["edge", "unknown"]) == {"edge": costs["edge"]}
    assert read_results(tmp_path) == []
    for broken in ("{}", json.dumps({"models": {"edge": {**asdict(COST), "gflops": "x"}}})):
        (tmp_path / "latency.json").write_text(broken)
        with pytest.raises(UserError, match="holds no latencies"):
            read_costs(tmp_path, ["edge"])
    with pytest.raises(UserError, match="--threads 0: give at least 1"):
        measure_costs({"plain": plain}, threads=0, rounds=3)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ("[{name: a, config: configs/none.yaml}]", "a has no config configs/none.yaml"),
        ("[{name: a, config: configs/yolov8n.yaml, settings: {model.wdth: 0.1}}]", "there is no setting model.wdth"),
        (
            "[{name: a, config: configs/yolov8n.yaml, data: x},"
            " {name: a, config: configs/yolov8n.yaml, data: y, settings: {model.width: 0.1}}]",
            "the models of a differ",
        ),
    ],
)
def test_a_model_that_cannot_be_timed_is_one_line(runs: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(f"data: {{x: }}\nruns: {runs}\n")
    with pytest.raises(UserError, match=expected):
        structures_of(Plan.read(tmp_path / "tiny.yaml"))


def test_documents_show_what_the_results_say() -> None:
    """The tables in the documents, and those beside the results; figures, by the fingerprint of what they show."""
    shown = 0
    places = {name for path in documents() for name in re.findall(r"<!-- lab ([\w-]+)", path.read_text())}
    assert places <= {path.stem for path in (lab.REPOSITORY / "configs" / "lab").glob("*.yaml")}
    for path in (lab.REPOSITORY / "configs" / "lab").glob("*.yaml"):
        plan = Plan.read(path)
        known, costs = known_of(plan, RESULTS / plan.name)
        if not known and not costs:
            continue  # not begun
        rows = tables(known, plan.names, costs)
        assert (RESULTS / plan.name / "table.md").read_text() == rows
        figures = figures_of(known, plan.names, costs)
        assert {path.name for path in (RESULTS / plan.name).glob("*.png")} == set(figures)
        for name, drawing in figures.items():
            with Image.open(RESULTS / plan.name / name) as picture:
                assert picture.info[SOURCE] == fingerprint(drawing), name
        for document in documents():
            text = document.read_text()
            assert with_tables(text, plan.name, rows) == text, document
            shown += f"<!-- lab {plan.name}" in text
    assert shown


def test_tables_take_their_place_in_a_document() -> None:
    text = "before\n<!-- lab a -->\n\nold\n\n<!-- end -->\nbehind\n"
    assert with_table(text, "a", "| new |\n") == "before\n<!-- lab a -->\n\n| new |\n\n<!-- end -->\nbehind\n"
    assert with_table(text, "b", "| new |\n") == text
    twice = with_table(text + text, "a", "| new |\n")
    assert twice.count("| new |") == 2 and "old" not in twice
    assert with_table(text.replace("-->\n\nold", "--> \r\nold"), "a", "| new |\n").count("| new |") == 1
    for broken in (text.replace("<!-- end -->", ""), f"<!-- lab a -->\n{text}"):
        with pytest.raises(UserError, match=r"<!-- lab a --> has no <!-- end --> behind it"):
            with_table(broken, "a", "| new |\n")


def test_a_page_of_ours_is_found_however_it_is_named(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """The results of all plans by a relative path: the documents show them as well."""
    (tmp_path / "tiny.yaml").write_text(PLAN)
    document = tmp_path / "README.md"
    document.write_text("<!-- lab tiny -->\n<!-- end -->\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lab, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(lab, "documents", lambda: [document])
    assert lab.main(["show", "tiny.yaml", "--results", "results"]) == 0
    assert "nothing to show" in capsys.readouterr().out
    replace(make_result("first", 3, [0.4])).write(tmp_path / "results" / "tiny" / "first-boxes-seed3.json")
    assert lab.main(["show", "tiny.yaml", "--results", "results"]) == 0
    assert "| first | boxes |" in document.read_text()
    document.write_text("<!-- lab tiny -->\n")
    assert lab.main(["show", "tiny.yaml", "--results", "results"]) == 2
    assert f"error: {document}: <!-- lab tiny --> has no <!-- end -->" in capsys.readouterr().err
    assert document.read_text() == "<!-- lab tiny -->\n"


def test_a_document_may_show_the_summary_alone() -> None:
    text = "<!-- lab a summary -->\n\nold\n\n<!-- end -->\n<!-- lab a -->\n\nold\n\n<!-- end -->\n"
    whole = "<!-- lab a summary -->\n\n| 1 |\n\n<!-- end -->\n<!-- lab a -->\n\n| 1 |\n\n| 2 |\n\n<!-- end -->\n"
    assert with_tables(text, "a", "| 1 |\n\n| 2 |\n") == whole


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    result = replace(make_result("a", 0, [0.1, 0.2]), command='--data "[a]"', machine="CPU [2 threads]")
    result.write(tmp_path / "a-boxes-seed0.json")
    assert read_results(tmp_path) == [result]
    (tmp_path / "b-boxes-seed0.json").write_text(json.dumps({"name": "b"}))
    with pytest.raises(UserError, match=r"b-boxes-seed0.json is no result of the laboratory"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"map_50_95": None},
        {"map_50": float("nan")},
        {"minutes": "9"},
        {"last_map_50_95": True},
        {"curve": {"map_50_95": [0.1]}},
        {"curve": {name: [0.1] * length for name, length in zip(CURVE, (1, 1, 1, 2), strict=True)}},
        {"curve": [0.1]},
        {"int8": {}},
        {"seed": 1},
    ],
)
def test_a_result_that_cannot_be_is_one_line(changes: dict[str, Any], tmp_path: Path) -> None:
    """Numbers that are none, curves that are none, and the result of another run under its name."""
    path = tmp_path / "a-boxes-seed0.json"
    make_result("a", 0, [0.1]).write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=str(path)) as error:
        read_results(tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture
def recorded(plan: list[str], tmp_path: Path, monkeypatch: Any) -> list[str]:
    """The steps that a laboratory takes with a third run, by name; nothing is trained."""
    text = (tmp_path / "tiny.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text(f"{text}  - {{name: third, config: configs/yolov8n.yaml, data: boxes}}\n")
    steps: list[str] = []
    together = threading.Barrier(2, timeout=30)

    def pretended(program: Sequence[str], options: Sequence[str], output: Path | None, children: Any) -> None:
        given = dict(zip(options[::2], options[1::2], strict=True))
        assert output is not None
        if program[-1] == "train.py":
            name = given["--name"].partition("-")[0]
            steps.append(f"{name} begins")
            if name != "second":
                together.wait()  # passes where two are at work at the same time
            if name == "third" and (tmp_path / "broken").exists():
                raise UserError("third is broken")
            folder = Path(given["--runs_dir"]) / given["--name"] / "version_0"
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            (folder / "checkpoints" / "best.ckpt").touch()
            (folder / "metrics.csv").write_text("epoch,val/map_50_95,val/map_50,time/images_per_second\n0,0.5,0.6,7\n")
        else:
            scores = {"map": 0.5, "map_50": 0.6, "parameters": 3, "gflops": 2.0}
            Path(given["--json"]).write_text(json.dumps(scores))
            steps.append(f"{Path(given['--json']).parent.name.partition('-')[0]} is scored")

    monkeypatch.setattr(lab, "call", pretended)
    return steps


def test_several_runs_at_a_time(plan: list[str], recorded: list[str], tmp_path: Path) -> None:
    """Two at work together; one that starts from another waits for its result."""
    assert lab.main([*plan, "--jobs", "2"]) == 0
    assert set(recorded[:2]) == {"first begins", "third begins"}
    assert recorded.index("second begins") > recorded.index("first is scored")
    assert [r.name for r in read_results(tmp_path / "results" / "tiny")] == ["first", "second", "third"]


def test_what_runs_beside_a_failure_is_finished(
    plan: list[str], recorded: list[str], tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "broken").touch()
    assert lab.main([*plan, "--jobs", "2"]) == 2
    printed = capsys.readouterr()
    assert "third is broken" in printed.err
    assert "second begins" not in recorded
    assert "first" in [r.name for r in read_results(tmp_path / "results" / "tiny")]


def test_no_jobs_is_one_line(plan: list[str], capsys: Any) -> None:
    assert lab.main([*plan, "--jobs", "0"]) == 2
    assert capsys.readouterr().err == "error: --jobs 0: give at least 1\n"


def test_a_setting_that_is_none_is_one_line_before_anything_runs(
    plan: list[str], recorded: list[str], tmp_path: Path, capsys: Any
) -> None:
    text = (tmp_path / "tiny.yaml").read_text()
    (tmp_path / "latin.yaml").write_bytes("# gr\xfcn\n".encode("latin-1"))
    for old, new, told in (
        ("trainer.max_epochs: 1", "trainer.epochs: 1", "trainer.epochs"),
        ("trainer.max_epochs: 1", "data.augment.mosaic: often", "data.augment.mosaic"),
        ("trainer.max_epochs: 1", "help: true", "train.py does not train with"),
        ("trainer.max_epochs: 1", f"config: {tmp_path / 'latin.yaml'}", "not UTF-8"),
    ):
        (tmp_path / "tiny.yaml").write_text(text.replace(old, new))
        assert lab.main(plan) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: second-boxes-seed3: ") and told in error and error.count("\n") == 1
    assert not recorded


def test_what_only_cannot_mean_is_one_line(plan: list[str], recorded: list[str], capsys: Any) -> None:
    assert lab.main([*plan, "--only", "fifth"]) == 2
    assert capsys.readouterr().err == "error: --only fifth: plan tiny has no such run\n"
    assert lab.main([*plan, "--only", "second"]) == 2
    told = "second-boxes-seed3 starts from first-boxes-seed3, which has no result: add it to --only"
    assert capsys.readouterr().err == f"error: {told}\n"
    assert not recorded


def test_a_run_starts_from_an_earlier_one_of_another_set(tmp_path: Path) -> None:
    """Where its own set comes later under the same name, that one would be the run itself."""
    (tmp_path / "p.yaml").write_text(
        "runs:\n- {name: a, config: c, data: x}\n- {name: b, config: c, data: y, weights: a}\n"
        "- {name: a, config: c, data: y, weights: b}\n"
    )
    plan = Plan.read(tmp_path / "p.yaml")
    first, second, third = plan.runs
    assert plan.needed_by(second) == [first]
    assert plan.needed_by(third) == [second]


def test_children_print_to_their_file_and_say_how_they_ended(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text("import sys\nprint('said')\nprint('complained', file=sys.stderr)\nsys.exit(int(sys.argv[1]))\n")
    output, children = tmp_path / "child.log", Children()
    lab.call([str(script)], ["0"], output, children)
    assert sorted(output.read_text().split()) == ["complained", "said"]
    with pytest.raises(StoppedError) as stopped:
        lab.call([str(script)], ["130"], output, children)
    assert stopped.value.exit_code == 130
    with pytest.raises(UserError, match=r"child\.py ended with 2; .*child\.log says why: 2"):
        lab.call([str(script)], ["2"], output, children)
    assert not children.at_work
    assert children.stop(signal.SIGINT) == 0
    with pytest.raises(StoppedError, match=r"before .*child\.py"):  # none starts any more
        lab.call([str(script)], ["0"], output, children)


def test_one_that_ends_meanwhile_keeps_no_other_from_being_told() -> None:
    """Each leaves the list as it is told."""
    children, told = Children(), []

    class Ending:
        def send_signal(self, number: int) -> None:
            told.append(number)
            children.at_work.remove(self)

    children.at_work += [Ending(), Ending(), Ending()]
    children.stop(signal.SIGTERM)
    assert told == [signal.SIGTERM] * 3


def test_epochs_are_of_the_starts_that_made_them(tmp_path: Path) -> None:
    """One that made none is not named, nor one twice."""
    facts = [("a", "cpu", 0), ("a", "cpu", 2), ("b", "gpu", 2), ("c", "cpu", 5), ("d", "x", 6)]
    notes = Notes("train", {"first": 0.5}, [Start(*fact) for fact in facts], minutes=3.0)
    assert notes.where(6) == ("a; b; c", "cpu; gpu")
    assert notes.where(7) == ("a; b; c; d", "cpu; gpu; x")
    notes.write(tmp_path)
    assert Notes.read(tmp_path / NOTES_NAME) == notes
    (tmp_path / NOTES_NAME).write_text("{}")
    with pytest.raises(UserError, match="holds no notes"):
        Notes.read(tmp_path / NOTES_NAME)


def test_what_was_stopped_before_its_first_epoch_goes_on(plan: list[str], recorded: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny" / "first-boxes-seed3"
    lab_plan = Plan.read(Path(plan[1]))
    laboratory = lab.Laboratory(lab_plan, tmp_path / "data", tmp_path / "runs", tmp_path / "results" / "tiny")
    Notes(laboratory.command(lab_plan.runs[0]), {}, [Start("a", "cpu", 0)]).write(folder)
    (folder / "version_0" / "tensorboard").mkdir(parents=True)
    assert lab.main([*plan, "--jobs", "2"]) == 0
    first, *_ = read_results(tmp_path / "results" / "tiny")
    assert (first.name, first.commit) == ("first", lab.current_commit())


def test_a_machine_is_its_gpu_where_that_works(monkeypatch: Any) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    assert describe_machine() == "a GPU"
    assert describe_machine("cpu").endswith("threads")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_runs_and_the_laboratory(name: str, plan: list[str], tmp_path: Path) -> None:
    """SIGTERM is passed on; Ctrl-C reaches the whole group, as from a terminal. What was at work may save."""
    program = tmp_path / "laboratory.py"
    child = tmp_path / "child.py"
    child.write_text(
        "import signal, sys, time\n"
        "number = signal.Signals[sys.argv[1]]\n"
        "def save(*_):\n    print('saved', flush=True)\n    sys.exit(128 + number)\n"
        "signal.signal(number, save)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    program.write_text(
        "import sys\nfrom benchmarks import lab\n"
        "real = lab.call\n"
        f"lab.call = lambda program, options, *rest: real([{str(child)!r}], [{name!r}], *rest)\n"
        "sys.exit(lab.main(sys.argv[1:]))\n"
    )
    text = (tmp_path / "tiny.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text(f"{text}  - {{name: third, config: configs/yolov8n.yaml, data: boxes}}\n")
    environment = {**os.environ, "PYTHONPATH": str(lab.REPOSITORY)}
    command = [sys.executable, str(program), *plan, "--jobs", "2"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True, text=True)
    logs = [tmp_path / "runs" / "tiny" / f"{run}-boxes-seed3.log" for run in ("first", "third")]
    try:
        deadline = time.monotonic() + 60
        while not all(log.is_file() and "ready" in log.read_text() for log in logs):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        if name == "SIGINT":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.Signals[name]
    assert errors == f"stopped by {name} in {child}; the same command goes on from here\n"
    assert all("saved" in log.read_text() for log in logs)
    assert not (tmp_path / "runs" / "tiny" / "second-boxes-seed3.log").exists()
