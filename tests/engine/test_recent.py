"""What a worker keeps of an image from task to task."""

from __future__ import annotations

import numpy as np
import pytest

from pastpy.engine.recent import RecentChunks


def pixels(value: int) -> np.ndarray:
    return np.full(10, value, dtype=np.uint8)


def never() -> np.ndarray:
    pytest.fail("decoded although it is there")


def test_those_asked_for_last_are_kept():
    recent = RecentChunks(budget=20)
    for key in (0, 1):
        recent.get("a", key, lambda key=key: pixels(key))
    recent.get("a", 0, never)
    recent.get("a", 2, lambda: pixels(2))
    np.testing.assert_array_equal(recent.get("a", 0, never), pixels(0))
    np.testing.assert_array_equal(recent.get("a", 2, never), pixels(2))
    assert recent.get("a", 1, lambda: pixels(9))[0] == 9, "the budget holds two"


def test_a_chunk_over_the_budget_is_given_but_not_kept():
    recent = RecentChunks(budget=5)
    assert recent.get("a", 0, lambda: pixels(1))[0] == 1
    assert recent.get("a", 0, lambda: pixels(2))[0] == 2


def test_an_image_is_forgotten_and_makes_room():
    recent = RecentChunks(budget=20)
    for image in "ab":
        recent.get(image, 0, lambda: pixels(1))
    recent.forget("a")
    recent.get("b", 1, lambda: pixels(2))
    for chunk in (0, 1):
        recent.get("b", chunk, never)
    assert recent.get("a", 0, lambda: pixels(3))[0] == 3


def test_a_chunk_that_cannot_be_decoded_is_tried_again():
    recent = RecentChunks(budget=20)

    def broken() -> np.ndarray:
        raise OSError("tile is damaged")

    with pytest.raises(OSError, match="tile is damaged"):
        recent.get("a", 0, broken)
    assert recent.get("a", 0, lambda: pixels(1))[0] == 1
