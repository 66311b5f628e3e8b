"""Streamed data is the folder's data: every image once and in full, whoever asks, wherever it goes on."""

from __future__ import annotations

import builtins
import importlib.util
import json
import pickle
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import eval as evaluation
import train
from yolo_lite.data import stream as command
from yolo_lite.data import stream_store
from yolo_lite.data.augment import AugmentConfig
from yolo_lite.data.catalog import open_split
from yolo_lite.data.collate import collate
from yolo_lite.data.dataset import EvalDataset, ImageSource, TrainDataset
from yolo_lite.data.images import read_image
from yolo_lite.data.index import ARRAYS
from yolo_lite.data.stream import convert, main
from yolo_lite.data.stream_plan import StreamPlan, StreamSampler
from yolo_lite.data.stream_store import Stream, as_url, open_stream
from yolo_lite.data.streaming import StreamedFiles
from yolo_lite.data.types import Sample
from yolo_lite.utils.errors import UserError

NUM_TRAIN, NUM_VAL = 45, 5
# A drawn image takes some 300 bytes.
CHUNK_MB = 0.002
PLAIN = AugmentConfig(mosaic=0.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_coco: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("streaming") / "data"
    greys = [40 + 3 * i for i in range(NUM_TRAIN)]
    make_coco(folder, NUM_TRAIN, NUM_VAL, category_ids=[7, 3], empty_images=[2], boxes_per_image=2, background=greys)
    path = folder / "annotations" / "val.json"
    content = json.loads(path.read_text())
    content["annotations"][1] |= {"iscrowd": 1, "area": 17.0}
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def converted(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "stream"
    assert convert(root, str(out), chunk_mb=CHUNK_MB, workers=2) == ["train", "val"]
    return out


def opened(location: Path | str, cache_dir: Path | None = None) -> Stream:
    stream = open_stream(location, cache_dir)
    assert stream is not None
    return stream


class Share:
    """What one rank's loader asks for and gets.

    Args:
        stream: the data.
        ranks: of how many.
        rank: which one.
        workers: loader processes.
        augment: mosaic or not.
    """

    def __init__(self, stream: Stream, ranks: int, rank: int, workers: int, augment: AugmentConfig = PLAIN) -> None:
        index = stream.index("train")
        plan = StreamPlan(tuple(stream.chunk_sizes("train")), 0, ranks, max(1, workers), 4)
        self.files = StreamedFiles(stream, "train", index, plan, rank)
        source = ImageSource(index, 64, "auto", recent=32, files=self.files)
        self.sampler = StreamSampler(plan, stream.places("train"), rank, recent_batches=7)
        dataset = TrainDataset(source, augment, 1, 0)
        self.loader: DataLoader[Sample] = DataLoader(
            dataset, 4, sampler=self.sampler, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
        )

    def batches(self, epoch: int, done: int = 0) -> list[tuple[list[int], int]]:
        """Image ids and the sum of the pixels of each batch of an epoch."""
        self.sampler.set_epoch(epoch)
        self.sampler.skip(done)
        return [(batch.image_ids.tolist(), int(batch.images.long().sum())) for batch in self.loader]


def test_nothing_is_lost_in_conversion(root: Path, converted: Path) -> None:
    stream = opened(converted)
    assert len(stream.chunk_sizes("train")) >= 4
    for split in ("train", "val"):
        before, after = open_split(root, split), stream.index(split)  # type: ignore[arg-type]
        assert (before.class_names, before.category_ids) == (after.class_names, after.category_ids)
        for name in ARRAYS:
            assert np.array_equal(getattr(before, name), getattr(after, name)), name
        files = StreamedFiles(stream, split, after)  # type: ignore[arg-type]
        for i in range(len(before)):
            assert after.file_names[i] == before.file_names[i]
            assert files.read(i).tobytes() == before.path(i).read_bytes()
        assert pickle.loads(pickle.dumps(files)).read(1).tobytes() == before.path(1).read_bytes(), "spawned"
    assert not np.array_equal(stream.places("train"), np.arange(NUM_TRAIN)), "training images are stored at random"
    assert [path.name for path in converted.parent.iterdir()] == ["stream"], "a scratch folder was left"


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    ranks=st.integers(1, 4),
    workers=st.integers(1, 3),
    batch_size=st.integers(1, 5),
    done=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_the_plan_has_every_image_once(sizes: list[int], ranks: int, workers: int, batch_size: int, done: int) -> None:
    plan = StreamPlan(tuple(sizes), 3, ranks, workers, batch_size)
    seen: Counter[int] = Counter()
    lengths = set()
    for rank in range(ranks):
        sampler = StreamSampler(plan, np.arange(plan.num_images), rank)
        keys = [key.image for key in sampler]
        lengths.add(-(-len(keys) // batch_size))
        own = len(range(rank, plan.num_images, ranks))
        seen.update(keys[:own])
        sampler.skip(done)
        assert [key.image for key in sampler] == keys[done * batch_size :]
    assert seen == Counter(range(plan.num_images))
    assert len(lengths) == 1, "ranks with fewer batches would be waited for"


@pytest.mark.parametrize("remote", [False, True], ids=["folder", "url"])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_an_epoch(converted: Path, tmp_path: Path, workers: int, remote: bool) -> None:
    stream = opened(f"local:{converted}", tmp_path) if remote else opened(converted)
    shares = [Share(stream, 2, rank, workers, AugmentConfig()) for rank in range(2)]
    orders = []
    for epoch in range(2):
        own = [[i for ids, _ in share.batches(epoch) for i in ids] for share in shares]
        ids = stream.index("train").image_ids.tolist()
        repeated = len(own[0]) + len(own[1]) - NUM_TRAIN
        assert repeated <= 1 and set(own[0]) | set(own[1]) == set(ids)
        orders.append(own)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [3, 5])
def test_going_on_inside_an_epoch(converted: Path, workers: int, done: int) -> None:
    """Mosaics included, whose partners are of batches before the stop; then the epoch without them."""
    straight = Share(opened(converted), 2, 1, workers, AugmentConfig())
    expected = straight.batches(0) + straight.batches(1)
    resumed = Share(opened(converted), 2, 1, workers, AugmentConfig())
    assert resumed.batches(0, done) + resumed.batches(1) == expected[done:]


def test_lanes_are_read_forward(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single images are for exceptions: of an object store each is a request of its own."""
    share = Share(opened(converted), 1, 0, 0, AugmentConfig())
    monkeypatch.setattr(share.files, "_one_by_one", None)
    assert len(share.batches(0)) == len(share.batches(1)) == -(-NUM_TRAIN // 4)


def test_mosaics_end_in_persistent_workers(converted: Path, root: Path) -> None:
    """The second epoch shows one image at a time: the greys of a mosaic would be several."""
    share = Share(opened(converted), 1, 0, 2, AugmentConfig(hsv=0.0, mixup=0.0))
    counts = []
    for epoch in range(2):
        share.sampler.set_epoch(epoch)
        pictures = [image for batch in share.loader for image in batch.images]
        greys = [p[:, (p[0] == p[1]) & (p[1] == p[2])][0] for p in pictures]
        common = [torch.bincount(g.long(), minlength=256) for g in greys]
        counts.append(sum(int((c > 60).sum()) for c in common) / len(common))
    assert counts[0] > counts[1] + 0.5


def test_validation_sees_what_the_folder_has(root: Path, converted: Path) -> None:
    index = opened(converted).index("val")
    streamed = EvalDataset(ImageSource(index, 64, "auto", files=StreamedFiles(opened(converted), "val", index)))
    folder = EvalDataset(ImageSource(open_split(root, "val"), 64, "none"))
    for i in range(NUM_VAL):
        a, b = streamed[i], folder[i]
        assert np.array_equal(a.image, b.image) and np.array_equal(a.boxes_xyxy, b.boxes_xyxy)
        assert (a.image_id, a.original_size, a.letterbox) == (b.image_id, b.original_size, b.letterbox)


def test_chunks_are_evicted(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for fewer chunks than there are, every image still comes."""
    monkeypatch.setenv("MAX_CACHE_SIZE", "3000")
    stream = opened(f"local:{converted}", tmp_path)
    ids = [i for batch, _ in Share(stream, 1, 0, 0).batches(0) for i in batch]
    assert sorted(ids) == sorted(stream.index("train").image_ids.tolist())
    kept = list((tmp_path).rglob("chunk-*.bin"))
    assert len(kept) < len(stream.chunk_sizes("train"))


TRAIN = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--trainer.accelerator", "cpu", "--name", "run"),
    *("--trainer.precision", "32-true", "--model.variant", "yolov8n", "--model.nominal_batch", "4"),
    *("--model.lr", "0.01", "--trainer.max_epochs", "1"),
]


def test_train_and_score(
    root: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([*TRAIN, "--data.root", str(converted), "--data.num_workers", "1"]) == 0
    numbers = []
    for k, data in enumerate((converted, root)):
        arguments = ["--checkpoint", "runs/run/version_0/checkpoints/last.ckpt", "--data.root", str(data)]
        arguments += ["--data.num_workers", "0", "--trainer.accelerator", "cpu"]
        assert evaluation.main([*arguments, "--json", f"{k}.json", "--report", f"report{k}"]) == 0
        numbers.append(json.loads(Path(f"{k}.json").read_text()))
        del numbers[k]["data_root"], numbers[k]["milliseconds_per_image"]
        page = Path(f"report{k}", "report.html").read_text()
        numbers[k]["pictures"] = re.findall(r"data:image/jpeg;base64,[^\"]+", page)
        assert numbers[k]["pictures"]
        assert "not readable" not in page
    assert numbers[0] == numbers[1]
    assert "Traceback" not in capfd.readouterr().err


def test_another_number_of_workers_inside_an_epoch(converted: Path) -> None:
    from yolo_lite.data.datamodule import DetectionDataModule

    data = DetectionDataModule(converted, num_workers=2, batch_size=4)
    data.trainer = type("T", (), {"accumulate_grad_batches": 1})()  # type: ignore[assignment]
    state = {"epoch": 1, "batch_size": 4, "processes": 1, "images": 45, "seed": 0, "batches_per_step": 1}
    data.load_state_dict({**state, "batches_done": 3, "stream_workers": 1})
    with pytest.raises(UserError, match="stream_workers=1; this command has 2"):
        data.resumed_position(45, 1)
    data.load_state_dict({**state, "batches_done": 0, "stream_workers": 1})
    assert data.resumed_position(45, 1) == (1, 0)


def test_broken_images(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that is no image is left out and named; one whose pixels are damaged ends training with a line."""
    copy = tmp_path / "data"
    shutil.copytree(root, copy)
    files = sorted((copy / "images" / "train").iterdir())
    files[0].write_bytes(b"nothing")
    data = bytearray(files[1].read_bytes())
    data[60:90] = bytes(30)
    files[1].write_bytes(data)
    convert(copy, str(tmp_path / "out"))
    stream = opened(tmp_path / "out")
    index = stream.index("train")
    names = [index.file_names[i] for i in range(len(index))]
    assert len(index) == NUM_TRAIN - 1 and files[0].name not in names
    source = ImageSource(index, 64, "auto", files=StreamedFiles(stream, "train", index))
    with pytest.raises(UserError, match=f"cannot decode image {files[1].name} in "):
        source.image(names.index(files[1].name))


def test_smaller_images(root: Path, tmp_path: Path) -> None:
    convert(root, str(tmp_path / "out"), ("val",), image_size=64)
    stream = opened(tmp_path / "out")
    index = stream.index("val")
    files = StreamedFiles(stream, "val", index)
    (tmp_path / "one.jpg").write_bytes(files.read(0).tobytes())
    image = read_image(tmp_path / "one.jpg")
    assert image.shape == (48, 64, 3) and index.sizes[0].tolist() == [96, 128]
    source = ImageSource(index, 64, "none")
    source.index.image_dir = open_split(root, "val").image_dir
    assert np.abs(image.astype(int) - source.image(0)).mean() < 10
    assert list(stream.manifest["splits"]) == ["val"]
    with pytest.raises(UserError, match=r"no train split in .* which has val"):
        stream.index("train")


@pytest.mark.parametrize("when", ["chunks", "detections"])
def test_all_or_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, f"write_{when}", fail)
    assert main(["--data.root", str(root), "--out", str(tmp_path / "out")]) == 2
    assert list(tmp_path.iterdir()) == []


class Bucket:
    """An object store in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []

    def is_empty(self, url: str) -> bool:
        return not self.folder.exists()

    def upload_file(self, path: str, url: str) -> None:
        name = url.removeprefix("s3://bucket/data/")
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, self.folder / name)
        self.names.append(name)


def test_upload(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Chunk by chunk, what makes it whole at last, and never over something."""
    bucket = Bucket(tmp_path / "bucket")
    monkeypatch.setattr("litdata.streaming.fs_provider._get_fs_provider", lambda url: bucket)
    arguments = ["--data.root", str(root), "--out", "s3://bucket/data", "--chunk_mb", str(CHUNK_MB)]
    assert main(arguments) == 0
    assert bucket.names[-1] == "stream.json" and len(bucket.names) == len(set(bucket.names))
    stream = opened(f"local:{bucket.folder}", tmp_path / "cache")
    files = StreamedFiles(stream, "val", stream.index("val"))
    assert files.read(3).tobytes() == open_split(root, "val").path(3).read_bytes()
    assert main(arguments) == 2
    assert "there is something at s3://bucket/data already" in capsys.readouterr().err


def test_errors(root: Path, converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(converted, damaged)
    (damaged / "train" / "chunk-0-1.bin").unlink()
    with pytest.raises(UserError, match=r"chunk-0-1.bin has 0 of its \d+ bytes"):
        opened(damaged).index("train")
    (damaged / "stream.json").write_text("{")
    with pytest.raises(UserError, match="has the format None, not 1"):
        open_stream(damaged)
    with pytest.raises(UserError, match=r"cannot fetch local:.*missing/stream.json"):
        open_stream(f"local:{tmp_path}/missing")
    assert open_stream(root) is None
    with pytest.raises(UserError, match=r"data.cache=ram: streamed images are not cached"):
        index = opened(converted).index("val")
        ImageSource(index, 64, "ram", files=StreamedFiles(opened(converted), "val", index))
    for arguments, message in (
        (["--data.root", str(root), "--out", str(converted)], "exists already"),
        (["--data.root", str(converted), "--out", str(tmp_path / "a")], "give what it was made from"),
        (["--data.root", str(root), "--out", "azure://b/c"], "cannot write there"),
        (["--data.root", str(root), "--out", str(tmp_path / "a"), "--split", "dev"], "give one of train, val, test"),
        (["--data.root", str(root), "--out", str(tmp_path / "a"), "--workers", "0"], "give at least 1"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_chunks_of_another_conversion(converted: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(converted, mixed)
    places = np.load(mixed / "train" / "detections" / "places.npy")
    np.save(mixed / "train" / "detections" / "places.npy", places[::-1])
    stream = opened(mixed)
    with pytest.raises(UserError, match="of two conversions"):
        StreamedFiles(stream, "train", stream.index("train")).read(0)


def test_without_litdata(
    root: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        stream_store.importlib.util, "find_spec", lambda name: None if name == "litdata" else find(name)
    )
    assert main(["--data.root", str(root), "--out", str(tmp_path / "a")]) == 2
    assert train.main([*TRAIN, "--data.root", str(converted), "--runs_dir", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("pip install -r requirements-streaming.txt" in line for line in lines)


def test_folders_need_no_litdata(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes two seconds to import."""
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        assert not name.startswith("litdata")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    from yolo_lite.data.datamodule import DetectionDataModule

    assert len(DetectionDataModule(root).index("val")) == NUM_VAL


@pytest.mark.parametrize(
    ("root", "url"),
    [
        ("s3://bucket/data/", "s3://bucket/data"),
        (str(Path("gs://bucket/data")), "gs://bucket/data"),
        ("local:/mnt/slow", "local:/mnt/slow"),
        ("data/s3", None),
        ("s3", None),
    ],
)
def test_urls(root: str, url: str | None) -> None:
    assert as_url(root) == url
