"""Guards: what a run does when its loss, its disk, its memory or one of its processes gives out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import train as train_script
from yolo_lite.training.stopping import explain
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import replacing, temporary_path

FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--model.variant", "yolov8n"),
    *("--model.nominal_batch", "4", "--trainer.logger", "false"),
]


class At(L.Callback):
    """Does something once, before the step of that number."""

    def __init__(self, step: int, action: Any) -> None:
        self.step = step
        self.action = action

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            self.action(trainer, pl_module)


def arguments(root: Path, folder: Path, *more: str) -> list[str]:
    return ["--data.root", str(root), "--runs_dir", str(folder), "--name", "run", *FAST, *more]


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr, where no traceback stands above it."""
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


def test_non_finite_loss_leaves_good_weights_and_the_batch(
    tmp_path: Path,
    tiny_coco: Any,
    monkeypatch: pytest.MonkeyPatch,
    with_callback: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def poison(trainer: L.Trainer, module: Any) -> None:
        """The loss of this step alone is infinite."""
        loss = module.loss

        def infinite(*given: Any) -> Any:
            items = loss(*given)
            items.classes = items.classes * float("inf")
            return items

        module.loss = infinite

    root = tiny_coco()
    with_callback(At(3, poison))
    assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "4")) == 3
    folder = tmp_path / "run" / "version_0" / "checkpoints"
    batch = torch.load(folder / "non_finite_batch.pt", weights_only=True)
    message = error_line(capsys)
    assert f"images {batch['image_ids'].tolist()}" in message
    assert "step 3" in message
    assert batch["images"].shape == (4, 3, 64, 64)
    assert batch["boxes_xyxy"].shape[:2] == batch["mask"].shape
    saved = torch.load(folder / "non_finite.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    for state in ("state_dict", "raw_state_dict"):
        assert all(torch.isfinite(value).all() for value in saved[state].values()), state

    monkeypatch.undo()  # and the way out that the message names
    assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "4", "--ckpt_path", "last")) == 0
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 3


def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(
    tmp_path: Path,
    tiny_coco: Any,
    monkeypatch: pytest.MonkeyPatch,
    with_callback: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The loss is finite; the gradient of the last step of the second epoch is not."""

    class Poison(L.Callback):
        def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
            if trainer.global_step == 3:
                next(pl_module.parameters()).grad.fill_(float("nan"))

    root = tiny_coco()
    with_callback(Poison())
    assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "4")) == 3
    assert "norm of the gradient was nan" in error_line(capsys)
    last = torch.load(tmp_path / "run/version_0/checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in last["raw_state_dict"].values())
    monkeypatch.undo()
    assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "3", "--ckpt_path", "last")) == 0


def test_full_disk_keeps_the_older_checkpoint(
    tmp_path: Path,
    tiny_coco: Any,
    monkeypatch: pytest.MonkeyPatch,
    with_callback: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the second epoch on, what is written for last.ckpt goes to a device that is always full."""
    folder = tmp_path / "run" / "version_0" / "checkpoints"

    def fill(trainer: L.Trainer, module: Any) -> None:
        for name in ("last.ckpt", "best.ckpt"):
            temporary_path(folder / name).symlink_to("/dev/full")

    root = tiny_coco()
    with_callback(At(2, fill))
    assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "4")) == 2
    message = error_line(capsys)
    assert "cannot write" in message
    assert "disk full" in message or "No space left" in message
    assert "untouched" in message
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 0
    assert not list(folder.glob(".last.ckpt.*"))
    monkeypatch.undo()
    assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", "last")) == 0


def test_what_interrupts_a_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with pytest.raises(UserError, match="untouched"), replacing(path) as file:
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_dead_loader_process_is_one_line(
    tmp_path: Path, tiny_coco: Any, with_callback: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def kill_worker(trainer: L.Trainer, module: Any) -> None:
        """The process that reads the training images, as the system does when memory runs out."""
        iterator = trainer.fit_loop._combined_loader.flattened[0]._iterator  # type: ignore[union-attr]
        os.kill(iterator._workers[0].pid, signal.SIGKILL)

    root = tiny_coco(num_train=40)
    with_callback(At(1, kill_worker))
    workers = ["--data.num_workers", "1", "--trainer.max_epochs", "50"]
    assert train_script.main(arguments(root, tmp_path, *workers)) == 2
    message = error_line(capsys)
    assert message.startswith("error: the loader process ")
    assert "signal Killed" in message or "ended unexpectedly" in message  # torch tells what it saw first
    assert "--data.num_workers" in message


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_names_what_to_lower(error: BaseException) -> None:
    reason = explain(error, 16, 640, torch.device("cpu"))
    assert reason is not None
    for part in ("16 images of 640 px", "--data.batch_size", "--data.image_size", "auto"):
        assert part in str(reason)
    assert "\n" not in str(reason)


def test_out_of_memory_ends_a_run_in_one_line(
    tmp_path: Path, tiny_coco: Any, with_callback: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than any machine has, asked for in the middle of a step."""
    with_callback(At(1, lambda trainer, module: torch.empty(2**46)))
    assert train_script.main(arguments(tiny_coco(), tmp_path, "--trainer.max_epochs", "2")) == 2
    assert "error: out of memory on cpu with 4 images of 64 px" in error_line(capsys)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ZeroDivisionError()])
def test_bugs_are_not_explained_away(error: BaseException) -> None:
    assert explain(error, 16, 640, torch.device("cpu")) is None


def test_ctrl_c_saves_and_a_second_one_does_not_wait(
    tmp_path: Path,
    tiny_coco: Any,
    monkeypatch: pytest.MonkeyPatch,
    with_callback: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tiny_coco(num_train=40)
    before = signal.getsignal(signal.SIGINT)
    with_callback(At(4, lambda trainer, module: os.kill(os.getpid(), signal.SIGINT)))
    assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "2")) == 130
    assert "stopped by SIGINT in epoch 1, after 5 of its 10 batches" in error_line(capsys)
    assert torch.load(tmp_path / "run/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    assert signal.getsignal(signal.SIGINT) is before

    def twice(trainer: L.Trainer, module: Any) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.undo()
    with_callback(At(7, twice))
    try:
        assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", "last")) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.load(tmp_path / "run/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_a_run_folder_is_for_one_process(tmp_path: Path, tiny_coco: Any, capsys: pytest.CaptureFixture[str]) -> None:
    root = tiny_coco()
    assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "1")) == 0
    lock = tmp_path / "run" / "version_0" / ".lock"
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print('locked', flush=True); "
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(lock)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    try:
        assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", "last")) == 2
        assert "trains in" in error_line(capsys)
    finally:
        other.communicate("")
    assert train_script.main(arguments(root, tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", "last")) == 0
