"""`dealkit.studies.positions`: where a click off the centre lies, and curves over its distance."""

import pytest

from dealkit.clicks import check_clicks, make_clicks
from dealkit.files import read_json
from dealkit.model.checkpoint import save_model
from dealkit.studies.positions import OFFSETS, offset_clicks, offset_point, position_curves

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture
def coco(make_coco):
    boxes = [(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [70, 10, 10, 10], 0)]
    return make_coco("source", [boxes, boxes[:1], []])


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("turn", [0.0, 0.1, 0.125, 0.37, 0.5, 0.9])
def test_the_larger_share_of_the_half_extents_is_the_offset(offset, turn):
    x, y = offset_point([100.0, 40.0, 140.0, 60.0], offset, turn)  # half extents 20 and 10, centre (120, 50)
    assert max(abs(x - 120) / 20, abs(y - 50) / 10) == pytest.approx(offset, abs=1e-3)


def test_a_turn_goes_round_in_the_frame_where_the_box_is_square():
    box = [0.0, 0.0, 40.0, 20.0]
    # a quarter: straight down, 0.5 x 10; three eighths: to the lower left corner; a half: straight left
    assert [offset_point(box, 0.5, turn) for turn in (0.25, 0.375, 0.5)] == [[20, 15], [10, 15], [10, 10]]
    assert offset_point(box, 1.0, 0.625) == [0, 0]
    assert offset_point(box, 0.0, 0.3) == [20, 10]


@pytest.mark.parametrize("offset", [-0.1, 1.1, float("nan")])
def test_an_offset_outside_the_box_is_refused(offset):
    with pytest.raises(ValueError, match="offset: expected 0 to 1, got"):
        offset_point([0, 0, 4, 4], offset, 0.0)


def test_lists_of_one_seed_differ_only_in_the_distance(coco):
    truth = read_json(coco)
    near, far = (offset_clicks(truth, offset, seed=3) for offset in (0.25, 0.75))
    assert offset_clicks(truth, 0.0, seed=3) == make_clicks(truth, setting="1/category", seed=3)
    boxes = {a["id"]: a["bbox"] for a in truth["annotations"]}
    for a, b in zip(near["prompts"], far["prompts"], strict=True):
        assert a["annotation_ids"] == b["annotation_ids"]
        x, y, w, h = boxes[a["annotation_ids"][0]]
        for axis, middle in enumerate((x + w / 2, y + h / 2)):  # three times as far, to the rounding of a hundredth
            assert b["points"][0][axis] - middle == pytest.approx(3 * (a["points"][0][axis] - middle), abs=0.03)
    check_clicks(far, truth)


def test_of_a_box_over_the_border_the_part_inside_counts():
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [-10, 0, 20, 10]}
    truth = {"images": [{"id": 1, "width": 50, "height": 50}], "categories": [{"id": 1}], "annotations": [row]}
    for seed in range(8):
        ((x, y),) = offset_clicks(truth, 0.95, seed)["prompts"][0]["points"]
        assert 0 < x < 10 and 0 < y < 10


def test_a_set_without_objects_has_no_clicks():
    assert offset_clicks({"images": [{"id": 1}], "categories": [], "annotations": []}, 0.5, 0)["prompts"] == []


def test_curves_are_means_over_sources_and_are_not_run_again(tiny_model, coco, tmp_path, monkeypatch):
    save_model(tiny_model, tmp_path / "m.safetensors")
    out = tmp_path / "out.json"
    made = position_curves(tmp_path / "m.safetensors", [coco], out, offsets=(0.0, 0.5), seeds=2)
    assert list(made["sources"]) == ["source"] and [len(made["sources"]["source"]), len(made["of_seeds"][0])] == [2, 2]
    assert [p["offset"] for p in made["mean"]] == [p["offset"] for p in made["spread"]] == [0.0, 0.5]
    a, b = (made["sources"]["source"][seed][1]["ap50"] for seed in (0, 1))
    assert made["mean"][1]["ap50"] == pytest.approx((a + b) / 2)
    assert made["spread"][1]["ap50"] == pytest.approx(abs(a - b) / 2**0.5)  # standard deviation of two
    monkeypatch.setattr("dealkit.studies.positions.positions_of_source", lambda *a, **k: pytest.fail("run again"))
    again = position_curves(tmp_path / "m.safetensors", [coco], out, offsets=(0.0, 0.5), seeds=2)
    assert again["mean"] == made["mean"] and read_json(out)["spread"] == made["spread"]
