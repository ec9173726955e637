"""`dealkit.data.scenes.sprites`: every outline has the box that was asked for, whatever its size, turn and blur."""

from dataclasses import replace

import numpy as np
import pytest

from dealkit.data.scenes.shapes import FAMILIES, PATTERNS
from dealkit.data.scenes.sprites import (
    Category,
    alpha_box,
    category_names,
    draw_category,
    render_sprite,
    render_variants,
    vary_category,
)


def _category(**changes: object) -> Category:
    """A plain opaque category without variation, on a dark ground."""
    c = draw_category(np.random.default_rng(0), size=20.0, background=np.array([0.2]), contrast=0.5)
    still = {"size_jitter": 0.0, "colour_jitter": 0.0, "shape_jitter": 0.0, "opacity": 1.0, "pattern": "flat", "shade": "none"}
    return replace(c, **(still | {"outline": 0.0, "turn": "fixed", "angle": 0.0, "colour": (0.7,)} | changes))


def test_alpha_box_finds_the_edge_between_pixels():
    # Columns 0, 0.75, 1, 0.5, 0 at centres 0.5 .. 4.5; half the peak is crossed at 0.5 + 0.5 / 0.75 = 1.1667 on the left;
    # on the right column 3 holds exactly half: 3.5.
    alpha = np.zeros((3, 5), np.float32)
    alpha[1] = [0, 0.75, 1, 0.5, 0]
    x1, y1, x2, y2 = alpha_box(alpha, 0.5)
    assert x1 == pytest.approx(0.5 + 0.5 / 0.75)
    assert x2 == pytest.approx(3.5)
    # Row 1 is full, its neighbours empty: crossed half way between the centres, so at the pixel's edges.
    assert (y1, y2) == pytest.approx((1.0, 2.0))


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2])
def test_the_box_of_a_rectangle_is_its_own_within_half_a_pixel(angle: float):
    # Upright 20 * sqrt(2.25) = 30 by 20 / 1.5 = 13.33; turned by t it spans 30 cos t + 13.33 sin t by 30 sin t + 13.33 cos t.
    s = render_sprite(_category(family="rectangle", aspect=2.25), np.random.default_rng(1), angle=angle)
    cos, sin = np.cos(angle), np.sin(angle)
    x1, y1, x2, y2 = s.box
    assert x2 - x1 == pytest.approx(30 * cos + 40 / 3 * sin, abs=1.0)  # half a pixel a side
    assert y2 - y1 == pytest.approx(30 * sin + 40 / 3 * cos, abs=1.0)


@pytest.mark.parametrize("size", [2.0, 3.0, 6.0, 12.0, 40.0])
def test_the_box_of_a_disc_or_a_point_is_its_diameter_at_every_size(size: float):
    for seed in range(4):
        for family, within in (("ellipse", 0.6), ("point", 0.7)):  # a point ends at exp(-1.386 r^2) = 1/4: r = 1
            c = _category(family=family, aspect=1.0, size=size)
            x1, y1, x2, y2 = render_sprite(c, np.random.default_rng(seed), angle=0.3).box
            assert (x2 - x1, y2 - y1) == pytest.approx((size, size), abs=within)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_fits_its_patch_and_holds_its_support_in_its_box(family: str):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        c = _category(family=family, params=tuple(rng.uniform(0, 1, 8)), aspect=1.3, size=float(rng.choice([3.0, 10.0, 40.0])))
        s = render_sprite(c, rng, angle=float(rng.uniform(0, 6.28)), blur=float(rng.choice([0.0, 1.0])))
        edge = np.concatenate([s.alpha[0], s.alpha[-1], s.alpha[:, 0], s.alpha[:, -1]])
        assert edge.max() < 0.05
        ys, xs = np.nonzero(s.support)
        x1, y1, x2, y2 = s.box
        # A supporting pixel's centre lies inside the box.
        assert (xs + 0.5 >= x1 - 1e-3).all() and (xs + 0.5 <= x2 + 1e-3).all()
        assert (ys + 0.5 >= y1 - 1e-3).all() and (ys + 0.5 <= y2 + 1e-3).all()
        assert (s.colour >= 0).all() and (s.colour <= s.alpha + 1e-6).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_changes_the_body_and_never_the_box(pattern: str):
    plain = render_sprite(_category(family="ellipse"), np.random.default_rng(0), angle=0.0)
    other = render_sprite(_category(family="ellipse", pattern=pattern, second=(0.1,)), np.random.default_rng(0), angle=0.0)
    assert other.box == plain.box
    assert np.allclose(other.colour, plain.colour) == (pattern == "flat")


def test_variants_of_a_prescribed_box_size_have_it_whatever_their_rotation():
    c = _category(family="rod", aspect=6.0, turn="free", size_jitter=0.4)
    for s in render_variants(c, np.random.default_rng(0), 8, blur=0.4, light=0.0, box_size=12.0):
        x1, y1, x2, y2 = s.box
        assert ((x2 - x1) * (y2 - y1)) ** 0.5 == pytest.approx(12.0, abs=1.2)


def test_a_look_alike_differs_in_one_attribute():
    groups = [{"family", "aspect", "params"}, {"pattern", "outline"}]
    groups += [{"size", "size_jitter"}, {"colour", "second", "colour_jitter"}]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a, b = (draw_category(rng, size=24.0, background=np.array([0.4] * 3), contrast=0.3) for _ in range(2))
        twin = vary_category(a, b, rng)
        changed = {k for k in vars(a) if getattr(a, k) != getattr(twin, k)}
        assert changed and any(changed <= group for group in groups)


def test_names_are_unique_within_a_scene():
    disc = _category(family="ring", colour=(0.75, 0.2, 0.2))
    assert category_names([disc, disc, replace(disc, pattern="dots")]) == ["red ring", "red ring 2", "red dots ring"]
