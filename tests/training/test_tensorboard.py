"""What a short training leaves in TensorBoard, read back from its event files, and where other loggers write."""

from __future__ import annotations

import csv
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.pr_curve import metadata as curve_metadata
from tensorboard.util.tensor_util import make_ndarray

import train as train_script
from yolo_lite.data.shapes import make_shapes
from yolo_lite.data.types import Batch, Targets
from yolo_lite.evaluation.curves import Curves
from yolo_lite.ops.postprocess import Detections
from yolo_lite.training import tensorboard
from yolo_lite.training.loggers import has_picture_loggers, log_picture, make_loggers
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.pictures import GAP, SMALLEST, PictureLogger, draw_boxes, grid
from yolo_lite.training.score_pictures import curve_rows
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.runs import RunFolder

FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--model.variant", "yolov8n"),
    *("--trainer.max_epochs", "2"),
    *("--model.nominal_batch", "4", "--pictures.num_images", "3"),
]
LOGGERS = "lightning.pytorch.loggers"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the embedded shapes."""
    return make_shapes(tmp_path_factory.mktemp("shapes") / "shapes", num_train=4, num_val=10)


def train(root: Path, runs: Path, *extra: str, name: str = "run") -> Path:
    """A run of two steps; its folder."""
    assert train_script.main(["--data.root", str(root), "--runs_dir", str(runs), "--name", name, *FAST, *extra]) == 0
    return runs / name / "version_0"


def events(run: Path) -> EventAccumulator:
    """Everything in a run's event files."""
    found = EventAccumulator(str(run), {"images": 0, "tensors": 0, "scalars": 0})
    return found.Reload()


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(shapes, tmp_path_factory.mktemp("one") / "runs")


def test_all_numbers_are_there(run: Path) -> None:
    found = events(run)
    scalars = set(found.Tags()["scalars"])
    expected = {f"train/loss_{term}" for term in ("box", "class", "dfl")} | {"train/positives", "train/gradient_norm"}
    expected |= {"val/map_50_95", "val/map_50", "best/map_50_95", "best/map_50", "time/images_per_second"}
    expected |= {"time/data_wait", "memory/process_gib", "model/parameters", "model/gflops", "val/loss_box"}
    assert expected <= scalars
    assert any(tag.startswith("lr-") for tag in scalars)
    assert len([tag for tag in scalars if tag.startswith("val/ap/")]) == 5
    assert "hp_metric" not in scalars
    best, scored = (found.Scalars(f"{group}/map_50") for group in ("best", "val"))
    assert [event.step for event in best] == [event.step for event in scored]
    for tag in expected:
        assert np.isfinite([event.value for event in found.Scalars(tag)]).all(), tag
    assert found.Scalars("model/parameters")[0].value == 3_011_823
    assert found.Scalars("memory/process_gib")[0].value > 0.1


def test_pictures_decode_and_have_their_size(run: Path) -> None:
    found = events(run)
    sizes = {
        "train/batch": (SMALLEST, 3 * SMALLEST + 2 * GAP),
        "val/truth_above_prediction": (2 * SMALLEST, 3 * SMALLEST + 2 * GAP),
        "val/precision_recall": None,
        "val/confusion": None,
    }
    assert set(found.Tags()["images"]) == set(sizes)
    for tag, size in sizes.items():
        pictures = found.Images(tag)
        assert [event.step for event in pictures] == [0, 1], tag
        for event in pictures:
            picture = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            assert picture.shape[:2] == (size or (event.height, event.width)), tag
            assert picture.std() > 5


def test_curves_of_all_classes_and_each(run: Path) -> None:
    found = events(run)
    tags = found.PluginTagToContent(curve_metadata.PLUGIN_NAME)
    assert "pr/all_classes" in tags
    assert len(tags) > 1
    for tag in tags:
        values = found.Tensors(tag)
        assert [event.step for event in values] == [0, 1]
        hits, wrong, nothing, missed, precision, recall = make_ndarray(values[-1].tensor_proto)
        assert len(hits) == 101
        assert not nothing.any()
        assert len(set((hits + missed).tolist())) == 1
        assert np.allclose(precision, np.where(hits + wrong > 0, hits / np.maximum(hits + wrong, 1), 1))
        assert (np.diff(recall) <= 0).all() and 0 <= recall.min() <= recall.max() <= 1


def test_model_is_there_as_text_and_graph(run: Path) -> None:
    found = events(run)
    assert found.Tags()["graph"]
    names = {node.name for node in found.Graph().node}
    assert any("/Backbone[backbone]/Stage[stage2]/" in name for name in names)
    text = found.Tensors("model/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "3,011,823" in text
    assert "backbone.stage2" in text


def test_settings_and_their_metrics_compare_runs(run: Path) -> None:
    found = events(run)
    contents = found.PluginTagToContent(hparams_metadata.PLUGIN_NAME)
    session = hparams_metadata.parse_session_start_info_plugin_data(contents[hparams_metadata.SESSION_START_INFO_TAG])
    settings = session.hparams
    assert settings["model.variant"].string_value == "yolov8n"
    assert settings["model.block"].string_value == "c2f"
    assert settings["model.optimizer"].string_value == "adamw"
    assert settings["model.lr"].number_value > 0
    assert settings["data.augment.mosaic"].number_value == 1
    assert settings["trainer.max_epochs"].number_value == 2
    experiment = hparams_metadata.parse_experiment_plugin_data(contents[hparams_metadata.EXPERIMENT_TAG])
    names = [info.name.tag for info in experiment.metric_infos]
    assert {"val/map_50_95", "best/map_50_95", "model/gflops", "time/images_per_second"} <= set(names)
    for name in names:  # each column is filled from a scalar of the run
        assert np.isfinite(found.Scalars(name)[-1].value)
    assert hparams_metadata.SESSION_END_INFO_TAG in contents


@pytest.fixture(scope="module")
def other(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another seed in other batches, with two loggers that the configuration names."""
    folder = tmp_path_factory.mktemp("other")
    config = folder / "loggers.yaml"
    init_args = f"    init_args: {{save_dir: {folder / 'runs'}}}\n"
    lines = "".join(f"  - class_path: {LOGGERS}.{kind}\n{init_args}" for kind in ("CSVLogger", "TensorBoardLogger"))
    config.write_text(f"trainer:\n  logger:\n{lines}")
    settings = ["--config", str(config), "--trainer.max_epochs", "1", "--seed_everything", "7"]
    return train(shapes, folder / "runs", *settings, "--data.batch_size", "3")


def test_validation_images_are_the_same_in_every_run(run: Path, other: Path) -> None:
    """Whatever the seed of the run and the size of its batches: the upper halves show the ground truth."""
    truths = []
    for folder in (run, other):
        for event in events(folder).Images("val/truth_above_prediction"):
            picture = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            truths.append(picture[: len(picture) // 2])
    assert len(truths) == 3
    assert all(np.array_equal(truth, truths[0]) for truth in truths)


def chosen(batch_size: int, seed: int) -> list[int]:
    """Ids of the 3 images that are shown of 20, loaded in order."""
    logger = PictureLogger(num_images=3, seed=seed)
    ids = np.arange(100, 120)
    gallery = types.SimpleNamespace(log_image=lambda key, images, step: None)
    data = types.SimpleNamespace(eval_index=types.SimpleNamespace(image_ids=ids))
    trainer: Any = types.SimpleNamespace(datamodule=data, sanity_checking=False, loggers=[gallery])
    logger.on_validation_start(trainer, None)  # type: ignore[arg-type]
    for part in torch.from_numpy(ids).split(batch_size):
        count = len(part)
        targets = Targets(torch.zeros(count, 0), torch.zeros(count, 0, 4), torch.zeros(count, 0, dtype=torch.bool))
        batch = Batch(torch.zeros(count, 3, 2, 2), targets, part, torch.zeros(count, 2), torch.zeros(count, 4))
        found = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
        logger.on_validation_batch_end(trainer, None, {"detections": [found] * count}, batch, 0)  # type: ignore[arg-type]
    return [int(shown.batch.image_ids) for shown in logger._shown]


def test_shown_images_depend_on_their_seed_alone() -> None:
    assert len(set(chosen(4, seed=0))) == 3
    assert chosen(4, seed=0) == chosen(7, seed=0) == chosen(20, seed=0)
    assert chosen(4, seed=0) != chosen(4, seed=1)


def test_loggers_from_the_configuration(other: Path) -> None:
    """Several at once: each in the run folder, none over our metrics.csv."""
    assert [path.name for path in other.parents[1].iterdir()] == ["run"]
    assert (other / "config.yaml").read_text().count("CSVLogger") == 1
    found = events(other)
    assert "hp_metric" not in found.Tags()["scalars"]
    assert "val/confusion" in found.Tags()["images"]
    for path, column in ((other / "metrics.csv", "lr"), (other / "csv" / "version_0" / "metrics.csv", "best/map_50")):
        with open(path, newline="") as file:
            assert column in (csv.DictReader(file).fieldnames or [])
    assert "model.lr" in (other / "csv" / "version_0" / "hparams.yaml").read_text()


def test_pictures_go_to_loggers_that_take_them() -> None:
    class Plain(Logger):
        name, version = "plain", 0  # type: ignore[assignment]

        def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    class Gallery(Plain):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
            self.seen.append((key, len(images), step))

    gallery = Gallery()
    trainer: Any = types.SimpleNamespace(loggers=[Plain(), gallery])
    log_picture(trainer, "val/x", np.zeros((2, 2, 3), np.uint8), 5)
    assert gallery.seen == [("val/x", 1, 5)]
    assert has_picture_loggers(trainer)
    assert not has_picture_loggers(types.SimpleNamespace(loggers=[Plain()]))  # type: ignore[arg-type]


def test_runs_of_other_loggers_have_speaking_names(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("fake_loggers")
    made: list[dict[str, Any]] = []
    for kind in ("WandbLogger", "MLFlowLogger"):
        setattr(module, kind, lambda **arguments: made.append(arguments))
    monkeypatch.setitem(sys.modules, "fake_loggers", module)
    folder = RunFolder(Path("runs"), "lite", 3)
    specs = [{"class_path": "fake_loggers.WandbLogger"}, {"class_path": "fake_loggers.MLFlowLogger"}]
    specs.append({"class_path": "fake_loggers.WandbLogger", "init_args": {"name": "mine"}})
    make_loggers(specs, Path("runs"), "lite", folder, 0)
    assert made == [{"name": "lite/version_3"}, {"run_name": "lite/version_3"}, {"name": "mine"}]


def test_csv_logger_may_not_take_our_file() -> None:
    spec = {"class_path": f"{LOGGERS}.CSVLogger", "init_args": {"save_dir": "runs", "name": "lite", "version": 3}}
    with pytest.raises(UserError, match=r"metrics\.csv"):
        make_loggers(spec, Path("runs"), "lite", RunFolder(Path("runs"), "lite", 3), 0)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is there")
def test_missing_package_is_one_line(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data.root", str(shapes), "--runs_dir", str(tmp_path), *FAST]
    assert train_script.main([*arguments, "--trainer.logger", f"{LOGGERS}.WandbLogger"]) == 2
    message = capsys.readouterr().err.strip()
    assert message == "error: trainer.logger: WandbLogger needs a package that is not there: pip install wandb"
    assert not list(tmp_path.iterdir())  # no empty run folder


def test_a_graph_that_cannot_be_drawn_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("no tracing\ntoday")

    monkeypatch.setattr(tensorboard, "add_graph", fail)
    warnings: list[str] = []
    monkeypatch.setattr(tensorboard.log, "warning", lambda message, *values: warnings.append(message % values))
    module = DetectionModule("yolov8n", ["a"], image_size=64)
    trainer: Any = types.SimpleNamespace(loggers=[TensorBoardLogger(tmp_path)], is_global_zero=True, global_step=0)
    before = torch.get_rng_state()
    tensorboard.ModelPage().on_train_start(trainer, module)
    assert warnings == ["no model graph in TensorBoard: no tracing"]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_graph_changes_neither_weights_nor_random_numbers(tmp_path: Path) -> None:
    module = DetectionModule("yolov8n", ["a"], image_size=64).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random_state = torch.get_rng_state()
    trainer: Any = types.SimpleNamespace(loggers=[TensorBoardLogger(tmp_path)], is_global_zero=True, global_step=0)
    tensorboard.ModelPage().on_train_start(trainer, module)
    assert module.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_settings_are_flat_and_plain() -> None:
    values = {"a": {"b": 1, "c": None, "d": [1]}, "e": "x", "f": True, "g": float("inf")}
    assert tensorboard.flatten(values) == {"a.b": 1, "e": "x", "f": True, "g": float("inf")}


def test_many_classes_have_few_curves() -> None:
    """Those with the most objects, in the order of the classes; none without objects."""
    nothing = np.zeros((7, 3))
    counts = np.array([60, 5, 0, 30, 1, 20, 4])
    curves = Curves(np.zeros(3), counts, *(nothing,) * 5, np.zeros(3), nothing)
    rows = curve_rows(curves, ["a", "b", "c", "d", "e", "f"], max_classes=3)
    assert rows == [(0, "pr/all_classes"), (1, "pr/class/a"), (3, "pr/class/c"), (5, "pr/class/e")]
    assert len(curve_rows(curves, ["a", "b", "c", "d", "e", "f"], max_classes=99)) == 6


@pytest.mark.parametrize(("side", "shown"), [(64, 320), (400, 400), (960, 480)])
def test_pictures_are_of_a_readable_size_and_boxes_with_them(side: int, shown: int) -> None:
    image = np.zeros((side // 2, side, 3), np.uint8)
    box = np.array([[side / 4, side / 8, side / 2, side / 4]])
    drawn = draw_boxes(image, box, np.array([0]), [""])
    assert drawn.shape == (shown // 2, shown, 3)
    rows, columns = np.nonzero(drawn.any(axis=2))
    top = np.nonzero(drawn[:, columns.max() - 4].any(axis=1))[0].min()  # right of the sign with the name
    found = np.array([columns.min(), top, columns.max(), rows.max()])
    assert np.abs(found - box[0] * shown / side).max() <= 2


def test_grid_holds_pictures_of_different_sizes() -> None:
    canvas = grid([np.zeros((10, 20, 3), np.uint8), np.zeros((30, 10, 3), np.uint8), np.zeros((5, 5, 3), np.uint8)], 2)
    assert canvas.shape == (2 * 30 + GAP, 2 * 20 + GAP, 3)
    assert (canvas == 0).all(axis=2).sum() == 10 * 20 + 30 * 10 + 5 * 5
