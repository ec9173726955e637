"""`dealkit.train.stream`: numbered samples, sources drawn equally often, and training prompts."""

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import sample_of, seeded, target_of

import dealkit.train.stream
from dealkit.boxes import to_xyxy
from dealkit.config import DataConfig
from dealkit.data.scenes.plan import TWINS
from dealkit.data.scenes.scene import EVAL_SEED, make_scene
from dealkit.train.stream import TrainingStream, draw_prompts, draw_twins, noisy_boxes, open_sources

SMALL = DataConfig(size=64, workers=0)
BOLT = (5, [10, 12, 6, 8], 0)


def made(labels, *, crowd=None):
    boxes = [[2.0 + 3 * i, 5.0, 4.0 + 3 * i, 11.0] for i in range(len(labels))]
    return sample_of(boxes, labels=labels, crowd=crowd, size_hw=(64, 64))


def equal(a, b):
    tensors = ("image", "boxes", "labels", "crowd", "annotation_ids")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors) and a.image_id == b.image_id


# Samples


def test_a_sample_depends_only_on_the_seed_and_its_number(tiny_coco):
    config = replace(SMALL, coco=(str(tiny_coco),), synthetic=0.5)
    stream, again = TrainingStream(config, seed=3, length=50), TrainingStream(config, seed=3, length=900)
    first = [stream[i] for i in range(6)]
    assert {s.source for s in first} == {"synthetic", "tiny"}
    assert all(equal(again[i], first[i]) for i in (5, 0, 3, 1, 4, 2))
    other = TrainingStream(config, seed=4, length=50)
    assert not any(other[i].image.equal(first[i].image) for i in range(6))
    assert len(stream) == 50 and len(again) == 900


def test_twins_differ_in_one_attribute_by_a_visible_step_and_hue_is_the_most_frequent():
    rng = np.random.default_rng(0)
    drawn = [draw_twins(rng) for _ in range(200)]
    names = Counter(controls["twin"][0] for controls in drawn)
    assert set(names) == set(TWINS) and 80 < names["hue"] < 120
    for controls in drawn:
        name, step = controls["twin"]
        low, high, _ = TWINS[name]
        assert low + 0.3 * (high - low) <= step <= high
        assert controls["grey"] is (False if name == "hue" else None)  # in a grey scene all hues are one


def test_the_share_of_twins_reaches_the_scenes(monkeypatch):
    made = []
    monkeypatch.setattr(dealkit.train.stream, "make_scene", lambda index, **controls: made.append(controls) or make_scene(index))
    for share in (0.0, 1.0):
        stream = TrainingStream(replace(SMALL, twins=share), seed=0, length=5)
        assert [s.source for s in (stream[i] for i in range(5))] == ["synthetic"] * 5
    assert [("twin" in controls) for controls in made] == [False] * 5 + [True] * 5


def test_without_sources_every_sample_is_a_scene_and_none_is_one_of_the_evaluation():
    stream = TrainingStream(replace(SMALL, synthetic=0.0), seed=0, length=4)
    samples = [stream[i] for i in range(4)]
    assert {s.source for s in samples} == {"synthetic"} and {s.image.shape for s in samples} == {(3, 64, 64)}
    boxes = [make_scene(i, size_hw=(64, 64), seed=EVAL_SEED).boxes for i in range(4)]
    assert not any(a.boxes.shape == b.shape and torch.equal(a.boxes, b) for a in samples for b in boxes)


def test_crops_have_the_size_asked_for_and_boxes_inside(tiny_coco):
    stream = TrainingStream(replace(SMALL, coco=(str(tiny_coco),), synthetic=0.0, size=96), seed=0, length=8)
    for i in range(8):
        sample = stream[i]
        assert sample.image.shape == (3, 96, 96) and sample.image.dtype == torch.uint8
        assert (sample.boxes >= 0).all() and (sample.boxes <= 96).all()


@pytest.fixture
def plain(monkeypatch):
    """Samples as they are stored, without cutting and colouring; says with which scales they would be cut."""
    scales = []

    def augment(sample, *, size, scale, generator):
        scales.append((size, scale))
        return sample

    monkeypatch.setattr(dealkit.train.stream, "augment", augment)
    monkeypatch.setattr(dealkit.train.stream, "make_scene", lambda index, **_: made([0]))
    monkeypatch.setattr(dealkit.train.stream, "recolour", lambda image, *, generator: image)
    return scales


def test_every_source_is_drawn_equally_often_whatever_its_size(make_coco, plain):
    files = tuple(str(make_coco(name, [[BOLT]] * images, size_wh=(20, 20))) for name, images in (("a", 1), ("b", 2), ("c", 12)))
    stream = TrainingStream(replace(SMALL, coco=files, synthetic=0.0), seed=0, length=600)
    samples = [stream[i] for i in range(600)]
    drawn = Counter(s.source for s in samples)
    # 200 each are expected; the standard deviation of a binomial of 600 and 1/3 is 11.5
    assert all(abs(drawn[name] - 200) < 4 * 11.5 for name in "abc"), drawn
    assert {s.image_id for s in samples if s.source == "c"} == set(range(1, 13))


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.35, 79, 131), (1.0, 300, 300)])
def test_the_share_of_scenes_is_the_one_asked_for(tiny_coco, plain, share, low, high):
    stream = TrainingStream(replace(SMALL, coco=(str(tiny_coco),), synthetic=share), seed=0, length=300)
    # 105 of 300 are expected at 0.35, standard deviation 8.3
    assert low <= sum(stream[i].source == "made" for i in range(300)) <= high


def test_the_zoom_and_the_size_reach_the_crop(tiny_coco, plain):
    config = replace(SMALL, coco=(str(tiny_coco),), synthetic=0.0, size=128, min_scale=0.25, max_scale=3.0)
    _ = TrainingStream(config, seed=0, length=1)[0]
    assert plain == [(128, (0.25, 3.0))]


# Sources


def test_a_pattern_opens_all_it_matches_in_sorted_order(make_coco, tmp_path):
    files = [make_coco(name, [[BOLT]]) for name in ("b", "a")]
    sources, shares = open_sources((str(tmp_path / "*" / "annotations.json"),))
    assert [s.source for s in sources] == ["a", "b"] and shares.tolist() == [0.5, 0.5]
    assert [s.source for s in open_sources((str(files[0]), str(files[1])))[0]] == ["b", "a"]


def test_weights_belong_to_entries_and_every_file_of_a_pattern_is_drawn_by_its_own(make_coco, plain, tmp_path):
    for name in ("a1", "a2", "b1"):
        make_coco(name, [[BOLT]])
    entries = tuple(str(tmp_path / pattern / "annotations.json") for pattern in ("a*", "b*"))
    assert open_sources(entries, (1.0, 2.0))[1].tolist() == [0.25, 0.25, 0.5]
    stream = TrainingStream(replace(SMALL, coco=entries, weights=(1.0, 2.0), synthetic=0.0), seed=0, length=400)
    drawn = Counter(stream[i].source for i in range(400))
    assert abs(drawn["b1"] - 200) < 4 * 10  # binomial of 400 and 1/2


def test_the_folder_of_the_images_may_be_named(tiny_coco, tmp_path):
    os.rename(tiny_coco.parent / "images", tmp_path / "elsewhere")
    assert len(open_sources((f"{tiny_coco}:{tmp_path / 'elsewhere'}",))[0][0]) == 2
    with pytest.raises(ValueError, match="annotations.json"):
        open_sources((str(tiny_coco),))


def test_a_pattern_that_matches_nothing_is_named_and_no_pattern_is_no_source(tmp_path):
    with pytest.raises(ValueError, match=r"data.coco: .*/none-\*.json"):
        open_sources((str(tmp_path / "none-*.json"),))
    sources, shares = open_sources(())
    assert sources == [] and len(shares) == 0


# Prompts


def test_a_set_asks_for_one_kind_and_knows_all_its_objects():
    samples = [made([0, 1, 0, 2, 0]), made([4, 4])]
    prompts, targets = draw_prompts(samples, replace(SMALL, sets_per_image=3), seeded())
    assert sorted(prompts.image_index.tolist()) == [0, 0, 0, 1]
    assert sorted(len(t.boxes) for t in targets) == [1, 1, 2, 3]
    kinds = {tuple(sorted(map(tuple, s.boxes[s.labels == k].tolist()))) for s in samples for k in s.labels.unique()}
    assert {tuple(sorted(map(tuple, to_xyxy(t.boxes).tolist()))) for t in targets} == kinds
    again, other = (draw_prompts(samples, replace(SMALL, sets_per_image=3), seeded(seed))[0].points for seed in (0, 1))
    assert torch.equal(again, prompts.points) and (other.shape != again.shape or not torch.equal(other, again))


@pytest.mark.parametrize("seed", range(5))
def test_every_click_lies_in_the_middle_half_of_the_object_it_names(seed):
    samples = [made([0, 1, 0, 2, 0, 0]), made([4, 4, 4])]
    prompts, targets = draw_prompts(samples, SMALL, seeded(seed))
    assert prompts.points.shape[1] == max(len(t.clicked) for t in targets) == len(targets[0].clicked)
    for n, t in enumerate(targets):
        real = prompts.labels[n] == 1
        assert torch.equal(t.clicked >= 0, real) and (prompts.labels[n][~real] == -1).all()  # padding
        assert len(t.clicked[real].unique()) == real.sum()  # different objects
        clicked = t.boxes[t.clicked[real]]
        assert ((prompts.points[n][real] - clicked[:, :2]).abs() <= clicked[:, 2:] / 4 + 1e-5).all()


def test_half_of_the_clicks_are_at_the_centre():
    drawn = [draw_prompts([made([0])], SMALL, generator) for generator in [seeded()] for _ in range(200)]
    centred = sum(torch.equal(prompts.points[0, 0], targets[0].boxes[0, :2]) for prompts, targets in drawn)
    assert abs(centred - 100) < 4 * 7.1


def test_one_click_is_drawn_in_two_cases_of_three_and_never_more_than_allowed():
    sample, generator = made([0] * 9), seeded()
    numbers = Counter(len(draw_prompts([sample], replace(SMALL, max_clicks=4), generator)[1][0].clicked) for _ in range(600))
    assert abs(numbers[1] - 400) < 4 * 11.5  # binomial of 600 and 2/3
    assert set(numbers) == {1, 2, 3, 4} and all(abs(numbers[k] - 67) < 4 * 7.7 for k in (2, 3, 4))  # and of 1/9


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_more_kinds_are_asked_for_than_allowed(most):
    sample, config, generator = made([0, 1, 2]), replace(SMALL, sets_per_image=most), seeded()
    seen = [draw_prompts([sample], config, generator)[1] for _ in range(30)]
    assert {len(targets) for targets in seen} == {min(most, 3)}
    assert len({tuple(t.boxes[0].tolist()) for targets in seen for t in targets}) == 3  # and all of them get their turn


def test_crowd_is_never_clicked_and_comes_apart():
    sample = made([0, 0, 1, 1], crowd=[False, True, True, True])
    for seed in range(5):
        prompts, targets = draw_prompts([sample], SMALL, seeded(seed))
        assert len(prompts) == 1  # of kind 1 there is only crowd
        assert torch.equal(to_xyxy(targets[0].boxes), sample.boxes[:1]) and targets[0].clicked.tolist() == [0]
        assert torch.equal(to_xyxy(targets[0].crowd), sample.boxes[1:2])


def test_an_image_without_objects_has_no_set():
    prompts, targets = draw_prompts([made([]), made([3]), made([])], SMALL, seeded())
    assert prompts.image_index.tolist() == [1] and len(targets) == 1
    none, no_targets = draw_prompts([made([]), made([])], SMALL, seeded())
    assert len(none) == 0 and no_targets == []


def test_noisy_boxes_stay_near_their_objects():
    boxes = torch.tensor([[20.0, 30.0, 8.0, 4.0], [50.0, 50.0, 10.0, 10.0]])
    targets = [target_of(boxes), target_of(boxes[:1])]
    noisy, origin = noisy_boxes(targets, seeded())
    assert noisy.shape == (2, 2, 4) and sorted(origin[0].tolist()) == [0, 1] and origin[1].tolist() == [0, -1]
    assert noisy[1, 1].tolist() == [0, 0, 0, 0]  # padding
    for n, t in enumerate(targets):
        own = t.boxes[origin[n][origin[n] >= 0]]
        found = noisy[n, : len(own)]
        assert ((found[:, :2] - own[:, :2]).abs() <= 0.4 * own[:, 2:]).all() and (found != own).all()
        assert ((found[:, 2:] / own[:, 2:]).log().abs() <= 0.5).all()
    few, _ = noisy_boxes(targets, seeded(), most=1)
    assert few.shape == (2, 1, 4)
    none, nothing = noisy_boxes([target_of([])], seeded())
    assert none.shape == (1, 0, 4) and nothing.shape == (1, 0)
