"""Fetch a public data set: `python -m yolo_lite.data.download coco2017|coco128 --root DIR`.

Exit codes: 0 it is there, 2 something that you can mend (one line says what). The same command goes on where an
interrupted one stopped.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from yolo_lite.data.archive import clashes, move_into, scratch_folder, unpack
from yolo_lite.utils.console import run_command
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import read_object, replacing
from yolo_lite.utils.progress import LongJob
from yolo_lite.utils.transfer import Patience, digest_of, fetch

log = logging.getLogger("yolo_lite.data.download")  # as a command, __name__ is __main__

Name = Literal["coco2017", "coco128"]
HOME = "http://images.cocodataset.org"
SUBSET_IMAGES = 128
SPLITS = ("train2017", "val2017")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set.

    Attributes:
        path: below the address of the data set's home.
        size: bytes; None: unknown.
        sha256: None: unknown; the digest of what came is noted beside it.
    """

    path: str
    size: int | None = None
    sha256: str | None = None


# The home publishes no checksums: the size is checked, and the CRC-32 of every file inside.
ANNOTATIONS = RemoteFile("annotations/annotations_trainval2017.zip", 252_907_541)
COCO_2017 = (ANNOTATIONS, RemoteFile("zips/val2017.zip", 815_585_330), RemoteFile("zips/train2017.zip", 19_336_861_798))


def build_parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = ArgumentParser(
        prog="python -m yolo_lite.data.download",
        description="Fetch a public data set: coco2017 (20 GB), or coco128, the first 128 of its training "
        "and of its validation images (290 MB). Exit codes: 0 it is there, 2 something that you can mend.",
        exit_on_error=False,
    )
    parser.add_argument("name", type=Name, help="the data set")
    parser.add_argument("--root", type=str, required=True, help="folder to put it in; created")
    parser.add_argument("--url", type=str, default=HOME, help="where to fetch it from: a mirror with the same paths")
    parser.add_argument("--keep_archives", action="store_true", help="keep the ZIP files in DIR/.download")
    return parser


def download_coco2017(
    root: Path, home: str, files: Collection[RemoteFile], patience: Patience | None = None, keep_archives: bool = False
) -> None:
    """Fetch and unpack archives.

    Args:
        root: where to; it is created.
        home: the address before each path.
        files: the archives.
        patience: how long to try.
        keep_archives: keep the archives after unpacking.

    Raises:
        UserError: an archive cannot be fetched, is not what it should be, or would overwrite something.
    """
    for file in files:
        archive = archive_path(root, file)
        if read_record(archive).get("is_unpacked"):
            log.info("%s is unpacked already", archive.name)
            continue
        record = fetch_archive(file, archive, home, patience)
        with scratch_folder(archive.parent) as scratch:
            unpack(archive, scratch)
            if taken := clashes(scratch, root):
                raise UserError(f"{taken[0]} exists: nothing is overwritten; move it away, or choose another --root")
            move_into(scratch, root)
        write_record(archive, {**record, "is_unpacked": True})
        if not keep_archives:
            archive.unlink()
        log.info("unpacked %s into %s", archive.name, root)


def download_coco128(root: Path, home: str, annotations: RemoteFile, patience: Patience | None = None) -> None:
    """Fetch the images with the lowest ids of both splits, and their annotations.

    Args:
        root: where to; it is created.
        home: the address before each path.
        annotations: the archive with the annotations of all images.
        patience: how long to try.

    Raises:
        UserError: something cannot be fetched, or is not what it should be.
    """
    archive = archive_path(root, annotations)
    files = [f"annotations/instances_{split}.json" for split in SPLITS]
    if not all((root / file).is_file() for file in files):
        fetch_archive(annotations, archive, home, patience)
        with scratch_folder(archive.parent) as scratch:
            unpack(archive, scratch, only=files)
            (root / "annotations").mkdir(exist_ok=True)
            for file in files:
                write_subset(scratch / file, root / file)
        archive.unlink()
    wanted = [(split, image) for split, file in zip(SPLITS, files, strict=True) for image in images_of(root / file)]
    with LongJob(f"fetching {len(wanted)} images", len(wanted)) as job:
        for done, (split, name) in enumerate(wanted):
            target = root / split / name
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                fetch(f"{home}/{split}/{name}", target, patience=patience)
            job.update(done + 1)


def write_subset(source: Path, target: Path) -> None:
    """The images with the lowest ids of a COCO file, with their annotations; what is there stays."""
    if target.exists():
        return
    data = read_whole(source)
    images = sorted(data["images"], key=lambda image: image["id"])[:SUBSET_IMAGES]
    ids = {image["id"] for image in images}
    annotations = [a for a in data["annotations"] if a["image_id"] in ids]
    with replacing(target) as file:
        file.write(json.dumps({**data, "images": images, "annotations": annotations}).encode())


def read_whole(path: Path) -> dict[str, Any]:
    """The contents of a COCO file.

    Raises:
        UserError: it is none.
    """
    try:
        data = json.loads(path.read_bytes())
        if all(isinstance(entry, dict) for key in ("images", "annotations") for entry in data[key]):
            return dict(data)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise UserError(f"{path} is not COCO: delete it and download it again")


def images_of(path: Path) -> list[str]:
    """File names in a COCO file.

    Raises:
        UserError: one of them leads out of its folder.
    """
    names = [str(image.get("file_name")) for image in read_whole(path)["images"]]
    for name in names:
        if Path(name).name != name or "\\" in name or name in ("", "."):
            raise UserError(f"{path}: refused, the image {name!r} would be written outside its folder")
    return names


def archive_path(root: Path, file: RemoteFile) -> Path:
    """Where an archive is kept; its folder is made.

    Raises:
        UserError: it cannot be made.
    """
    folder = root / ".download"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror} (--root)") from None
    return folder / file.path.rpartition("/")[2]


def fetch_archive(file: RemoteFile, archive: Path, home: str, patience: Patience | None) -> dict[str, Any]:
    """Fetch an archive, or verify the one that is there; returns what is noted of it."""
    url = f"{home}/{file.path}"
    if not archive.exists():
        digest = fetch(url, archive, file.size, file.sha256, patience)
        record = {"url": url, "bytes": archive.stat().st_size, "sha256": digest}
        write_record(archive, record)
        log.info("fetched %s: SHA-256 %s", archive.name, digest)
        return record
    record = read_record(archive)
    digest, noted = digest_of(archive), file.sha256 or record.get("sha256")
    if noted is not None and digest != noted:
        raise UserError(f"{archive} has the SHA-256 {digest} instead of {noted}: delete it and fetch it again")
    return {"url": url, "bytes": archive.stat().st_size, "sha256": digest}


def record_path(archive: Path) -> Path:
    """The note beside an archive."""
    return archive.with_name(f"{archive.name}.json")


def read_record(archive: Path) -> dict[str, Any]:
    """What was noted of an archive; empty: nothing."""
    return read_object(record_path(archive))


def write_record(archive: Path, record: dict[str, Any]) -> None:
    """Note where an archive came from and what it is."""
    with replacing(record_path(archive)) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def run_download(args: list[str]) -> None:
    """Fetch as the arguments say.

    Raises:
        UserError: it cannot be done.
    """
    config = build_parser().parse_args(args)
    home, root = config.url.rstrip("/"), Path(config.root)
    if not home.startswith(("http://", "https://")):
        raise UserError(f"--url {home}: give an address that begins with http:// or https://")
    try:
        if config.name == "coco2017":
            download_coco2017(root, home, COCO_2017, keep_archives=config.keep_archives)
        else:
            download_coco128(root, home, ANNOTATIONS)
    except OSError as error:
        raise UserError(f"cannot write to {root}: {error.strerror or error}") from error
    log.info(
        "%s is in %s; see what it is like: python -m yolo_lite.data.doctor --data.root %s", config.name, root, root
    )


def main(args: list[str] | None = None) -> int:
    """Fetch with command-line arguments (None: those of the process). Returns the exit code."""
    return run_command(lambda: run_download(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    sys.exit(main())
