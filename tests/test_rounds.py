"""`dealkit.rounds`: the simulated user's next click, and curves over clicks."""

import json

import pytest
import torch

from dealkit.data.coco import CocoFolder
from dealkit.data.synthetic import write_coco
from dealkit.predict import Detections, Predictor
from dealkit.prompts import check_clicks, make_clicks, read_json
from dealkit.rounds import click_curves, click_on, clicks_to_reach, next_click
from dealkit.train import save_model

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
def test_prompts_grow_by_a_click_a_round_and_stay_click_lists(tiny_model, scenes, kind):
    data, truth = CocoFolder(scenes, scenes.parent), read_json(scenes)
    clicks = make_clicks(truth, setting="1/category", seed=0)
    predictor = Predictor(tiny_model, threshold=0.001)
    prompts = [p for p in clicks["prompts"] if p["image_id"] == data.image_ids[0]]
    labels = [[category for category, _ in data.categories].index(p["category_id"]) for p in prompts]
    rounds = click_on(predictor, data[0], prompts, labels, kind, 3)
    assert [len(r) for r in rounds] == 3 * [len(prompts)]
    assert [p for p, _ in rounds[0]] == prompts
    for n, pairs in enumerate(rounds):
        check_clicks({**clicks, "prompts": [p for p, _ in pairs]}, truth)
        assert all(len(p["points"]) <= n + 1 and (kind == "positive" or sum(p["labels"]) == 1) for p, _ in pairs)
    assert max(len(p["points"]) for p, _ in rounds[2]) == 3


def test_the_first_point_of_every_curve_is_that_of_one_click(tiny_model, scenes, tmp_path):
    save_model(tiny_model, tmp_path / "m.safetensors")
    scenes.write_text(scenes.read_text().replace("images/", ""))  # names inside the folder, as the sources have them
    results = click_curves(tmp_path / "m.safetensors", [scenes], tmp_path / "out.json", clicks=2)
    mean = results["mean"]
    assert [p["clicks"] for p in mean["positive"]] == [p["clicks"] for p in mean["negative"]] == [1, 2]
    assert mean["positive"][0] == mean["negative"][0]
    assert json.loads((tmp_path / "out.json").read_text())["mean"] == mean


def test_clicks_to_reach_counts_the_fewest_or_none():
    curve = [{"clicks": n, "ap50": v} for n, v in ((1, 0.2), (2, 0.5), (3, 0.4))]
    assert [clicks_to_reach(curve, t) for t in (0.1, 0.5, 0.6)] == [1, 2, None]
    assert clicks_to_reach([{"clicks": 1, "ap50": None}], 0.1) is None
