"""`dealkit.train.stream`: numbered samples, sources drawn equally often, and training prompts."""

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ALIKE, noise, sample_of, seeded, target_of

import dealkit.train.stream
from dealkit.boxes import to_xyxy
from dealkit.config import DataConfig
from dealkit.data.scenes.plan import TWINS
from dealkit.data.scenes.scene import EVAL_SEED, make_scene
from dealkit.data.transforms import PADDING
from dealkit.train.stream import CONVENTION, TrainingStream, bare_ground, draw_prompts, draw_twins, noisy_boxes, open_sources

SMALL = DataConfig(size=64, workers=0)
PLAIN = replace(SMALL, **ALIKE)
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
    stream = TrainingStream(replace(PLAIN, coco=files, synthetic=0.0), seed=0, length=600)
    samples = [stream[i] for i in range(600)]
    drawn = Counter(s.source for s in samples)
    # 200 each are expected; the standard deviation of a binomial of 600 and 1/3 is 11.5
    assert all(abs(drawn[name] - 200) < 4 * 11.5 for name in "abc"), drawn
    assert {s.image_id for s in samples if s.source == "c"} == set(range(1, 13))


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.35, 79, 131), (1.0, 300, 300)])
def test_the_share_of_scenes_is_the_one_asked_for(tiny_coco, plain, share, low, high):
    stream = TrainingStream(replace(PLAIN, coco=(str(tiny_coco),), synthetic=share), seed=0, length=300)
    # 105 of 300 are expected at 0.35, standard deviation 8.3
    assert low <= sum(stream[i].source == "made" for i in range(300)) <= high


def test_the_zoom_and_the_size_reach_the_crop(tiny_coco, plain):
    config = replace(PLAIN, coco=(str(tiny_coco),), synthetic=0.0, size=128, min_scale=0.25, max_scale=3.0)
    _ = TrainingStream(config, seed=0, length=1)[0]
    assert plain == [(128, (0.25, 3.0))]


def test_partners_are_two_images_of_one_source(make_coco, plain):
    files = tuple(str(make_coco(name, [[BOLT]] * 3, size_wh=(20, 20))) for name in "abc")
    stream = TrainingStream(replace(PLAIN, coco=files, partners=1.0, synthetic=1.0), seed=0, length=40)
    pairs = [(stream[i], stream[i + 1]) for i in range(0, 40, 2)]
    assert all(a.source == b.source and a.image_id != b.image_id for a, b in pairs)
    assert {a.source for a, _ in pairs} == set("abc")


def test_mosaics_and_distractors_come_as_often_as_asked_for(make_coco, plain, monkeypatch):
    files, donors = tuple(str(make_coco(name, [[BOLT]] * 2, size_wh=(20, 20))) for name in "ab"), []

    def paste(sample, donor, *, generator):
        donors.append((sample.source, donor.source))
        return sample

    monkeypatch.setattr(dealkit.train.stream, "paste_distractors", paste)
    stream = TrainingStream(replace(PLAIN, coco=files, synthetic=0.0, mosaic=1.0), seed=0, length=5)
    assert [stream[i].source for i in range(5)] == ["mosaic"] * 5 and plain == [(32, (0.5, 2.0))] * 20 and not donors
    stream = TrainingStream(replace(PLAIN, coco=files, synthetic=0.0, distractors=1.0), seed=0, length=40)
    assert {stream[i].source for i in range(40)} == set("ab")
    assert set(donors) == {("a", "b"), ("b", "a")}  # never of its own source, whose objects may be what is asked for


def test_pasted_kinds_have_labels_of_their_own(make_coco):
    files = tuple(str(make_coco(name, [[BOLT]] * 2, size_wh=(64, 64))) for name in "ab")
    config = replace(PLAIN, coco=files, synthetic=0.0, pasted_kinds=1.0, size=128)
    samples = [TrainingStream(config, seed=0, length=8)[i] for i in range(8)]
    pasted = [set(sample.labels[sample.labels >= 10**6].tolist()) for sample in samples]
    assert all(pasted) and len(set().union(*pasted)) == sum(map(len, pasted))  # so no prompt asks for one elsewhere


# Sources


def test_a_source_counts_by_a_power_of_its_images(make_coco):
    files = tuple(str(make_coco(name, [[]] * images, size_wh=(8, 8))) for name, images in (("a", 1), ("b", 4), ("c", 9)))
    for temperature, shares in ((0.0, [1, 1, 1]), (0.5, [1, 2, 3]), (1.0, [1, 4, 9])):
        assert open_sources(files, (), temperature)[1].tolist() == pytest.approx([s / sum(shares) for s in shares])
    assert open_sources(files, (3.0, 2.0, 1.0), 0.5)[1].tolist() == pytest.approx([0.3, 0.4, 0.3])  # 3 x 1, 2 x 2, 1 x 3


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
    stream = TrainingStream(replace(PLAIN, coco=entries, weights=(1.0, 2.0), synthetic=0.0), seed=0, length=400)
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
    drawn = draw_prompts(samples, replace(PLAIN, sets_per_image=3), seeded())
    prompts, targets = drawn.asked, drawn.targets
    assert torch.equal(drawn.clicked.points, prompts.points) and drawn.origin.tolist() == [0, 1, 2, 3]
    assert sorted(prompts.image_index.tolist()) == [0, 0, 0, 1]
    assert sorted(len(t.boxes) for t in targets) == [1, 1, 2, 3]
    kinds = {tuple(sorted(map(tuple, s.boxes[s.labels == k].tolist()))) for s in samples for k in s.labels.unique()}
    assert {tuple(sorted(map(tuple, to_xyxy(t.boxes).tolist()))) for t in targets} == kinds
    again, other = (draw_prompts(samples, replace(PLAIN, sets_per_image=3), seeded(seed)).asked.points for seed in (0, 1))
    assert torch.equal(again, prompts.points) and (other.shape != again.shape or not torch.equal(other, again))


@pytest.mark.parametrize("seed", range(5))
def test_every_click_lies_in_the_object_it_names_as_near_the_centre_as_asked(seed):
    samples = [made([0, 1, 0, 2, 0, 0]), made([4, 4, 4])]
    drawn = draw_prompts(samples, PLAIN, seeded(seed))
    prompts, targets = drawn.asked, drawn.targets
    assert prompts.points.shape[1] == max(len(t.clicked) for t in targets) == len(targets[0].clicked)
    for n, t in enumerate(targets):
        real = prompts.labels[n] == 1
        assert torch.equal(t.clicked >= 0, real) and (prompts.labels[n][~real] == -1).all()  # padding
        assert len(t.clicked[real].unique()) == real.sum()  # different objects
        clicked = t.boxes[t.clicked[real]]
        assert ((prompts.points[n][real] - clicked[:, :2]).abs() <= PLAIN.wander * clicked[:, 2:] / 2 + 1e-5).all()


def test_half_of_the_clicks_are_at_the_centre():
    drawn = [draw_prompts([made([0])], PLAIN, generator) for generator in [seeded()] for _ in range(200)]
    centred = sum(torch.equal(d.asked.points[0, 0], d.targets[0].boxes[0, :2]) for d in drawn)
    assert abs(centred - 100) < 4 * 7.1


def test_one_click_is_drawn_in_two_cases_of_three_and_never_more_than_allowed():
    sample, generator = made([0] * 9), seeded()
    config = replace(PLAIN, max_clicks=4)
    numbers = Counter(len(draw_prompts([sample], config, generator).targets[0].clicked) for _ in range(600))
    assert abs(numbers[1] - 400) < 4 * 11.5  # binomial of 600 and 2/3
    assert set(numbers) == {1, 2, 3, 4} and all(abs(numbers[k] - 67) < 4 * 7.7 for k in (2, 3, 4))  # and of 1/9


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_more_kinds_are_asked_for_than_allowed(most):
    sample, config, generator = made([0, 1, 2]), replace(PLAIN, sets_per_image=most), seeded()
    seen = [draw_prompts([sample], config, generator).targets for _ in range(30)]
    assert {len(targets) for targets in seen} == {min(most, 3)}
    assert len({tuple(t.boxes[0].tolist()) for targets in seen for t in targets}) == 3  # and all of them get their turn


def test_crowd_is_never_clicked_and_comes_apart():
    sample = made([0, 0, 1, 1], crowd=[False, True, True, True])
    for seed in range(5):
        drawn = draw_prompts([sample], PLAIN, seeded(seed))
        targets = drawn.targets
        assert len(drawn) == 1  # of kind 1 there is only crowd
        assert torch.equal(to_xyxy(targets[0].boxes), sample.boxes[:1]) and targets[0].clicked.tolist() == [0]
        assert torch.equal(to_xyxy(targets[0].crowd), sample.boxes[1:2])


def test_an_image_without_objects_has_no_set():
    one, none = (draw_prompts(samples, PLAIN, seeded()) for samples in ([made([]), made([3]), made([])], [made([]), made([])]))
    assert one.asked.image_index.tolist() == [1] and len(one.targets) == 1
    assert len(none) == 0 and none.targets == []


def test_half_of_the_prompts_of_partners_come_from_the_other_image():
    """Such a prompt has no click in its own image, the embedding of the other's, and its own image's objects to find."""
    samples, foreign, generator = [made([0, 0]), made([0])], 0, seeded()
    for _ in range(100):
        drawn = draw_prompts(samples, PLAIN, generator)
        assert [len(t.boxes) for t in drawn.targets] == [2, 1]
        for n, m in enumerate(drawn.origin.tolist()):
            own = m == n
            assert (drawn.asked.labels[n] == 1).any() == (drawn.targets[n].clicked >= 0).any() == own
            foreign += not own
    assert abs(foreign - 100) < 4 * 7.1  # binomial of 200 and 1/2
    private = [replace(sample, source="synthetic") for sample in samples]  # whose kinds are those of one image
    assert draw_prompts(private, PLAIN, seeded()).origin.tolist() == [0, 1]
    apart = [samples[0], replace(samples[1], source="other")]
    assert all(draw_prompts(apart, PLAIN, seeded(s)).origin.tolist() == [0, 1] for s in range(8))


def test_a_drawn_box_sets_how_wide_all_boxes_of_its_prompt_are():
    """One factor per axis, from the image that was clicked; the box itself is drawn up to 5 % off, as people do."""
    samples, foreign = [made([0, 0]), made([0])], 0
    for seed in range(20):
        drawn = draw_prompts(samples, replace(PLAIN, drawn=1.0), seeded(seed))
        factors = []
        for n, t in enumerate(drawn.targets):
            factor = t.boxes[:, 2:] / torch.tensor([2.0, 6.0])  # of every object
            assert torch.allclose(factor, factor[:1]) and (factor > CONVENTION[0]).all() and (factor < CONVENTION[1]).all()
            real = drawn.clicked.labels[drawn.origin[n]] == 1
            sizes = drawn.clicked.sizes[drawn.origin[n]][real] / torch.tensor([2.0, 6.0])
            assert ((sizes / factor[0] - 1).abs() <= 0.0501).all()
            here = drawn.asked.labels[n] == 1
            assert torch.equal(drawn.asked.points[n][here], t.boxes[t.clicked[t.clicked >= 0], :2])  # at the centre
            factors.append(factor[0])
            foreign += not here.any()
        assert torch.equal(*factors) == (len(drawn.origin.unique()) == 1)
    assert foreign > 5
    assert not draw_prompts(samples, PLAIN, seeded()).clicked.sizes.any()


def test_a_kind_that_is_not_there_has_nothing_to_be_found():
    samples = [made([0, 1]), made([2, 2]), made([0, 1, 2])]
    drawn = draw_prompts(samples, replace(PLAIN, absent=1.0, sets_per_image=3), seeded())
    asked = drawn.asked.image_index.tolist()
    assert asked[:6] == [0, 0, 1, 2, 2, 2] and asked[6:] == [0, 1]  # the third image shows every kind
    for n in (6, 7):
        target, of = drawn.targets[n], drawn.clicked.image_index[drawn.origin[n]]
        assert len(target.boxes) == 0 and len(target.rivals) == 2 and of != asked[n]
        assert (drawn.asked.labels[n] == -1).all() and (target.clicked == -1).all()


def test_a_click_on_bare_ground_has_nothing_to_be_found():
    scene = replace(made([0] * 8), source="synthetic")
    drawn = draw_prompts([scene], replace(PLAIN, background=1.0), seeded())
    (x, y), target = drawn.asked.points[1, 0].tolist(), drawn.targets[1]
    assert len(drawn) == 2 and drawn.asked.labels[1, 0] == 1
    assert len(target.boxes) == 0 and len(target.rivals) == 8 and (target.clicked == -1).all()
    assert y > 11 + 8 or x > 25 + 8  # the objects reach from (2, 5) to (25, 11)


def test_bare_ground_of_a_photograph_is_plain():
    plain, textured = sample_of([[30, 30, 60, 60]]), sample_of([[30, 30, 60, 60]], image=noise(100, 100))
    points = torch.cat([bare_ground(plain, seeded(s)) for s in range(20)])
    assert ((points - 45).abs().amax(1) >= 15 + 8).all()
    assert bare_ground(textured, seeded()) is None and bare_ground(sample_of([[0, 0, 100, 100]]), seeded()) is None
    assert bare_ground(replace(textured, source="synthetic"), seeded()).shape == (1, 2)


def test_bare_ground_is_often_beside_the_border_of_an_image_that_ends_before_its_crop():
    image = torch.tensor(PADDING, dtype=torch.uint8)[:, None, None].repeat(1, 100, 100)
    image[:, 10:, :60] = 200  # what is seen reaches from (0, 10) to (60, 100)
    points = torch.cat([bare_ground(sample_of([], image=image), seeded(s)) for s in range(200)])
    x, y = points.T
    assert (x >= 0).all() and (x <= 60).all() and (y >= 10).all() and (y <= 100).all()
    beside = [near.float().mean().item() for near in (x <= 6, x >= 54, y <= 16, y >= 94)]
    assert all(0.1 < share < 0.35 for share in beside)  # an eighth is moved there, and some lie there
    assert bare_ground(sample_of([], image=image[:, :, 60:]), seeded()) is None


def test_a_negative_click_lies_on_an_object_of_another_kind():
    sample = made([0, 0, 1])
    drawn = draw_prompts([sample], replace(PLAIN, not_this=1.0, sets_per_image=2, max_clicks=1), seeded())
    for n, target in enumerate(drawn.targets):
        assert drawn.asked.labels[n].tolist() == [1, 0] and target.clicked[1] == -1 <= target.clicked[0] - 1
        assert (drawn.asked.points[n, 1] == target.rivals[:, :2]).all(1).any()
        assert {*map(tuple, to_xyxy(torch.cat([target.boxes, target.rivals])).tolist())} == {*map(tuple, sample.boxes.tolist())}
    alone = draw_prompts([made([0, 0])], replace(PLAIN, not_this=1.0, max_clicks=1), seeded())
    assert alone.asked.labels.tolist() == [[1]]  # no other kind


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
