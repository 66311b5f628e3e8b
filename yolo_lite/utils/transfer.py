"""Fetch a file over HTTP: resumed where it stopped, tried again where it stalls, whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import read_object, replacing, sync_folder
from yolo_lite.utils.progress import LongJob

log = logging.getLogger(__name__)

BLOCK = 1 << 20
RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)
RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        timeout: seconds without a byte until a connection counts as stalled.
        attempts: in a row that did not get any further.
        wait: seconds before the second attempt; doubled before each further one.
        longest_wait: seconds.
    """

    timeout: float = 30.0
    attempts: int = 6
    wait: float = 1.0
    longest_wait: float = 60.0


class TransferError(Exception):
    """An attempt failed; another may not."""


def fetch(
    url: str, path: Path, size: int | None = None, sha256: str | None = None, patience: Patience | None = None
) -> str:
    """Fetch `url` to `path`, which must not exist. What was fetched stays in `path`.part until the file is whole.

    Args:
        url: http or https; redirects are followed.
        path: the file to write, in a folder that exists.
        size: bytes that it must have; None: what the server says.
        sha256: hexadecimal digest that it must have; None: any.
        patience: how long to try; None: a few minutes.

    Returns:
        The SHA-256 digest of the file.

    Raises:
        UserError: it cannot be fetched, or is not what it should be.
    """
    if path.exists():
        raise UserError(f"{path} exists: nothing is overwritten")
    patience = patience or Patience()
    part = path.with_name(f"{path.name}.part")
    failures, farthest = 0, length_of(part)
    while True:
        try:
            fetch_more(url, part, size, patience.timeout)
            break
        except TransferError as error:
            failures = 1 if length_of(part) > farthest else failures + 1
            farthest = max(farthest, length_of(part))
            if failures >= patience.attempts:
                kept = f"; {length_of(part)} bytes are kept in {part}: the same command goes on from there"
                raise UserError(f"cannot fetch {url}: {error}{kept}") from None
            wait = min(patience.longest_wait, patience.wait * 2 ** (failures - 1))
            log.warning("%s: %s; trying again in %.3g s", url, error, wait)
            time.sleep(wait)
        except OSError as error:
            raise UserError(f"cannot write {part}: {error.strerror or error}") from error
    digest = digest_of(part)
    if sha256 is not None and digest != sha256:
        discard(part)
        raise UserError(f"{url} has the SHA-256 {digest} instead of {sha256}: not kept; --url names another place")
    part.rename(path)
    note_path(part).unlink(missing_ok=True)
    sync_folder(path.parent)
    return digest


def fetch_more(url: str, part: Path, size: int | None, timeout: float) -> None:
    """One attempt: append what is missing, or start again where the file has changed or cannot be asked for in parts.

    Raises:
        TransferError: not everything came.
        UserError: there is no such file, or it has another size.
        OSError: the disk.
    """
    start = length_of(part)
    note = read_note(part)
    if start and (note.get("url") != url or not note.get("validator")):
        discard(part)
        start, note = 0, {}
    if start and start == note.get("total"):
        return
    request = urllib.request.Request(url, headers={"User-Agent": "yolo-lite", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", note["validator"])
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == RANGE_NOT_SATISFIABLE:
            discard(part)
            raise TransferError("the server's file is shorter than what was fetched: starting again") from None
        if error.code in RETRIED_STATUS:
            raise TransferError(f"HTTP {error.code} {error.reason}") from None
        raise UserError(f"cannot fetch {url}: HTTP {error.code} {error.reason}; --url names another place") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise TransferError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    with response:
        start = start_of(response, start)
        total = total_of(response, start)
        if size is not None and total is not None and total != size:
            raise UserError(f"{url} has {total} bytes instead of {size}: it is another file; --url names another place")
        if start == 0:  # bytes of another version must never stand beside the note of this one
            discard(part)
            note = {}
        validator = validator_of(response.headers) or note.get("validator", "")
        write_note(part, {"url": url, "validator": validator, "total": total})
        receive(response, part, start, total if total is not None else size)
    if total is None and size is None:
        write_note(part, {"url": url, "validator": "unknown", "total": length_of(part)})


def start_of(response: Any, asked: int) -> int:
    """Where the body begins: at 0 where the server sends everything, or has another version by now."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    if unit != "bytes" or rest.partition("-")[0] != str(asked):
        raise TransferError(f"the server sent another part than was asked for ({unit} {rest})")
    return asked


def total_of(response: Any, start: int) -> int | None:
    """Bytes of the whole file; None where the server does not say."""
    length = response.headers.get("Content-Length")
    return start + int(length) if length is not None and length.isdigit() else None


def validator_of(headers: Mapping[str, str]) -> str:
    """What tells a version of the file from another one; empty: nothing does."""
    tag = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def receive(response: Any, part: Path, start: int, total: int | None) -> None:
    """Append the body behind the first `start` bytes.

    Raises:
        TransferError: it ended early or stalled.
        OSError: the disk.
    """
    done = start
    with open(part, "r+b" if start else "wb") as file, LongJob(f"fetching {part.stem}", total or 0) as job:
        file.truncate(start)
        file.seek(start)
        while True:
            try:
                block = response.read1(BLOCK)
            except (http.client.HTTPException, OSError) as error:
                raise TransferError(f"stopped after {done} bytes: {error or type(error).__name__}") from None
            if not block:
                break
            file.write(block)
            done += len(block)
            job.update(done, f"{done / 1e6:.0f} MB")
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done != total:
        if done > total:
            discard(part)
        raise TransferError(f"got {done} of {total} bytes")


def digest_of(path: Path) -> str:
    """SHA-256, hexadecimal."""
    with open(path, "rb") as file, LongJob(f"checking {path.name}", path.stat().st_size) as job:
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
            job.update(file.tell())
    return digest.hexdigest()


def length_of(path: Path) -> int:
    """Bytes; 0 where there is no such file."""
    return path.stat().st_size if path.exists() else 0


def note_path(part: Path) -> Path:
    """What a part is a part of."""
    return part.with_name(f"{part.name}.json")


def read_note(part: Path) -> dict[str, Any]:
    """What was noted; empty where nothing can be made of it."""
    return read_object(note_path(part))


def write_note(part: Path, note: dict[str, Any]) -> None:
    """Note what a part is a part of, before its first byte is written."""
    with replacing(note_path(part)) as file:
        file.write(json.dumps(note).encode())


def discard(part: Path) -> None:
    """Start again."""
    part.unlink(missing_ok=True)
    note_path(part).unlink(missing_ok=True)
