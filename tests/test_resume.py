"""A run that is stopped and goes on is the run that was never stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import train
from yolo_lite import cli

HERE = Path(__file__).parent
EPOCHS = 4
# The last of four epochs is without mosaic.
SETTINGS = [
    *("--data.image_size", "64", "--data.cache", "none", "--model.variant", "yolov8n", "--trainer.accelerator", "cpu"),
    *("--trainer.precision", "32-true", "--trainer.deterministic", "true", "--trainer.max_epochs", str(EPOCHS)),
    *("--data.augment.close_mosaic", "1", "--model.nominal_batch", "8", "--name", "run", "--model.lr", "0.01"),
]


def run(
    folder: Path, root: Path, processes: int, hooks: dict[str, Any], *extra: str
) -> subprocess.CompletedProcess[str]:
    """Train in processes of their own, with `hooks` (see hooked_train.py), in `folder`."""
    (folder / "record").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "hooked_train.py"), json.dumps({"record": str(folder / "record"), **hooks})]
    command += ["--data.root", str(root), "--runs_dir", str(folder), *SETTINGS, *extra]
    if processes == 1:  # with two loader processes: what is prefetched must not be lost or seen twice
        command += ["--data.num_workers", "2", "--data.batch_size", "4"]
    else:
        command += ["--data.num_workers", "0", "--data.batch_size", str(8 // processes)]
        command += ["--trainer.devices", str(processes), "--trainer.strategy", "ddp"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def steps(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    """What a rank saw, batch by batch."""
    lines = [json.loads(line) for line in (folder / "record" / f"rank{rank}.jsonl").read_text().splitlines()]
    return lines


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "run" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)  # type: ignore[no-any-return]


def metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the times."""
    with open(folder / "run" / "version_0" / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Bit-equal, whatever is nested in what."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}/{i}")
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_coco) -> Path:  # type: ignore[no-untyped-def]
    """22 images: the epoch's last batch is short on one process and on two."""
    return make_coco(tmp_path_factory.mktemp("resume") / "data", num_train=22, num_val=3)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[int, Path]:
    """Number of processes, and the folder of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    result = run(folder, root, request.param, {})
    assert result.returncode == 0, result.stderr
    return request.param, folder


# Three optimiser steps an epoch: a kill between two epochs, a signal inside the third, one inside the fourth epoch,
# which is without mosaic. On two processes each takes 40 s.
@pytest.mark.parametrize(
    ("straight", "name", "when", "at", "code"),
    [
        (1, "SIGKILL", "epoch", 2, -9),
        (1, "SIGTERM", "step", 6, 143),
        (1, "SIGUSR1", "step", 9, 138),
        pytest.param(2, "SIGKILL", "epoch", 2, -9, marks=pytest.mark.slow),
        (2, "SIGTERM", "step", 6, 143),
        pytest.param(2, "SIGUSR1", "step", 9, 138, marks=pytest.mark.slow),
    ],
    indirect=["straight"],
)
def test_stop_and_resume_equals_straight(
    straight: tuple[int, Path], tmp_path: Path, root: Path, name: str, when: str, at: int, code: int
) -> None:
    processes, expected = straight
    stopped = run(tmp_path, root, processes, {"signal": name, "when": when, "at": at, "rank": 0})
    assert stopped.returncode == code, stopped.stderr
    assert len(metrics(tmp_path)) < EPOCHS
    if name != "SIGKILL":
        assert f"stopped by {name}" in stopped.stderr
        assert "Traceback" not in stopped.stderr
    resumed = run(tmp_path, root, processes, {}, "--ckpt_path", "last")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from" in resumed.stdout
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["version_0"]

    ours, theirs = checkpoint(tmp_path), checkpoint(expected)
    for key in ("raw_state_dict", "state_dict", "optimizer_states", "lr_schedulers", "global_step", "random_states"):
        assert_equal(ours[key], theirs[key], key)
    assert ours["callbacks"]["WeightEMA"] == theirs["callbacks"]["WeightEMA"]
    assert ours["raw_state_dict"].keys() == ours["state_dict"].keys()
    for rank in range(processes):
        assert steps(tmp_path, rank) == steps(expected, rank)
    assert metrics(tmp_path) == metrics(expected)
    assert [int(row["epoch"]) for row in metrics(tmp_path)] == list(range(EPOCHS))
    best = [torch.load(f / "run/version_0/checkpoints/best.ckpt", weights_only=True) for f in (tmp_path, expected)]
    assert_equal(best[0]["state_dict"], best[1]["state_dict"])


FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--model.variant", "yolov8n"),
    *("--model.nominal_batch", "4", "--name", "run", "--trainer.logger", "false"),
]


class Ask(L.Callback):
    """Sends this process a signal in the middle of a hook, once."""

    def __init__(self, hook: str, epoch: int) -> None:
        self.epoch = epoch
        setattr(self, hook, self._ask)

    def _ask(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.epoch and trainer.state.fn == "fit":
            self.epoch = -1
            os.kill(os.getpid(), signal.SIGTERM)


def start(root: Path, folder: Path, *extra: str, callback: L.Callback | None = None) -> int:
    """Train in this process, with one more callback."""
    defaults = cli.trainer_defaults
    more = [callback] if callback is not None else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "trainer_defaults", lambda: {**defaults(), "callbacks": [*more, *defaults()["callbacks"]]})
        return train.main(["--data.root", str(root), "--runs_dir", str(folder), *FAST, *extra])


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_batch_end", "on_train_epoch_end"])
def test_an_epoch_of_one_step_ends_after_its_checkpoint(hook: str, tmp_path: Path, tiny_coco: Any, capsys: Any) -> None:
    """There is no step inside the epoch after which it could be left; no step more is made either."""
    root = tiny_coco(num_train=4)
    assert start(root, tmp_path, "--trainer.max_epochs", "6", callback=Ask(hook, 1)) == 143
    assert "stopped by SIGTERM after epoch 2; saved" in capsys.readouterr().err
    assert checkpoint(tmp_path)["global_step"] == 2
    assert start(root, tmp_path, "--trainer.max_epochs", "3", "--ckpt_path", "last") == 0
    assert [row["epoch"] for row in metrics(tmp_path)] == ["0", "1", "2"]


def test_a_signal_in_the_last_epoch_ends_nothing(tmp_path: Path, tiny_coco: Any) -> None:
    root = tiny_coco(num_train=4)
    assert start(root, tmp_path, "--trainer.max_epochs", "2", callback=Ask("on_validation_batch_end", 1)) == 0
    assert checkpoint(tmp_path)["epoch"] == 1


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "garbage"])
def test_last_passes_over_what_is_damaged(damage: str, tmp_path: Path, tiny_coco: Any, capsys: Any) -> None:
    root = tiny_coco(num_train=4)
    assert start(root, tmp_path, "--trainer.max_epochs", "1") == 0
    folder = tmp_path / "run" / "version_0" / "checkpoints"
    data = bytearray((folder / "last.ckpt").read_bytes())
    middle = len(data) // 2
    data[middle] ^= 255
    changed = {"empty": b"", "truncated": data[:middle], "flipped": data, "garbage": b"x" * 1000}[damage]
    (folder / "last.ckpt").write_bytes(changed)
    capsys.readouterr()
    assert start(root, tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", "last") == 0
    output = capsys.readouterr().out
    assert f"skipped: {folder / 'last.ckpt'}" in output
    assert f"going on from {folder / 'best.ckpt'}" in output
    assert checkpoint(tmp_path)["epoch"] == 1

    for name in ("last.ckpt", "best.ckpt"):
        (folder / name).write_bytes(changed)
    assert start(root, tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", "last") == 2
    assert "none of the checkpoints" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["version_0"]


def test_finished_runs_say_so_and_can_be_made_longer(tmp_path: Path, tiny_coco: Any, capsys: Any) -> None:
    root = tiny_coco(num_train=4)
    command = ["--ckpt_path", "last", "--trainer.max_epochs"]
    assert start(root, tmp_path, *command, "2") == 0
    last = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    capsys.readouterr()
    assert start(root, tmp_path, *command, "2") == 0
    assert "has finished its 2 epochs: raise --trainer.max_epochs" in capsys.readouterr().err
    assert last.read_bytes() == before
    assert start(root, tmp_path, "--ckpt_path", str(last), "--trainer.max_epochs", "2") == 2
    assert start(root, tmp_path, *command, "3") == 0
    assert checkpoint(tmp_path)["epoch"] == 2
    names = {path.name for path in (tmp_path / "run" / "version_0").glob("config*.yaml")}
    assert names == {"config.resumed_1.yaml", "config.yaml"}


def test_patience_outlives_a_stop(tmp_path: Path, tiny_coco: Any, capsys: Any) -> None:
    """A learning rate of zero: nothing ever gets better, and the third epoch without is the last, in two pieces too."""
    root = tiny_coco(num_train=4, num_val=1)
    command = ["--patience", "3", "--model.lr", "0", "--trainer.max_epochs", "20", "--ckpt_path", "last"]
    assert start(root, tmp_path, *command, callback=Ask("on_validation_batch_end", 1)) == 143
    assert start(root, tmp_path, *command) == 0
    assert len(metrics(tmp_path)) == 4
    capsys.readouterr()
    assert start(root, tmp_path, *command) == 0
    assert "has stopped early after epoch 4: raise --patience" in capsys.readouterr().err
    assert len(metrics(tmp_path)) == 4


def test_fine_tuning_is_one_command_too(tmp_path: Path, tiny_coco: Any) -> None:
    root = tiny_coco(num_train=4)
    assert start(root, tmp_path / "first", "--trainer.max_epochs", "1") == 0
    weights = ["--weights", str(tmp_path / "first" / "run" / "version_0" / "checkpoints" / "last.ckpt")]
    for epochs in ("1", "2"):
        command = [*weights, "--ckpt_path", "last", "--trainer.max_epochs", epochs]
        assert start(root, tmp_path / "second", *command) == 0
    assert checkpoint(tmp_path / "second")["epoch"] == 1


@pytest.mark.parametrize(
    ("extra", "expected"),
    [(["--seed_everything", "7"], "seed=0"), (["--data.batch_size", "2"], "batch_size=4")],
)
def test_an_epoch_is_not_finished_with_other_batches(
    extra: list[str], expected: str, tmp_path: Path, tiny_coco: Any, capsys: Any
) -> None:
    root = tiny_coco(num_train=12)
    assert start(root, tmp_path, "--trainer.max_epochs", "2", callback=Ask("on_train_batch_start", 0)) == 143
    assert start(root, tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", "last", *extra) == 2
    assert expected in capsys.readouterr().err


def test_a_run_that_a_limit_cut_is_not_gone_on_with(tmp_path: Path, tiny_coco: Any, capsys: Any) -> None:
    root = tiny_coco(num_train=12)
    assert start(root, tmp_path, "--trainer.max_steps", "4", "--trainer.max_epochs", "-1") == 0
    assert start(root, tmp_path, "--trainer.max_steps", "9", "--trainer.max_epochs", "-1", "--ckpt_path", "last") == 2
    assert "--weights" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "epoch,step\n1.0,2\n", "\x00\xff", "epoch,step\n,\n"])
def test_a_damaged_metrics_file_is_set_aside(text: str, tmp_path: Path, tiny_coco: Any) -> None:
    root = tiny_coco(num_train=4)
    assert start(root, tmp_path, "--trainer.max_epochs", "1") == 0
    path = tmp_path / "run" / "version_0" / "metrics.csv"
    path.write_bytes(text.encode("latin-1"))
    assert start(root, tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", "last") == 0
    assert [row["epoch"] for row in metrics(tmp_path)] == ["1"]
    assert not text or [aside.read_bytes() for aside in path.parent.glob("*.damaged")] == [text.encode("latin-1")]


def test_an_older_checkpoint_makes_a_branch(tmp_path: Path, tiny_coco: Any) -> None:
    """Going on from an earlier epoch must not overwrite what came later."""
    root = tiny_coco(num_train=4)
    assert start(root, tmp_path, "--trainer.max_epochs", "1") == 0
    run_folder = tmp_path / "run" / "version_0"
    early = run_folder / "checkpoints" / "early.ckpt"
    early.write_bytes((run_folder / "checkpoints" / "last.ckpt").read_bytes())
    assert start(root, tmp_path, "--trainer.max_epochs", "3", "--ckpt_path", "last") == 0
    before = {path.name: path.read_bytes() for path in (run_folder / "checkpoints").iterdir()}
    assert start(root, tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", str(early)) == 0
    assert before == {path.name: path.read_bytes() for path in (run_folder / "checkpoints").iterdir()}
    branch = tmp_path / "run" / "version_1"
    assert torch.load(branch / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    with open(branch / "metrics.csv", newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]


def test_a_moved_run_keeps_its_best(tmp_path: Path, tiny_coco: Any) -> None:
    """Its folder has another name now; the score to beat is still that of the file beside it."""
    root = tiny_coco(num_train=4)
    assert start(root, tmp_path / "here", "--trainer.max_epochs", "1") == 0
    folder = tmp_path / "here" / "run" / "version_0" / "checkpoints"
    state = torch.load(folder / "last.ckpt", weights_only=True)
    (key,) = [key for key in state["callbacks"] if key.startswith("BestCheckpoint")]
    state["callbacks"][key]["best_model_score"] = torch.tensor(0.99)
    torch.save(state, folder / "last.ckpt")
    (tmp_path / "here").rename(tmp_path / "there")
    best = tmp_path / "there" / "run" / "version_0" / "checkpoints" / "best.ckpt"
    before = best.read_bytes()
    assert start(root, tmp_path / "there", "--trainer.max_epochs", "2", "--ckpt_path", "last") == 0
    assert best.read_bytes() == before


@pytest.mark.parametrize("logger", ["lightning.pytorch.loggers.CSVLogger", "true"])
def test_any_logger_leaves_the_run_in_its_folder(
    logger: str, tmp_path: Path, tiny_coco: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--trainer.logger", logger]
    if logger != "true":
        given += ["--trainer.logger.init_args.save_dir", str(tmp_path / "logs")]
    root = tiny_coco(num_train=4)
    for epochs in ("1", "2"):
        assert start(root, tmp_path, *given, "--trainer.max_epochs", epochs, "--ckpt_path", "last") == 0
    assert checkpoint(tmp_path)["epoch"] == 1
    assert len(metrics(tmp_path)) == 2


def test_a_trial_run_leaves_nothing(tmp_path: Path, tiny_coco: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_coco(num_train=4)
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "metrics.csv"
    mine.write_text("mine")
    assert start(root, tmp_path / "runs", "--trainer.fast_dev_run", "true") == 0
    assert mine.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} - {"metrics.csv"} <= {"coco1"}


@pytest.mark.parametrize("straight", [2], indirect=True)
def test_ranks_have_the_same_weights_and_other_images(straight: tuple[int, Path]) -> None:
    """From the first step on: initial weights, average, losses; every image of an epoch is on one rank only."""
    _, folder = straight
    one, other = (steps(folder, rank) for rank in range(2))
    for a, b in zip(one, other, strict=True):
        assert (a["weights"], a["losses"]) == (b["weights"], b["losses"])
        assert not {*a["images"]} & {*b["images"]}
        assert a["pixels"] != b["pixels"]
    averages = [torch.load(folder / "record" / f"average_rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert_equal(averages[0], averages[1])
    assert_equal(dict(averages[0]), dict(checkpoint(folder)["state_dict"]))
