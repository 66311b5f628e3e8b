"""Reading a file of torch.save without the code that wrote it.

Tensors and plain values become what they are, objects of known packages become records of their attributes, everything
else is refused. Nothing in the file is run.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolo_lite.utils.errors import UserError

# torch.save stores without compression, so nothing in a sound file is larger than the file. Object trees of detectors
# take 100 KB to 1 MB.
MAX_PICKLE = 2**25
MAX_DIMENSIONS = 8
DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Of numpy and of paths, which settings of a training hold here and there; as records they do no harm.
HARMLESS = (
    *(("pathlib", name) for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    *((f"numpy{core}.multiarray", name) for core in (".core", "._core") for name in ("scalar", "_reconstruct")),
    *(("numpy", name) for name in ("dtype", "ndarray")),
    ("_codecs", "encode"),
)


class Record:
    """An object of the file as its attributes; its code is not here.

    Attributes:
        kind: module and name of its class.
        attributes: what it held.
    """

    kind = ""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.arguments = arguments
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.attributes = {str(key): value for key, value in state.items()}


class PlainUnpickler(pickle.Unpickler):
    """Builds tensors, plain values and records.

    Args:
        data: the pickle.
        storages: gives the bytes of a tensor's storage by its key.
        packages: of classes that become records.
        name: what messages call the file.
    """

    def __init__(self, data: bytes, storages: Callable[[str], bytes], packages: tuple[str, ...], name: str) -> None:
        super().__init__(io.BytesIO(data))
        self._storages = storages
        self._packages = packages
        self._name = name
        self._known: dict[tuple[str, str], Any] = {}
        self._read: dict[tuple[str, torch.dtype], tuple[Tensor, torch.dtype]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function of the file; new for each file, so that no file can change another's.

        Raises:
            UserError: it is none that a checkpoint needs.
        """
        key = (module, name)
        if key not in self._known:
            self._known[key] = self._make(module, name)
        return self._known[key]

    def _make(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return lambda *arguments: rebuild_tensor(*arguments[:4])
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda tensor, *_: tensor
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch", "Size"):
            return lambda sizes=(): tuple(sizes)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return {"set": set, "frozenset": frozenset}[name]
        is_known = any(module == package or module.startswith(f"{package}.") for package in self._packages)
        if re.fullmatch(r"\w+", name) and (is_known or (module, name) in HARMLESS):
            return type("Record", (Record,), {"kind": f"{module}.{name}"})
        raise UserError(
            f"{self._name} is refused: it asks for {module}.{name}, which no checkpoint needs; do not open it "
            "elsewhere unless you trust where it comes from"
        )

    def persistent_load(self, saved: Any) -> tuple[Tensor, torch.dtype]:
        """A storage, as a flat tensor."""
        kind, dtype, key, _, count = saved
        key = str(key)
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(count, int) or count < 0:
            raise ValueError(f"a storage is described as {saved!r:.80}")
        if (key, dtype) in self._read:  # once only: a file may ask for the same one a million times
            return self._read[key, dtype]
        content = self._storages(key)
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"storage {key} has {len(content)} bytes, not {count} x {dtype.itemsize}")
        flat = torch.frombuffer(bytearray(content), dtype=dtype) if count else torch.empty(0, dtype=dtype)
        self._read[key, dtype] = flat, dtype
        return flat, dtype


def rebuild_tensor(storage: tuple[Tensor, torch.dtype], offset: int, size: Any, stride: Any) -> Tensor:
    """A tensor over its storage.

    Raises:
        ValueError: it reaches beyond it.
    """
    flat, _ = storage
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS or min((offset, *size, *stride)) < 0:
        raise ValueError(f"a tensor of size {size}, stride {stride} and offset {offset}")
    if math.prod(size) > len(flat):  # repeated by strides of 0: small here, huge as soon as it is copied
        raise ValueError(f"a tensor of size {size} in a storage of {len(flat)}")
    if 0 not in size and offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= len(flat):
        raise ValueError(f"a tensor of size {size} and stride {stride} in a storage of {len(flat)}")
    return torch.as_strided(flat, size, stride, offset)


def read_records(path: Path, packages: tuple[str, ...]) -> Any:
    """The contents of a file that torch.save wrote.

    Args:
        path: the file.
        packages: classes of these become records.

    Raises:
        UserError: it is missing, damaged, of a format before torch 1.6, or asks for anything else.
    """
    if not path.is_file():
        raise UserError(f"{path} is a folder: give a file" if path.is_dir() else f"no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            return unpickle(archive, packages, str(path))
    except zipfile.BadZipFile:
        raise UserError(
            f"{path} is no file of torch.save, damaged, or of a version before 1.6, which is not read"
        ) from None
    except (OSError, RuntimeError, EOFError, KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} cannot be read: {reason:.200}") from None
    except (pickle.UnpicklingError, RecursionError, MemoryError, OverflowError) as error:
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {error!s:.150}") from None


def unpickle(archive: zipfile.ZipFile, packages: tuple[str, ...], name: str) -> Any:
    """The object in an archive.

    Raises:
        UserError: the archive is not as torch.save writes it.
    """
    entries = {entry.filename: entry for entry in archive.infolist()}
    found = [key for key in entries if key == "data.pkl" or key.endswith("/data.pkl")]
    if len(found) != 1 or len(entries) != len(archive.infolist()):
        raise UserError(f"{name} is refused: it holds {len(found)} files data.pkl, or files of the same name")
    for entry in entries.values():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise UserError(f"{name} is refused: {entry.filename} in it is compressed, which torch.save does not do")
    if entries[found[0]].file_size > MAX_PICKLE:
        raise UserError(f"{name} is refused: {found[0]} in it has {entries[found[0]].file_size:,} bytes")
    root = found[0].removesuffix("data.pkl")
    order = entries.get(f"{root}byteorder")
    if order is not None and archive.read(order) != b"little":
        raise UserError(f"{name} was written on a machine with the other order of bytes, which is not read")
    loader = PlainUnpickler(archive.read(found[0]), lambda key: archive.read(f"{root}data/{key}"), packages, name)
    return loader.load()
