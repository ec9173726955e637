"""Procedural scenes: repeatable, exactly boxed, controllable one factor at a time."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.backgrounds import FAMILIES as BACKGROUNDS
from dealkit.data.scenes.scene import EVAL_SEED, make_scene, scene_factors, write_coco
from dealkit.data.scenes.sprites import draw_category, render_sprite


def test_a_scene_is_the_same_whatever_was_made_before_it():
    first, other, again = make_scene(11), make_scene(3), make_scene(11)
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in ("image", "boxes", "labels"))
    assert not torch.equal(first.image, other.image)
    assert not torch.equal(first.image, make_scene(11, seed=EVAL_SEED).image)


def test_a_sample_has_the_promised_types_and_ids_and_boxes_in_the_image():
    for index in range(30):
        s = make_scene(index, size_hw=(96, 160))
        n = len(s.boxes)
        assert n >= 1 and (s.boxes >= 0).all() and (s.boxes[:, 2:] - s.boxes[:, :2] >= 0.5).all()
        assert (s.boxes[:, 2:] <= torch.tensor([160.0, 96.0])).all()
        assert s.labels.unique().tolist() == list(range(int(s.labels.max()) + 1))
        assert s.image.shape == (3, 96, 160) and s.image.dtype == torch.uint8 and s.image.is_contiguous()
        assert s.boxes.dtype == torch.float32 and s.labels.dtype == torch.int64 and s.labels.shape == s.crowd.shape == (n,)
        assert not s.crowd.any() and s.annotation_ids.tolist() == list(range(1, n + 1))
        assert (s.image_id, s.source) == (index, "synthetic")


def test_the_train_series_is_diverse():
    factors = [scene_factors(i, size_hw=(128, 128)) for i in range(120)]
    grey = np.mean([f["grey"] for f in factors])
    assert 0.2 < grey < 0.5  # drawn with probability 0.35; standard deviation 0.044 for 120 draws
    assert len({f["background"] for f in factors}) >= 14
    assert len({c["family"] for f in factors for c in f["categories"]}) >= 18
    assert {f["num_categories"] for f in factors} >= {1, 2, 3, 4}
    counts = [f["num_objects"] for f in factors]
    assert min(counts) <= 2 and max(counts) >= 60


@pytest.mark.parametrize("family", BACKGROUNDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_background_fills_any_size(family: str, channels: int):
    palette = np.random.default_rng(1).uniform(0, 1, (4, channels)).astype(np.float32)
    image = BACKGROUNDS[family](np.random.default_rng(0), (40, 70), palette, 0.5)
    assert image.shape == (40, 70, channels)
    assert np.isfinite(image).all()


def test_controls_set_their_factor_and_leave_the_background_alone():
    free = scene_factors(5)
    for name, value in [("num_objects", 6), ("blur", 0.9), ("clutter", 0.3), ("grey", True)]:
        changed = scene_factors(5, **{name: value})
        assert changed[name] == value
        assert changed["background"] == free["background"]
    image = make_scene(5, grey=True).image
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
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
        ({"index": 0, "enlarge": 0.1}, "enlarge: .* got 0.1"),
        ({"index": 0, "variety": 2}, "variety: .* got 2"),
        ({"index": 0, "sizes": (9, 4)}, "sizes: .* got"),
        ({"index": 0, "grounds": ("moon",)}, "grounds: .*moon"),
        ({"index": 0, "shapes": ()}, "shapes: "),
    ],
)
def test_a_bad_argument_is_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        make_scene(**arguments)


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
    assert json.loads(write_coco(tmp_path, 0).read_text()) == {"images": [], "annotations": [], "categories": []}


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
