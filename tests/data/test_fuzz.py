"""Mutated annotation files and damaged images: an error line or a sound index, never a traceback or a moved label.

Whatever is read must be what a plain reader of a few lines finds in the same mutated file.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image, features

from yolo_lite.data.catalog import open_split
from yolo_lite.data.images import ImageProblem, inspect_image, read_image
from yolo_lite.data.index import DetectionIndex
from yolo_lite.utils.console import one_line
from yolo_lite.utils.errors import UserError

HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 7, 0.5, 1e-300, 1e300, 2**31, 2**63, -(2**63), 10**400),
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        "",
        " ",
        "0",
        "1",
        "nan",
        "żółw 日本",
        "\u202e\ud800",
        "a\0b",
        "x" * 9000,
    ),
    *("../none", "/etc/passwd", "a/b.png", "train_001.png", [], {}, [[]], [0, 0, 5, 5], {"id": 1}, ["1", 2, None, 4]),
]
TEXTS = [
    "\0",
    "\ufeff",
    "é",
    "\u2028",
    "\r",
    "\t",
    "{",
    "]",
    '"',
    "<",
    "&",
    ":",
    "- ",
    "*a",
    "nan",
    "-",
    "9" * 400,
    "💥",
]
DEEP = "@deep@"  # stands for what no recursive function could write
Row = tuple[str, str, tuple[float, ...]]


def expect_line(error: UserError) -> None:
    line = one_line(str(error))
    assert line
    assert "\n" not in line
    assert "Traceback" not in line
    assert len(line) < 4000


def mutate_tree(rng: np.random.Generator, tree: Any) -> Any:
    """Change one random place of nested lists and mappings: value, type, key, order, repetition or depth."""
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in range(len(node)) if isinstance(node, list) else list(node):
            places.append((node, key))
            if isinstance(node[key], list | dict):
                visit(node[key])

    visit(tree)
    node, key = places[rng.integers(len(places))]
    other_node, other_key = places[rng.integers(len(places))]
    kind = rng.integers(6)
    if kind <= 1:
        node[key] = HOSTILE[rng.integers(len(HOSTILE))]
    elif kind == 2:
        del node[key]
    elif kind == 3 and isinstance(node, list):
        node.insert(int(rng.integers(len(node))), json.loads(json.dumps(node[key])))
    elif kind == 4:
        node[key], other_node[other_key] = json.loads(json.dumps([other_node[other_key], node[key]]))
    else:
        node[key] = DEEP if rng.random() < 0.5 else [node[key]]
    return tree


def dump(rng: np.random.Generator, tree: Any, deepest: int) -> bytes:
    """As JSON, which is YAML too."""
    depth = int(rng.choice([3, 100, deepest]))
    nested = "[" * depth + "]" * depth if rng.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth
    return json.dumps(tree).replace(f'"{DEEP}"', nested).encode()


def mutate_text(rng: np.random.Generator, text: str) -> bytes:
    """Remove, repeat, replace or insert; cut off; or damage bytes."""
    data = text.encode("utf-8", "surrogatepass")
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(len(data) + 1))
        end = min(len(data), start + int(rng.integers(1, 20)))
        kind = rng.integers(6)
        if kind == 0:
            data = data[:start] + data[end:]
        elif kind == 1:
            data = data[:end] + data[start:end] * int(rng.integers(1, 4)) + data[end:]
        elif kind == 2:
            data = data[:start] + TEXTS[rng.integers(len(TEXTS))].encode() + data[start + 1 :]
        elif kind == 3:
            data = data[:start] + TEXTS[rng.integers(len(TEXTS))].encode() + data[start:]
        elif kind == 4 and rng.random() < 0.3:
            data = data[:start]
        else:
            data = data[:start] + rng.integers(0, 256, 1).astype(np.uint8).tobytes() + data[start + 1 :]
    return data


def mutate_numbers(rng: np.random.Generator, text: str) -> bytes:
    """Replace one word of a label file."""
    words = text.split(" ")
    words[rng.integers(len(words))] = str(HOSTILE[rng.integers(len(HOSTILE))]).replace("\ud800", "")
    return " ".join(words).encode()


def mutate_xml(rng: np.random.Generator, text: str) -> bytes:
    """Remove, repeat, rename, move, refill or bury an element."""
    root = ElementTree.fromstring(text)
    parents = [element for element in root.iter() if len(element)]
    parent = parents[rng.integers(len(parents))]
    child = parent[rng.integers(len(parent))]
    kind = rng.integers(6)
    if kind == 0:
        parent.remove(child)
    elif kind == 1:
        parent.insert(0, ElementTree.fromstring(ElementTree.tostring(child)))
    elif kind == 2:
        child.tag = ["name", "object", "bndbox", "xmin", "x", "annotation"][rng.integers(6)]
    elif kind == 3:
        other = parents[rng.integers(len(parents))]
        other.append(ElementTree.fromstring(ElementTree.tostring(child)))
        parent.remove(child)
    elif kind == 4:
        child.text = str(HOSTILE[rng.integers(len(HOSTILE))]).replace("\ud800", "").replace("\0", "")
    else:
        parent.remove(child)
        for _ in range(int(rng.choice([1, 3, 400]))):
            outer = ElementTree.Element("object")
            outer.append(child)
            child = outer
        parent.append(child)
    return ElementTree.tostring(root)


class Coco:
    """A COCO data set, one file of which is mutated."""

    def __init__(self, coco: Path, make: Callable[[Path], Path]) -> None:
        self.root = coco
        self.file = coco / "annotations" / "train.json"
        content = json.loads(self.file.read_text())
        content["annotations"][0]["segmentation"] = [[1, 2, 30, 2, 30, 40]]
        del content["annotations"][1]["bbox"]
        content["annotations"][1]["segmentation"] = {"size": [24, 32], "counts": [100, 5, 663]}
        self.text = json.dumps(content)

    def mutate(self, rng: np.random.Generator) -> None:
        if rng.random() < 0.7:
            data = dump(rng, mutate_tree(rng, json.loads(self.text)), 100_000)
        else:
            data = mutate_text(rng, self.text)
        self.file.write_bytes(data)

    def restore(self) -> None:
        self.file.write_text(self.text)

    def expected(self, index: DetectionIndex) -> list[Row]:
        content = json.loads(self.file.read_bytes())
        images = {image["id"]: image["file_name"] for image in content["images"]}
        assert len(images) == len(content["images"])
        names = {category["id"]: category["name"] for category in content["categories"]}
        assert len(names) == len(content["categories"])
        listed = {index.file_names[i] for i in range(len(index))}
        boxes = [
            a for a in content["annotations"] if images[a["image_id"]] in listed and a.get("bbox") not in (None, [])
        ]
        return [(images[a["image_id"]], names[a["category_id"]], tuple(a["bbox"])) for a in boxes]


class Yolo:
    """A YOLO data set: data.yaml or one label file is mutated."""

    def __init__(self, coco: Path, make: Callable[[Path], Path]) -> None:
        self.root = make(coco)
        files = [self.root / "data.yaml", *sorted((self.root / "labels" / "train").iterdir())]
        self.texts = {path: path.read_text() for path in files}
        self.texts[files[2]] += "0 0.1 0.1 0.5 0.2 0.3 0.7\n"
        self.restore()

    def mutate(self, rng: np.random.Generator) -> None:
        path = list(self.texts)[rng.integers(len(self.texts))] if rng.random() < 0.6 else self.root / "data.yaml"
        text = self.texts[path]
        if rng.random() < 0.4:
            data = mutate_text(rng, text)
        elif path.suffix == ".yaml":
            data = dump(rng, mutate_tree(rng, yaml.safe_load(text)), 400)
        else:
            data = mutate_numbers(rng, text)
        path.write_bytes(data)

    def restore(self) -> None:
        for path, text in self.texts.items():
            path.write_text(text)

    def expected(self, index: DetectionIndex) -> list[Row]:
        names = yaml.load((self.root / "data.yaml").read_bytes().decode("utf-8-sig"), Loader=yaml.BaseLoader)["names"]
        names = [names[str(i)] for i in range(len(names))] if isinstance(names, dict) else names
        rows = []
        for i in range(len(index)):
            path = Path(str(index.path(i)).replace("images", "labels")).with_suffix(".txt")
            (height, width), seen = index.sizes[i].tolist(), set()
            if not path.exists():
                continue
            for line in path.read_bytes().decode("utf-8-sig").split("\n"):
                label, *numbers = [float(token) for token in line.split()] or [None]
                if label is None or (label, *numbers) in seen:
                    continue
                seen.add((label, *numbers))
                x, y, w, h = numbers if len(numbers) == 4 else polygon(numbers)
                box = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
                rows.append((index.file_names[i], names[int(label)], box))
        return rows


def polygon(numbers: list[float]) -> tuple[float, ...]:
    x, y = numbers[::2], numbers[1::2]
    return (max(x) + min(x)) / 2, (max(y) + min(y)) / 2, max(x) - min(x), max(y) - min(y)


class Voc:
    """A VOC data set: the list of images or one XML file is mutated."""

    def __init__(self, coco: Path, make: Callable[[Path], Path]) -> None:
        self.root = make(coco)
        self.listing = self.root / "ImageSets" / "Main" / "train.txt"
        files = [self.listing, *sorted((self.root / "Annotations").glob("train*.xml"))]
        self.texts = {path: path.read_text() for path in files}

    def mutate(self, rng: np.random.Generator) -> None:
        path = list(self.texts)[rng.integers(len(self.texts))]
        text = self.texts[path]
        is_tree = path.suffix == ".xml" and rng.random() < 0.6
        path.write_bytes(mutate_xml(rng, text) if is_tree else mutate_text(rng, text))

    def restore(self) -> None:
        for path, text in self.texts.items():
            path.write_text(text)

    def expected(self, index: DetectionIndex) -> list[Row]:
        rows = []
        for i in range(len(index)):
            root = ElementTree.parse(self.root / "Annotations" / f"{Path(index.file_names[i]).stem}.xml").getroot()
            for item in root.findall("object"):
                values = [float(item.find("bndbox").find(k).text) for k in ("xmin", "ymin", "xmax", "ymax")]  # type: ignore
                x, y, right, bottom = values
                name = item.find("name").text.strip()  # type: ignore[union-attr]
                rows.append((index.file_names[i], name, (x - 1, y - 1, right - x + 1, bottom - y + 1)))
        return rows


def found(index: DetectionIndex) -> list[Row]:
    owners = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    return [
        (index.file_names[int(i)], index.class_names[label], tuple(box))
        for i, label, box in zip(owners, index.labels, index.boxes_xywh.tolist(), strict=True)
    ]


def rounded(rows: list[Row]) -> Counter[Row]:
    """To float32 and a thousandth of a pixel."""
    return Counter(
        (image, name, tuple(np.round(np.float32(box).astype(float), 3).tolist())) for image, name, box in rows
    )


@pytest.mark.timeout(250)
@pytest.mark.parametrize("format_", [Coco, Yolo, Voc])
def test_mutated_annotations(
    format_: type[Coco] | type[Yolo] | type[Voc],
    tiny_coco: Callable[..., Path],
    as_yolo: Callable[[Path], Path],
    as_voc: Callable[[Path], Path],
) -> None:
    coco = tiny_coco(num_train=4, num_val=1, size=(24, 32), num_classes=3, boxes_per_image=2, seed=3)
    data = format_(coco, as_yolo if format_ is Yolo else as_voc)
    data.restore()
    index = open_split(data.root, "train")
    assert not rounded(data.expected(index)) - rounded(found(index)), "the plain reader and ours differ on sound data"
    refused = accepted = 0
    for case in range(670):
        data.mutate(np.random.default_rng([5, case]))
        try:
            index = open_split(data.root, "train", max_bad_images=1.0)
        except UserError as error:
            expect_line(error)
            refused += 1
        except Exception as error:
            raise AssertionError(f"case {case} of {format_.__name__}") from error
        else:
            accepted += 1
            missing = rounded(data.expected(index)) - rounded(found(index))
            assert not missing, f"case {case}: labels were moved or lost"
            surplus = rounded(found(index)) - rounded(data.expected(index))
            assert format_ is Coco or not surplus, f"case {case}: labels from nowhere"
        data.restore()
    assert refused > 100, "the mutations are too tame"
    assert accepted > 50, "the mutations are too wild"


def sound_images() -> Iterator[tuple[str, bytes]]:
    """Files of many kinds, 48x32 pixels."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (8, 12, 3)).astype(np.uint8)).resize((48, 32))
    exif = Image.Exif()
    exif[274] = 6
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    clear = picture.copy()
    clear.putalpha(128)
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        *(("jpg", picture, {}), ("jpg", picture, {"progressive": True}), ("jpg", turned, {"exif": exif})),
        *(("jpg", picture.convert("L"), {}), ("jpg", picture.convert("CMYK"), {})),
        *(("png", picture, {}), ("png", picture.quantize(16), {}), ("png", deep, {}), ("png", turned, {"exif": exif})),
        *(("png", clear, {}), ("png", picture.convert("1"), {}), ("png", picture.convert("L"), {})),
        *(("webp", picture, {}), ("webp", clear, {"lossless": True}), ("webp", turned, {"exif": exif})),
        *(("gif", picture, {}), ("bmp", picture, {}), ("tif", picture, {}), ("tif", deep, {})),
        *(("tif", picture, {"compression": "tiff_lzw"}), ("tif", turned, {"exif": exif})),
    ]
    if features.check("avif"):
        kinds.append(("avif", picture, {}))
    for suffix, image, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
        yield suffix, buffer.getvalue()


def damage(rng: np.random.Generator, data: bytes) -> bytes:
    """Flip, zero, cut, insert or repeat bytes; half of the time near the beginning, where the headers are."""
    array = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        room = min(len(array), 200) if rng.random() < 0.5 else len(array)
        start = int(rng.integers(max(1, room)))
        length = int(rng.integers(1, 30))
        kind = rng.integers(6)
        if kind <= 1:
            array[start : start + 1] = rng.integers(0, 256, 1).astype(np.uint8).tobytes()
        elif kind == 2:
            array[start : start + length] = bytes(length)
        elif kind == 3:
            array[start : start + length] = b"\xff" * length
        elif kind == 4:
            array[start:start] = rng.integers(0, 256, length).astype(np.uint8).tobytes()
        elif rng.random() < 0.5:
            del array[start:]
    return bytes(array)


@pytest.mark.timeout(250)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_images(tmp_path: Path) -> None:
    sound = list(sound_images())
    for number, (suffix, data) in enumerate(sound):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(data)
        assert inspect_image(path) == read_image(path).shape[:2] == (32, 48)
    refused = 0
    for case in range(500):
        rng = np.random.default_rng([6, case])
        suffix, data = sound[case % len(sound)]
        path = tmp_path / f"damaged.{suffix}"
        path.write_bytes(damage(rng, data))
        size = inspect_image(path)
        try:
            image = read_image(path)
        except UserError as error:
            expect_line(error)
            refused += 1
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        if not isinstance(size, ImageProblem):
            assert image.shape[:2] == size, f"case {case}: boxes would be scaled by another size"
    assert 50 < refused < 450
