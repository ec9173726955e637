"""`baselines.scoring`: hand-made detections on the two numbers, pooled sources, benchmarks that resume."""

import pytest
import torch

from dealkit.baselines.detector import Detector
from dealkit.baselines.scoring import (
    VARIANTS,
    agnostic_rows,
    benchmark_detector,
    benchmark_templates,
    category_rows,
    detect_coco,
    evaluate_detector,
    one_class,
    pooled_results,
    reference_rows,
)
from dealkit.clicks import make_clicks
from dealkit.config import DetectorConfig
from dealkit.data.coco import CocoFolder
from dealkit.evaluate.coco import evaluate
from dealkit.files import read_json
from dealkit.model.checkpoint import save_model
from dealkit.predict.detections import Detections

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


def test_a_benchmark_goes_on_where_it_was_stopped(make_coco, tmp_path):
    files = [make_coco(name, [[(5, [10, 10, 8, 8], 0)]]) for name in "ab"]
    torch.manual_seed(0)
    save_model(Detector(DetectorConfig(backbone="pico", hidden_dim=32)), tmp_path / "d.safetensors")
    first = benchmark_detector(tmp_path / "d.safetensors", files[:1], tmp_path / "r.json")
    files[0].unlink()  # what is finished is not read again
    made = benchmark_detector(tmp_path / "d.safetensors", files, tmp_path / "r.json", scenes=1)
    assert made.rows[:2] == first.rows and made.request["detector"] == "fcos"
    assert [(row["source"], row["kind"]) for row in made.rows] == [
        *((source, kind) for source in "ab" for kind in ("class_agnostic", "per_category")),
        ("scenes", "class_agnostic"),
    ]
    assert made.rows[0]["images"] == made.rows[0]["objects"] == 1 and 0 <= made.rows[0]["ap50"] <= 1


def test_sources_are_pooled_as_one_data_set(make_coco):
    """A perfect source and one without a find: half of the eight objects at precision 1, 51 of COCO's 101 recall levels."""
    scored = []
    for name in "ab":
        truth = read_json(make_coco(name, [[(5, [10, 10, 8, 8], 0), (9, [70, 40, 10, 10], 0)]] * 2))
        rows = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in truth["annotations"]]
        scored.append((truth, rows if name == "a" else [], make_clicks(truth, setting="1/category", seed=0)))
    results = pooled_results(scored)
    assert [results["counts"][name] for name in ("objects", "images", "prompts")] == [8, 4, 8]
    assert results["all"]["ap50"] == pytest.approx(51 / 101) and results["hit"] == 0.5


def test_boxes_of_several_categories_become_one_class():
    a = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.4}
    b = a | {"category_id": 2, "bbox": [0, 0, 10, 7], "score": 0.6}  # IoU 0.7
    c = a | {"category_id": 2, "bbox": [0, 0, 10, 5], "score": 0.3}  # 0.5 with a, 0.71 with b
    assert one_class([a, b, c]) == [b] and one_class([a, c]) == [a, c] and one_class([]) == []


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
    square = reference_rows(find, data, clicks, guess=lambda _, xy: torch.tensor([xy[0] - 2, xy[1] - 2, xy[0] + 2, xy[1] + 2]))
    assert [row["bbox"][2:] for row in square] == 3 * [[4.0, 4.0]]


def test_a_benchmark_is_resumed_and_extended(make_coco, tmp_path):
    files = [make_coco(name, [[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 8], 0)], []]) for name in ("a", "b")]
    first = benchmark_templates(files[:1], tmp_path / "t.json")
    assert [(row["source"], row["variant"], row["seed"]) for row in first.rows] == [("a", "box", 0), ("a", "click", 0)]
    assert first.rows[0]["ap50"] == pytest.approx(1) and first.rows[0]["hit"] == 1 and first.rows[0]["objects"] == 2
    variants = list(VARIANTS)
    more = benchmark_templates(files, tmp_path / "t.json", variants=variants, seeds=2)
    assert (
        more.rows[:2] == first.rows and len(more.frame().drop_duplicates(["source", "variant", "seed"])) == len(more.rows) == 12
    )
    assert read_json(tmp_path / "t.json")["rows"] == more.rows
    with pytest.raises(ValueError, match="variants: expected some of .*got 'boxes'"):
        benchmark_templates(files, tmp_path / "t.json", variants=["boxes"])
