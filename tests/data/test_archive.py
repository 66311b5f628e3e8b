"""Archives that would write elsewhere, grow without end, or are damaged."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from yolo_lite.data.archive import clashes, move_into, scratch_folder, unpack
from yolo_lite.utils.errors import UserError


def write_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def linked(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


REFUSED: dict[str, tuple[str | zipfile.ZipInfo, bytes]] = {
    "parent": ("../evil.txt", b"x"),
    "parent_inside": ("a/../../evil.txt", b"x"),
    "absolute": ("/evil.txt", b"x"),
    "windows_parent": ("a\\..\\..\\evil.txt", b"x"),
    "windows_drive": ("C:\\evil.txt", b"x"),
    "link": (linked("link"), b"/etc"),
    "bomb": ("zeros.bin", bytes(4 << 20)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(tmp_path: Path, case: str) -> None:
    archive = write_zip(tmp_path / "a.zip", ("good.txt", b"good"), REFUSED[case])
    with scratch_folder(tmp_path) as scratch:
        with pytest.raises(UserError, match="refused"):
            unpack(archive, scratch)
        assert not list(scratch.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_many_small_bombs_are_one(tmp_path: Path) -> None:
    members = [(f"{i}.bin", bytes(1 << 20)) for i in range(8)]
    archive = write_zip(tmp_path / "a.zip", *members)
    with scratch_folder(tmp_path) as scratch, pytest.raises(UserError, match="it grows from"):
        unpack(archive, scratch)


@pytest.mark.parametrize("damage", ["content", "end", "nothing_like_it"])
def test_damage_is_told(tmp_path: Path, damage: str) -> None:
    archive = write_zip(tmp_path / "a.zip", ("good.txt", bytes(range(256)) * 40))
    data = bytearray(archive.read_bytes())
    if damage == "content":
        data[60] ^= 0xFF
    archive.write_bytes({"content": bytes(data), "end": bytes(data[:-30]), "nothing_like_it": b"<html>"}[damage])
    with scratch_folder(tmp_path) as scratch, pytest.raises(UserError, match=r"a\.zip is damaged"):
        unpack(archive, scratch)


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (root / "images" / "1.txt").write_text("mine")
    archive = write_zip(tmp_path / "a.zip", ("images/1.txt", b"theirs"), ("images/2.txt", b"two"), ("new/3.txt", b"3"))
    with scratch_folder(tmp_path) as scratch:
        unpack(archive, scratch)
        assert clashes(scratch, root) == [root / "images" / "1.txt"]
        (scratch / "images" / "1.txt").unlink()
        assert clashes(scratch, root) == []
        move_into(scratch, root)
    assert (root / "images" / "1.txt").read_text() == "mine"
    (root / "images" / "1.txt").write_text("theirs")  # as after a kill between moving and noting
    (root / "new" / "3.txt").unlink()
    with scratch_folder(tmp_path) as scratch:
        unpack(archive, scratch)
        assert clashes(scratch, root) == []
        move_into(scratch, root)
    assert (root / "images" / "1.txt").read_text() == "theirs"
    assert (root / "images" / "2.txt").read_text() == "two"
    assert (root / "new" / "3.txt").read_text() == "3"
