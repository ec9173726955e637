"""`dealkit.evaluate.thresholds`: F1 by hand, the best cuts against all there are, and both studies on a tiny model."""

import itertools

import numpy as np
import pytest
import torch

from dealkit.evaluate.thresholds import (
    JudgedPrompt,
    best_cuts,
    calibrate,
    compare_thresholds,
    f1_curve,
    judge_prompt,
    shown_f1,
    without_duplicates,
)
from dealkit.files import read_json
from dealkit.predict.detections import Detections


def row(bbox, score=None, image=1, category=1):
    return {"image_id": image, "category_id": category, "bbox": bbox} | ({} if score is None else {"score": score})


def test_f1_falls_with_false_detections_and_with_missed_objects():
    truth = [row([0, 0, 10, 10]), row([20, 0, 10, 10]), row([0, 0, 10, 10], image=2)]
    found = [row([0, 0, 10, 10], 0.9), row([0, 0, 10, 10], 0.8), row([20, 0, 10, 10], 0.3), row([5, 5, 4, 4], 0.2, image=3)]
    # from 0.1: 2 right of 4 found, 3 wanted: 4 / 7; from 0.5: 1 of 2: 2 / 5; from 0.95: none of 0: 0
    assert f1_curve(truth, found, (0.1, 0.5, 0.95)) == pytest.approx([4 / 7, 2 / 5, 0.0])
    assert f1_curve(truth, [], (0.5,)) == [0.0]


def test_duplicates_go_within_a_category_only():
    found = [row([0, 0, 10, 10], 0.5), row([0, 0, 10, 9], 0.9), row([0, 0, 10, 10], 0.4, category=2)]
    assert [r["score"] for r in without_duplicates(found, 0.7)] == [0.9, 0.4]
    assert len(without_duplicates(found, 1.0)) == 3
    assert without_duplicates([], 0.7) == []


def test_calibration_names_one_of_its_thresholds_as_the_best(source, tmp_path):
    file, checkpoint = source
    results = calibrate(checkpoint, [file], tmp_path / "threshold.json", images=1)
    assert results["best"]["threshold"] in results["thresholds"]
    table = results["duplicate_iou"][str(results["best"]["duplicate_iou"])]
    assert max(table["f1"]) == max(max(t["f1"]) for t in results["duplicate_iou"].values())


def test_detections_are_judged_strongest_first_and_ignored_regions_do_not_count():
    found = Detections(
        boxes=torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [52, 52, 56, 56], [70, 70, 80, 80]]),
        scores=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.1]),
        clicked=torch.tensor([False, False, False, False, True]),
        count=3.0,
    )
    rows = [{"bbox": [0, 0, 10, 10]}, {"bbox": [20, 20, 10, 10], "iscrowd": 0}, {"bbox": [50, 50, 8, 8], "iscrowd": 1}]
    judged = judge_prompt(found, rows)
    assert judged.right.tolist() == [True, False, True, False] and judged.objects == 2 and judged.density == 3.0
    assert judged.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.1])  # the fourth is centred in the ignored region
    # Otsu splits 0.9 0.8 0.7 0.6 from 0.1; 0.9 x 0.35 x (3.1 / 3)^0.3 = 0.318; the last was clicked
    assert judged.adaptive.all()
    (best,) = best_cuts([judged])
    assert best.tolist() == [True, True, True, False]  # F1 2/3, 2/4, 4/5, 4/6
    assert shown_f1([judged], [best]) == pytest.approx(4 / 5)
    assert shown_f1([judged, judged], [best, judged.scores > 1]) == pytest.approx(2 * 2 / (3 + 0 + 4))


def test_the_best_cuts_are_the_best_of_all_cuts_of_every_prompt():
    rng = np.random.default_rng(0)
    for _ in range(30):
        prompts = []
        for n in rng.integers(0, 5, 3).tolist():
            right = rng.random(n) < 0.4
            of_prompt = {
                "scores": -np.sort(-rng.random(n)),
                "adaptive": right,
                "objects": int(right.sum()) + int(rng.integers(0, 3)),
            }
            prompts.append(JudgedPrompt(right=right, density=0.0, **of_prompt))
        every = [[np.arange(len(p.scores)) < k for k in range(len(p.scores) + 1)] for p in prompts]
        highest = max(shown_f1(prompts, cuts) for cuts in itertools.product(*every))
        assert shown_f1(prompts, best_cuts(prompts)) == pytest.approx(highest)
    assert best_cuts([]) == []


def test_nothing_to_find_and_nothing_shown_is_no_fault():
    judged = judge_prompt(Detections(boxes=torch.zeros(0, 4), scores=torch.zeros(0), count=0.0), [])
    assert best_cuts([judged])[0].tolist() == [] and shown_f1([judged], [judged.adaptive]) == shown_f1([], []) == 1.0


def test_thresholds_are_compared_source_by_source(source, tmp_path):
    file, checkpoint = source
    results = compare_thresholds(checkpoint, [file], tmp_path / "thresholds.json", images=1, fixed=0.05)
    row = results["sources"]["source"]
    assert read_json(tmp_path / "thresholds.json")["sources"]["source"] == row and row["prompts"] >= 1
    f1 = row["f1"]
    assert f1["best_of_source"] >= f1["fixed"] and f1["oracle"] >= max(f1["fixed"], f1["adaptive"]) - 1e-9
    assert row["threshold"] == results["best_fixed"]  # of a single source the two are one
    assert results["mean"]["f1"] == {**f1, "best_fixed": f1["best_of_source"]}
    assert set(row["count_mae"]) == {"density", "fixed", "adaptive"}
