"""Results files: what pycocotools reads and what it makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from yolo_lite.evaluation import coco_json
from yolo_lite.evaluation.coco_json import write_detections
from yolo_lite.evaluation.coco_scores import COCO_NUMBERS, score_detections
from yolo_lite.utils.errors import UserError


@pytest.mark.parametrize("name", ["bccd", "coco128", "drawn"])
def test_pycocotools_scores_the_file_to_the_same_numbers(
    name: str,
    tmp_path: Path,
    real_world: Any,
    random_world: Any,
    index_of: Any,
    noisy_copy: Any,
    judge: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name == "drawn":
        content, _ = random_world(1, num_images=20, crowds=0.2)
        index = index_of(content)
    else:
        content, index = real_world(name)
    table = noisy_copy(index)
    monkeypatch.setattr(coco_json, "CHUNK", 100)
    write_detections(tmp_path / "results.json", table, index)
    evaluation = judge(content, str(tmp_path / "results.json"))
    scores = score_detections(table, index)
    assert 0.05 < evaluation.stats[0] < 0.95
    assert [scores.numbers[n] for n in COCO_NUMBERS] == pytest.approx(list(evaluation.stats), abs=1e-6)


def test_ids_are_those_of_the_file(tmp_path: Path, objects_world: Any, index_of: Any, table_of: Any) -> None:
    index = index_of(objects_world([], 2, categories=(7, 3)))
    assert index.category_ids == [3, 7]
    write_detections(tmp_path / "results.json", table_of([(1, 1, (1, 2, 30, 40), 0.5)], 2), index)
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert row == {"image_id": 20, "category_id": 7, "bbox": [1.0, 2.0, 30.0, 40.0], "score": 0.5}


def test_no_detections(tmp_path: Path, objects_world: Any, index_of: Any, table_of: Any) -> None:
    write_detections(tmp_path / "results.json", table_of([]), index_of(objects_world([])))
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_whole_or_not_at_all(
    tmp_path: Path, objects_world: Any, index_of: Any, table_of: Any, monkeypatch: Any
) -> None:
    index, path = index_of(objects_world([])), tmp_path / "results.json"
    path.write_text("before")

    def full(*_: Any) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(coco_json.json, "dumps", full)
    with pytest.raises(UserError, match=r"results\.json"):
        write_detections(path, table_of([(0, 0, (1, 2, 3, 4), 0.5)]), index)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
