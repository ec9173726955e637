"""The published model on plain images, where what is right is known: shapes are told apart, bare ground is nothing."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dealkit.predict.plain import iou
from dealkit.predict.predictor import Predictor


@pytest.fixture(scope="module")
def published():
    return Predictor()


@pytest.fixture(autouse=True)
def every_click_is_on_something():
    """Unlike elsewhere in the tests: the published model is sure of what it sees."""


def bars_and_discs(seed):
    """Twelve upright bars of 7 x 24 px and twelve discs of 16 px, apart, light on grey: (3, 320, 320) and boxes (24, 4)."""
    rng, boxes, large = np.random.default_rng(seed), [], Image.new("L", (1280, 1280), 120)
    while len(boxes) < 24:
        half = np.array([3.5, 12.0] if len(boxes) < 12 else [8.0, 8.0])
        centre = rng.uniform(20, 300, 2)
        box = [*(centre - half), *(centre + half)]
        if all(box[0] > b[2] + 4 or b[0] > box[2] + 4 or box[1] > b[3] + 4 or b[1] > box[3] + 4 for b in boxes):
            draw = ImageDraw.Draw(large).rectangle if len(boxes) < 12 else ImageDraw.Draw(large).ellipse
            draw([4 * v for v in box], fill=220)
            boxes.append(box)
    pixels = np.asarray(large.resize((320, 320), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels.copy()).expand(3, -1, -1), np.array(boxes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_bars_are_no_discs(published, seed):
    image, boxes = bars_and_discs(seed)
    published.set_image(image)
    for clicked in (0, 5, 12, 17):
        found = published.click(*(boxes[clicked, :2] + boxes[clicked, 2:]) / 2)
        shown = (iou(boxes, found.boxes) > 0.5).any(1).reshape(2, 12).sum(1)
        own, other = (0, 1) if clicked < 12 else (1, 0)
        assert shown[own] >= 8 and shown[other] == 0


PLAIN = {
    "black": torch.zeros(3, 250, 310, dtype=torch.uint8),
    "grey": torch.full((3, 250, 310), 120, dtype=torch.uint8),
    "white": torch.full((3, 250, 310), 255, dtype=torch.uint8),
    "ramp": torch.linspace(40, 200, 310).repeat(3, 250, 1).byte(),
}


@pytest.mark.parametrize("name", PLAIN)
def test_nothing_is_shown_where_there_is_nothing(published, name):
    published.set_image(PLAIN[name])
    inside, borders = [(60, 60), (150, 120), (250, 200)], [(2, 60), (2, 180), (80, 2), (200, 2)]
    for x, y in inside + borders + [(310 - x, 250 - y) for x, y in borders]:
        found = published.click(x, y)
        assert found.nothing_certain and len(found) == 0
