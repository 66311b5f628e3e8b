"""Programs of torch.export as files, which torch unpickles in part, and evaluates in part, without asking.

A file is looked through before torch reads it: what `torch.export.save` writes of a detector is tensors as they lie in
memory, JSON, and the example as a pickle of tensors alone.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from yolo_lite.utils.errors import UserError

# Of the archive, below a folder with the file's name. Not there: compiled code, pickled objects, earlier layouts.
EXAMPLE = re.compile(r"data/sample_inputs/\w+\.pt")
JSON_PARTS = re.compile(r"models/\w+\.json|data/(weights|constants)/\w+_config\.json")
OTHER_PARTS = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|extra/\w+|\.data/\w+|archive_\w+|byteorder"
)
# A size as an expression, which sympy evaluates as Python: symbols, numbers, and classes of sympy.
# By its parts: all in one pattern, a hostile text would take years to match.
TERM = re.compile(r"[A-Z]\w*|[a-z]+=|'\w+'|[su]\d+|\d+|[ ()+*/,<>=-]")
# What a node calls, which torch looks up from its own module on: `torch.os.system` would be found too.
TARGET = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|yolo_lite)\.\w+(\.\w+)?|torch\.sym_\w+|math\.\w+"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)


def check_program(path: Path) -> None:
    """Refuse a file of which torch would run something.

    Raises:
        UserError: it is damaged, or holds what a detector does not need.
    """
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            if len(set(names)) < len(names):
                raise UserError(f"{path} is no detector of yolo-lite: it holds two parts of one name")
            for name in names:
                if (problem := find_problem(name.partition("/")[2], file, name)) is not None:
                    raise UserError(f"{path} is no detector of yolo-lite, and is not opened: {problem}")
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable torch.export program: {error}") from None


def find_problem(part: str, file: zipfile.ZipFile, name: str) -> str | None:
    """Why a part of a program must not be read; None: it may.

    Args:
        part: its name in the program.
        file: the archive.
        name: its name there.
    """
    if EXAMPLE.fullmatch(part):
        try:
            torch.load(io.BytesIO(file.read(name)), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return f"{part} holds more than tensors"
    elif JSON_PARTS.fullmatch(part):
        for key, value in entries(json.loads(file.read(name))):
            if key == "use_pickle" and value is not False:
                return f"{part} names a pickled tensor"
            if key == "expr_str" and not is_expression(value):
                return f"{part} has {value!r:.40} for a size"
            if key == "target" and not is_target(value):
                return f"{part} calls {value!r:.40}"
    elif not OTHER_PARTS.fullmatch(part):
        return f"it holds {part or name}"
    return None


def is_expression(value: Any) -> bool:
    """Arithmetic of symbols, and nothing that reaches into Python."""
    return isinstance(value, str) and not TERM.sub("", value)


def is_target(value: Any) -> bool:
    """An operation of a network."""
    return isinstance(value, str) and TARGET.fullmatch(value) is not None and "__" not in value


def entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value in a JSON document, at any depth."""
    waiting = [content]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from found.items()
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)
