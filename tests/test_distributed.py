"""Several processes: scoring counts every image once, training is the same command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from tests.deploy.lively import lively
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.types import Batch
from yolo_lite.models.fuse import fuse_model
from yolo_lite.ops.postprocess import Detections
from yolo_lite.training.callbacks import NominalBatch
from yolo_lite.training.distillation import Teacher
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.trainer import silent_trainer

REPOSITORY = Path(__file__).parents[1]


class NoisyTruth(DetectionModule):
    """Finds moved copies of the objects, with scores and clutter that depend on the image's id alone.

    Only in the images of the index below `found_in`, if that is set: the ranks of the others have no detections.
    """

    found_in: int | None = None

    def detect_batch(self, batch: Batch) -> tuple[list[torch.Tensor], list[Detections]]:
        found = []
        index = self.ground_truth()
        for image_id in batch.image_ids.tolist():
            rng = np.random.default_rng(image_id)
            row = int(np.flatnonzero(index.image_ids == image_id)[0])
            truth = index.boxes_xywh[index.rows(row)]
            boxes = np.concatenate([truth[:, :2], truth[:, :2] + truth[:, 2:]], axis=1)
            boxes = np.concatenate([boxes + rng.normal(0, 4, boxes.shape), rng.uniform(0, 60, (3, 4)).cumsum(axis=1)])
            labels = np.concatenate([index.labels[index.rows(row)], rng.integers(0, len(index.class_names), 3)])
            scores = np.round(rng.uniform(0.1, 1, len(boxes)), 1)  # equal scores in plenty
            if self.found_in is not None and row >= self.found_in:
                boxes, labels, scores = boxes[:0], labels[:0], scores[:0]
            found.append(
                Detections(torch.tensor(boxes).float(), torch.tensor(scores).float(), torch.tensor(labels).long())
            )
        return self(batch.images), found


class WriteScores(L.Callback):
    """Every rank writes what it scored and what it saw."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.seen: list[int] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """BatchNorm statistics that differ from rank to rank, as after an epoch of training."""
        with torch.no_grad():
            for name, buffer in pl_module.named_buffers():
                if "running" in name:
                    buffer += trainer.global_rank

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self.seen += batch.image_ids.tolist()

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        path = self.target.with_name(f"{self.target.name}.{trainer.global_rank}")
        scores = pl_module.scores
        result = {"numbers": scores.numbers, "classes": scores.per_class, "images": scores.num_images}
        statistics = sum(b.double().sum().item() for name, b in pl_module.named_buffers() if "running" in name)
        path.write_text(json.dumps({**result, "seen": self.seen, "statistics": statistics}))


def score(
    root: Path, target: Path, processes: int, found_in: int | None = None, rectangular: bool = False
) -> list[dict[str, Any]]:
    """What each rank of a validation run reports."""
    data = DetectionDataModule(
        root, image_size=64, batch_size=4, num_workers=0, cache="none", rect_validation=rectangular
    )
    module = NoisyTruth("yolov8n", data.index("val").class_names, image_size=64)
    module.found_in = found_in
    strategy = "ddp_fork" if processes > 1 else "auto"
    trainer = silent_trainer(accelerator="cpu", devices=processes, strategy=strategy, callbacks=[WriteScores(target)])
    trainer.validate(module, datamodule=data, verbose=False)
    return [json.loads(target.with_name(f"{target.name}.{rank}").read_text()) for rank in range(processes)]


def assert_same_scores(alone: dict[str, Any], ranks: list[dict[str, Any]], num_images: int) -> None:
    for rank in ranks:
        assert rank["numbers"] == pytest.approx(alone["numbers"], abs=1e-6)
        assert rank["classes"] == pytest.approx(alone["classes"], abs=1e-6)
        assert rank["images"] == num_images
        assert rank["statistics"] == ranks[0]["statistics"] == pytest.approx(alone["statistics"])
    assert {i for rank in ranks for i in rank["seen"]} == {*alone["seen"]}
    assert len(alone["seen"]) == num_images
    if num_images >= len(ranks):
        assert sum(len(rank["seen"]) for rank in ranks) == num_images


@pytest.mark.parametrize(
    ("num_images", "found_in"),
    [(5, None), (1, None), (5, 1), (5, 0)],
    ids=["uneven", "fewer_images_than_processes", "ranks_without_detections", "no_detections"],
)
def test_any_number_of_processes_scores_the_same(
    num_images: int, found_in: int | None, tmp_path: Path, make_coco: Any
) -> None:
    root = make_coco(tmp_path / "data", num_val=num_images, boxes_per_image=2)
    (alone,) = score(root, tmp_path / "one", 1, found_in)
    assert 0 < alone["numbers"]["map_50_95"] < 1 or found_in == 0
    for processes in (2, 4):
        assert_same_scores(alone, score(root, tmp_path / f"of{processes}", processes, found_in), num_images)


@pytest.mark.parametrize("rectangular", [False, True])
def test_real_data_scores_the_same(rectangular: bool, tmp_path: Path, data_root: Any) -> None:
    """bccd's 87 validation images, on 1, 2 and 4 processes."""
    root = data_root("bccd")
    (alone,) = score(root, tmp_path / "one", 1, rectangular=rectangular)
    assert 0 < alone["numbers"]["map_50_95"] < 1
    for processes in (2, 4):
        assert_same_scores(alone, score(root, tmp_path / f"of{processes}", processes, None, rectangular), 87)


def test_a_failure_in_scoring_reaches_every_process(tmp_path: Path, make_coco: Any, monkeypatch: Any) -> None:
    """The others wait for rank 0's numbers; they must get its failure instead of waiting forever."""

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("as planned")

    monkeypatch.setattr("yolo_lite.training.metrics.score_detections", fail)
    root = make_coco(tmp_path / "data", num_val=4)
    with pytest.raises(Exception, match="scoring failed on the main process: as planned"):
        score(root, tmp_path / "two", 2)


def test_detections_are_gathered_and_scored_once(tmp_path: Path, make_coco: Any, monkeypatch: Any) -> None:
    """However many batches and processes: one gathering, one evaluation, on one of the processes."""
    log = tmp_path / "calls"

    def counted(name: str, function: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            with open(log, "a") as file:
                file.write(f"{name} {torch.distributed.get_rank()}\n")
            return function(*given, **options)

        return call

    for target in ("yolo_lite.training.metrics.score_detections", "torch.distributed.gather_object"):
        module, name = target.rsplit(".", 1)
        monkeypatch.setattr(target, counted(name, getattr(sys.modules[module], name)))
    score(make_coco(tmp_path / "data", num_val=10), tmp_path / "two", 2)
    assert sorted(log.read_text().splitlines()) == ["gather_object 0", "gather_object 1", "score_detections 0"]


class Gradients(L.Callback):
    """Keeps BatchNorm still and writes the gradient of every step, and the loss as reported."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.steps: list[dict[str, Any]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for module in pl_module.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        flat = torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None])
        self.steps.append({"gradient": flat.clone(), "losses": pl_module.report.losses()})

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            torch.save(self.steps, self.target)


def gradients(root: Path, target: Path, processes: int, is_taught: bool) -> list[dict[str, Any]]:
    """Of the steps of an epoch with eight images a step, spread over the processes; with or without a teacher."""
    torch.manual_seed(0)
    # With a cache a mosaic's partners are any images; without one they are those that this process loaded before.
    data = DetectionDataModule(root, image_size=64, batch_size=8 // processes, num_workers=0, cache="ram")
    module = DetectionModule("yolov8n", data.check(), image_size=64, nominal_batch=8)
    if is_taught:
        module.learn_from(Teacher(fuse_model(lively(seed=1)[0]), "yolov8n", ["class0", "class1", "moon"], 64))
    trainer = silent_trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[NominalBatch(), Gradients(target)],
    )
    trainer.fit(module, datamodule=data)
    return torch.load(target)  # type: ignore[no-any-return]


@pytest.mark.parametrize("is_taught", [False, True], ids=["alone", "with a teacher"])
def test_gradients_do_not_depend_on_the_number_of_processes(is_taught: bool, tmp_path: Path, make_coco: Any) -> None:
    """1 x 8, 2 x 4 and 4 x 2; images differ in their numbers of objects, and the last step has four images."""
    root = make_coco(tmp_path / "data", num_train=12, boxes_per_image=3, empty_images=(1, 4, 6))
    alone = gradients(root, tmp_path / "one", 1, is_taught)
    assert len(alone) == 2
    assert all(len(step["losses"]) == 3 + is_taught for step in alone)
    for processes in (2, 4):
        spread = gradients(root, tmp_path / f"of{processes}", processes, is_taught)
        for one, other in zip(alone, spread, strict=True):
            difference = (one["gradient"] - other["gradient"]).norm() / one["gradient"].norm()
            assert difference < 1e-5, processes
            assert other["losses"] == pytest.approx(one["losses"], rel=1e-5)


def train_command(root: Path, *arguments: str) -> list[str]:
    """A short training on the CPU."""
    command = [str(REPOSITORY / "train.py"), "--data.root", str(root), "--data.image_size", "64", "--name", "ddp"]
    command += ["--data.batch_size", "2", "--data.num_workers", "0", "--model.variant", "yolov8n"]
    command += ["--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.precision", "32-true"]
    return [*command, *arguments]


def test_training_on_two_processes(tmp_path: Path, make_coco: Any) -> None:
    """The README's flags, on two processes of the CPU: one run folder, one checkpoint, one line an epoch."""
    root = make_coco(tmp_path / "data", num_val=3)
    command = [sys.executable, *train_command(root, "--trainer.devices", "2", "--trainer.max_epochs", "1")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    check_one_run(tmp_path, result.stdout)


def check_one_run(folder: Path, output: str) -> None:
    """One epoch in one run folder, told once."""
    runs = list((folder / "runs" / "ddp").iterdir())
    assert [run.name for run in runs] == ["version_0"]
    assert torch.load(runs[0] / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0
    assert len((runs[0] / "metrics.csv").read_text().splitlines()) == 2
    assert output.count("epoch 1/1") == 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_nodes_under_torchrun(tmp_path: Path, make_coco: Any) -> None:
    """Two agents on loopback, as on two machines with a common disk; then the same command goes on with the run."""
    root = make_coco(tmp_path / "data", num_val=3)

    def run(*arguments: str) -> list[tuple[int, str]]:
        port = free_port()
        nodes = []
        for rank in range(2):
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(rank)]
            command += ["--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", str(port)]
            command += train_command(root, "--trainer.devices", "1", "--trainer.num_nodes", "2", *arguments)
            nodes.append(
                subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        outputs = [node.communicate(timeout=240)[0] for node in nodes]
        return [(node.returncode, output) for node, output in zip(nodes, outputs, strict=True)]

    results = run("--trainer.max_epochs", "1", "--ckpt_path", "last")
    assert [code for code, _ in results] == [0, 0], results
    check_one_run(tmp_path, "".join(output for _, output in results))
    results = run("--trainer.max_epochs", "2", "--ckpt_path", "last")
    assert [code for code, _ in results] == [0, 0], results
    (run_folder,) = (tmp_path / "runs" / "ddp").iterdir()
    assert [line.split(",")[0] for line in (run_folder / "metrics.csv").read_text().splitlines()[1:]] == ["0", "1"]


def children(pid: int) -> list[int]:
    """Processes that a process started, without those of multiprocessing."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the processes in /proc")
@pytest.mark.parametrize("victim", ["main", "other"])
def test_a_process_that_dies_takes_the_others_along(victim: str, tmp_path: Path, make_coco: Any) -> None:
    root = make_coco(tmp_path / "data", num_train=40)
    command = [sys.executable, *train_command(root, "--trainer.devices", "2", "--trainer.max_epochs", "1000")]
    log = tmp_path / "log"
    with open(log, "w") as output:
        main = subprocess.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
    deadline = time.monotonic() + 120
    while "epoch 2/" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        assert main.poll() is None, log.read_text()
        time.sleep(0.2)
    (other,) = children(main.pid)
    os.kill(main.pid if victim == "main" else other, signal.SIGKILL)
    assert main.wait(timeout=60) != 0
    deadline = time.monotonic() + 60
    while Path(f"/proc/{other}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert list(tmp_path.rglob("last.ckpt"))
