"""`dealkit.studies.rounds`: the simulated user's next click, and curves over clicks."""

import json

import pytest
import torch

from dealkit.clicks import check_clicks, make_clicks
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.scene import write_coco
from dealkit.files import read_json
from dealkit.model.checkpoint import save_model
from dealkit.predict.detections import Detections
from dealkit.predict.predictor import Predictor
from dealkit.studies.rounds import METRICS, click_curves, click_on, mean_curves, next_click, quality_of

OBJECTS = torch.tensor([[0.0, 0.0, 8.0, 8.0], [20.0, 20.0, 28.0, 28.0], [40.0, 0.0, 48.0, 8.0]])
NOWHERE = torch.zeros(0, 4)


def found(boxes, scores):
    return Detections(boxes=torch.as_tensor(boxes), scores=torch.tensor(scores))


def test_the_next_positive_click_is_on_the_worst_object_not_yet_clicked():
    everything = found(OBJECTS, [0.9, 0.3, 0.5])
    assert next_click(everything, OBJECTS, NOWHERE, [0], "positive")[1] == 1
    point, chosen = next_click(everything, OBJECTS, NOWHERE, [0, 1], "positive")
    assert point.tolist() == [44, 4] and chosen == 2
    assert next_click(everything, OBJECTS, NOWHERE, [0, 1, 2], "positive") is None
    assert next_click(found(NOWHERE, []), OBJECTS, NOWHERE, [1], "positive")[1] == 0  # nothing found: the first of equals


def test_the_next_negative_click_is_on_the_strongest_false_positive():
    boxes = torch.cat([OBJECTS, torch.tensor([[60.0, 60.0, 68.0, 68.0], [80.0, 60.0, 88.0, 68.0]])])
    point, chosen = next_click(found(boxes, [0.9, 0.9, 0.9, 0.4, 0.6]), OBJECTS, NOWHERE, [0], "negative")
    assert point.tolist() == [84, 64] and chosen == -1
    crowd = torch.tensor([[78.0, 58.0, 90.0, 70.0]])
    assert next_click(found(boxes, [0.9, 0.9, 0.9, 0.4, 0.6]), OBJECTS, crowd, [0], "negative")[0].tolist() == [64, 64]
    assert next_click(found(OBJECTS, [0.9, 0.9, 0.9]), OBJECTS, NOWHERE, [0], "negative") is None


@pytest.fixture
def scenes(tmp_path):
    return write_coco(tmp_path / "scenes", 2, size=64, seed=3)


@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_prompts_grow_by_a_click_a_round_and_stay_click_lists(make_tiny, scenes, kind):
    model = make_tiny()
    for layer in model.decoder.layers:  # confident enough to be refused
        torch.nn.init.constant_(layer.score.bias, 0.0)
    data, truth = CocoFolder(scenes, scenes.parent), read_json(scenes)
    clicks = make_clicks(truth, setting="1/category", seed=0)
    predictor = Predictor(model, threshold=0.001)
    prompts = [p for p in clicks["prompts"] if p["image_id"] == data.image_ids[0]]
    labels = [[category for category, _ in data.categories].index(p["category_id"]) for p in prompts]
    rounds = click_on(predictor, data[0], prompts, labels, kind, 3)
    assert [len(r) for r in rounds] == 3 * [len(prompts)]
    assert [p for p, _ in rounds[0]] == prompts
    for n, pairs in enumerate(rounds):
        check_clicks({**clicks, "prompts": [p for p, _ in pairs]}, truth)
        assert all(len(p["points"]) <= n + 1 and (kind == "positive" or sum(p["labels"]) == 1) for p, _ in pairs)
    assert max(len(p["points"]) for p, _ in rounds[2]) == 3


@pytest.fixture
def source(make_coco):
    """Two images: three bolts and a nut, which leave nothing to click after three clicks and after one; and one bolt."""
    boxes = [(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (5, [30, 50, 6, 6], 0), (9, [70, 10, 10, 10], 0)]
    return make_coco("source", [boxes, boxes[:1]])


def test_a_false_box_is_not_clicked_twice():
    boxes = torch.cat([OBJECTS, torch.tensor([[60.0, 60.0, 68.0, 68.0], [80.0, 60.0, 88.0, 68.0]])])
    wrong = found(boxes, [0.9, 0.9, 0.9, 0.4, 0.6])
    once, twice = torch.tensor([[84.0, 64.0]]), torch.tensor([[84.0, 64.0], [64.0, 64.0]])
    assert next_click(wrong, OBJECTS, NOWHERE, [0], "negative", once)[0].tolist() == [64, 64]
    assert next_click(wrong, OBJECTS, NOWHERE, [0], "negative", twice) is None


def test_quality_is_score_times_iou_of_the_assigned_box():
    half = found([[0.0, 0.0, 8.0, 4.0]], [0.8])  # half of the first object: IoU 0.5
    assert quality_of(half, OBJECTS).tolist() == pytest.approx([0.4, 0, 0])
    assert quality_of(found(NOWHERE, []), OBJECTS).tolist() == [0, 0, 0]
    assert quality_of(half, NOWHERE).tolist() == []


def test_a_prompt_with_nothing_left_to_click_is_not_predicted_again(tiny_model, source, monkeypatch):
    data, clicks = CocoFolder(source, source.parent / "images"), make_clicks(source, setting="1/category", seed=0)
    predictor, asked = Predictor(tiny_model, threshold=0.001), []
    predict = predictor.predict_categories
    monkeypatch.setattr(predictor, "predict_categories", lambda sets: asked.append(len(sets)) or predict(sets))
    rounds = click_on(predictor, data[0], [p for p in clicks["prompts"] if p["image_id"] == 1], [0, 1], "positive", 5)
    assert asked == [2, 1, 1]  # the bolts and the nut, then the bolts until all three are clicked
    assert [len(bolts["points"]) for (bolts, _), _ in rounds] == [1, 2, 3, 3, 3]
    assert rounds[4][0][1] is rounds[2][0][1] and rounds[4][1][1] is rounds[0][1][1]


@pytest.mark.usefixtures("float32_cpu")
def test_clicks_on_several_kinds_are_those_of_each_alone(tiny_model, source):
    data, clicks = CocoFolder(source, source.parent / "images"), make_clicks(source, setting="1/category", seed=0)
    predictor, prompts = Predictor(tiny_model, threshold=0.001), clicks["prompts"][:2]  # bolts and a nut of the first image
    together = click_on(predictor, data[0], prompts, [0, 1], "positive", 4)
    for k, prompt in enumerate(prompts):
        alone = click_on(predictor, data[0], [prompt], [k], "positive", 4)
        for pairs, ((grown, detections),) in zip(together, alone, strict=True):
            assert pairs[k][0] == grown
            torch.testing.assert_close(pairs[k][1].scores, detections.scores, atol=1e-5, rtol=1e-4)


def test_the_first_point_of_every_curve_is_that_of_one_click(tiny_model, source, tmp_path, monkeypatch):
    save_model(tiny_model, tmp_path / "m.safetensors")
    results = click_curves(tmp_path / "m.safetensors", [source], tmp_path / "out.json", clicks=4, seeds=2)
    mean = results["mean"]
    assert [p["clicks"] for p in mean["positive"]] == [p["clicks"] for p in mean["negative"]] == [1, 2, 3, 4]
    assert mean["positive"][0]["ap50"] == mean["negative"][0]["ap50"]
    assert json.loads((tmp_path / "out.json").read_text())["mean"] == mean
    # after three clicks every object has been clicked: nothing is left to score, and the metric has no source at all
    assert results["sources"]["source"]["curves"]["positive"][0][3]["ap50_ignored"] is None
    assert results["sources_in_mean"]["ap50"] == 1 and results["sources_in_mean"]["ap50_unclicked"] == 0
    assert mean["positive"][0]["ap50_unclicked"] is None
    monkeypatch.setattr("dealkit.studies.rounds.curve_of_source", lambda *a, **k: pytest.fail("run again"))
    assert click_curves(tmp_path / "m.safetensors", [source], tmp_path / "out.json", clicks=4, seeds=2)["mean"] == mean


def test_a_source_that_lacks_a_point_is_left_out_of_the_mean_at_every_point():
    def curve(*values):
        return [{"clicks": n + 1, **dict.fromkeys(METRICS, 0.5), "ap50_ignored": v} for n, v in enumerate(values)]

    # of two seeds; the second source has nothing left at its second click
    first, second = [curve(0.2, 0.4), curve(0.4, 0.6)], [curve(1.0, None), curve(1.0, 1.0)]
    means = mean_curves({"positive": [first, second]})
    assert [p["ap50_ignored"] for p in means["mean"]["positive"]] == pytest.approx([0.3, 0.5])
    assert means["spread"]["positive"][0]["ap50_ignored"] == pytest.approx(0.02**0.5)
    assert means["sources_in_mean"]["ap50_ignored"] == 1 and means["sources_in_mean"]["ap50"] == 2
