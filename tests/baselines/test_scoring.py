"""`baselines.scoring` and `studies.race`: hand-made detections, benchmarks that resume, equal minutes."""

import json
from types import SimpleNamespace

import pytest
import torch

from dealkit.baselines.detector import build_detector
from dealkit.baselines.scoring import (
    VARIANTS,
    agnostic_rows,
    benchmark_detector,
    benchmark_templates,
    category_rows,
    detect_coco,
    evaluate_detector,
    evaluate_detector_on_scenes,
    reference_rows,
)
from dealkit.clicks import make_clicks
from dealkit.config import DataConfig, DetectorConfig, TrainConfig
from dealkit.data.coco import CocoFolder
from dealkit.evaluate.coco import evaluate
from dealkit.files import read_json
from dealkit.model.checkpoint import save_model
from dealkit.predict.detections import Detections
from dealkit.studies.race import race, snapshots

pytestmark = pytest.mark.usefixtures("float32_cpu")


class Fake:
    """A detector that finds given boxes in every image: (x1, y1, x2, y2, score, class) rows."""

    def __init__(self, rows, categories=()):
        self.rows, self.config = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6), DetectorConfig(categories=categories)

    def eval(self):
        return self

    def detect(self, images):
        found = Detections(boxes=self.rows[:, :4], scores=self.rows[:, 4], classes=self.rows[:, 5].long())
        return [found] * len(images)


def opened(file):
    return CocoFolder(file, file.parent / "images")


def test_detections_of_categories_an_image_lacks_are_dropped(make_coco):
    """Two bolts and a nut found in both images; the second image has a nut alone, the first two bolts (5) and a nut (9)."""
    file = make_coco("a", [[(5, [10, 10, 8, 8], 0), (9, [70, 10, 10, 10], 0)], [(9, [70, 10, 10, 10], 0)]])
    detector = Fake([[10, 10, 18, 18, 0.9, 0], [70, 10, 80, 20, 0.8, 1]], categories=("bolt", "nut"))
    data = opened(file)
    rows = category_rows(detect_coco(detector, data), data, detector.config.categories)
    assert [(r["image_id"], r["category_id"]) for r in rows] == [(1, 5), (1, 9), (2, 9)]
    results = evaluate_detector(detector, file)
    assert results["per_category"]["ap50"] == pytest.approx(1.0)
    # class-agnostic, the bolt in the second image is a false one, with a score above those of two true ones
    assert results["class_agnostic"]["ap50"] < 1.0


def test_a_detector_of_one_class_offers_its_boxes_for_every_category_there(make_coco):
    file = make_coco("a", [[(5, [10, 10, 8, 8], 0), (9, [70, 10, 10, 10], 0)]])
    detector = Fake([[10, 10, 18, 18, 0.9, 0], [70, 10, 80, 20, 0.8, 0]])
    rows = category_rows(detect_coco(detector, opened(file)), opened(file), ())
    assert [(r["category_id"], r["score"]) for r in rows] == [(5, 0.9), (5, 0.8), (9, 0.9), (9, 0.8)]
    results = evaluate_detector(detector, file)
    assert results["class_agnostic"]["ap50"] == pytest.approx(1.0)
    assert results["per_category"]["ap50"] == pytest.approx(0.75)  # bolts 1.0; nuts: a false one first, so precision 1/2


def test_of_two_classes_on_one_object_the_stronger_counts(make_coco):
    file = make_coco("a", [[(5, [10, 10, 8, 8], 0)]])
    detector = Fake([[10, 10, 18, 18, 0.6, 0], [10, 10, 18, 17.5, 0.7, 1]], categories=("bolt", "nut"))
    data = opened(file)
    assert [r["score"] for r in agnostic_rows(detect_coco(detector, data), data)] == [0.7]
    with pytest.raises(ValueError, match="a: category 'nut' is not one of the detector's: bolt"):
        category_rows(detect_coco(detector, data), data, ("bolt",))


def test_images_come_back_in_the_order_of_the_file(make_coco):
    """Detection goes by size; here both images are of one size, and a data set may have none."""
    file = make_coco("a", [[(5, [10, 10, 8, 8], 0)], []])
    assert len(detect_coco(Fake([]), opened(file))) == 2
    results = evaluate_detector(Fake([]), file)
    assert results["class_agnostic"]["ap50"] == 0.0 and results["images"] == 2 and results["objects"] == 1


def test_a_benchmark_goes_on_where_it_was_stopped(make_coco, tmp_path, monkeypatch):
    files = [make_coco(name, [[(5, [10, 10, 8, 8], 0)]]) for name in "ab"]
    torch.manual_seed(0)
    save_model(build_detector(DetectorConfig(hidden_dim=32)), tmp_path / "d.safetensors")
    out = tmp_path / "results.json"
    first = benchmark_detector(tmp_path / "d.safetensors", files[:1], out)
    again = lambda detector, file: {**first["sources"]["a"], "new": file.parent.name}  # noqa: E731
    monkeypatch.setattr("dealkit.baselines.scoring.evaluate_detector", again)
    results = benchmark_detector(tmp_path / "d.safetensors", files, out)
    assert "new" not in results["sources"]["a"] and results["sources"]["b"]["new"] == "b"
    assert results["mean"]["class_agnostic"]["ap50"] == first["sources"]["a"]["class_agnostic"]["ap50"]
    assert read_json(out)["request"]["detector"] == "fcos"


def test_scenes_are_scored_class_agnostic():
    results = evaluate_detector_on_scenes(Fake([[0, 0, 4, 4, 0.5, 0]]), 2, 64)
    assert results["images"] == 2 and 0 <= results["class_agnostic"]["ap50"] <= 1


# Prompt by prompt


def test_rows_are_those_of_the_click_list(tiny_coco):
    data = CocoFolder(tiny_coco, tiny_coco.parent / "images")
    clicks = make_clicks(tiny_coco, setting="3/category", seed=0)
    asked = []

    def find(image, boxes, name):
        asked.append((name, len(boxes)))
        return Detections(boxes=boxes, scores=torch.ones(len(boxes)))

    rows = reference_rows(find, data, clicks)
    assert sorted(asked) == [("bolt", 2), ("nut", 1)]  # one prompt per category, with all its examples
    assert evaluate(tiny_coco, rows, clicks)["all"]["ap50"] == pytest.approx(1)
    assert len(reference_rows(find, data, clicks, given="click")) == 3
    with pytest.raises(ValueError, match="given: expected box or click, got 'point'"):
        reference_rows(find, data, clicks, given="point")


def test_a_benchmark_is_resumed_and_extended(make_coco, tmp_path, monkeypatch):
    files = [make_coco(name, [[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 8], 0)], []]) for name in ("a", "b")]
    first = benchmark_templates(files, tmp_path / "t.json")
    row = first["sources"]["a"]["runs"]["box"][0]
    assert row["ap50"] == pytest.approx(1) and row["hit"] == 1 and set(first["mean"]) == {"box", "click"}
    monkeypatch.setattr("dealkit.baselines.scoring.match_box", lambda *a, **k: pytest.fail("run again"))
    assert benchmark_templates(files, tmp_path / "t.json")["mean"] == first["mean"]
    monkeypatch.undo()
    variants = list(VARIANTS)
    more = benchmark_templates(files, tmp_path / "t.json", variants=variants, seeds=2)
    assert [run["seed"] for run in more["sources"]["b"]["runs"][variants[2]]] == [0, 1]
    assert more["spread"]["box"]["ap50"] == pytest.approx(0) and json.loads((tmp_path / "t.json").read_text())["made_by"]


# Equal budgets


def test_weights_are_put_aside_as_often_as_asked_for(tmp_path, tiny_model, monkeypatch):
    clock = iter([0.0, 29.0, 30.0, 30.0, 45.0, 61.0, 61.0])
    # not the module's own clock, which other threads read, too
    monkeypatch.setattr("dealkit.studies.race.time", SimpleNamespace(monotonic=lambda: next(clock)))
    keep = snapshots(tmp_path / "s", minutes=2.0, points=4)  # every 30 s
    assert [keep(tiny_model) for _ in range(4)] == [{}, {"snapshot": 0}, {}, {"snapshot": 1}]
    assert sorted(f.name for f in (tmp_path / "s").iterdir()) == ["0.safetensors", "1.safetensors"]


def test_an_unknown_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="models: expected deal, fcos, .*, got 'yolo'"):
        race(tmp_path, minutes=1.0, models=("yolo",))


def test_a_race_gives_every_model_the_same_minutes_and_is_run_once(tmp_path, no_tensorboard):
    settings = {
        "minutes": 0.02,
        "models": ("fcos",),
        "data": DataConfig(size=64, workers=0),
        "detector": DetectorConfig(hidden_dim=32),
        "schedule": TrainConfig(batch_size=1, warmup=1),
        "scenes": 2,
        "points": 2,
    }
    made = race(tmp_path / "race", **settings, results=tmp_path / "race.json")
    curve = made["models"]["fcos"]["curve"]
    assert curve[-1]["minutes"] >= 0.02 and {"step", "ap50", "ap75"} <= set(curve[-1])
    assert json.loads((tmp_path / "race.json").read_text())["models"] == made["models"]
    assert race(tmp_path / "race", **settings)["models"] == made["models"]
    with pytest.raises(ValueError, match="race.json: made with other settings"):
        race(tmp_path / "race", **{**settings, "minutes": 0.03})
