"""What a teacher said about an image, kept on the disk for the next run that shows it the same pixels.

Augmentation is a function of seed, epoch and image, so another student with the same seed and data settings meets the
same images; without augmentation every epoch does.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from yolo_lite.models.yolo import YOLO
from yolo_lite.utils.files import check_folder, temporary_path

log = logging.getLogger(__name__)

DIGEST = 16  # bytes


class TeacherCache:
    """Maps of single images as float16, one file each, in a folder of this teacher's own.

    An image of 320 px takes 0.64 MB with yolov8n as the teacher (three classes). Files are written beside and renamed,
    so that several processes may share the folder; one that is damaged counts as missing.

    Args:
        folder: holds the folders of all teachers.
        model: the teacher.

    Raises:
        UserError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, model: YOLO) -> None:
        check_folder("the teacher's outputs", folder, "give another --model.teacher_cache")
        digest = hashlib.blake2b(digest_size=DIGEST)
        for name, value in model.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        self.folder = folder / digest.hexdigest()
        self.has_warned = False  # that something could not be kept

    def path(self, image: Tensor) -> Path:
        """Of the file for an image (3, H, W)."""
        digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=DIGEST)
        digest.update(image.detach().cpu().contiguous().numpy().tobytes())
        name = digest.hexdigest()
        return self.folder / name[:2] / name

    def read(self, path: Path, shapes: Sequence[torch.Size]) -> list[Tensor] | None:
        """One map of each shape; None if there is no file with them."""
        try:
            content = path.read_bytes()
        except OSError:
            return None
        values = np.frombuffer(content, dtype=np.float16, offset=DIGEST) if len(content) % 2 == 0 else np.empty(0)
        if len(values) != sum(map(math.prod, shapes)) or content[:DIGEST] != checksum(content[DIGEST:]):
            return None
        flat = torch.from_numpy(values.astype(np.float32))
        parts = flat.split([math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def write(self, path: Path, maps: Sequence[Tensor]) -> None:
        """Keep the maps of one image. A full disk is one warning and no reason to stop: they are computed again."""
        values = torch.cat([x.detach().flatten() for x in maps]).half().cpu().numpy().tobytes()
        temporary = temporary_path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(checksum(values) + values)
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            if not self.has_warned:
                self.has_warned = True
                log.warning("model.teacher_cache: %s is not kept (%s); training goes on", path, error.strerror or error)


def checksum(values: bytes) -> bytes:
    """Of a file's contents."""
    return hashlib.blake2b(values, digest_size=DIGEST).digest()
