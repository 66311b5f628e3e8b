"""What a run goes on from, what it refuses, and what it leaves in its folder."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import train
from yolo_lite import cli

FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--model.variant", "yolov8n"),
    *("--model.nominal_batch", "4", "--name", "run", "--trainer.logger", "false"),
]


def checkpoint(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "run" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)  # type: ignore[no-any-return]


def metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the times."""
    with open(folder / "run" / "version_0" / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


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
