"""Procedural scenes: repeatable, exactly boxed, controllable one factor at a time."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.backgrounds import FAMILIES as BACKGROUNDS
from dealkit.data.scenes.canvas import LAYOUTS, Canvas, candidate_places, paste, visible_boxes
from dealkit.data.scenes.plan import SceneControls, draw_plan, object_counts
from dealkit.data.scenes.scene import EVAL_SEED, TRAIN_SEED, SyntheticScenes, make_scene, scene_factors, write_coco
from dealkit.data.scenes.shapes import FAMILIES, PATTERNS
from dealkit.data.scenes.sprites import (
    Category,
    Sprite,
    alpha_box,
    category_names,
    contrasting,
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


def _square_sprite(side: int) -> Sprite:
    """White opaque square with a border of one empty pixel: its box is (1, 1, side + 1, side + 1)."""
    alpha = np.pad(np.ones((side, side), np.float32), 1)
    box = (1.0, 1.0, side + 1.0, side + 1.0)
    return Sprite(alpha=alpha[..., None], colour=alpha[..., None], support=alpha > 0.5, box=box, angle=0.0)


def _canvas(height: int = 20, width: int = 30) -> Canvas:
    return Canvas(np.zeros((height, width, 1), np.float32), np.zeros((height, width), np.int32), 0.01)


def test_a_scene_is_the_same_whatever_was_made_before_it():
    first = make_scene(11)
    make_scene(3)
    again = make_scene(11)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.boxes, again.boxes)
    assert torch.equal(first.labels, again.labels)


def test_scenes_of_two_seeds_or_two_indices_differ():
    a, b, c = make_scene(2, seed=TRAIN_SEED), make_scene(2, seed=EVAL_SEED), make_scene(3, seed=TRAIN_SEED)
    assert not torch.equal(a.image, b.image)
    assert not torch.equal(a.image, c.image)


def test_a_sample_has_the_promised_types_and_ids():
    for index in range(12):
        s = make_scene(index, size_hw=(96, 160))
        n = len(s.boxes)
        assert n >= 1
        assert s.image.shape == (3, 96, 160) and s.image.dtype == torch.uint8 and s.image.is_contiguous()
        assert s.boxes.shape == (n, 4) and s.boxes.dtype == torch.float32
        assert s.labels.shape == (n,) and s.labels.dtype == torch.int64
        assert s.crowd.shape == (n,) and not s.crowd.any()
        assert s.annotation_ids.tolist() == list(range(1, n + 1))
        assert (s.image_id, s.source) == (index, "synthetic")


def test_boxes_lie_in_the_image_and_labels_have_no_gap():
    for index in range(40):
        s = make_scene(index, size_hw=(128, 192), seed=EVAL_SEED)
        assert (s.boxes[:, 2:] - s.boxes[:, :2] >= 0.5).all()
        assert (s.boxes >= 0).all()
        assert (s.boxes <= torch.tensor([192.0, 128.0, 192.0, 128.0])).all()
        assert s.labels.unique().tolist() == list(range(int(s.labels.max()) + 1))


def test_the_train_series_is_diverse():
    factors = [scene_factors(i, size_hw=(128, 128)) for i in range(120)]
    grey = np.mean([f["grey"] for f in factors])
    assert 0.2 < grey < 0.5  # drawn with probability 0.35; standard deviation 0.044 for 120 draws
    assert len({f["background"] for f in factors}) >= 14
    assert len({c["family"] for f in factors for c in f["categories"]}) >= 18
    assert {f["num_categories"] for f in factors} >= {1, 2, 3, 4}
    counts = [f["num_objects"] for f in factors]
    assert min(counts) <= 2 and max(counts) >= 60


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
def test_the_box_of_a_disc_is_its_diameter_at_every_size(size: float):
    for seed in range(4):
        s = render_sprite(_category(family="ellipse", aspect=1.0, size=size), np.random.default_rng(seed), angle=0.3)
        x1, y1, x2, y2 = s.box
        assert (x2 - x1, y2 - y1) == pytest.approx((size, size), abs=0.6)


def test_a_point_target_ends_at_a_quarter_of_its_peak():
    # The nominal size is where exp(-1.386 r^2) = 1/4: r = 1, so the box is 12 wide.
    s = render_sprite(_category(family="point", aspect=1.0, size=12.0), np.random.default_rng(0), angle=0.0)
    assert s.box[2] - s.box[0] == pytest.approx(12.0, abs=0.6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_fits_its_patch_and_holds_its_support_in_its_box(family: str):
    for seed in range(6):
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


def test_blur_makes_the_box_of_a_tiny_object_grow():
    c = _category(family="ellipse", aspect=1.0, size=3.0)
    sharp, soft = (render_sprite(c, np.random.default_rng(0), angle=0.0, blur=b).box for b in (0.0, 1.5))
    assert soft[2] - soft[0] > sharp[2] - sharp[0] + 1


def test_variants_of_a_prescribed_box_size_have_it_whatever_their_rotation():
    c = _category(family="rod", aspect=6.0, turn="free", size_jitter=0.4)
    for s in render_variants(c, np.random.default_rng(0), 8, blur=0.4, light=0.0, box_size=12.0):
        x1, y1, x2, y2 = s.box
        assert ((x2 - x1) * (y2 - y1)) ** 0.5 == pytest.approx(12.0, abs=1.2)


def test_contrasting_colours_keep_their_distance():
    for seed in range(20):
        base = np.array([0.3, 0.5, 0.6])
        colour = contrasting(np.random.default_rng(seed), base, 0.2, chroma=0.5)
        assert np.abs(np.subtract(colour, base)).mean() == pytest.approx(0.2, abs=0.02)
        assert min(colour) >= 0 and max(colour) <= 1


def test_a_look_alike_differs_in_one_attribute():
    groups = [
        {"family", "aspect", "params"},
        {"pattern", "outline"},
        {"size", "size_jitter"},
        {"colour", "second", "colour_jitter"},
    ]
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a, b = (draw_category(rng, size=24.0, background=np.array([0.4] * 3), contrast=0.3) for _ in range(2))
        twin = vary_category(a, b, rng)
        changed = {k for k in vars(a) if getattr(a, k) != getattr(twin, k)}
        assert changed and any(changed <= group for group in groups)


def test_an_object_is_pasted_where_its_box_says():
    canvas = _canvas()
    # A 6 px patch centred at (10, 8) starts at (7, 5); its 4 px square is 8..12 by 6..10.
    assert paste(canvas, _square_sprite(4), np.array([10.0, 8.0]), 0, 0.0, (0, 0, 0.0))
    assert canvas.boxes == [(8.0, 6.0, 12.0, 10.0)]
    ys, xs = np.nonzero(canvas.image[..., 0])
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == (8, 12, 6, 10)
    assert canvas.contrasts == [pytest.approx(1.0)]


def test_an_object_cut_by_the_border_is_clipped_or_refused():
    canvas = _canvas()
    # Centre x = 1: the square spans -1..3, three quarters of it inside. Centre x = -1: -3..1, a quarter, under 0.4.
    assert paste(canvas, _square_sprite(4), np.array([1.0, 8.0]), 0, 0.0, (0, 0, 0.0))
    assert not paste(canvas, _square_sprite(4), np.array([-1.0, 14.0]), 0, 0.0, (0, 0, 0.0))
    assert not paste(canvas, _square_sprite(4), np.array([-50.0, 8.0]), 0, 0.0, (0, 0, 0.0))
    boxes, keep, share = visible_boxes(canvas)
    assert boxes.tolist() == [[0.0, 6.0, 3.0, 10.0]]
    assert keep.tolist() == [True] and share.tolist() == [1.0]


def test_overlap_beyond_the_limit_and_invisible_objects_are_refused():
    canvas = _canvas()
    assert paste(canvas, _square_sprite(4), np.array([10.0, 8.0]), 0, 0.0, (0, 0, 0.0))
    # Moved by 2: half of it (8 of 16 pixels) lies on the first.
    assert not paste(canvas, _square_sprite(4), np.array([12.0, 8.0]), 0, 0.4, (0, 0, 0.0))
    canvas.image[:] = 1.0
    assert not paste(canvas, _square_sprite(4), np.array([20.0, 8.0]), 0, 0.0, (0, 0, 0.0))


def test_a_covered_side_moves_to_what_is_visible_and_a_hidden_object_loses_its_label():
    canvas = _canvas()
    # First 8..12 by 6..10; the second, moved by 2 to the right, covers its right half: 8..10 remains.
    paste(canvas, _square_sprite(4), np.array([10.0, 8.0]), 0, 1.0, (0, 0, 0.0))
    canvas.image[:] *= 0.5
    paste(canvas, _square_sprite(4), np.array([12.0, 8.0]), 0, 1.0, (0, 0, 0.0))
    boxes, keep, share = visible_boxes(canvas)
    assert boxes.tolist() == [[8.0, 6.0, 10.0, 10.0], [10.0, 6.0, 14.0, 10.0]]
    assert keep.tolist() == [True, True] and share.tolist() == [0.5, 1.0]
    canvas.image[:] *= 0.5
    paste(canvas, _square_sprite(4), np.array([9.0, 8.0]), 0, 1.0, (0, 0, 0.0))  # 7..11 hides the rest of the first
    assert visible_boxes(canvas)[1].tolist() == [False, True, True]


def test_a_canvas_without_objects_gives_no_boxes():
    boxes, keep, share = visible_boxes(_canvas())
    assert boxes.shape == (0, 4) and len(keep) == 0 and len(share) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_places_with_directions(layout: str):
    places, directions = candidate_places(np.random.default_rng(0), layout, 20, 6.0, (128, 192))
    assert len(places) >= 20 and places.shape == (len(directions), 2)
    inside = ((places >= 0) & (places <= [192, 128])).all(1)
    assert inside.mean() > 0.5


@pytest.mark.parametrize("family", BACKGROUNDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_background_fills_any_size(family: str, channels: int):
    palette = np.random.default_rng(1).uniform(0, 1, (4, channels)).astype(np.float32)
    image = BACKGROUNDS[family](np.random.default_rng(0), (40, 70), palette, 0.5)
    assert image.shape == (40, 70, channels)
    assert np.isfinite(image).all()


def test_counts_add_up_to_the_wanted_number():
    categories = [_category(size=5.0), _category(size=8.0), _category(size=6.0)]
    for seed in range(10):
        plan = draw_plan(np.random.default_rng(seed), (256, 256), SceneControls(num_objects=17, num_categories=3))
        counts = object_counts(plan, categories, (256, 256), exact=True)
        assert sum(counts) == 17 and min(counts) >= 1


def test_controls_set_their_factor_and_leave_the_background_alone():
    free = scene_factors(5)
    for name, value in [("num_objects", 6), ("blur", 0.9), ("clutter", 0.3), ("grey", True)]:
        changed = scene_factors(5, **{name: value})
        assert changed[name] == value
        assert changed["background"] == free["background"]
    assert scene_factors(5, num_objects=30, num_categories=1)["num_categories"] == 1
    a, b = (scene_factors(5, num_objects=n) for n in (3, 12))
    assert a["background_mean"] == b["background_mean"] and a["blur"] == b["blur"]


def test_object_size_sets_the_size_of_every_box():
    for index in range(8):
        sizes = scene_factors(index, object_size=12, num_objects=10)["objects"]["size"]
        assert np.median(sizes) == pytest.approx(12, abs=1.2)
        assert max(sizes) < 13.3  # the image border and other objects can only make them smaller


def test_contrast_sets_the_distance_of_each_category_from_the_ground():
    for index in range(8):
        for c in scene_factors(index, contrast=0.25)["categories"]:
            assert c["contrast"] == pytest.approx(0.25, abs=0.03)


def test_a_grey_scene_has_three_equal_channels():
    image = make_scene(4, grey=True).image
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])


def test_factors_follow_the_order_of_boxes_and_survive_json():
    sample, factors = make_scene(9), scene_factors(9)
    assert factors["objects"]["category"] == sample.labels.tolist()
    areas = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1)
    assert factors["objects"]["size"] == pytest.approx(areas.sqrt().tolist(), rel=1e-4)
    assert {len(v) for v in factors["objects"].values()} == {len(sample.boxes)}
    assert len(factors["categories"]) == factors["num_categories"] == int(sample.labels.max()) + 1
    assert json.loads(json.dumps(factors))["num_objects"] == len(sample.boxes)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"index": -1}, "index"),
        ({"index": 0, "seed": -1}, "seed"),
        ({"index": 0, "size_hw": (8, 64)}, "size_hw"),
        ({"index": 0, "num_objects": 0}, "num_objects"),
        ({"index": 0, "contrast": 1.5}, "contrast"),
        ({"index": 0, "blur": float("nan")}, "blur"),
        ({"index": 0, "size_hw": (64, 64), "object_size": 40}, "object_size"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict, word: str):
    with pytest.raises(ValueError, match=word):
        make_scene(**arguments)


def test_an_unknown_control_is_an_error():
    with pytest.raises(TypeError, match="sise"):
        make_scene(0, sise=3)


def test_the_dataset_is_make_scene_by_index_and_ends():
    scenes = SyntheticScenes(3, size_hw=(64, 80), seed=7)
    assert len(scenes) == 3
    assert torch.equal(scenes[2].image, make_scene(2, size_hw=(64, 80), seed=7).image)
    assert [s.image_id for s in scenes] == [0, 1, 2]
    with pytest.raises(IndexError, match="scene 3"):
        scenes[3]


def test_names_are_unique_within_a_scene():
    disc = _category(family="ring", colour=(0.75, 0.2, 0.2))
    assert category_names([disc, disc, replace(disc, pattern="dots")]) == ["red ring", "red ring 2", "red dots ring"]


def test_written_scenes_read_back_as_they_were_made(tmp_path):
    path = write_coco(tmp_path / "scenes", 3, size=64, seed=EVAL_SEED)
    data = json.loads(path.read_text())
    assert [c["id"] for c in data["categories"]] == list(range(1, len(data["categories"]) + 1))
    assert len({c["name"] for c in data["categories"]}) == len(data["categories"])
    folder = CocoFolder(path, path.parent)
    first = 0
    for index in range(3):
        made, read = make_scene(index, size_hw=(64, 64), seed=EVAL_SEED), folder[index]
        assert torch.equal(read.image, made.image)
        assert torch.allclose(read.boxes, made.boxes, atol=1e-4)
        # Category ids run on from scene to scene: label 0 of a scene follows the last label of the one before.
        assert torch.equal(read.labels, made.labels + first)
        assert all(name.startswith(f"scene{index}/") for _, name in folder.categories[first : first + int(made.labels.max()) + 1])
        first += int(made.labels.max()) + 1
    assert first == len(folder.categories)


def test_writing_no_scenes_gives_an_empty_file(tmp_path):
    data = json.loads(write_coco(tmp_path, 0).read_text())
    assert data == {"images": [], "annotations": [], "categories": []}


def test_sizes_gives_every_category_a_size_of_its_own():
    """From 4 to 100 px log-uniformly; categories that grow alike are left out, so fewer than before may remain."""
    sizes = []
    for index in range(30):
        factors = scene_factors(index, size_hw=(256, 256), num_categories=4, num_objects=20, sizes=(4.0, 100.0))
        sizes += [c["size"] for c in factors["categories"]]
    assert min(sizes) < 8 and max(sizes) > 60 and all(4 <= s <= 100 for s in sizes)


def test_enlarge_multiplies_every_size_up_to_half_the_image():
    plain, large = (scene_factors(3, num_objects=10, enlarge=f)["categories"] for f in (None, 3.0))
    assert [c["size"] for c in large] == pytest.approx([min(3 * c["size"], 128.0) for c in plain][: len(large)])


def test_variety_draws_the_inside_of_every_object_anew():
    assert all(c["individual"] == 0 for i in range(20) for c in scene_factors(i)["categories"])
    strong = [c["individual"] for i in range(20) for c in scene_factors(i, variety=1.0)["categories"]]
    assert sum(s > 0 for s in strong) / len(strong) > 0.3 and all(s == 0 or 0.3 <= s <= 1 for s in strong)
    disc = replace(draw_category(np.random.default_rng(0), size=30.0, background=np.ones(3), contrast=0.4), colour_jitter=0.0)
    alike, own = (
        [render_sprite(replace(disc, individual=s), np.random.default_rng(i), angle=0.0).colour.mean() for i in range(8)]
        for s in (0.0, 1.0)
    )
    assert np.std(own) > 1.5 * np.std(alike)


def test_varied_kinds_also_differ_in_size_unless_the_size_is_set():
    varied = [c for i in range(20) for c in scene_factors(i, variety=1.0)["categories"] if c["individual"] > 0]
    own = [c["size_jitter"] for c in varied if c["size_jitter"] not in (0.03, 0.1, 0.2, 0.35)]  # what kinds have by themselves
    assert len(own) > 0.3 * len(varied) and min(own) >= 0.1 and max(own) <= 0.35
    assert all(c["size_jitter"] == 0 for c in scene_factors(3, variety=1.0, object_size=12)["categories"])


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"enlarge": 0.1}, "enlarge: expected 0.25 to 16"),
        ({"variety": 2}, "variety: expected 0 to 1"),
        ({"sizes": (9, 4)}, "sizes: expected 2 <="),
    ],
)
def test_controls_out_of_range_are_named(controls, message):
    with pytest.raises(ValueError, match=message):
        make_scene(0, **controls)
