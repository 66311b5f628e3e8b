"""The check of all images: what it finds does not depend on how the files are dealt out to threads."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from yolo_lite.data.coco import read_coco
from yolo_lite.data.image_check import BadImages, ImageCheck, check_images
from yolo_lite.data.images import ImageProblem
from yolo_lite.utils.errors import UserError


@pytest.mark.parametrize("block", [1, 4, 4096])
def test_sizes_and_bad_images(tiny_coco: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("yolo_lite.data.image_check.BLOCK", block)
    root = tiny_coco(num_train=9, size=(96, 128))
    images = root / "images" / "train"
    (images / "train_002.png").unlink()
    (images / "train_007.png").write_bytes(b"no image")
    check = check_images(read_coco(root / "annotations" / "train.json", images))
    good = [i not in (2, 7) for i in range(9)]
    assert check.is_good.tolist() == good
    assert check.sizes.tolist() == [[96, 128] if g else [0, 0] for g in good]
    assert (check.bad.listed, check.bad.count) == (9, 2)
    assert [text.split("(")[1] for text in check.bad.named] == ["missing)", "not an image)"]


def test_progress_is_logged(
    tiny_coco: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("yolo_lite.data.image_check.BLOCK", 4)
    monkeypatch.setattr("yolo_lite.utils.progress.INTERVAL", 0.0)
    root = tiny_coco(num_train=8)
    with caplog.at_level(logging.INFO, logger="yolo_lite"):
        check_images(read_coco(root / "annotations" / "train.json", root / "images" / "train"))
    assert "checking the images of train.json: 50 %" in caplog.text


def test_only_a_few_bad_images_are_named_and_held() -> None:
    problems = [ImageProblem(Path(f"{i}.jpg"), "missing") for i in range(1000)]
    bad = ImageCheck.collect([*problems, (3, 4)], 1001).bad
    assert (bad.count, bad.listed) == (1000, 1001)
    with pytest.raises(UserError, match=r"1000 of 1001 images cannot be used: 0\.jpg .* and 995 more"):
        bad.report(Path("train.json"), 0.1)
    assert BadImages(**bad.as_dict()) == bad
