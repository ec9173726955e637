import contextlib
import copy
import io
import json

import numpy as np
import pytest
from coco_cases import click, found, random_case, truth
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dealkit.boxes import SIZE_BINS
from dealkit.clicks import clicks_hash, make_clicks, save_clicks
from dealkit.evaluate.coco import dense_case, evaluate, summary_line


def reference(coco: dict, rows: list[dict], ignored: set[int], max_dets: int, iou: list[float] | None) -> dict[str, float]:
    """The same scores by pycocotools, `ignored` annotation ids being crowd; AP25 has to be asked for apart."""
    coco, rows = copy.deepcopy(coco), copy.deepcopy(rows)
    for ann in coco["annotations"]:
        crowd = ann.get("iscrowd") or ann.get("ignore") or ann["id"] in ignored
        ann |= {"id": ann["id"] + 1, "iscrowd": int(bool(crowd)), "area": ann.get("area", ann["bbox"][2] * ann["bbox"][3])}
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = coco
        ground.createIndex()
        run = COCOeval(ground, ground.loadRes(rows), "bbox")
        run.params.maxDets = [max_dets]
        run.params.areaRng = [[0, 1e10], *SIZE_BINS.values()]
        run.params.areaRngLbl = ["all", *SIZE_BINS]
        if iou is not None:
            run.params.iouThrs = np.array(iou)
        run.evaluate()
        run.accumulate()
    precision, recall = run.eval["precision"][..., 0], run.eval["recall"][..., 0]
    mean = lambda v: float(v[v > -1].mean()) if (v > -1).any() else None  # noqa: E731
    if iou is not None:
        return {"ap25": mean(precision[0, ..., 0])}
    out = {"ap": mean(precision[..., 0]), "ap50": mean(precision[0, ..., 0]), "ap75": mean(precision[5, ..., 0])}
    for a, name in enumerate(SIZE_BINS, start=1):
        out |= {f"ap_{name}": mean(precision[..., a]), f"ap50_{name}": mean(precision[0, ..., a])}
    return out | {"ar": mean(recall[..., 0]), "recall50": mean(recall[0, :, 0])}


@pytest.mark.parametrize(
    ("case", "options"),
    [
        (random_case(0), {}),
        (random_case(1), {}),
        (random_case(2), {"max_dets": 7}),
        (random_case(3), {"class_agnostic": True}),
        (dense_case(images=2, objects=150, detections=300), {}),
    ],
    ids=["random", "another", "few detections", "one category", "dense"],
)
def test_scores_equal_those_of_pycocotools(case, options):
    coco, rows, clicks = case
    results = evaluate(coco, rows, clicks, **options)
    max_dets = options.get("max_dets", 1500)
    if options.get("class_agnostic"):
        assert len(results["per_category"]) == 1 and results["protocol"]["class_agnostic"]
        one = {"category_id": 1}
        rows, anns = [row | one for row in rows], [ann | one for ann in coco["annotations"]]
        coco = coco | {"annotations": anns, "categories": [{"id": 1, "name": "object"}]}
    clicked = {i for prompt in clicks["prompts"] for i in prompt["annotation_ids"]}
    for part, ignored in (("all", set()), ("clicked_ignored", clicked)):
        expected = reference(coco, rows, ignored, max_dets, None) | reference(coco, rows, ignored, max_dets, [0.25])
        assert 0.02 < expected["ap"] < 0.9 and len(expected) == 14
        assert {key: results[part][key] for key in expected} == pytest.approx(expected, abs=1e-12)


def test_results_do_not_depend_on_the_order_of_the_files():
    coco, rows, clicks = random_case(4)
    rows = [row | {"score": row["score"] + i * 1e-9} for i, row in enumerate(rows)]  # no equal scores
    turned = coco | {key: coco[key][::-1] for key in ("images", "annotations")}
    assert evaluate(turned, rows[::-1], clicks) == evaluate(coco, rows, clicks)


def test_iou_decides_which_thresholds_an_object_passes():
    # detection 10 x 6 inside object 10 x 10: IoU 60 / 100 = 0.6 -> true at 0.25, 0.5, 0.55, 0.6, false from 0.65
    scores = evaluate(truth([0, 0, 10, 10]), [found([0, 0, 10, 6], 0.9)])["all"]
    assert (scores["ap25"], scores["ap50"], scores["ap75"]) == (pytest.approx(1), pytest.approx(1), 0)
    assert scores["ap"] == pytest.approx(0.3) and scores["ar"] == pytest.approx(0.3)  # three of ten
    # IoU 40 / 100 = 0.4 counts for AP25 alone and leaves the mean of 0.5:0.95 at nothing
    scores = evaluate(truth([0, 0, 10, 10]), [found([0, 0, 10, 4], 0.9)])["all"]
    assert scores["ap25"] == pytest.approx(1) and scores["ap50"] == scores["ap"] == 0


def test_two_detections_of_one_object_are_one_true_and_one_false():
    # the better score comes first and is true: precision 1 at recall 1, the duplicate after it costs nothing
    first, second = found([0, 0, 10, 8], 0.9), found([0, 0, 10, 10], 0.8)
    assert evaluate(truth([0, 0, 10, 10]), [first, second])["all"]["ap50"] == pytest.approx(1)
    # a miss ahead of it: precision 1/2 when recall reaches 1, at every recall level
    stray = found([500, 500, 10, 10], 0.95)
    assert evaluate(truth([0, 0, 10, 10]), [first, second, stray])["all"]["ap50"] == pytest.approx(0.5)


def test_average_precision_follows_the_envelope():
    # three objects; by score: true, false, true, and one object missed.
    # recall 1/3 at precision 1, 2/3 at precision 2/3. COCO reads 101 recalls 0, 0.01, ...: 0 to 0.33 are 34 levels at
    # 1, 0.34 to 0.66 are 33 levels at 2/3, the rest 0 -> (34 + 33 * 2/3) / 101 = 56 / 101
    coco = truth([0, 0, 10, 10], [100, 0, 10, 10], [200, 0, 10, 10])
    rows = [found([0, 0, 10, 10], 0.9), found([500, 0, 10, 10], 0.8), found([100, 0, 10, 10], 0.7)]
    scores = evaluate(coco, rows)["all"]
    assert scores["ap50"] == pytest.approx(56 / 101) and scores["recall50"] == pytest.approx(2 / 3)


def test_a_clicked_object_is_neither_found_nor_missed():
    coco = truth([0, 0, 10, 10], [100, 0, 10, 10])
    on_clicked, on_other = found([0, 0, 10, 10], 0.9), found([100, 0, 10, 10], 0.8)
    # only the clicked object is found: nothing of what remains is, and the detection is not false
    results = evaluate(coco, [on_clicked], click(coco, 1))
    assert results["all"]["recall50"] == 0.5 and results["hit"] == 1
    assert results["clicked_ignored"]["ap50"] == 0 and results["clicked_ignored"]["recall50"] == 0
    # both are found: full precision, although the best score lies on the ignored object
    results = evaluate(coco, [on_clicked, on_other], click(coco, 1))
    assert results["clicked_ignored"]["ap50"] == pytest.approx(1) and results["clicked_ignored"]["recall50"] == 1
    # the clicked one is missed: no harm here, half the recall among all
    results = evaluate(coco, [on_other], click(coco, 1))
    assert results["clicked_ignored"]["ap50"] == pytest.approx(1) and results["hit"] == 0
    assert results["all"]["ap50"] == pytest.approx(51 / 101)  # recalls 0 to 0.50 of 101 at precision 1


def test_duplicates_and_parts_of_a_clicked_object_cost_nothing_once_it_is_ignored():
    coco = truth([0, 0, 10, 10], [100, 0, 10, 10])
    # a 3 x 3 part has IoU 0.09 with the clicked object, but all of its own area lies in it
    rows = [found([0, 0, 10, 10], 0.9), found([1, 0, 10, 10], 0.8), found([4, 4, 3, 3], 0.7), found([100, 0, 10, 10], 0.6)]
    results = evaluate(coco, rows, click(coco, 1))
    assert results["clicked_ignored"]["ap50"] == pytest.approx(1)
    # among all: precision 1 at recall 1/2, then 2/4 at recall 1 -> (51 + 50 / 2) / 101
    assert results["all"]["ap50"] == pytest.approx(76 / 101)


def test_hit_is_the_share_of_clicked_objects_that_are_covered():
    coco = truth([0, 0, 10, 10], [100, 0, 10, 10], [200, 0, 10, 10], [300, 0, 10, 10])
    rows = [
        found([0, 0, 10, 5], 0.9),  # IoU exactly 0.5: hit and shown
        found([100, 0, 10, 10], 0.29),  # hit, under the threshold
        found([200, 0, 10, 4], 0.9),  # IoU 0.4: no hit
        found([300, 0, 10, 10], 0.9, category_id=2),  # of another category: no hit
    ]
    results = evaluate(coco, rows, click(coco, 1, 2, 3, 4), score_threshold=0.3)
    assert (results["hit"], results["hit_shown"]) == (0.5, 0.25)
    assert evaluate(coco, rows, click(coco, 1, 2, 3, 4), class_agnostic=True)["hit"] == 0.75
    assert evaluate(coco, rows, click(coco, 1, 2), score_threshold=0.29)["hit_shown"] == 1
    # with one detection per pair, the best comes first and leaves no room for the second object
    assert evaluate(coco, rows, click(coco, 2), max_dets=1)["hit"] == 0


def test_one_detection_may_hit_two_clicked_objects():
    # [2, 0, 10, 10] against [0, 0, 10, 10] and [4, 0, 10, 10]: intersection 80, union 120, IoU 0.67 with each
    coco = truth([0, 0, 10, 10], [4, 0, 10, 10])
    results = evaluate(coco, [found([2, 0, 10, 10], 0.9)], click(coco, 1, 2))
    assert results["hit"] == 1 and results["all"]["recall50"] == 0.5


def test_objects_of_a_pair_without_prompt_count_as_missed():
    coco = truth([0, 0, 10, 10])
    coco["annotations"].append({"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 10, 10]})
    results = evaluate(coco, [found([0, 0, 10, 10], 0.9)], click(coco, 1))
    assert results["counts"]["objects_without_prompt"] == 1 and results["counts"]["prompts"] == 1
    assert results["clicked_ignored"]["recall50"] == 0


def test_clicking_every_instance_leaves_nothing_to_score():
    coco = truth([0, 0, 10, 10])
    results = evaluate(coco, [found([0, 0, 10, 10], 0.9)], click(coco, 1))
    assert set(results["clicked_ignored"].values()) == {None} and results["hit"] == 1


def test_without_clicks_only_all_objects_are_scored():
    results = evaluate(truth([0, 0, 10, 10]), [found([0, 0, 10, 10], 0.9)])
    assert results["clicked_ignored"] is results["hit"] is results["hit_shown"] is None


def test_annotation_id_zero_counts_like_any_other():
    # COCO's matching reads id 0 as 'not matched'; ids 0 and 1 gave AP 0.25 there
    coco = truth([0, 0, 10, 10], [100, 0, 10, 10])
    for ann in coco["annotations"]:
        ann["id"] -= 1
    rows = [found([0, 0, 10, 10], 0.9), found([100, 0, 10, 10], 0.8)]
    assert evaluate(coco, rows)["all"]["ap"] == pytest.approx(1)
    assert evaluate(coco, rows, click(coco, 0))["counts"]["clicked"] == 1


@pytest.mark.parametrize("flag", ["ignore", "iscrowd"])
def test_an_ignored_object_is_not_missed(flag):
    coco = truth([0, 0, 10, 10], [100, 0, 10, 10])
    coco["annotations"][1][flag] = 1
    results = evaluate(coco, [found([0, 0, 10, 10], 0.9), found([100, 0, 10, 10], 0.95)])
    assert results["all"]["ap"] == pytest.approx(1) and results["counts"]["ignored"] == 1
    assert results["count"] == {"mae": 0, "rmse": 0, "pairs": 1}


def test_an_area_on_the_border_of_two_bins_is_in_both():
    scores = evaluate(truth([0, 0, 16, 16]), [found([0, 0, 16, 16], 0.9)])["all"]
    assert scores["ap50_t"] == pytest.approx(1) and scores["ap50_s"] == pytest.approx(1)
    assert scores["ap50_vt"] is scores["ap50_m"] is scores["ap_m"] is None


def test_the_area_field_decides_the_bin_and_may_be_missing():
    coco = truth([0, 0, 10, 10])
    assert evaluate(coco, [found([0, 0, 10, 10], 0.9)])["all"]["ap_t"] == pytest.approx(1)
    coco["annotations"][0]["area"] = 50.0  # of a polygon: under 64, so very tiny
    scores = evaluate(coco, [found([0, 0, 10, 10], 0.9)])["all"]
    assert scores["ap_vt"] == pytest.approx(1) and scores["ap_t"] is None


def test_more_than_a_hundred_objects_are_all_counted():
    boxes = [[20 * (i % 20), 20 * (i // 20), 10, 10] for i in range(300)]
    rows = [found(box, 0.9 - i / 1000) for i, box in enumerate(boxes)]
    assert evaluate(truth(*boxes), rows)["all"]["ap"] == pytest.approx(1)
    cut = evaluate(truth(*boxes), rows, max_dets=100)
    # recall 100/300: recalls 0 to 0.33 are 34 of 101 levels
    assert cut["all"]["ap"] == pytest.approx(34 / 101) and cut["counts"]["over_max_dets"] == 200


def test_no_predictions_score_zero():
    coco = truth([0, 0, 10, 10])
    results = evaluate(coco, [], click(coco, 1))
    assert (results["all"]["ap"], results["all"]["ar"], results["hit"]) == (0, 0, 0)
    assert results["count"] == {"mae": 1, "rmse": 1, "pairs": 1}


def test_no_objects_give_null_and_never_nan():
    for coco in (truth(), {"images": [], "categories": [], "annotations": []}):
        rows = [found([0, 0, 10, 10], 0.9)] if coco["images"] else []
        results = evaluate(coco, rows, make_clicks(coco, setting="1/category", seed=0))
        assert set(results["all"].values()) == {None} and results["hit"] is None
        assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert evaluate(truth(), [])["count"] == {"mae": None, "rmse": None, "pairs": 0}


def test_counting_error_is_over_the_pairs_with_objects_or_shown_detections():
    coco = truth([0, 0, 10, 10], [100, 0, 10, 10], [200, 0, 10, 10])
    rows = [found([0, 0, 10, 10], 0.3), found([100, 0, 10, 10], 0.29)]  # image 1, category 1: 1 shown of 3, error -2
    rows += [found([10.0 * i, 0, 9, 9], 0.9, image_id=2, category_id=2) for i in range(4)]  # 4 shown of 0, error 4
    count = evaluate(coco, rows, score_threshold=0.3)["count"]
    # two pairs: mean of 2 and 4; root of (4 + 16) / 2
    assert count == {"mae": 3, "rmse": pytest.approx(10**0.5), "pairs": 2}


def test_each_category_has_its_row():
    coco = truth([0, 0, 10, 10])
    coco["annotations"].append({"id": 2, "image_id": 1, "category_id": 2, "bbox": [50, 0, 10, 10]})
    rows = [found([0, 0, 10, 10], 0.9), found([50, 0, 10, 10], 0.9)]  # the second under the wrong category
    results = evaluate(coco, rows, click(coco, 1))
    cell, dust = results["per_category"]
    assert (cell["name"], cell["objects"], cell["ap50"], cell["hit"]) == ("cell", 1, pytest.approx(1), 1)
    assert (dust["name"], dust["objects"], dust["ap50"], dust["hit"]) == ("dust", 1, 0, None)
    assert cell["clicked_ignored"]["ap50"] is None and dust["clicked_ignored"]["ap50"] == 0
    assert results["all"]["ap50"] == pytest.approx(0.5)
    # as one category both boxes are right
    assert evaluate(coco, rows, class_agnostic=True)["all"]["ap50"] == pytest.approx(1)


def test_class_agnostic_counts_a_duplicate_of_another_category_as_false():
    rows = [found([0, 0, 10, 10], 0.9), found([0, 0, 10, 10], 0.8, category_id=2), found([50, 0, 10, 10], 0.7)]
    scores = evaluate(truth([0, 0, 10, 10], [50, 0, 10, 10]), rows, class_agnostic=True)["all"]
    assert scores["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)  # precision 1 to recall 0.5, then 2/3


def test_files_are_read_and_inputs_left_as_they_were(tmp_path):
    coco, rows, clicks = random_case(5, images=3)
    before = copy.deepcopy((coco, rows, clicks))
    results = evaluate(coco, rows, clicks)
    assert (coco, rows, clicks) == before
    for name, content in (("truth", coco), ("found", rows)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    save_clicks(clicks, tmp_path / "clicks.json")
    assert evaluate(tmp_path / "truth.json", str(tmp_path / "found.json"), tmp_path / "clicks.json") == results


def test_the_summary_line_carries_the_protocol():
    coco = truth([0, 0, 10, 10], [100, 0, 10, 10])
    clicks = click(coco, 1)
    line = summary_line(evaluate(coco, [found([0, 0, 10, 10], 0.9)], clicks, max_dets=300))
    # 51 of 101 recall levels at precision 1 = 50.5 %; nothing of the unclicked object
    for part in ("AP50 50.5 (0.0)", "hit 100.0", "max_dets 300", "per category", "1/category centre seed 0", clicks_hash(clicks)):
        assert part in line
    assert "AP50 – (–)" in summary_line(evaluate(truth(), [])) and "no clicks" in summary_line(evaluate(truth(), []))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, r"predictions\[1\].image_id: expected an id of the ground truth, got 9"),
        ({"category_id": 9}, r"predictions\[1\].category_id: expected an id of the ground truth, got 9"),
        ({"category_id": None}, r"predictions\[1\].category_id: .*got None"),
        ({"score": float("nan")}, r"predictions\[1\].score: expected a finite number, got nan"),
        ({"score": None}, r"predictions\[1\].score: expected a finite number, got None"),
        ({"score": [0.5]}, r"predictions\[1\].score: expected a finite number, got \[0.5\]"),
        ({"score": "0.5"}, r"predictions\[1\].score: expected a finite number, got '0.5'"),
        ({"image_id": True}, r"predictions\[1\].image_id: expected an id of the ground truth, got True"),
        ({"bbox": [0, 0, 1]}, r"predictions\[1\].bbox: expected \[x, y, w, h\], finite, .*, got \[0, 0, 1\]"),
        ({"bbox": [0, 0, float("inf"), 1]}, r"predictions\[1\].bbox: expected .*, got \[0, 0, inf, 1\]"),
        ({"bbox": [9, 9, -4, 4]}, r"predictions\[1\].bbox: expected .* with w, h >= 0"),
    ],
)
def test_a_bad_prediction_is_named_by_row_and_field(change, message):
    good = found([0, 0, 10, 10], 0.9)
    with pytest.raises(ValueError, match=message):
        evaluate(truth([0, 0, 10, 10]), [good, good | change])
    field = next(iter(change))
    with pytest.raises(ValueError, match=rf"predictions\[0\].{field}: expected .*got None"):
        evaluate(truth([0, 0, 10, 10]), [{key: v for key, v in good.items() if key != field}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "annotation 1: image_id: unknown image 9"),
        ({"bbox": [0, 0, 0, 5]}, "annotation 1: bbox: expected a positive width and height"),
        ({"area": float("nan")}, "annotation 1: area: expected a finite number"),
    ],
)
def test_a_bad_annotation_is_named_by_file_row_and_field(change, message, tmp_path):
    coco = truth([0, 0, 10, 10])
    coco["annotations"][0] |= change
    (tmp_path / "truth.json").write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=rf"truth.json: {message}"):
        evaluate(tmp_path / "truth.json", [])


def test_other_bad_inputs_are_named():
    coco = truth([0, 0, 10, 10])
    with pytest.raises(ValueError, match="max_dets: expected at least 1, got 0"):
        evaluate(coco, [], max_dets=0)
    with pytest.raises(ValueError, match="predictions: expected a list of COCO results, got dict"):
        evaluate(coco, {})
    with pytest.raises(ValueError, match="coco: file: annotations: missing"):
        evaluate({"images": []}, [])
    with pytest.raises(ValueError, match=r"image 1: id: used more than once, again in images\[1\]"):
        evaluate(coco | {"images": [{"id": 1}, {"id": 1}]}, [])
    with pytest.raises(ValueError, match=r"clicks: prompts\[0\].annotation_ids\[0\]: no annotation 1 in the ground truth"):
        evaluate(truth(), [], click(coco, 1))
