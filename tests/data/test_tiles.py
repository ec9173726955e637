"""`dealkit.data.tiles`: where tiles lie, and what they show of an object."""

import numpy as np
import pytest

from dealkit.data.tiles import clip_polygon, objects_in_window, polygon_area, tile_starts, tile_windows


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (1, [0]),
        (100, [0]),  # as long as a tile
        (101, [0, 1]),  # the last is moved back to end with the image
        (180, [0, 80]),  # 80..180 ends exactly
        (181, [0, 80, 81]),
        (260, [0, 80, 160]),
    ],
)
def test_tiles_of_100_that_share_20(length, expected):
    assert tile_starts(length, 100, 20) == expected


@pytest.mark.parametrize("length", range(1, 400, 7))
def test_whatever_is_no_longer_than_the_overlap_is_whole_in_some_tile(length):
    starts = tile_starts(length, 100, 20)
    assert starts[-1] + 100 >= length and all(s >= 0 and s + min(100, length) <= length for s in starts)
    for left in range(max(length - 20, 0)):
        assert any(s <= left and left + 20 <= s + 100 for s in starts), left


@pytest.mark.parametrize(("length", "tile", "overlap"), [(0, 100, 20), (50, 100, 100), (50, 100, -1)])
def test_impossible_tiles_are_an_error(length, tile, overlap):
    with pytest.raises(ValueError, match="expected length >= 1 and 0 <= overlap < tile"):
        tile_starts(length, tile, overlap)


def test_a_small_image_is_one_window_and_a_large_one_a_grid():
    assert tile_windows(100, 60, 100, 20) == [(0, 0, 100, 60)]
    assert tile_windows(150, 130, 100, 20) == [(0, 0, 100, 100), (50, 0, 150, 100), (0, 30, 100, 130), (50, 30, 150, 130)]


def test_an_object_is_cut_to_the_tile_and_measured():
    boxes = np.float32([[90, 10, 110, 20], [95, 95, 105, 115], [0, 0, 10, 10], [200, 0, 210, 10]])
    rows, inside, visible = objects_in_window(boxes, (100, 0, 200, 100))
    # the first: 10 of its 20 columns; the second: 5 of 10 columns times 5 of 20 rows; the last only touches the border
    assert rows.tolist() == [0, 1]
    assert inside.tolist() == [[0, 10, 10, 20], [0, 95, 5, 100]]
    assert visible.tolist() == [0.5, 0.125]


def test_an_object_with_a_polygon_is_measured_by_it():
    # A triangle with corners (0, 0), (40, 0), (0, 40) and area 800. Right of x = 20 lies one with corners (20, 0), (40, 0),
    # (20, 20) and area 200, while of its box half is there, 20 x 40.
    triangle = np.float32([[0, 0], [40, 0], [0, 40]])
    rows, inside, visible = objects_in_window(np.float32([[0, 0, 40, 40]]), (20, 0, 120, 100), (triangle,))
    assert rows.tolist() == [0] and visible.tolist() == [0.25]
    assert inside.tolist() == [[0, 0, 20, 20]]
    assert objects_in_window(np.float32([[0, 0, 40, 40]]), (20, 0, 120, 100), (None,))[2].tolist() == [0.5]


def test_a_concave_polygon_in_two_pieces_has_the_area_of_both():
    # A U of width 30: arms 10 wide and 30 high on a base 10 high; above y = 10 the two arms are left, 2 x 10 x 20
    u = np.array([[0, 0], [30, 0], [30, 30], [20, 30], [20, 10], [10, 10], [10, 30], [0, 30]], dtype=np.float64)
    assert polygon_area(u) == 30 * 10 + 2 * 10 * 20
    assert polygon_area(clip_polygon(u, (0, 10, 30, 30))) == 400
    assert len(clip_polygon(u, (50, 50, 60, 60))) == 0
