"""The page needs nothing but itself, stands any class name, and never takes the place of an older one."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from yolo_lite.evaluation import report
from yolo_lite.evaluation.analysis import analyse
from yolo_lite.evaluation.report import write_report
from yolo_lite.evaluation.sections import class_table
from yolo_lite.utils.errors import UserError

EVIL = "<script>alert(1)</script>\" onload='alert(2)' </script><!--"
FETCHING = {"src", "href", "srcset", "data", "poster", "action", "xlink:href", "background"}
VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """What a page contains: elements, addresses, texts of scripts; all elements closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.scripts: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(path.read_text())
        self.close()
        assert not self.open

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in FETCHING]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


def check(path: Path) -> Page:
    """Everything that holds for every page."""
    page = Page(path)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    assert "link" not in page.counts and "iframe" not in page.counts
    assert page.counts["script"] == 2
    assert not [name for name in page.attributes if name.startswith("on")]
    return page


def test_one_file_and_its_figures(scored_model, tmp_path: Path) -> None:
    path = write_report(tmp_path / "run", [scored_model()])
    assert path == tmp_path / "run" / "report.html"
    page = check(path)
    assert page.counts["figure"] == 4 and page.counts["image"] == 4
    assert page.data()["models"][0]["names"] == ["cat", "dog"]
    figures = sorted((tmp_path / "run" / "figures").iterdir())
    assert len(figures) == 7
    for figure in figures:
        Image.open(io.BytesIO(figure.read_bytes())).verify()
    assert sorted(p.name for p in path.parent.iterdir()) == ["figures", "report.html"]


@pytest.mark.parametrize(
    "options",
    [
        {"has_detections": False},
        {"per_image": 0},
        {"num_images": 0},
        {"names": ["only"]},
        {"names": [f"class {c}" for c in range(80)]},
        {"side": 1.0},
    ],
)
@pytest.mark.usefixtures("plain_figures")
def test_whatever_was_scored(options: dict[str, Any], scored_model, tmp_path: Path) -> None:
    path = write_report(tmp_path / "run", [scored_model(**options)])
    check(path)
    assert "nan" not in re.sub(r"base64,[^\"]+", "", path.read_text()).lower().replace("nan(", "")


@pytest.mark.usefixtures("plain_figures")
def test_class_and_model_names_are_text(scored_model, tmp_path: Path) -> None:
    model = scored_model([EVIL, "a & b"], name=EVIL)
    path = write_report(tmp_path / "run", [model, model])
    page = check(path)
    assert "alert(1)" not in page.scripts[1]
    assert page.data()["models"][0]["names"] == [EVIL, "a & b"]


@pytest.mark.usefixtures("plain_figures")
def test_several_models_share_their_photographs(scored_model, tmp_path: Path) -> None:
    path = write_report(tmp_path / "run", [scored_model(name="small"), scored_model(name="large")])
    page = check(path)
    assert page.counts["figure"] == 8 and page.counts["image"] == 4
    assert "Side by side" in path.read_text()
    assert {p.name for p in (tmp_path / "run" / "figures").iterdir()} == {"model_1", "model_2"}


@pytest.mark.usefixtures("plain_figures")
def test_an_unreadable_image_is_named(scored_model, tmp_path: Path) -> None:
    model = scored_model()
    model.index.path(0).write_bytes(b"not an image")
    model.index.path(1).unlink()
    path = write_report(tmp_path / "run", [model])
    page = check(path)
    assert page.counts["figure"] == 4 and page.counts["image"] == 2
    assert path.read_text().count("not readable") == 2


@pytest.mark.usefixtures("plain_figures")
def test_an_older_report_stays(scored_model, tmp_path: Path) -> None:
    first = write_report(tmp_path, [scored_model()])
    before = first.read_bytes()
    second = write_report(tmp_path, [scored_model(name="another")])
    assert second.name == "report_2.html" and (tmp_path / "figures_2").is_dir()
    assert first.read_bytes() == before
    assert write_report(tmp_path, [scored_model()]).name == "report_3.html"


@pytest.mark.usefixtures("plain_figures")
def test_whole_or_not_at_all(scored_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise UserError(f"cannot write {path}: the disk is full")

    monkeypatch.setattr(report, "replacing", fail)
    with pytest.raises(UserError, match="disk is full"):
        write_report(tmp_path / "run", [scored_model()])
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.usefixtures("plain_figures")
def test_a_folder_that_cannot_be_made(scored_model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write a report to .*file"):
        write_report(tmp_path / "file", [scored_model()])


def test_the_slider_starts_at_the_best_threshold(scored_model) -> None:
    analysis = scored_model().analysis
    data = report.curve_data(analysis)
    at = data["thresholds"].index(data["best"])
    assert data["f1"][0][at] == round(analysis.best.f1, 3)


@pytest.mark.parametrize(("low", "high"), [(0.4191, 0.4199), (0.4201, 0.4203), (0.9996, 1.0), (0.0, 0.0004)])
def test_at_the_best_threshold_the_curves_say_what_the_tiles_say(low: float, high: float, scored_model) -> None:
    """Right and wrong detections lie closer together than the steps of the curves."""
    model = scored_model()
    model.table.scores[:] = np.linspace(low, high, len(model.table))  # those of the first two images are wrong
    analysis = analyse(model.table, model.index)
    assert (analysis.best.precision, analysis.best.recall) == (1, 0.5)
    data = report.curve_data(analysis)
    assert data["thresholds"] == sorted(set(data["thresholds"]))
    at = data["thresholds"].index(data["best"])
    assert [data[name][0][at] for name in ("precision", "recall", "f1")] == [1, 0.5, round(2 / 3, 3)]
    assert {len(row) for name in ("precision", "recall", "f1") for row in data[name]} == {len(data["thresholds"])}
    for c in (1, 2):
        assert [data[name][c][at] for name in ("precision", "recall")] == [1, 0.5]
        assert f'data-live="precision" data-row="{c}">1.000<' in class_table(analysis)
