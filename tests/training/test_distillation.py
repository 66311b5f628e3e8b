"""A teacher in training: what it sees, what it changes, and what is left of it in a checkpoint."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import eval as eval_script
import train as train_script
from tests.deploy.lively import NAMES, lively
from yolo_lite.data.collate import pad_targets
from yolo_lite.losses.detection import TERMS, whole
from yolo_lite.losses.distillation import DistillationLoss
from yolo_lite.models.fuse import fuse_model
from yolo_lite.models.yolo import YOLO, build_model
from yolo_lite.training.batch_size import Trial
from yolo_lite.training.callbacks import EpochMeans
from yolo_lite.training.distillation import Distillation, Teacher
from yolo_lite.training.module import DetectionModule, training_loss
from yolo_lite.training.teacher_cache import TeacherCache
from yolo_lite.utils.errors import UserError

FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.logger", "false"),
    *("--model.nominal_batch", "4", "--model.warmup_epochs", "0"),
]


def make_teacher(seed: int = 0) -> Teacher:
    return Teacher(fuse_model(lively(seed=seed)[0]), "yolov8n", list(NAMES), 64)


def distance(student: YOLO, teacher: Teacher, images: Tensor, names: list[str] | None = None) -> Tensor:
    torch.manual_seed(1)  # the adapters
    distillation = Distillation(teacher, student, names or NAMES, DistillationLoss(feature_gain=0), 1.0)
    features = student.features(images)
    return distillation(images, features, student.head(features), whole).detach()


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    images = torch.rand(2, 3, 64, 64)
    student = lively()[0].eval()
    assert float(distance(student, make_teacher(), images)) == pytest.approx(0, abs=1e-4)
    assert float(distance(lively(seed=1)[0].eval(), make_teacher(), images)) > 0.1


def test_the_weight_is_on_the_whole_loss() -> None:
    images, student = torch.rand(1, 3, 64, 64), lively(seed=1)[0].eval()
    features = student.features(images)
    taught = Distillation(make_teacher(), student, NAMES, DistillationLoss(), 1.0)
    once = taught(images, features, student.head(features), whole).detach()
    taught.weight = 2.5
    torch.testing.assert_close(taught(images, features, student.head(features), whole).detach(), 2.5 * once)


def test_levels_are_those_of_the_same_stride() -> None:
    """A student from P2 on, whose heads of P3-P5 and all before them are the teacher's, has nothing to learn there."""
    images = torch.rand(2, 3, 64, 64)
    teacher = lively()[0].eval()
    student = build_model("yolov8n", len(NAMES), levels="P2-P5").eval()
    taught = Distillation(make_teacher(), student, NAMES, DistillationLoss(feature_gain=0), 1.0)
    assert taught.strides == (8, 16, 32)
    fine = torch.zeros(2, 64 + len(NAMES), 16, 16)
    features = student.features(images)
    same = taught(images, features, [fine, *teacher(images)], whole)
    assert float(same) == pytest.approx(0, abs=1e-4)
    assert float(taught(images, features, student(images), whole)) > 0.1


def test_classes_go_by_name() -> None:
    """The same detector with its classes in another order, and with one that the student does not have."""
    images = torch.rand(2, 3, 64, 64)
    student = lively()[0].eval()
    teacher = make_teacher()
    order = [2, 0, 1]
    for branch in teacher.model.head.classes:
        branch[2].weight.data = branch[2].weight[order]
        branch[2].bias.data = branch[2].bias[order]
    teacher.class_names = [NAMES[i] for i in order]
    assert float(distance(student, teacher, images)) == pytest.approx(0, abs=1e-4)
    renamed = ["a new class", *NAMES[1:]]
    assert float(distance(student, make_teacher(), images, renamed)) == pytest.approx(0, abs=1e-4)


def test_the_teacher_stays_as_it_is_and_the_student_comes_closer() -> None:
    torch.manual_seed(0)
    teacher, images = make_teacher(), torch.randint(256, (2, 3, 64, 64)) / 255
    before = {name: value.clone() for name, value in teacher.model.state_dict().items()}
    module = DetectionModule("yolov8n-lite", NAMES, image_size=64, distill_weight=1.0)
    module.learn_from(teacher)
    assert module.distillation is not None
    module.train()
    targets = pad_targets(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([[8.0, 8, 40, 40]] * 2), 2)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(15):
        items = training_loss(module.model, module.loss, module.distillation, images, targets)
        assert items.distill is not None
        losses.append(float(items.distill))
        optimizer.zero_grad()
        items.total.backward()
        assert all(p.grad is not None for p in module.distillation.adapters.parameters())
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert not teacher.model.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())


def test_what_the_teacher_said_is_asked_once(tmp_path: Path, monkeypatch: Any) -> None:
    """The same images in another order, by another teacher object of the same weights; then by other weights."""
    images = torch.rand(3, 3, 64, 96)

    def say(seed: int, images: Tensor) -> list[Tensor]:
        teacher = make_teacher(seed=seed)
        teacher.cache = TeacherCache(tmp_path, teacher.model)
        features, maps = teacher(images)
        return [*features, *maps]

    expected = [x.half().float() for x in make_teacher().forward(images)]
    assert all(torch.equal(a, b) for a, b in zip(say(0, images), expected, strict=True))
    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "forward", None)  # must not be called
        again = say(0, images[[2, 0, 1]])
        assert all(torch.equal(a, b[[2, 0, 1]]) for a, b in zip(again, expected, strict=True))
        with pytest.raises(TypeError):
            say(0, images + 1e-3)
        with pytest.raises(TypeError):
            say(1, images)
    assert len(list(tmp_path.rglob("*/*/*"))) == 3
    damaged = sorted(path for path in tmp_path.rglob("*/*/*") if path.is_file())
    damaged[0].write_bytes(damaged[0].read_bytes()[:-2])
    content = bytearray(damaged[1].read_bytes())
    content[100] ^= 1
    damaged[1].write_bytes(content)
    assert all(torch.equal(a, b) for a, b in zip(say(0, images), expected, strict=True))


def test_what_float16_cannot_hold_is_kept_as_its_largest_number(tmp_path: Path, monkeypatch: Any) -> None:
    teacher = make_teacher()
    teacher.cache = TeacherCache(tmp_path, teacher.model)
    forward = teacher.forward
    monkeypatch.setattr(teacher, "forward", lambda images: [x * 1e6 for x in forward(images)])
    features, maps = teacher(torch.rand(1, 3, 64, 64))
    assert all(x.isfinite().all() for x in (*features, *maps))
    assert max(float(x.abs().max()) for x in features) == torch.finfo(torch.float16).max


def test_a_cache_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: Any) -> None:
    teacher = make_teacher()
    teacher.cache = TeacherCache(tmp_path, teacher.model)
    teacher.cache.folder.write_text("in the way")
    images = torch.rand(2, 3, 64, 64)
    with caplog.at_level("WARNING", logger="yolo_lite"):
        _, maps = teacher(images)
    expected = make_teacher().forward(images)[3:]
    assert all(torch.equal(a, b.half().float()) for a, b in zip(maps, expected, strict=True))
    assert [record.message.count("is not kept") for record in caplog.records] == [1]


def test_a_cache_needs_a_teacher() -> None:
    with pytest.raises(UserError, match=r"teacher_cache=kept without model.teacher"):
        DetectionModule("yolov8n", NAMES, teacher_cache="kept")


def test_a_trial_of_the_batch_size_leaves_the_cache_alone(tmp_path: Path) -> None:
    """Its images are noise; and a teacher read from the disk would take no memory."""
    teacher = make_teacher()
    teacher.cache = TeacherCache(tmp_path, teacher.model)
    module = DetectionModule("yolov8n", NAMES, image_size=64)
    module.learn_from(teacher)
    Trial(module, torch.device("cpu"), nullcontext).measured(2)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert module.distillation is not None
    assert module.distillation.teacher.cache is teacher.cache
    assert all(p.grad is None for p in module.distillation.parameters())


def test_means_of_an_epoch_that_was_stopped_after_its_last_batch_have_all_terms() -> None:
    means = EpochMeans()
    means.load_state_dict({"sums": [2.0, 4.0, 6.0, 8.0, 1.0, 2.0]})
    logged: dict[str, Tensor] = {}
    module: Any = SimpleNamespace(device=torch.device("cpu"), log_dict=logged.update)
    trainer: Any = None
    means.on_train_start(trainer, module)
    means.on_train_epoch_end(trainer, module)
    assert {name: float(value) for name, value in logged.items()} == {
        f"train/loss_{name}_epoch": value for name, value in zip(TERMS, (1, 2, 3, 4), strict=True)
    }


def test_under_autocast_the_loss_is_float32() -> None:
    module = DetectionModule("yolov8n", NAMES, image_size=64)
    module.learn_from(make_teacher())
    targets = pad_targets(torch.tensor([0]), torch.tensor([0]), torch.tensor([[8.0, 8, 40, 40]]), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        items = training_loss(module.model, module.loss, module.distillation, torch.rand(2, 3, 64, 64), targets)
    assert items.distill is not None
    assert items.distill.dtype == torch.float32
    assert items.total.isfinite()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, make_coco: Any) -> tuple[list[str], Path, Path]:
    """The command of a distilled run, its last checkpoint after two epochs, and its teacher's."""
    folder = tmp_path_factory.mktemp("distilled")
    root = make_coco(folder / "data")
    command = ["--data.root", str(root), "--runs_dir", str(folder / "runs"), *FAST]
    assert (
        train_script.main([*command, "--model.variant", "yolov8n", "--name", "big", "--trainer.max_epochs", "1"]) == 0
    )
    teacher = folder / "runs" / "big" / "version_0" / "checkpoints" / "last.ckpt"
    command += ["--model.variant", "yolov8n", "--model.block", "cspc", "--model.teacher", str(teacher)]
    command += ["--model.teacher_cache", str(folder / "cache")]
    assert train_script.main([*command, "--name", "small", "--trainer.max_epochs", "2"]) == 0
    return command, folder / "runs" / "small" / "version_0" / "checkpoints" / "last.ckpt", teacher


def test_what_the_teacher_said_is_kept(taught: tuple[list[str], Path, Path]) -> None:
    """Of eight images in two epochs, each time augmented otherwise."""
    kept = [path for path in (taught[1].parents[4] / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 16


def test_the_log_names_teacher_and_distance(taught: tuple[list[str], Path, Path]) -> None:
    rows = (taught[1].parents[1] / "metrics.csv").read_text().splitlines()
    assert "train/loss_distill_epoch" in rows[0].split(",")
    value = float(rows[2].split(",")[rows[0].split(",").index("train/loss_distill_epoch")])
    assert value > 0


def test_the_checkpoint_holds_no_teacher(taught: tuple[list[str], Path, Path], tmp_path: Path, capsys: Any) -> None:
    """It has the student's tensors alone, and can be scored and gone on from as weights without the teacher's file."""
    command, last, teacher = taught
    checkpoint = torch.load(last, weights_only=True)
    student = DetectionModule("yolov8n", ["a", "b"], block="cspc").state_dict()
    for key in ("state_dict", "raw_state_dict"):
        assert checkpoint[key].keys() == student.keys()
    moved = teacher.rename(tmp_path / "elsewhere.ckpt")
    try:
        root = command[1]
        score = ["--checkpoint", str(last), "--data.root", root, "--report", "none", "--trainer.accelerator", "cpu"]
        assert eval_script.main([*score, "--data.num_workers", "0"]) == 0
        assert train_script.main([*command, "--trainer.max_epochs", "3", "--name", "other"]) == 2
        assert f"no checkpoint {teacher}" in capsys.readouterr().err
    finally:
        moved.rename(teacher)


def test_a_distilled_run_goes_on_exactly(taught: tuple[list[str], Path, Path]) -> None:
    """One epoch and then another are the two in one go: adapters and their optimiser state come back."""
    command, last, _ = taught
    for epochs in ("1", "2"):
        parts = ["--name", "parts", "--trainer.max_epochs", epochs, "--ckpt_path", "last"]
        schedule = ["--model.final_lr_fraction", "1"]
        assert train_script.main([*command, *parts, *schedule]) == 0
    assert train_script.main([*command, "--name", "whole", "--trainer.max_epochs", "2", *schedule]) == 0
    runs = last.parents[3]
    one, two = (
        torch.load(runs / name / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("parts", "whole")
    )
    for key in ("state_dict", "raw_state_dict", "adapters"):
        assert one[key].keys() == two[key].keys()
        assert all(torch.equal(value, two[key][name]) for name, value in one[key].items())


def test_a_run_goes_on_with_a_teacher_only_if_it_had_one(taught: tuple[list[str], Path, Path], capsys: Any) -> None:
    command, last, _ = taught
    without = command[: command.index("--model.teacher")]
    assert train_script.main([*without, "--trainer.max_epochs", "3", "--ckpt_path", str(last)]) == 2
    assert "this command says None and None" in capsys.readouterr().err


def test_a_teacher_of_other_things_is_one_line(taught: tuple[list[str], Path, Path]) -> None:
    with pytest.raises(UserError, match=r"knows \['class0', 'class1'\], none of \['moon'\]"):
        Teacher.read(taught[2], ["moon"])
