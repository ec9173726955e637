"""`dealkit.studies.clicks`: the simulated user's next click, where a click off the centre lies, and rows of both studies."""

import pytest
import torch

from dealkit.clicks import check_clicks, make_clicks, offset_clicks, offset_shares
from dealkit.data.coco import CocoFolder
from dealkit.files import read_json
from dealkit.predict.detections import Detections
from dealkit.predict.predictor import Predictor
from dealkit.studies.clicks import CURVES, KINDS, OFFSETS, click_curves, click_on, next_click, position_scores, quality_of

pytestmark = pytest.mark.usefixtures("float32_cpu")

OBJECTS = torch.tensor([[0.0, 0.0, 8.0, 8.0], [20.0, 20.0, 28.0, 28.0], [40.0, 0.0, 48.0, 8.0]])
NOWHERE = torch.zeros(0, 4)


def found(boxes, scores):
    return Detections(boxes=torch.as_tensor(boxes), scores=torch.tensor(scores))


WRONG = found(torch.cat([OBJECTS, torch.tensor([[60.0, 60.0, 68.0, 68.0], [80.0, 60.0, 88.0, 68.0]])]), [0.9, 0.9, 0.9, 0.4, 0.6])


def test_the_next_positive_click_is_on_the_worst_object_not_yet_clicked():
    everything = found(OBJECTS, [0.9, 0.3, 0.5])
    assert next_click(everything, OBJECTS, NOWHERE, [0], "positive")[1] == 1
    point, chosen = next_click(everything, OBJECTS, NOWHERE, [0, 1], "positive")
    assert point.tolist() == [44, 4] and chosen == 2
    assert next_click(everything, OBJECTS, NOWHERE, [0, 1, 2], "positive") is None
    assert next_click(found(NOWHERE, []), OBJECTS, NOWHERE, [1], "positive")[1] == 0  # nothing found: the first of equals


def test_the_next_negative_click_is_on_the_strongest_false_positive():
    point, chosen = next_click(WRONG, OBJECTS, NOWHERE, [0], "negative")
    assert point.tolist() == [84, 64] and chosen == -1
    crowd = torch.tensor([[78.0, 58.0, 90.0, 70.0]])
    assert next_click(WRONG, OBJECTS, crowd, [0], "negative")[0].tolist() == [64, 64]
    assert next_click(found(OBJECTS, [0.9, 0.9, 0.9]), OBJECTS, NOWHERE, [0], "negative") is None


def test_a_false_box_is_not_clicked_twice():
    once, twice = torch.tensor([[84.0, 64.0]]), torch.tensor([[84.0, 64.0], [64.0, 64.0]])
    assert next_click(WRONG, OBJECTS, NOWHERE, [0], "negative", once)[0].tolist() == [64, 64]
    assert next_click(WRONG, OBJECTS, NOWHERE, [0], "negative", twice) is None


def test_quality_is_score_times_iou_of_the_assigned_box():
    half = found([[0.0, 0.0, 8.0, 4.0]], [0.8])  # half of the first object: IoU 0.5
    assert quality_of(half, OBJECTS).tolist() == pytest.approx([0.4, 0, 0])
    assert quality_of(found(NOWHERE, []), OBJECTS).tolist() == [0, 0, 0]
    assert quality_of(half, NOWHERE).tolist() == []


@pytest.fixture
def source(make_coco):
    """Two images: three bolts and a nut, which leave nothing to click after three clicks and after one; and one bolt."""
    boxes = [(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (5, [30, 50, 6, 6], 0), (9, [70, 10, 10, 10], 0)]
    return make_coco("source", [boxes, boxes[:1]])


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_grow_by_a_click_a_round_and_stay_click_lists(make_tiny, source, kind):
    model = make_tiny()
    for layer in model.decoder.layers:  # confident enough to be refused
        torch.nn.init.constant_(layer.score.bias, 0.0)
    data, truth = CocoFolder(source, source.parent / "images"), read_json(source)
    clicks, predictor, asked = make_clicks(truth, setting="1/category", seed=0), Predictor(model, threshold=0.001), []
    predictor.set_image(data[0].image)
    predict = predictor.predict
    predictor.predict = lambda *prompt: asked.append(prompt) or predict(*prompt)
    rounds = [click_on(predictor, data[0], prompt, k, kind, 5) for k, prompt in enumerate(clicks["prompts"][:2])]
    for n, pairs in enumerate(zip(*rounds, strict=True)):
        check_clicks({**clicks, "prompts": [prompt for prompt, _ in pairs]}, truth)
        assert all(len(p["points"]) <= n + 1 and (kind == "positive" or sum(p["labels"]) == 1) for p, _ in pairs)
    assert max(len(of_prompt[4][0]["points"]) for of_prompt in rounds) >= 3
    if kind == "positive":  # three bolts, one nut: nothing is left to click, and nothing predicted again
        assert len(asked) == 3 + 1 and [len(prompt["points"]) for prompt, _ in rounds[0]] == [1, 2, 3, 3, 3]
        assert rounds[0][4][1] is rounds[0][2][1]


def test_click_curves_have_a_row_per_source_kind_and_seed_and_are_not_run_again(checkpoint, source, tmp_path):
    made = click_curves(checkpoint, [source], tmp_path / "out.json", clicks=4, seeds=2)
    assert [(row["source"], row["kind"], row["seed"]) for row in made.rows] == [("source", k, s) for k in KINDS for s in (0, 1)]
    positive, negative = made.rows[0], made.rows[2]
    assert positive["clicks"] == [1, 2, 3, 4] and positive["several_categories"]
    assert positive["ap50"][0] == negative["ap50"][0]  # the first click is the same
    # after three clicks every object has been clicked: nothing is left to score
    assert positive["ap50_ignored"][3] is None and positive["ap50_unclicked"] == 4 * [None]
    assert all(len(row[name]) == 4 for row in made.rows for name in CURVES)
    source.unlink()  # not read again
    assert click_curves(checkpoint, [source], tmp_path / "out.json", clicks=4, seeds=2).rows == made.rows


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("turn", [0.0, 0.1, 0.125, 0.37, 0.5, 0.9])
def test_the_larger_share_of_the_half_extents_is_the_offset(offset, turn):
    assert max(abs(share - 0.5) for share in offset_shares(offset, turn)) == pytest.approx(offset / 2)


def test_a_turn_goes_round_in_the_frame_where_the_box_is_square():
    # a quarter: straight down; three eighths: towards the lower left corner; a half: straight left; then the upper left corner
    assert offset_shares(0.5, 0.25) == pytest.approx((0.5, 0.75)) and offset_shares(0.5, 0.375) == pytest.approx((0.25, 0.75))
    assert offset_shares(0.5, 0.5) == pytest.approx((0.25, 0.5)) and offset_shares(1.0, 0.625) == pytest.approx((0, 0))
    assert offset_shares(0.0, 0.3) == (0.5, 0.5)


@pytest.mark.parametrize("offset", [-0.1, 1.1, float("nan")])
def test_an_offset_outside_the_box_is_refused(offset):
    with pytest.raises(ValueError, match=f"offset: .* got {offset}"):
        offset_shares(offset, 0.0)


def test_lists_of_one_seed_differ_only_in_the_distance(source):
    truth = read_json(source)
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
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [-1, 0, 11, 10]}
    truth = {"images": [{"id": 1, "width": 50, "height": 50}], "categories": [{"id": 1}], "annotations": [row]}
    for seed in range(8):
        ((x, y),) = offset_clicks(truth, 0.95, seed)["prompts"][0]["points"]
        assert 0 < x < 10 and 0 < y < 10
    assert offset_clicks(truth | {"annotations": []}, 0.5, 0)["prompts"] == []


def test_positions_have_a_row_per_source_seed_and_offset_and_are_not_run_again(checkpoint, source, tmp_path):
    made = position_scores(checkpoint, [source], tmp_path / "out.json", offsets=(0.0, 0.5), seeds=2)
    assert [(row["seed"], row["offset"]) for row in made.rows] == [(0, 0.0), (0, 0.5), (1, 0.0), (1, 0.5)]
    assert all({"source", "ap50", "ap50_ignored", "hit"} <= set(row) for row in made.rows)
    source.unlink()
    assert position_scores(checkpoint, [source], tmp_path / "out.json", offsets=(0.0, 0.5), seeds=2).rows == made.rows
