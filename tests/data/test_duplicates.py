"""Pairs of hashes and of boxes, against looking at all of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.data.duplicates import BANDS, correlation, exact_pairs, hash_pairs, look_alike
from yolo_lite.data.label_checks import pair_iou

BITS = st.integers(0, 2**64 - 1)


@given(st.lists(BITS, max_size=20), st.lists(st.tuples(st.integers(0, 19), st.sets(st.integers(0, 63), max_size=6))))
@settings(max_examples=200, deadline=None)
def test_no_close_pair_is_missed(values: list[int], copies: list[tuple[int, set[int]]]) -> None:
    """Against all pairs, with near copies of some."""
    for i, flips in copies[:20]:
        if i < len(values):
            values.append(values[i] ^ sum(1 << bit for bit in flips))
    distances = {(i, j): bin(values[i] ^ values[j]).count("1") for i, j in combinations(range(len(values)), 2)}
    found = set(map(tuple, hash_pairs(np.array(values, dtype=np.uint64), max_distance=6).tolist()))
    assert {pair for pair, distance in distances.items() if distance <= BANDS - 1} <= found
    assert all(distances[pair] <= 6 for pair in found)


@given(st.lists(st.integers(0, 5), max_size=30))
def test_every_copy_is_paired_with_the_first(values: list[int]) -> None:
    pairs = exact_pairs(np.array(values, dtype=np.uint64)).tolist()
    expected = [[values.index(v), i] for i, v in enumerate(values) if v != 0 and values.index(v) != i]
    assert sorted(pairs) == sorted(expected)


def test_one_lamp_over_different_things_is_no_copy() -> None:
    """The light makes most of the picture; the details are others. A copy with noise and other brightness is one."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 31 - 0.5
    light = 200 - 300 * (x**2 + y**2)
    floors = [np.clip(light + rng.normal(0, 4, (32, 32)), 0, 255) for _ in range(2)]
    copy = np.clip(0.9 * floors[0] + 10 + rng.normal(0, 0.5, (32, 32)), 0, 255)
    thumbnails = np.stack([*floors, copy]).astype(np.uint8)
    assert look_alike(thumbnails, np.array([[0, 1], [0, 2], [1, 2]])).tolist() == [False, True, False]
    assert correlation(*(t[None].astype(np.float32) for t in thumbnails[:2]))[0] > 0.97


SIDE = st.floats(0.5, 100)
BOX = st.tuples(st.floats(0, 100), st.floats(0, 100), SIDE, SIDE)


@given(BOX, BOX)
def test_iou(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    boxes = np.array([a]), np.array([b])
    iou = float(pair_iou(*boxes)[0])
    assert -1e-9 <= iou <= 1 + 1e-9
    assert abs(iou - float(pair_iou(*boxes[::-1])[0])) < 1e-9
    assert abs(float(pair_iou(boxes[0], boxes[0])[0]) - 1) < 1e-9
