"""Images that are there twice: byte for byte, or to the eye, within a split and across splits.

Notation: N images of all splits together, P pairs of them.
"""

from __future__ import annotations

import numpy as np

BANDS = 4
BAND_BITS = 64 // BANDS
# Of 64 gradients, so many may differ; up to BANDS - 1 no pair is missed, as one band is left untouched.
MAX_DISTANCE = 8
# Bounds the work where thousands of images share a band, as frames of one video do.
MAX_NEIGHBOURS = 256
MIN_CONTRAST = 4.0  # standard deviation of brightness: below it, pictures have nothing to be told apart by
# Correlation of the thumbnails, and of what is left of them without what is smooth. Copies that were compressed again,
# halved or made brighter have 0.97 and 0.88 or more. Shots of different things on one floor under one lamp reach 0.99
# and 0.6: the light is the same, the details are not.
MIN_LIKENESS = 0.97
MIN_DETAIL_LIKENESS = 0.8
BLUR = 5
CHUNK = 4096  # pairs looked at together
BIT_COUNTS = np.array([bin(i).count("1") for i in range(256)], dtype=np.uint8)


def bit_counts(values: np.ndarray) -> np.ndarray:
    """(...) number of ones of uint64 values."""
    return BIT_COUNTS[np.ascontiguousarray(values).view(np.uint8).reshape(*values.shape, 8)].sum(axis=-1)


def hash_pairs(hashes: np.ndarray, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """(P, 2) ascending pairs of 64-bit hashes (N,) that differ in few bits, in much less than N squared steps.

    Two hashes that differ in at most `BANDS - 1` bits agree in one of `BANDS` bands. For each band, hashes are sorted
    with it in front and compared with the neighbours that share it.

    Args:
        hashes: (N,) uint64.
        max_distance: differing bits.
    """
    found = []
    for band in range(BANDS):
        turn = np.uint64(band * BAND_BITS)
        turned = hashes if band == 0 else (hashes << turn) | (hashes >> (np.uint64(64) - turn))
        order = np.argsort(turned, kind="stable")
        key = turned[order] >> np.uint64(64 - BAND_BITS)
        start = np.arange(len(hashes))
        for shift in range(1, MAX_NEIGHBOURS + 1):
            start = start[start + shift < len(hashes)]
            start = start[key[start] == key[start + shift]]
            if not len(start):
                break
            a, b = order[start], order[start + shift]
            near = bit_counts(hashes[a] ^ hashes[b]) <= max_distance
            found.append(np.sort(np.stack([a[near], b[near]], axis=1), axis=1))
    return np.unique(np.concatenate([np.zeros((0, 2), np.int64), *found]), axis=0)


def near_pairs(hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """(P, 2) ascending pairs of images that look the same: their hashes are close, and so are their thumbnails.

    Args:
        hashes: (N,) uint64 gradients.
        thumbnails: (N, S, S) uint8 brightness.
    """
    pairs = hash_pairs(hashes)
    is_near = [look_alike(thumbnails, pairs[i : i + CHUNK]) for i in range(0, len(pairs), CHUNK)]
    return pairs[np.concatenate([np.zeros(0, bool), *is_near])]


def look_alike(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) bool: equal up to brightness and contrast, as a whole and in the details."""
    a, b = (thumbnails[pairs[:, k]].astype(np.float32) for k in (0, 1))
    contrast = np.minimum(a.std(axis=(1, 2)), b.std(axis=(1, 2)))
    is_like = (contrast >= MIN_CONTRAST) & (correlation(a, b) >= MIN_LIKENESS)
    return np.asarray(is_like & (correlation(details(a), details(b)) >= MIN_DETAIL_LIKENESS))


def details(images: np.ndarray) -> np.ndarray:
    """(P, S, S) images without what a blur of them keeps."""
    margin = BLUR // 2
    blurred = np.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(blurred, BLUR, axis=axis)
        blurred = windows.mean(axis=-1)
    return np.asarray(images - blurred)


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) of (P, S, S) images, pair by pair; 0 where one of them is flat."""
    a, b = a - a.mean(axis=(1, 2), keepdims=True), b - b.mean(axis=(1, 2), keepdims=True)
    norms = np.sqrt(np.square(a).sum(axis=(1, 2)) * np.square(b).sum(axis=(1, 2)))
    return np.asarray((a * b).sum(axis=(1, 2)) / np.maximum(norms, 1e-6))


def exact_pairs(digests: np.ndarray) -> np.ndarray:
    """(P, 2) pairs of equal digests (N,), each image with the first that has its digest; 0 is no digest."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    original = first[inverse.reshape(-1)]
    copies = np.flatnonzero((original != np.arange(len(digests))) & (digests != 0))
    return np.stack([original[copies], copies], axis=1)
