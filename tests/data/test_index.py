"""Indices in memory and mapped from files: the same content, cheap to send, safe to save."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from yolo_lite.data.collate import collate
from yolo_lite.data.dataset import EvalDataset, ImageSource
from yolo_lite.data.index import ARRAYS, DetectionIndex, PackedStrings, read_header
from yolo_lite.utils.errors import UserError

MIB = 2**20


def make_index(folder: Path, counts: list[int], file_names: list[str] | None = None) -> DetectionIndex:
    """An index of images with `counts` boxes."""
    rng = np.random.default_rng(0)
    total = sum(counts)
    return DetectionIndex(
        source=folder / "train.json",
        image_dir=folder,
        class_names=["żółw", "dog"],
        category_ids=[3, 17],
        file_names=PackedStrings(file_names or [f"図/{i}.png" for i in range(len(counts))]),
        image_ids=np.arange(len(counts), dtype=np.int64) * 7,
        sizes=np.full((len(counts), 2), 64, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xywh=rng.uniform(1, 30, (total, 4)).astype(np.float32),
        labels=rng.integers(0, 2, total).astype(np.int32),
        areas=rng.uniform(1, 900, total).astype(np.float32),
        is_crowd=np.zeros(total, dtype=bool),
        is_trainable=rng.uniform(size=total) < 0.7,
    )


def assert_same(a: DetectionIndex, b: DetectionIndex) -> None:
    """Equal in everything but where the arrays are."""
    assert (a.source, a.image_dir, a.class_names, a.category_ids) == (
        b.source,
        b.image_dir,
        b.class_names,
        b.category_ids,
    )
    assert [a.file_names[i] for i in range(len(a))] == [b.file_names[i] for i in range(len(b))]
    for name in ARRAYS:
        first, second = getattr(a, name), getattr(b, name)
        assert (first.dtype, first.shape) == (second.dtype, second.shape)
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("counts", [[2, 0, 5, 1], [0, 0], []], ids=["boxes", "no boxes", "no images"])
def test_a_saved_index_is_the_same_index(tmp_path: Path, counts: list[int]) -> None:
    index = make_index(tmp_path, counts)
    index.save(tmp_path / "new" / "saved", {"bad": 3})
    opened = DetectionIndex.open(tmp_path / "new" / "saved")
    assert_same(opened, index)
    assert read_header(tmp_path / "new" / "saved")["notes"] == {"bad": 3}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["saved"]
    with pytest.raises(ValueError, match="read-only"):
        opened.boxes_xywh[...] = 0
    if len(counts) == 4:
        assert_same(opened.select(np.array([0, 2])), index.select(np.array([0, 2])))


def test_a_sent_copy_holds_the_path_alone(tmp_path: Path) -> None:
    index = make_index(tmp_path, [3] * 1000)
    index.save(tmp_path / "saved")
    opened = DetectionIndex.open(tmp_path / "saved")
    opened.image_dir = tmp_path / "moved"
    sent = pickle.dumps(opened)
    assert len(sent) < 1000 < len(pickle.dumps(index))
    assert_same(pickle.loads(sent), opened)
    assert_same(pickle.loads(pickle.dumps(index)), index)
    assert_same(pickle.loads(pickle.dumps(opened.select(np.arange(5)))), opened.select(np.arange(5)))


def test_a_changed_copy_is_sent_with_its_arrays(tmp_path: Path) -> None:
    make_index(tmp_path, [1, 2]).save(tmp_path / "saved")
    changed = replace(DetectionIndex.open(tmp_path / "saved"), sizes=np.full((2, 2), 5, dtype=np.int32))
    assert pickle.loads(pickle.dumps(changed)).sizes.tolist() == [[5, 5], [5, 5]]


def test_a_sent_copy_refuses_an_index_that_was_replaced(tmp_path: Path) -> None:
    make_index(tmp_path, [1, 1]).save(tmp_path / "saved")
    sent = pickle.dumps(DetectionIndex.open(tmp_path / "saved"))
    (tmp_path / "saved").rename(tmp_path / "old")
    with pytest.raises(UserError, match="saved"):
        pickle.loads(sent)
    make_index(tmp_path, [2]).save(tmp_path / "saved")
    with pytest.raises(UserError, match="replaced"):
        pickle.loads(sent)


def test_of_several_writers_the_first_one_stays(tmp_path: Path) -> None:
    indices = [make_index(tmp_path, [1] * count) for count in range(1, 9)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: index.save(tmp_path / "all" / "saved"), indices))
    opened = DetectionIndex.open(tmp_path / "all" / "saved")
    assert_same(opened, indices[len(opened) - 1])
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["saved"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        make_index(tmp_path, [1]).save(tmp_path / "all" / "saved")
    assert not list((tmp_path / "all").iterdir())


@pytest.mark.parametrize("damage", ["header", "format", "missing", "truncated", "json"])
def test_a_damaged_index_is_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "saved"
    make_index(tmp_path, [3] * 100).save(folder)
    header = folder / "header.json"
    if damage == "header":
        header.unlink()
    elif damage == "json":
        header.write_text("[1")
    elif damage == "format":
        header.write_text(json.dumps({**json.loads(header.read_text()), "format": 0}))
    elif damage == "missing":
        (folder / "labels.npy").unlink()
    else:
        data = (folder / "labels.npy").read_bytes()
        (folder / "labels.npy").write_bytes(data[:-8])
    with pytest.raises(UserError, match=r"saved.* delete it"):
        DetectionIndex.open(folder)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=6), st.booleans()), max_size=20))
def test_selected_strings(items: list[tuple[str, bool]]) -> None:
    strings = [text.encode("utf-8", "replace").decode() for text, _ in items]
    keep = np.flatnonzero([kept for _, kept in items])
    selected = PackedStrings(strings).select(keep)
    assert [selected[i] for i in range(len(selected))] == [strings[i] for i in keep]


def private_mib(pid: int) -> float:
    """Memory that a process has for itself and has written to."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def worker_mib(index: DetectionIndex, method: str) -> float:
    """Private memory of a loader's worker that has loaded some samples."""
    loader = DataLoader(
        EvalDataset(ImageSource(index, 64, "none")),
        batch_size=2,
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context=method,
        sampler=range(0, len(index), len(index) // 20),
        prefetch_factor=2,
    )
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    assert worker.pid is not None
    return private_mib(worker.pid)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_costs_no_copy_of_the_index(tiny_coco: Callable[..., Path], tmp_path: Path, method: str) -> None:
    root = tiny_coco(num_train=1, size=(64, 64))
    (picture,) = (root / "images" / "train").iterdir()
    count = 100_000
    large = make_index(picture.parent, [25] * count, [picture.name] * count)  # 68 MiB
    large.save(tmp_path / "saved")
    mapped = DetectionIndex.open(tmp_path / "saved")
    del large
    grown = worker_mib(mapped, method) - worker_mib(mapped.select(np.arange(20)), method)
    assert grown < 15
