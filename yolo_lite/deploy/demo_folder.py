"""The browser demo as a folder of static files: page, model, and the runtime that the user has from npm."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yolo_lite
from yolo_lite.data.index import rename_new
from yolo_lite.deploy.loading import open_runtime
from yolo_lite.deploy.model_info import ModelInfo, Suppression
from yolo_lite.ops.postprocess import MAX_DETECTIONS, PREDICT_IOU, PREDICT_SCORE
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import check_folder, read_object, sync_folder
from yolo_lite.utils.html import base_style

PACKAGE = "onnxruntime-web"
INSTALL = f"npm install {PACKAGE}"
# The build for the CPU alone: the others are for GPUs, up to twice as large, and not needed.
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
# As packages call what has to go with copies of them; what is not there is not copied.
LICENCE_PATTERNS = ("LICENSE*", "LICENCE*", "NOTICE*", "ThirdPartyNotices*")
SCRIPTS = ("opened.js", "app.js", "camera.js", "picture.js", "worker.js", "resize.js", "postprocess.js")
# The page's slider goes down to this; what scores lower is not kept.
LEAST_SCORE = 0.05


@dataclass(frozen=True)
class BrowserRuntime:
    """ONNX Runtime Web as npm installed it.

    Attributes:
        folder: of the package.
        version: as its package.json says.
        licence: as its package.json says.
    """

    folder: Path
    version: str
    licence: str


def find_runtime(given: Path | None, start: Path) -> BrowserRuntime:
    """The package onnxruntime-web.

    Args:
        given: its folder; None: it is looked for.
        start: folder in whose node_modules, or in one above, it is looked for.

    Raises:
        UserError: it is not there, or lacks a file.
    """
    if given is None:
        places = [parent / "node_modules" / PACKAGE for parent in (start.resolve(), *start.resolve().parents)]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise UserError(f"no node_modules/{PACKAGE} in {start} or above: {INSTALL}, or give --runtime FOLDER")
    else:
        folder = given
        if not folder.is_dir():
            raise UserError(f"--runtime {folder}: no such folder; {INSTALL} makes node_modules/{PACKAGE}")
    about = read_object(folder / "package.json")
    if about.get("name") != PACKAGE:
        raise UserError(f"--runtime {folder} is not the package {PACKAGE}: {INSTALL} makes node_modules/{PACKAGE}")
    version = str(about.get("version"))
    for name in RUNTIME_FILES:
        if not (folder / "dist" / name).is_file():
            raise UserError(f"{folder} has no dist/{name} (version {version}): {INSTALL}@latest")
    return BrowserRuntime(folder, version, str(about.get("license")))


def write_demo(model: Path, info: ModelInfo, runtime: BrowserRuntime, folder: Path) -> int:
    """Write the folder, whole or not at all.

    Args:
        model: an ONNX file that `python -m yolo_lite.export` or the quantiser wrote.
        info: what `readable_info` says of it.
        runtime: what runs it in the browser.
        folder: not there yet, or empty.

    Returns:
        Bytes of all files.

    Raises:
        UserError: the folder is taken or cannot be written.
    """
    check_free(folder)
    scratch = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = folder.resolve()
        scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".tmp", dir=place.parent))
        fill_folder(scratch, model, info, runtime)
        written = [path for path in scratch.rglob("*") if path.is_file()]
        for path in written:
            sync_file(path)
        scratch.chmod(0o755)
        size = sum(path.stat().st_size for path in written)
        if place.is_dir() and os.name == "nt":  # renames onto no folder, not even an empty one
            place.rmdir()
        rename_new(scratch, place)
        sync_folder(place.parent)
    except FileExistsError:
        raise taken(folder) from None
    except OSError as error:
        raise UserError(f"cannot write {folder} (--out): {error.strerror or error}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return size


def check_free(folder: Path) -> None:
    """Raises:
    UserError: something is there that must not be written over, or nothing can be written there.
    """
    check_folder("the demo", folder, "give another folder with --out")
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise taken(folder)


def taken(folder: Path) -> UserError:
    """The error of a folder that is not empty."""
    return UserError(f"{folder} is there already and not empty: --out FOLDER writes elsewhere")


def readable_info(model: Path) -> ModelInfo:
    """What an ONNX file says of itself.

    Raises:
        UserError: it cannot be read, or its outputs are not for this page.
    """
    if model.suffix.lower() != ".onnx":
        raise UserError(f"--model {model}: a browser runs .onnx files; python -m yolo_lite.export writes one")
    info = open_runtime(model, "cpu").info
    if info.output == "raw":
        raise UserError(f"{model} gives raw maps: export it with --output decoded")
    return info


def fill_folder(folder: Path, model: Path, info: ModelInfo, runtime: BrowserRuntime) -> None:
    """Every file of the demo, into an empty folder.

    Raises:
        OSError: one cannot be copied.
    """
    page = files("yolo_lite.deploy") / "demo"
    for name in ("index.html", *SCRIPTS):
        (folder / name).write_bytes((page / name).read_bytes())
    style = base_style() + (page / "style.css").read_text(encoding="utf-8")
    (folder / "style.css").write_text(style, encoding="utf-8")
    shutil.copyfile(model, folder / "model.onnx")
    about = json.dumps(page_info(info, model.name), indent=1, ensure_ascii=False) + "\n"
    (folder / "model.json").write_text(about, encoding="utf-8")
    (folder / "runtime").mkdir()
    for name in RUNTIME_FILES:
        shutil.copyfile(runtime.folder / "dist" / name, folder / "runtime" / name)
    for pattern in LICENCE_PATTERNS:
        for path in sorted(runtime.folder.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, folder / "runtime" / path.name)
    notice = Template((page / "licences.txt").read_text(encoding="utf-8"))
    values = {"version": yolo_lite.__version__, "runtime": runtime.version, "licence": runtime.licence}
    (folder / "licences.txt").write_text(notice.substitute(values), encoding="utf-8")


def page_info(info: ModelInfo, name: str) -> dict[str, Any]:
    """What the page needs to know of the model.

    Args:
        info: as the file says.
        name: of the file.
    """
    limits = info.suppression or Suppression(LEAST_SCORE, PREDICT_IOU, MAX_DETECTIONS)
    least = max(LEAST_SCORE, limits.score)
    return {
        "name": name,
        "variant": info.variant,
        "precision": info.precision,
        "classNames": list(info.class_names),
        "inputSize": list(info.input_size or (info.image_size, info.image_size)),
        "batch": info.batch or 1,
        "strides": list(info.strides),
        "fill": info.fill,
        "output": info.output,
        "leastScore": least,
        "score": max(least, PREDICT_SCORE),
        "iou": limits.iou,
        "maxDetections": limits.max_detections,
    }


def sync_file(path: Path) -> None:
    """Have a file on the disk before its folder gets its name."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
