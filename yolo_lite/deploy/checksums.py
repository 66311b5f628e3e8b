"""Files that changed since they were written, in formats that do not notice it themselves: ONNX, OpenVINO, safetensors.

Such a file holds its own SHA-256 in its metadata, taken with zeros in its place; OpenVINO's .xml that of the .bin
beside it, as an .xml is text, whose ends of lines may change on the way. (Checkpoints and the formats of PyTorch are
archives with sums for each part.)
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from yolo_lite.utils.errors import UserError

# Under which the metadata keep the sum.
SUM_KEY = "yolo_lite_sha256"
# What stands there until the file is whole.
BLANK = "0" * 64
BLOCK = 2**20


def weights_file(path: Path) -> Path:
    """The file that the sum is of."""
    return path.with_suffix(".bin") if path.suffix.lower() == ".xml" else path


def sum_of(path: Path, own: str) -> str:
    """SHA-256 of a file, in which its own sum counts as `BLANK`; by blocks, as the memory of opening it is measured."""
    digest, rest = hashlib.sha256(), b""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            content = (rest + block).replace(own.encode(), BLANK.encode())
            cut = max(0, len(content) - len(BLANK) + 1)  # the sum may go on in the next block
            digest.update(content[:cut])
            rest = content[cut:]
    digest.update(rest)
    return digest.hexdigest()


def seal_file(path: Path) -> None:
    """Put the sum in the place of `BLANK` in a file that was just written."""
    found = sum_of(weights_file(path), BLANK)
    content = path.read_bytes()
    assert content.count(BLANK.encode()) == 1
    path.write_bytes(content.replace(BLANK.encode(), found.encode()))


def check_sum(path: Path, own: str | None) -> None:
    """Compare a file with the sum in its metadata; None: earlier versions wrote none.

    Raises:
        UserError: it is not what was written.
    """
    file = weights_file(path)
    if own is not None and (len(own) != len(BLANK) or sum_of(file, own) != own):
        beside = "" if file == path else f", or is not that of {path.name}"
        raise UserError(f"{file} is damaged{beside}: it is not what was written; copy it again, or export it anew")
