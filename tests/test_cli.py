"""train.py and eval.py as a user types them, on data small enough for seconds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import eval as eval_script
import train as train_script

FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--model.variant", "yolov8n"),
]


def last_checkpoint(run: Path) -> dict[str, Any]:
    """What a run saved after its last epoch."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_coco) -> tuple[Path, Path]:  # type: ignore[no-untyped-def]
    """A run of two epochs: data folder and run folder."""
    folder = tmp_path_factory.mktemp("cli")
    root = folder / "data"
    make_coco(root)
    arguments = ["--data.root", str(root), "--runs_dir", str(folder / "runs"), "--name", "tiny"]
    assert train_script.main([*arguments, *FAST, "--trainer.max_epochs", "2"]) == 0
    return root, folder / "runs" / "tiny" / "version_0"


def test_run_folder_holds_everything(trained: tuple[Path, Path]) -> None:
    _, run = trained
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert (run / "checkpoints" / "last.ckpt").is_file()
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("val/map_50_95", "val/map_50", "train/loss_box_epoch", "time/images_per_second", "time/data_wait"):
        assert len([row for row in rows if row[name]]) == 2, name  # one of each epoch
    assert list(run.glob("events.out.tfevents.*"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["variant"] == "yolov8n"
    assert config["data"]["image_size"] == 64


def test_checkpoint_needs_no_pickled_classes(trained: tuple[Path, Path]) -> None:
    _, run = trained
    checkpoint = last_checkpoint(run)
    assert checkpoint["yolo_lite"]["class_names"]
    assert checkpoint["raw_state_dict"].keys() == checkpoint["state_dict"].keys()


def test_eval_writes_the_numbers(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = trained
    target = tmp_path / "metrics.json"
    arguments = ["--checkpoint", str(run / "checkpoints" / "best.ckpt"), "--data.root", str(root)]
    assert eval_script.main([*arguments, "--split", "val", "--json", str(target), "--data.num_workers", "0"]) == 0
    numbers = json.loads(target.read_text())
    assert {"map", "map_50", "map_75", "map_small", "map_medium", "map_large", "ap_per_class"} <= numbers.keys()
    assert numbers["num_images"] > 0


def test_command_line_beats_the_checkpoint_on_resume(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """The checkpoint was made with 2 epochs; the command line asks for 3, and 3 it is."""
    root, run = trained
    arguments = ["--data.root", str(root), "--runs_dir", str(tmp_path), "--name", "on"]
    resume = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "3"]
    assert train_script.main([*arguments, *FAST, *resume]) == 0
    checkpoint = last_checkpoint(tmp_path / "on" / "version_0")
    assert checkpoint["epoch"] == 2
    assert checkpoint["lr_schedulers"][0]["last_epoch"] == checkpoint["global_step"] == 3
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(last_rate(root, tmp_path))


def last_rate(root: Path, folder: Path) -> float:
    """The learning rate at the end of an uninterrupted run of three epochs."""
    arguments = ["--data.root", str(root), "--runs_dir", str(folder), "--name", "straight", "--trainer.max_epochs", "3"]
    assert train_script.main([*arguments, *FAST]) == 0
    checkpoint = last_checkpoint(folder / "straight" / "version_0")
    return float(checkpoint["optimizer_states"][0]["param_groups"][0]["lr"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.variant", "yolov8s"], "model.variant=yolov8n"),
        (["--model.block", "cspc"], "model.block=None"),
        (["--model.optimizer", "sgd"], "model.optimizer=adamw"),
        (["--data.root", "other"], "classes"),
    ],
)
def test_another_run_is_not_resumed(
    arguments: list[str],
    expected: str,
    trained: tuple[Path, Path],
    tmp_path: Path,
    make_coco,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, run = trained
    monkeypatch.chdir(tmp_path)
    make_coco(tmp_path / "other", num_classes=3)
    resume = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--data.root", str(root), *FAST]
    assert train_script.main([*resume, *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_a_logger_a_run_still_has_its_folder(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = trained
    monkeypatch.chdir(tmp_path)
    arguments = ["--data.root", str(root), *FAST, "--trainer.max_epochs", "1", "--trainer.logger", "false"]
    for version in range(2):
        assert train_script.main([*arguments, "--name", "quiet"]) == 0
        run = tmp_path / "runs" / "quiet" / f"version_{version}"
        assert (run / "config.yaml").is_file()
        assert (run / "checkpoints" / "best.ckpt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_accumulation_that_is_given_wins(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Two batches an epoch: one step by the nominal batch of 64, two by the explicit 1."""
    root, _ = trained
    for given, steps in (([], 1), (["--trainer.accumulate_grad_batches", "1"], 2)):
        arguments = ["--data.root", str(root), "--runs_dir", str(tmp_path), "--name", f"steps{steps}", *FAST, *given]
        assert train_script.main([*arguments, "--trainer.max_epochs", "1"]) == 0
        assert last_checkpoint(tmp_path / f"steps{steps}" / "version_0")["global_step"] == steps


def test_average_counts_optimiser_steps_across_a_resume(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = trained
    arguments = ["--data.root", str(root), "--runs_dir", str(tmp_path), "--name", "ema", *FAST]
    resume = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--trainer.max_epochs", "4"]
    assert train_script.main([*arguments, *resume]) == 0
    checkpoint = last_checkpoint(tmp_path / "ema" / "version_0")
    assert checkpoint["callbacks"]["WeightEMA"]["updates"] == checkpoint["global_step"] == 4


def test_names_of_classes_may_look_like_markup(
    trained: tuple[Path, Path], tmp_path: Path, make_coco, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    root = make_coco(tmp_path / "data")
    for path in (root / "annotations").iterdir():
        path.write_text(path.read_text().replace("class0", "[/x]").replace("class1", "[red]"))
    arguments = ["--data.root", str(root), *FAST, "--runs_dir", str(tmp_path / "runs"), "--name", "[b]"]
    assert train_script.main([*arguments, "--trainer.max_epochs", "1"]) == 0
    checkpoint = tmp_path / "runs" / "[b]" / "version_0" / "checkpoints" / "best.ckpt"
    capsys.readouterr()
    assert eval_script.main(["--checkpoint", str(checkpoint), "--data.root", str(root), "--data.num_workers", "0"]) == 0
    table = capsys.readouterr().out
    assert "│ [/x] " in table
    assert "│ [red] " in table


def test_results_are_not_written_to_a_folder(trained: tuple[Path, Path], tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    root, run = trained
    arguments = ["--checkpoint", str(run / "checkpoints" / "best.ckpt"), "--data.root", str(root)]
    assert eval_script.main([*arguments, "--json", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_initial_weights_are_taken(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a learning rate of zero the new run's weights are those it was given, and its epochs count from zero."""
    root, run = trained
    source = run / "checkpoints" / "last.ckpt"
    arguments = ["--data.root", str(root), "--runs_dir", str(tmp_path), "--name", "from", "--weights", str(source)]
    assert train_script.main([*arguments, *FAST, "--trainer.max_epochs", "1", "--model.lr", "0"]) == 0
    given = torch.load(source, weights_only=True)["state_dict"]
    checkpoint = last_checkpoint(tmp_path / "from" / "version_0")
    assert checkpoint["epoch"] == 0
    for name, value in checkpoint["state_dict"].items():
        if name.endswith("weight"):
            assert torch.equal(value, given[name]), name
    count = len(given)
    assert f"moved {count} of {count} tensors" in capsys.readouterr().out


def test_initial_weights_of_another_structure_are_named(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = trained
    arguments = ["--data.root", str(root), "--runs_dir", str(tmp_path), "--name", "lite", *FAST]
    arguments += ["--weights", str(run / "checkpoints" / "best.ckpt"), "--trainer.max_epochs", "1"]
    assert train_script.main([*arguments, "--model.block", "cspc", "--trainer.limit_train_batches", "1"]) == 0
    moved, rest = capsys.readouterr().out.split("moved ")[1].splitlines()[0].split(" of ")
    assert 0 < int(moved) < int(rest.split()[0])
    assert "new: backbone.stage2" in rest


@pytest.mark.parametrize("workers", ["0", "2"])
def test_image_that_breaks_after_the_check_is_one_line(
    workers: str, tmp_path: Path, tiny_coco, capsys: pytest.CaptureFixture[str]
) -> None:  # type: ignore[no-untyped-def]
    """Header and end are whole, so that the check passes; what lies between cannot be decoded."""
    root = tiny_coco()
    path = root / "images" / "train" / "train_003.png"
    data = path.read_bytes()
    start, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    arguments = ["--data.root", str(root), *FAST, "--data.num_workers", workers, "--runs_dir", str(tmp_path / "runs")]
    assert train_script.main([*arguments, "--trainer.max_epochs", "1"]) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert message[-1].startswith("error: cannot decode image ")
    assert "train_003.png" in message[-1]
    assert not [line for line in message if "Traceback" in line]


def test_run_folders_are_never_reused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, _ = trained
    arguments = ["--data.root", str(root), "--runs_dir", str(tmp_path), "--name", "twice", "--trainer.max_epochs", "1"]
    for _ in range(2):
        assert train_script.main([*arguments, *FAST]) == 0
    runs = sorted((tmp_path / "twice").iterdir())
    assert [run.name for run in runs] == ["version_0", "version_1"]
    assert all((run / "checkpoints" / "last.ckpt").is_file() for run in runs)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.root", "nowhere"], "no data folder nowhere"),
        (["--data.image_size", "100"], "not a multiple of 32"),
        (["--model.colour", "red"], "colour"),
        (["--ckpt_path", "nowhere.ckpt"], "no checkpoint nowhere.ckpt"),
        (["--weights", "a.ckpt", "--ckpt_path", "b.ckpt"], "no checkpoint b.ckpt"),
        (["--patience", "3", "--trainer.limit_val_batches", "0"], "patience=3 needs validation"),
        (["--weights", "nowhere.ckpt"], "no checkpoint nowhere.ckpt"),
        (["--model.lr", "-1"], "model.lr=-1.0"),
        (["--model.nominal_batch", "0"], "nominal_batch=0"),
        (["--ema.ramp", "0"], "ema.ramp=0"),
        (["--pictures.every_n_epochs", "0"], "every_n_epochs=0"),
        (["--pictures.num_images", "0"], "num_images=0"),
        (["--curves.every_n_epochs", "0"], "every_n_epochs=0"),
        (["--curves.max_classes", "-1"], "max_classes=-1"),
        (["--data.num_workers", "-1"], "num_workers=-1"),
        (["--data.max_bad_images", "7"], "max_bad_images=7"),
        (["--seed_everything", "-1"], "seed_everything"),
        (["--trainer.precision", "bf16-true"], "precision"),
        (["--trainer.accelerator", "gpu"], "gpu"),
        (["--trainer.sync_batchnorm", "true"], "sync_batchnorm=true"),
        (["--checkpoint.monitor", "val/map_typo"], "val/map_typo"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    expected: str,
    trained: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, _ = trained
    given = ["--data.root", str(root), *FAST, "--runs_dir", str(tmp_path), *arguments]
    assert train_script.main(given) == 2
    message = capsys.readouterr().err.strip()
    assert expected in message
    assert message.startswith("error: ")
    assert len(message.splitlines()) == 1
    assert "Traceback" not in message
    # The accelerator is looked for while the trainer is built, which needs its run folder by then.
    assert not (tmp_path / "yolov8n-data").exists() or arguments[0] in (
        "--trainer.accelerator",
        "--trainer.sync_batchnorm",
    )


def test_eval_refuses_what_is_not_ours(trained: tuple[Path, Path], tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    root, _ = trained
    path = tmp_path / "foreign.ckpt"
    torch.save({"weights": torch.zeros(1)}, path)
    assert eval_script.main(["--checkpoint", str(path), "--data.root", str(root)]) == 2
    assert "not a yolo-lite checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_config_is_read(path: Path, trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Each file trains one short epoch; an unknown key in it would be refused."""
    root, _ = trained
    given = ["--config", str(path), "--data.root", str(root), *FAST, "--runs_dir", str(tmp_path)]
    assert train_script.main([*given, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]) == 0


@pytest.mark.parametrize("format_", ["yolo", "voc"])
def test_training_and_scoring_of_other_formats(format_: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    coco = request.getfixturevalue("tiny_coco")(num_train=4, num_val=2)
    root = request.getfixturevalue(f"as_{format_}")(coco)
    given = str(root / "data.yaml") if format_ == "yolo" else str(root)
    assert (
        train_script.main(["--data.root", given, "--runs_dir", str(tmp_path), *FAST, "--trainer.max_epochs", "1"]) == 0
    )
    checkpoint = tmp_path / f"yolov8n-{root.name}" / "version_0" / "checkpoints" / "best.ckpt"
    target = tmp_path / "numbers.json"
    arguments = ["--checkpoint", str(checkpoint), "--json", str(target), "--data.num_workers", "0"]
    found = []
    for folder in (root, coco):  # a checkpoint knows its classes by their names
        assert eval_script.main([*arguments, "--data.root", str(folder), "--report", "none"]) == 0
        found.append(json.loads(target.read_text()))
    assert found[0]["num_images"] == 2
    differing = {"data_root": None, "milliseconds_per_image": None}
    assert found[0] | differing == found[1] | differing
