"""Caches of decoded images: shared by processes, kept between runs, never of another image."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import yolo_lite.data.dataset
from yolo_lite.data.cache import DiskCache, memory_cache, memory_room, pixel_offsets
from yolo_lite.data.catalog import open_split
from yolo_lite.data.dataset import ImageSource
from yolo_lite.data.images import read_image, resize_image, resized_shape
from yolo_lite.utils.errors import UserError


def test_cache_gives_back_what_was_put() -> None:
    shapes = np.array([[4, 6], [5, 3], [2, 2]])
    cache = memory_cache(shapes)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in shapes]
    assert all(cache.get(i) is None for i in range(3))
    for i in (2, 0):
        cache.put(i, images[i])
    assert cache.get(1) is None
    for i in (2, 0):
        found = cache.get(i)
        assert found is not None
        assert np.array_equal(found, images[i])
    assert pixel_offsets(shapes).tolist() == [0, 72, 117, 129]
    assert memory_room() > 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_cache_is_shared_between_processes(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no start method {method} here")
    cache = memory_cache(np.array([[2, 2], [2, 3]]))
    image = np.full((2, 3, 3), 9, dtype=np.uint8)
    process = multiprocessing.get_context(method).Process(target=cache.put, args=(1, image))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    found = cache.get(1)
    assert found is not None
    assert np.array_equal(found, image)
    assert cache.get(0) is None


@pytest.mark.parametrize("cache", ["auto", "ram", "disk", "none"])
@pytest.mark.parametrize("recent", [0, 2])
def test_cached_images_are_the_decoded_ones(
    tiny_coco: Callable[..., Path], tmp_path: Path, cache: str, recent: int
) -> None:
    index = open_split(tiny_coco(num_train=3, size=(75, 131)), "train")
    source = ImageSource(index, 64, cache, tmp_path / "cache", recent)  # type: ignore[arg-type]
    for i in (1, 1, 0, 2, 1):
        expected = resize_image(read_image(index.path(i)), *resized_shape(75, 131, 64))
        assert np.array_equal(source.image(i), expected)


def test_a_cache_that_does_not_fit(tiny_coco: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_split(tiny_coco(num_train=3), "train")
    monkeypatch.setattr("yolo_lite.data.dataset.memory_room", lambda _: 10)
    assert ImageSource(index, 64, "auto").image(0).shape == (48, 64, 3)
    with pytest.raises(UserError, match=r"--data\.cache disk or none"):
        ImageSource(index, 64, "ram")


def test_processes_of_a_machine_share_its_memory(
    tiny_coco: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_split(tiny_coco(num_train=4), "train")  # 4 images of 9216 bytes
    monkeypatch.setattr("yolo_lite.data.cache.free_memory", lambda: 2 * 40_000)
    assert memory_room(4) == 10_000
    assert ImageSource(index, 64, "auto").is_cached
    assert not ImageSource(index, 64, "auto", processes=4).is_cached
    with pytest.raises(UserError, match="for each of 4 processes"):
        ImageSource(index, 64, "ram", processes=4)


def disk_source(root: Path, folder: Path, image_size: int = 64) -> ImageSource:
    return ImageSource(open_split(root, "train"), image_size, "disk", folder)


def test_a_disk_cache_serves_the_next_run(
    tiny_coco: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tiny_coco(num_train=3)
    first = [disk_source(root, tmp_path).image(i).copy() for i in range(3)]
    monkeypatch.setattr(yolo_lite.data.dataset, "decode_file", lambda *_: pytest.fail("an image was decoded again"))
    again = disk_source(root, tmp_path)
    for source in (again, pickle.loads(pickle.dumps(again))):
        assert all(np.array_equal(source.image(i), first[i]) for i in range(3))
    assert len(pickle.dumps(again._cache)) < 2000  # a worker gets the path, not the pixels


def test_a_disk_cache_never_shows_an_image_that_has_changed(tiny_coco: Callable[..., Path], tmp_path: Path) -> None:
    root = tiny_coco(num_train=3)
    before = disk_source(root, tmp_path).image(1).copy()
    path = root / "images" / "train" / "train_001.png"
    status = path.stat()
    path.write_bytes((root / "images" / "train" / "train_002.png").read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = disk_source(root, tmp_path).image(1)
    assert not np.array_equal(before, after)
    assert np.array_equal(after, disk_source(root, tmp_path).image(2))
    assert disk_source(root, tmp_path, 96).image(1).shape == (72, 96, 3)


def test_a_disk_cache_that_does_not_fit(
    tiny_coco: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"No space left on device.*--data\.cache_dir"):
        disk_source(tiny_coco(num_train=3), tmp_path)
    assert not list(tmp_path.rglob("*.pixels"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_processes_make_one_file(tiny_coco: Callable[..., Path], tmp_path: Path) -> None:
    index = open_split(tiny_coco(num_train=3), "train")
    shapes = np.array([[4, 6], [5, 3], [2, 2]])
    one, other = (DiskCache(tmp_path, index, 64, shapes) for _ in range(2))
    one.put(1, np.full((5, 3, 3), 7, dtype=np.uint8))
    found = other.get(1)
    assert found is not None
    assert (found == 7).all()
    assert other.get(0) is None
    assert len(list(tmp_path.glob("*.pixels"))) == 1


@pytest.mark.parametrize("damage", ["pixels lost", "one byte", "cut off", "deleted"])
def test_a_disk_cache_never_shows_pixels_that_were_lost(
    tiny_coco: Callable[..., Path], tmp_path: Path, damage: str
) -> None:
    """A power cut may leave what says that an image is there, and not the image."""
    root = tiny_coco(num_train=3)
    source = disk_source(root, tmp_path)
    source.fill()
    expected = [source.image(i).copy() for i in range(3)]
    (path,) = (path for path in tmp_path.iterdir() if path.suffix == ".pixels")
    content = bytearray(path.read_bytes())
    pixels = sum(image.nbytes for image in expected)
    if damage == "pixels lost":
        content[-pixels:] = bytes(pixels)
    elif damage == "one byte":
        content[-1] ^= 1
    else:
        content = content[: len(content) // 2]
    path.unlink()
    if damage != "deleted":
        path.write_bytes(content)
    again = disk_source(root, tmp_path)
    again.fill()
    for _ in range(2):
        assert all(np.array_equal(again.image(i), expected[i]) for i in range(3))
    assert all(np.array_equal(disk_source(root, tmp_path).image(i), expected[i]) for i in range(3))


def test_an_image_that_is_gone_after_the_check_is_one_line(tiny_coco: Callable[..., Path], tmp_path: Path) -> None:
    index = open_split(tiny_coco(num_train=3), "train")
    index.path(1).unlink()
    with pytest.raises(UserError, match=r"train_001\.png: No such file.*restore"):
        ImageSource(index, 64, "disk", tmp_path)
