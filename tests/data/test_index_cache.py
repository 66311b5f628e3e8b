"""Indices kept between runs: used while nothing changed, made again when something did, never in the way."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolo_lite.data import catalog, index_cache
from yolo_lite.data.catalog import open_split
from yolo_lite.data.index import DetectionIndex
from yolo_lite.utils.errors import UserError


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(index_cache, "MIN_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The annotation files that were parsed."""
    parsed: list[Path] = []
    read_coco = catalog.read_coco

    def spy(path: Path, *args: Any) -> DetectionIndex:
        parsed.append(path)
        return read_coco(path, *args)

    monkeypatch.setattr(catalog, "read_coco", spy)
    return parsed


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def test_small_files_leave_nothing_behind(
    tiny_coco: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_cache, "MIN_BYTES", 50_000_000)
    root = tiny_coco()
    before = sorted(root.rglob("*"))
    open_split(root, "train")
    assert sorted(root.rglob("*")) == before
    assert not (tmp_path / "home").exists()


def test_the_second_time_nothing_is_parsed_or_checked(
    tiny_coco: Callable[..., Path], reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny_coco(empty_images=[1])
    first = open_split(root, "train")
    monkeypatch.setattr(catalog, "check_images", None)
    second = open_split(root, "train")
    assert len(reads) == 1
    assert second.saved == first.saved is not None
    assert len(entries(root / "annotations" / ".yolo-lite-index")) == 1
    assert second.source == root / "annotations" / "train.json"
    assert second.path(2).is_file()
    monkeypatch.undo()
    plain = catalog.read_coco(second.source, second.image_dir)
    assert second.boxes_xywh.tolist() == plain.boxes_xywh.tolist()
    assert [second.file_names[i] for i in range(8)] == [plain.file_names[i] for i in range(8)]


@pytest.mark.parametrize("change", ["content", "time", "format", "image folder"])
def test_it_is_made_again_after_a_change(
    tiny_coco: Callable[..., Path], reads: list[Path], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    root = tiny_coco()
    annotations = root / "annotations" / "train.json"
    open_split(root, "train")
    status = annotations.stat()
    image_dir = None
    if change == "content":
        annotations.write_text(annotations.read_text() + " ")
        os.utime(annotations, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(annotations, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "format":
        monkeypatch.setattr(index_cache, "FORMAT", 99)
    else:
        shutil.copytree(root / "images" / "train", root / "other")
        image_dir = Path("other")
    open_split(root, "train", image_dir=image_dir)
    assert len(reads) == 2
    open_split(root, "train", image_dir=image_dir)
    assert len(reads) == 2


def test_it_moves_with_the_data(tiny_coco: Callable[..., Path], reads: list[Path], tmp_path: Path) -> None:
    root = tiny_coco()
    open_split(root, "train")
    root.rename(tmp_path / "moved")
    index = open_split(tmp_path / "moved", "train")
    assert len(reads) == 1
    assert index.path(0).is_file()


def test_images_left_out_are_remembered_and_named_again(
    tiny_coco: Callable[..., Path], reads: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = tiny_coco()
    bad = root / "images" / "train" / "train_003.png"
    picture = bad.read_bytes()
    bad.write_bytes(b"")
    assert len(open_split(root, "train", max_bad_images=0.5)) == 7
    bad.write_bytes(picture)
    caplog.clear()
    index = open_split(root, "train", max_bad_images=0.5)
    assert len(index) == 7
    assert "1 of 8 images cannot be used (as seen when" in caplog.text
    assert "train_003.png" in caplog.text
    with pytest.raises(UserError, match=r"1 of 8 images cannot be used.*--data\.max_bad_images \(now 0\.1\)"):
        open_split(root, "train", max_bad_images=0.1)
    assert len(reads) == 1
    shutil.rmtree(index.saved[0])  # the documented way
    assert len(open_split(root, "train")) == 8


def test_too_many_bad_images_are_not_kept(tiny_coco: Callable[..., Path], reads: list[Path]) -> None:
    root = tiny_coco()
    bad = root / "images" / "train" / "train_003.png"
    picture = bad.read_bytes()
    bad.unlink()
    with pytest.raises(UserError, match="1 of 8"):
        open_split(root, "train")
    bad.write_bytes(picture)
    assert len(open_split(root, "train")) == 8


def test_true_sizes_are_kept(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco(size=(96, 128))
    annotations = root / "annotations" / "train.json"
    annotations.write_text(annotations.read_text().replace('"height": 96', '"height": 50'))
    for _ in range(2):
        index = open_split(root, "train")
        assert index.saved is not None
        assert (index.sizes == [96, 128]).all()
        assert index.is_trainable.all()


def test_another_folder_serves_several_data_sets(tiny_coco: Callable[..., Path], tmp_path: Path) -> None:
    a, b = tiny_coco(num_train=3), tiny_coco(num_train=4)
    for path in (a, b):
        annotations = path / "annotations" / "train.json"
        annotations.write_text(annotations.read_text().ljust(4000))
        os.utime(annotations, ns=(0, 0))
    for _ in range(2):
        assert len(open_split(a, "train", index_cache=tmp_path / "kept")) == 3
        assert len(open_split(b, "train", index_cache=tmp_path / "kept")) == 4
    assert len(entries(tmp_path / "kept")) == 2
    assert not (a / "annotations" / ".yolo-lite-index").exists()


def test_data_that_cannot_be_written_to(
    tiny_coco: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    root = tiny_coco()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for _ in range(2):
        assert len(open_split(root, "train")) == 8
    assert len(reads) == 1
    assert len(entries(tmp_path / "home" / "yolo-lite")) == 1
    assert not (root / "annotations" / ".yolo-lite-index").exists()


@pytest.mark.parametrize("where", ["save", "folder"])
def test_an_index_that_cannot_be_kept_is_used_all_the_same(
    tiny_coco: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    if where == "save":

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", full)
    else:
        (tmp_path / "kept").write_text("a file")
    index = open_split(tiny_coco(), "train", index_cache=tmp_path / "kept")
    assert len(index) == 8
    assert index.saved is None
    assert "will be read again next time" in caplog.text


def open_and_report(root: Path, started: Any, results: Any) -> None:
    started.wait()
    index = open_split(root, "train")
    results.put((index.saved, index.boxes_xywh.sum(), len(index)))


def test_several_processes_at_once(tiny_coco: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_coco(num_train=20)
    context = multiprocessing.get_context("fork")
    parsed = context.Value("i", 0)
    read_coco = catalog.read_coco

    def slow(*args: Any) -> DetectionIndex:
        with parsed.get_lock():
            parsed.value += 1
        time.sleep(0.3)
        return read_coco(*args)

    monkeypatch.setattr(catalog, "read_coco", slow)
    started, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=open_and_report, args=(root, started, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len({repr(result) for result in found}) == 1
    assert found[0][0] is not None
    assert parsed.value == 1  # the others waited
    assert len(entries(root / "annotations" / ".yolo-lite-index")) == 1


def test_what_a_killed_process_left_is_removed(tiny_coco: Callable[..., Path]) -> None:
    root = tiny_coco()
    index = open_split(root, "train")
    assert index.saved is not None
    folder, _ = index.saved
    folder.rename(folder.with_name(f".{folder.name}.abc.tmp"))
    assert open_split(root, "train").saved is not None
    assert not list(folder.parent.glob("*.tmp"))


def test_the_log_says_what_is_used(tiny_coco: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    root = tiny_coco()
    with caplog.at_level(logging.INFO, logger="yolo_lite"):
        open_split(root, "train")
        open_split(root, "train")
    assert "is kept in" in caplog.text
    assert "delete that folder to have everything read and checked again" in caplog.text
