import numpy as np
import pytest
import torch

from dealkit.data.scenes.canvas import border_places, lattice_places
from dealkit.data.scenes.plan import TWINS, SceneControls
from dealkit.data.scenes.scene import make_scene, scene_factors
from dealkit.evaluate.factors import FACTORS
from dealkit.files import PROJECT_ROOT, read_json, tidy, write_json
from dealkit.studies.controlled import EXPERIMENTS, STEPS, controlled_scenes, controls_at, run_level, whole_objects

pytestmark = pytest.mark.usefixtures("float32_cpu")
SMALL = {"num_objects": 9, "num_categories": 1, "object_size": 10.0, "contrast": 0.4}


def sides(sample) -> np.ndarray:
    return (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1).sqrt().numpy()


def centres(sample) -> np.ndarray:
    return ((sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2).numpy()


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"spacing": 0.5}, "spacing: expected 0.8"),
        ({"cut": 0.6}, "cut: expected -4 to 0.5"),
        ({"size_jitter": 0.2, "object_size": 8}, "size_jitter: expected no object_size"),
        ({"twin": ("smell", 1.0)}, "twin: expected an attribute and its step .hue 0 to 0.5"),
        ({"twin": ("size", 9.0)}, "twin: expected an attribute"),
        ({"twin": ("size", 1.5), "object_size": 8}, "twin: expected no object_size"),
    ],
)
def test_a_control_out_of_range_is_named(controls, message):
    with pytest.raises(ValueError, match=message):
        SceneControls(**controls)


def test_spacing_is_the_distance_of_neighbours():
    for spacing in (1.2, 2.4):
        found = []
        for i in range(4):
            at = centres(make_scene(i, size_hw=(128, 128), spacing=spacing, **SMALL))
            distance = np.linalg.norm(at[:, None] - at[None], axis=2) + 1e9 * np.eye(len(at))
            found += distance.min(1).tolist()
        assert np.median(found) == pytest.approx(10 * spacing, abs=1.5)


def test_lattice_starts_in_the_middle_and_grows_outwards():
    places = lattice_places(9, 10.0, (100, 60))
    assert places[0].tolist() == [30, 50]
    assert np.abs(places - [30, 50]).max() == 10 and len(np.unique(places, axis=0)) == 9


def test_every_other_object_hangs_over_the_border():
    boxes = make_scene(1, size_hw=(128, 128), cut=0.4, **(SMALL | {"num_objects": 12})).boxes
    at_border = ((boxes[:, :2] < 0.5) | (boxes[:, 2:] > 127.5)).any(1)
    assert 0.3 <= at_border.float().mean() <= 0.6
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    assert area[at_border].median() < 0.8 * area[~at_border].median()
    assert len(border_places(0, 0.2, 10.0, (64, 64))) == 0 and len(border_places(7, 0.2, 10.0, (64, 64))) == 7


def test_jitter_spreads_sizes_and_colours():
    controls = {"num_objects": 12, "num_categories": 1, "sizes": (16.0, 16.0), "contrast": 0.3}
    even, spread = (
        np.concatenate([sides(make_scene(i, size_jitter=jitter, **controls)) for i in range(3)]) for jitter in (0.0, 0.5)
    )
    assert np.std(np.log(spread)) > 2 * np.std(np.log(even))
    jitters = [scene_factors(3, colour_jitter=j, **SMALL)["categories"][0]["colour_jitter"] for j in (0.0, 0.3)]
    assert jitters == [0.0, 0.3]


@pytest.mark.parametrize("attribute", TWINS)
def test_twins_differ_in_one_attribute_alone(attribute):
    controls = {"num_objects": 10, "twin": (attribute, STEPS[attribute][2]), "grey": False, "sizes": (12.0, 12.0)}
    one, two = scene_factors(4, **controls)["categories"]
    changed = {key for key in one if one[key] != two[key]} - {"name", "contrast"}
    allowed = {"hue": {"colour"}, "lightness": {"colour"}, "pattern": {"pattern", "second"}}
    assert changed and changed <= allowed.get(attribute, {attribute})
    same = scene_factors(4, **(controls | {"twin": (attribute, STEPS[attribute][0])}))["categories"]
    assert {key for key in same[0] if same[0][key] != same[1][key]} <= {"name", "pattern", "second"}


def test_both_twins_are_there_in_equal_numbers():
    labels = make_scene(2, num_objects=20, twin=("size", 1.5), contrast=0.5).labels
    assert abs(int((labels == 0).sum()) - int((labels == 1).sum())) <= 4


def test_new_controls_left_alone_change_nothing():
    plain, same = make_scene(5), make_scene(5, spacing=None, cut=None, size_jitter=None, colour_jitter=None, twin=None)
    assert torch.equal(plain.image, same.image) and torch.equal(plain.boxes, same.boxes)


def test_every_level_is_a_valid_scene_and_its_factor_is_known():
    assert set(EXPERIMENTS) <= set(FACTORS) and set(STEPS) == set(TWINS)
    for factor, (_, levels) in EXPERIMENTS.items():
        assert len(levels) > 2 and all(SceneControls(**controls_at(factor, level)) for level in levels)


def test_clicks_go_to_whole_objects_where_there_are_some():
    def row(i, x, category):
        return {"id": i, "image_id": 1, "category_id": category, "bbox": [x, 20, 10, 10]}

    coco = {"images": [{"id": 1, "width": 60, "height": 60}], "categories": [{"id": 1}, {"id": 2}]}
    coco["annotations"] = [row(1, 0, 1), row(2, 20, 1), row(3, 50, 2)]
    assert [a["id"] for a in whole_objects(coco)["annotations"]] == [2, 3]  # kind 2 has no whole one


@pytest.mark.parametrize("factor", ["size", "truncated", "click_offset", "size_step"])
def test_a_level_is_scored(tiny_model, factor):
    row = run_level(tiny_model, factor, EXPERIMENTS[factor][1][-1], scenes=2, size=128)
    assert row["objects"] > 0 and 0 <= row["shown"] <= row["recall"] <= 1 and row["measured"] is not None
    expected = {"click_offset": 0.95, "truncated": 1.0}.get(factor, row["measured"])
    assert row["measured"] == pytest.approx(expected, abs=0.02)


def test_experiments_go_on_where_they_were_stopped(checkpoint, tmp_path):
    out, options = tmp_path / "out.json", {"scenes": 1, "large": 0}
    made = controlled_scenes(checkpoint, out, **options, factors=["kinds"], attributes=[])
    assert [row["level"] for row in made.rows] == list(EXPERIMENTS["kinds"][1])
    kept = read_json(out)
    kept["rows"] = [row | {"shown": 7.0} for row in kept["rows"][:3]]  # marked, and the last level lost
    write_json(out, kept)
    again = controlled_scenes(checkpoint, out, **options, factors=["kinds"], attributes=["hue"])
    assert [row["shown"] for row in again.rows[:4]] == [7.0, 7.0, 7.0, made.rows[3]["shown"]]
    steps = again.rows[4:]
    assert [row["step"] for row in steps] == list(STEPS["hue"]) and {row["attribute"] for row in steps} == {"hue"}
    assert all(row["confused"] is None or 0 <= row["confused"] <= 1 for row in steps)
    with pytest.raises(ValueError, match="controlled: .*'sound'"):
        controlled_scenes(checkpoint, out, factors=["sound"])


def test_the_published_run_is_complete():
    """Every level and step is there, so a run of the same request has nothing left to do."""
    rows = tidy(PROJECT_ROOT / "data" / "results" / "controlled_nano.json")
    levels, steps = rows.query("part == 'level'"), rows.query("part == 'step'")
    assert levels.groupby("factor")["level"].apply(tuple).to_dict() == {name: of for name, (_, of) in EXPERIMENTS.items()}
    assert steps.groupby("attribute")["step"].apply(tuple).to_dict() == STEPS
    assert levels["shown"].between(0, levels["recall"]).all()
