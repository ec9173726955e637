"""`dealkit.data.scenes.canvas`: objects lie where their boxes say, and what is hidden has no box."""

import numpy as np
import pytest

from dealkit.data.scenes.canvas import LAYOUTS, Canvas, candidate_places, paste, visible_boxes
from dealkit.data.scenes.sprites import Sprite


def put(canvas: Canvas, xy, *, overlap: float = 0.0) -> bool:
    """Paste a white opaque square of 4 px, centred at `xy`; its patch has a border of one empty pixel."""
    alpha = np.pad(np.ones((4, 4), np.float32), 1)
    s = Sprite(alpha=alpha[..., None], colour=alpha[..., None], support=alpha > 0.5, box=(1.0, 1.0, 5.0, 5.0), angle=0.0)
    return paste(canvas, s, np.array(xy), 0, overlap, (0, 0, 0.0))


def _canvas(height: int = 20, width: int = 30) -> Canvas:
    return Canvas(np.zeros((height, width, 1), np.float32), np.zeros((height, width), np.int32), 0.01)


def test_an_object_is_pasted_where_its_box_says():
    canvas = _canvas()
    # A 6 px patch centred at (10, 8) starts at (7, 5); its 4 px square is 8..12 by 6..10.
    assert put(canvas, [10.0, 8.0])
    assert canvas.boxes == [(8.0, 6.0, 12.0, 10.0)]
    ys, xs = np.nonzero(canvas.image[..., 0])
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == (8, 12, 6, 10)
    assert canvas.contrasts == [pytest.approx(1.0)]


def test_an_object_cut_by_the_border_is_clipped_or_refused():
    canvas = _canvas()
    assert visible_boxes(canvas)[0].shape == (0, 4)
    # Centre x = 1: the square spans -1..3, three quarters of it inside. Centre x = -1: -3..1, a quarter, under 0.4.
    assert put(canvas, [1.0, 8.0])
    assert not put(canvas, [-1.0, 14.0])
    assert not put(canvas, [-50.0, 8.0])
    boxes, keep, share = visible_boxes(canvas)
    assert boxes.tolist() == [[0.0, 6.0, 3.0, 10.0]]
    assert keep.tolist() == [True] and share.tolist() == [1.0]


def test_overlap_beyond_the_limit_and_invisible_objects_are_refused():
    canvas = _canvas()
    assert put(canvas, [10.0, 8.0])
    # Moved by 2: half of it (8 of 16 pixels) lies on the first.
    assert not put(canvas, [12.0, 8.0], overlap=0.4)
    canvas.image[:] = 1.0
    assert not put(canvas, [20.0, 8.0])


def test_a_covered_side_moves_to_what_is_visible_and_a_hidden_object_loses_its_label():
    canvas = _canvas()
    # First 8..12 by 6..10; the second, moved by 2 to the right, covers its right half: 8..10 remains.
    put(canvas, [10.0, 8.0], overlap=1.0)
    canvas.image[:] *= 0.5
    put(canvas, [12.0, 8.0], overlap=1.0)
    boxes, keep, share = visible_boxes(canvas)
    assert boxes.tolist() == [[8.0, 6.0, 10.0, 10.0], [10.0, 6.0, 14.0, 10.0]]
    assert keep.tolist() == [True, True] and share.tolist() == [0.5, 1.0]
    canvas.image[:] *= 0.5
    put(canvas, [9.0, 8.0], overlap=1.0)  # 7..11 hides the rest of the first
    assert visible_boxes(canvas)[1].tolist() == [False, True, True]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_places_with_directions(layout):
    places, directions = candidate_places(np.random.default_rng(0), layout, 20, 6.0, (128, 192))
    assert len(places) >= 20 and places.shape == (len(directions), 2)
    inside = ((places >= 0) & (places <= [192, 128])).all(1)
    assert inside.mean() > 0.5
