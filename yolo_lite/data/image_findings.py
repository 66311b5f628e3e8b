"""What can be wrong with image files, alone and beside each other.

Notation: N images of all splits together, P pairs of them.
"""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np

from yolo_lite.data.duplicates import exact_pairs, near_pairs
from yolo_lite.data.findings import MAX_EXAMPLES, Example, Finding, Severity, image_example, severity_by_share
from yolo_lite.data.fingerprints import Fingerprint, confirm, fingerprint_images
from yolo_lite.data.index import DetectionIndex

WAYS_OUT = {
    "image-missing": "restore the files, or take the images out of the annotations; training leaves them out",
    "image-truncated": "copy or download the files again; training leaves them out",
    "image-unreadable": "replace the files, or take the images out of the annotations; training leaves them out",
    "image-damaged": "copy or download the files again: they decode, but part of the picture is grey or shifted",
    "image-other-size": "take boxes and size from the same file: these boxes may be shifted (a turn by EXIF, a resize)",
}
MESSAGES = {
    "image-missing": "images are not there",
    "image-truncated": "image files are cut off",
    "image-unreadable": "image files cannot be read",
    "image-damaged": "image files are damaged inside",
    "image-other-size": "images have another size than the annotations say",
}


def image_findings(splits: dict[str, DetectionIndex], decode: bool) -> list[Finding]:
    """Files that are missing, broken, of another size, or there twice.

    Args:
        splits: the index of each split, sizes as the annotations say.
        decode: decode every image, which finds damage inside files and images that only look the same.
    """
    if not splits:
        return []
    found = []
    prints = {}
    for split, index in splits.items():
        prints[split] = fingerprint_images(index, decode, f"reading the images of {split}")
        found += file_findings(index, split, prints[split])
    if not decode:
        members = [(index, i) for index in splits.values() for i in range(len(index))]
        confirm([one for split in splits for one in prints[split]], lambda k: members[k][0].path(members[k][1]))
    return found + twin_findings(splits, prints)


def kind_of(fingerprint: Fingerprint) -> str:
    """Which fault a file has; empty: none."""
    if fingerprint.is_damaged:
        return "image-damaged"
    if fingerprint.problem in ("missing", "truncated"):
        return f"image-{fingerprint.problem}"
    return "image-unreadable" if fingerprint.problem else ""


def file_findings(index: DetectionIndex, split: str, prints: list[Fingerprint]) -> list[Finding]:
    """Of each file by itself."""
    cases: dict[str, list[Example]] = {kind: [] for kind in MESSAGES}
    for i, fingerprint in enumerate(prints):
        kind, detail = kind_of(fingerprint), fingerprint.problem
        if not kind and fingerprint.size != tuple(index.sizes[i].tolist()):
            assert fingerprint.size is not None
            (height, width), (file_height, file_width) = index.sizes[i], fingerprint.size
            kind, detail = "image-other-size", f"{file_width}x{file_height} instead of {width}x{height}"
        if kind:
            cases[kind].append(image_example(index, split, i, detail))
    return [
        Finding(
            kind,
            severity_by_share(len(examples), len(index)),
            split,
            len(examples),
            MESSAGES[kind],
            WAYS_OUT[kind],
            examples[:MAX_EXAMPLES],
        )
        for kind, examples in cases.items()
        if examples
    ]


def twin_findings(splits: dict[str, DetectionIndex], prints: dict[str, list[Fingerprint]]) -> list[Finding]:
    """Images that are there twice, within a split and across two."""
    members = [(split, i) for split, index in splits.items() for i in range(len(index))]
    flat = [fingerprint for split in splits for fingerprint in prints[split]]
    digests = np.array([fingerprint.digest for fingerprint in flat], dtype=np.uint64)
    kinds = {"exact": twins_of_each_split(digests, splits)}
    seen = np.array([i for i, fingerprint in enumerate(flat) if fingerprint.thumbnail is not None], dtype=np.int64)
    if len(seen):
        hashes = np.array([flat[i].gradients for i in seen], dtype=np.uint64)
        pairs = seen[near_pairs(hashes, np.stack([flat[i].thumbnail for i in seen]))]
        kinds["near"] = pairs[digests[pairs[:, 0]] != digests[pairs[:, 1]]]
    split_of = np.repeat(np.arange(len(splits)), [len(index) for index in splits.values()])
    found = []
    for kind, pairs in kinds.items():
        sides = split_of[pairs]
        for a, b in [(i, i) for i in range(len(splits))] + list(combinations(range(len(splits)), 2)):
            chosen = pairs[(sides[:, 0] == a) & (sides[:, 1] == b)]
            if len(chosen):
                found.append(twin_finding(kind, splits, [(members[i], members[j]) for i, j in chosen.tolist()]))
    return found


def twins_of_each_split(digests: np.ndarray, splits: dict[str, DetectionIndex]) -> np.ndarray:
    """(P, 2) pairs of equal files: every copy with the first of its own split, and with the first of each other."""
    bounds = np.concatenate([[0], np.cumsum([len(index) for index in splits.values()])])
    groups = [np.arange(low, high) for low, high in pairwise(bounds)]
    found = [group[exact_pairs(digests[group])] for group in groups]
    for a, b in combinations(groups, 2):
        _, first = np.unique(digests[a], return_index=True)
        both = np.concatenate([a[np.sort(first)], b])
        pairs = exact_pairs_with_first(digests[both], len(first))
        found.append(both[pairs])
    return np.concatenate(found)


def exact_pairs_with_first(digests: np.ndarray, count: int) -> np.ndarray:
    """(P, 2) pairs of equal digests of which the first is among the first `count` and the second is not."""
    pairs = exact_pairs(digests)
    return pairs[(pairs[:, 0] < count) & (pairs[:, 1] >= count)]


def twin_finding(
    kind: str, splits: dict[str, DetectionIndex], pairs: list[tuple[tuple[str, int], tuple[str, int]]]
) -> Finding:
    """Pairs of images, of one split or of the same two."""
    (a, _), (b, _) = pairs[0]
    count = len({second for _, second in pairs})
    alike = "the same file" if kind == "exact" else "nearly the same picture"
    examples = []
    for (_, i), (_, j) in pairs[: MAX_EXAMPLES // 2]:
        first, second = splits[a].file_names[i], splits[b].file_names[j]
        examples.append(image_example(splits[a], a, i, f"{alike} as {b}: {second}"))
        examples.append(image_example(splits[b], b, j, f"{alike} as {a}: {first}"))
    severity: Severity
    if a == b:
        severity, message = "warning", f"images are {alike} as another one of {a}"
        way_out = "keep one of each: copies count more than others" + (
            "; shots of one video are better thinned out" if kind == "near" else ""
        )
        return Finding(f"duplicate-{kind}", severity, a, count, message, way_out, examples)
    severity = "error" if a == "train" else "warning"
    flatters = {"val": "validation", "test": "testing"}[b] if a == "train" else "testing"
    message = f"images of {b} are {alike} as one of {a}: {flatters} would flatter"
    way_out = f"take them out of {a} or {b}; of videos and series, put whole ones on one side"
    return Finding(f"overlap-{kind}", severity, f"{a}, {b}", count, message, way_out, examples)
