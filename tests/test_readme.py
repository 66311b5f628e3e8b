"""The README's commands run, in a short form; its table of models is what the models are. Those of runs before the
laboratory, in benchmarks/README.md, are what their files say."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

import eval as eval_script
import train as train_script
from tests.deploy.lively import make_checkpoint
from yolo_lite.models import build_model
from yolo_lite.utils.profiling import count_gflops, count_parameters

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
SHORT = (
    "--data.image_size 64 --data.batch_size 4 --data.num_workers 0 --trainer.limit_train_batches 1 "
    "--trainer.max_epochs 1 --trainer.accelerator cpu"
)


def commands() -> list[str]:
    """Indented blocks, continued lines joined."""
    blocks = re.sub(r"\\\n\s*", "", README)
    return [line.strip() for line in blocks.splitlines() if line.startswith("    ") and "python" in line]


def test_set_up_commands_are_whole() -> None:
    """Both set themselves up from a fresh clone; .ci/run executes the second one."""
    train, test = commands()[:2]
    for command, requirements in ((train, "requirements.txt"), (test, "requirements-dev.txt")):
        steps = command.split(" && ")
        assert steps[0] == "python3 -m venv .venv"
        assert steps[1] == f".venv/bin/pip install -q -r {requirements}"
        assert (REPOSITORY / requirements).is_file()
    assert train.split(" && ")[2] == ".venv/bin/python train.py"
    tests = test.split(" && ")[2].removeprefix(".venv/bin/")
    assert tests in (REPOSITORY / ".ci" / "run").read_text()


TRAININGS = [command for command in commands() if command.startswith("python train.py")]


@pytest.mark.parametrize("command", TRAININGS, ids=[f"training{i}" for i in range(len(TRAININGS))])
def test_training_on_own_data(command: str, tmp_path: Path, make_coco, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The commands with DIR and NAME filled in and made short, and the scoring of what came out."""
    monkeypatch.chdir(tmp_path)
    make_coco(tmp_path / "data")
    make_checkpoint(tmp_path / "best.ckpt", ["class0", "class1"])
    given = shlex.split(command.replace("DIR", "data").replace("configs/", f"{REPOSITORY}/configs/"))[2:]
    assert train_script.main([*given, *SHORT.split(), "--name", "first"]) == 0
    evaluate = next(c for c in commands() if c.startswith("python eval.py"))
    given = shlex.split(evaluate.replace("DIR", "data").replace("NAME", "first"))[2:]
    assert eval_script.main([*given, "--data.num_workers", "0", "--data.image_size", "64"]) == 0
    assert (tmp_path / "metrics.json").is_file()


RESULTS = re.findall(
    r"^\| (yolov8\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\d+) min \| .*\((\S+\.log)\).*\((\S+\.json)\) \|$",
    (REPOSITORY / "benchmarks" / "README.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize("row", RESULTS, ids=lambda row: row[0])
def test_table_of_results(row: tuple[str, ...]) -> None:
    """Every figure comes from the committed files of its run, or from the model itself."""
    variant, parameters, gflops, map_50_95, map_50, minutes, log_file, numbers_file = row
    numbers = json.loads((REPOSITORY / "benchmarks" / numbers_file).read_text())
    assert (map_50_95, map_50) == (f"{numbers['map']:.3f}", f"{numbers['map_50']:.3f}")
    model = build_model(variant, len(numbers["ap_per_class"]))
    assert parameters == f"{count_parameters(model):,}"
    assert gflops == f"{count_gflops(model, numbers['image_size']):.2f}"
    log = (REPOSITORY / "benchmarks" / log_file).read_text()
    assert f"{parameters} parameters, {gflops} GFLOPs" in log
    hours, rest = divmod(int(minutes), 60)
    duration = f"{hours}:{rest:02d}" if hours else str(rest)
    assert re.search(rf"epochs +│ 100 in {duration}:", log)


def test_there_are_results() -> None:
    assert [row[0] for row in RESULTS] == ["yolov8n", "yolov8n-lite"]


@pytest.mark.parametrize("row", re.findall(r"^\| (yolov8\S+) \| (\d+) .*$", README, re.MULTILINE), ids=lambda r: r[0])
def test_table_of_models(row: tuple[str, str]) -> None:
    variant = row[0]
    line = next(x for x in README.splitlines() if x.startswith(f"| {variant} |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")][1:]
    for classes, parameters, gflops in (cells[:3], cells[4:7]):
        model = build_model(variant, int(classes))
        assert f"{count_parameters(model):,}" == parameters
        assert f"{count_gflops(model, 640):.2f}" == gflops


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_first_command_learns_the_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About ten minutes on two cores; benchmarks/README.md has the result."""
    monkeypatch.chdir(tmp_path)
    assert train_script.main([]) == 0
    (metrics,) = tmp_path.glob("runs/*/version_0/metrics.csv")
    with open(metrics, newline="") as file:
        scores = [float(row["val/map_50"]) for row in csv.DictReader(file) if row["val/map_50"]]
    assert max(scores) >= 0.80
