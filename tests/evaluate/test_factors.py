import numpy as np
import pytest

from dealkit.clicks import make_clicks
from dealkit.data.measures import edge_width, mean_colours, ring_spread
from dealkit.data.objects import read_table
from dealkit.data.scenes.scene import write_coco
from dealkit.evaluate.factors import (
    FACTORS,
    bin_edges,
    bootstrap,
    by_factor,
    cases,
    drop,
    miss_model,
    normalised_ap,
    object_factors,
    observed,
    pooled,
)
from dealkit.files import read_json


def made_objects(n: int = 400, seed: int = 0) -> tuple[dict, dict]:
    """Objects of which those under 10 px are missed, whatever else they are, in 40 images of one source."""
    rng = np.random.default_rng(seed)
    objects = {name: rng.random(n) for name in FACTORS}
    objects["size"] = rng.uniform(4, 30, n)
    objects["kinds"] = np.ones(n)
    objects["score"] = np.where(objects["size"] > 10, 0.9, 0.0)
    objects["shown"] = objects["score"] > 0.25
    objects |= {"image": np.array([f"a/{i % 40}" for i in range(n)], dtype=object), "weight": np.full(n, 1 / n)}
    objects["source"] = np.full(n, "a", dtype=object)
    return objects, {"score": np.zeros(0), "weight": np.zeros(0)}


def test_factors_of_a_scene_by_hand(make_coco):
    # two bolts of 6 x 8 and 6 x 6 px, 40 px apart in x and 27 in y, and a nut at the border
    boxes = [(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [80, 10, 10, 10], 0)]
    file = make_coco("one", [boxes, []])
    clicks = {"prompts": [{"image_id": 1, "category_id": 5, "points": [[14.5, 16.0]], "labels": [1], "annotation_ids": [1]}]}
    clicks |= {"setting": "1/category", "seed": 0, "kind": "centre"}
    factors = object_factors(read_table([file]), clicks)
    assert set(factors) == set(FACTORS)
    distance = np.hypot(53 - 13, 43 - 16)
    assert factors["size"] == pytest.approx([48**0.5, 6, 10])
    assert factors["nearest"][:2] == pytest.approx([distance / 48**0.5, distance / 6])
    assert np.isnan(factors["nearest"][2])
    assert factors["instances"].tolist() == [2, 2, 1]
    assert factors["kinds"].tolist() == [2, 2, 2]
    assert factors["truncated"].tolist() == [0, 0, 1]
    assert factors["click_distance"][:2] == pytest.approx([1.5, np.hypot(53 - 14.5, 43 - 16)])
    assert factors["click_offset"][:2] == pytest.approx([0.5, 0.5])  # 1.5 of 3 px
    assert factors["size_step"][:2] == pytest.approx([0, np.log2(48**0.5 / 6)])
    assert np.isnan(factors["click_distance"][2]) and np.isnan(factors["colour_step"][2])
    assert factors["colour_step"][0] == 0
    assert (factors["contrast"] > 0.1).all()


def test_a_click_on_an_unknown_annotation_is_named(make_coco):
    file = make_coco("one", [[(5, [10, 12, 6, 8], 0)]])
    prompt = {"image_id": 1, "category_id": 5, "points": [[13.0, 16.0]], "labels": [1], "annotation_ids": [77]}
    with pytest.raises(ValueError, match="clicks: annotation 77 is not among the objects"):
        object_factors(read_table([file]), {"prompts": [prompt]})


def test_blur_and_clutter_rank_scenes_as_they_were_made(tmp_path):
    measured = {}
    base = {"num_objects": 6, "num_categories": 1, "object_size": 16.0, "contrast": 0.4, "blur": 0.3, "clutter": 0.4}
    for factor, levels in (("blur", (0.3, 1.5, 3.0)), ("clutter", (0.0, 1.0))):
        for level in levels:
            path = write_coco(tmp_path / f"{factor}{level}", 6, size=128, progress=False, **(base | {factor: level}))
            factors = object_factors(read_table([path]), make_clicks(path, setting="1/category", seed=0))
            measured.setdefault(factor, []).append(np.median(factors[factor]))
    assert measured["blur"] == sorted(measured["blur"]) and measured["blur"][-1] > 1.5 * measured["blur"][0]
    assert measured["clutter"][1] > measured["clutter"][0]


def test_measures_of_boxes_at_the_border_and_of_none():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    boxes = np.array([[0.0, 0.0, 30.0, 20.0], [29.2, 19.1, 30.0, 20.0], [0.0, 0.0, 0.4, 0.4]])
    for measure in (ring_spread, edge_width, mean_colours):
        assert np.isfinite(measure(image, boxes)).all()
        assert len(measure(image, np.zeros((0, 4)))) == 0
    assert ring_spread(image, boxes)[0] == 0  # the box is the whole image


def test_cases_leave_out_what_was_clicked_and_pool_sources(make_coco):
    objects_of = [[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (5, [30, 30, 8, 8], 0)]]
    file = make_coco("one", objects_of)
    truth = read_json(file)
    clicks = make_clicks(truth, setting="1/category", seed=0)
    (clicked,) = clicks["prompts"][0]["annotation_ids"]
    left = [row for row in truth["annotations"] if row["id"] != clicked]
    predictions = [{"image_id": 1, "category_id": 5, "bbox": left[0]["bbox"], "score": 0.8}]
    predictions += [{"image_id": 1, "category_id": 5, "bbox": [0, 60, 5, 5], "score": 0.3}]
    objects, false = cases(file, predictions, clicks)
    assert objects["annotation_id"].tolist() == [row["id"] for row in left]
    assert objects["shown"].tolist() == [True, False]
    assert objects["weight"].tolist() == [0.5, 0.5]
    assert false["score"].tolist() == [0.3]
    both, _ = pooled([(objects, false), cases(file, [], clicks, source="two")])
    assert sorted(set(both["source"])) == ["one", "two"] and both["weight"].sum() == pytest.approx(2)


def test_normalised_ap_by_hand():
    # an object found at 0.9, one missed; a false one at 0.95: precision 1/2 at recall 1/2
    args = np.array([0.9, 0.0]), np.ones(2), np.array([0.95]), np.ones(1)
    assert normalised_ap(*args) == pytest.approx(51 / 101 / 2)
    # as a subset of 10 objects recall counts for 5: precision 5/6
    assert normalised_ap(*args, total=10.0) == pytest.approx(51 / 101 * 5 / 6)
    assert normalised_ap(np.zeros(0), np.zeros(0), np.ones(1), np.ones(1)) is None


def test_bins_weigh_sources_alike_and_leave_nothing_out():
    objects, false = made_objects()
    rows = by_factor(objects, false, "size", bins=4)
    assert sum(row["objects"] for row in rows) == 400
    assert rows[0]["shown"] < 0.2 and rows[-1]["shown"] == 1.0
    assert rows[-1]["interval"] == [1.0, 1.0]
    assert by_factor(objects, false, "kinds")[0]["objects"] == 400
    objects["nearest"][:] = np.nan
    assert by_factor(objects, false, "nearest") == []
    # 9 of 10 of the weight lie on the value 2
    assert bin_edges(np.array([1.0, 2, 3, 4, 5, 6, 7]), np.array([1.0, 60, 1, 1, 1, 1, 1]), 2).tolist() == [1, 2, 7]


def test_drop_is_that_within_the_range():
    rows = [{"middle": x, "shown": y} for x, y in ((0, 0.0), (10, 1.0), (20, 0.5))]
    assert drop(rows) == 1.0
    assert drop(rows, at=(10, 15)) == pytest.approx(0.25)
    assert drop(rows, at=(5, 15)) == pytest.approx(0.5)
    assert drop(rows[:1]) is None


def test_interval_of_images_that_differ():
    groups = np.array(["a"] * 50 + ["b"] * 50)
    low, high = bootstrap(groups == "a", np.ones(100), groups)
    assert (low, high) == (0.0, 1.0)  # both images may be drawn twice
    assert bootstrap(np.ones(2), np.ones(2), np.array(["a", "a"])) is None


def test_model_names_the_cause_that_was_put_in():
    objects, false = made_objects()
    model = miss_model(objects, folds=2, repeats=2)
    assert next(iter(model["importance"])) == "size"
    assert model["auc"] > 0.95 and "kinds" not in model["importance"]
    assert model["importance"]["size"]["mean"] > 10 * abs(model["importance"]["clutter"]["mean"])
    objects["shown"][:] = True
    assert miss_model(objects) is None
    assert observed(objects, false)["model"] is None
