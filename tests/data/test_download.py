"""`python -m yolo_lite.data.download` against a server of our own."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from yolo_lite.data import download
from yolo_lite.data.catalog import open_split
from yolo_lite.data.download import RemoteFile, main


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, make_coco, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:  # type: ignore[no-untyped-def]
    """The address of a small COCO 2017, of which `coco128` takes 3 images a split."""
    source = make_coco(tmp_path / "source", num_train=5, num_val=4, layout="official")
    home = tmp_path / "home"
    files = []
    for folder, name in (("annotations", "annotations_trainval2017"), ("zips", "val2017"), ("zips", "train2017")):
        (home / folder).mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            part = source / ("annotations" if folder == "annotations" else name)
            for path in sorted(part.iterdir()):
                archive.write(path, path.relative_to(source))
        (home / folder / f"{name}.zip").write_bytes(data.getvalue())
        files.append(RemoteFile(f"{folder}/{name}.zip", len(data.getvalue())))
    for split in ("train2017", "val2017"):
        (source / split).rename(home / split)
    monkeypatch.setattr(download, "COCO_2017", tuple(files))
    monkeypatch.setattr(download, "ANNOTATIONS", files[0])
    monkeypatch.setattr(download, "SUBSET_IMAGES", 3)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(home)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_coco2017(mirror: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, archive = tmp_path / "root", tmp_path / "home" / "zips" / "train2017.zip"
    arguments = ["coco2017", "--root", str(root), "--url", mirror]
    assert main(arguments) == 0
    assert len(open_split(root, "train")) == 5
    assert len(open_split(root, "val")) == 4
    record = json.loads((root / ".download" / "train2017.zip.json").read_text())
    assert record["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert not list(root.rglob("*.zip"))
    archive.unlink()
    assert main(arguments) == 0  # nothing is left to do, nothing is asked for
    assert "unpacked already" in capfd.readouterr().out


def test_coco128_is_the_images_with_the_lowest_ids(mirror: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert main(["coco128", "--root", str(root), "--url", mirror]) == 0
    index = open_split(root, "train")
    assert [index.file_names[i] for i in range(len(index))] == ["train_000.png", "train_001.png", "train_002.png"]
    assert len(open_split(root, "val")) == 3
    (root / "train2017" / "train_001.png").unlink()
    assert main(["coco128", "--root", str(root), "--url", mirror]) == 0
    assert len(open_split(root, "train")) == 3


def test_an_archive_that_changed_on_the_disk_is_not_unpacked(
    mirror: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    arguments = ["coco2017", "--root", str(root), "--url", mirror, "--keep_archives"]
    assert main(arguments) == 0
    kept = root / ".download" / "val2017.zip"
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    record = json.loads(Path(f"{kept}.json").read_text())
    Path(f"{kept}.json").write_text(json.dumps({**record, "is_unpacked": False}))
    assert main(arguments) == 2
    assert "instead of" in capfd.readouterr().err


def test_it_goes_on_after_a_kill_before_the_note(mirror: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    arguments = ["coco2017", "--root", str(root), "--url", mirror]
    assert main(arguments) == 0
    (root / ".download" / "val2017.zip.json").unlink()
    (root / "val2017" / "val_001.png").unlink()
    assert main(arguments) == 0
    assert len(open_split(root, "val")) == 4


def test_nothing_is_overwritten(mirror: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    (root / "val2017").mkdir(parents=True)
    (root / "val2017" / "val_001.png").write_text("mine")
    assert main(["coco2017", "--root", str(root), "--url", mirror]) == 2
    assert "nothing is overwritten" in capfd.readouterr().err
    assert (root / "val2017" / "val_001.png").read_text() == "mine"
    assert not (root / "val2017" / "val_000.png").exists()


def test_image_names_that_lead_elsewhere_are_refused(
    mirror: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "home" / "annotations" / "annotations_trainval2017.zip"
    evil = {"images": [{"id": 1, "file_name": "../../evil.png"}], "annotations": [], "categories": []}
    with zipfile.ZipFile(archive, "w") as opened:
        for split in ("train2017", "val2017"):
            opened.writestr(f"annotations/instances_{split}.json", json.dumps(evil))
    download.ANNOTATIONS = RemoteFile("annotations/annotations_trainval2017.zip", archive.stat().st_size)
    assert main(["coco128", "--root", str(tmp_path / "root"), "--url", mirror]) == 2
    assert "outside its folder" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["coco2019", "--root", "x"], ["coco128"], ["coco128", "--root", "x", "--url", "ftp://x"]]
)
def test_wrong_arguments_are_one_line(
    arguments: list[str], capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
