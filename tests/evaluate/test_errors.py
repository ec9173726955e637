import json

import hotcoco
import numpy as np
import pytest
from coco_cases import click, found, random_case, truth

from dealkit.clicks import make_clicks
from dealkit.config import DEFAULT_CHECKPOINT
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import in_order, part_of
from dealkit.evaluate.coco import evaluate
from dealkit.evaluate.errors import (
    DETECTION_TYPES,
    ERROR_TYPES,
    OBJECT_STATES,
    confusion_matrix,
    errors_json,
    errors_text,
    find_errors,
    oracle_gains,
)
from dealkit.files import read_json
from dealkit.model.checkpoint import load_model
from dealkit.predict.predictor import predict_coco

BOX = [100.0, 100.0, 10.0, 10.0]
HALF = [100.0, 100.0, 10.0, 4.0]  # inside BOX: IoU 0.4
SLIVER = [100.0, 100.0, 10.0, 0.5]  # IoU 0.05
FAR = [500.0, 500.0, 10.0, 10.0]


def types(coco: dict, rows: list[dict], **options) -> tuple[list[str], list[str]]:
    errors = find_errors(coco, rows, **options)
    return errors.detections["type"].tolist(), errors.objects["state"].tolist()


def noisy_case(seed: int) -> tuple[dict, list[dict]]:
    """Objects of three categories, none to be ignored, and detections of which many are shifted or of another category."""
    coco, rows, _ = random_case(seed)
    for row in coco["annotations"]:
        row.pop("iscrowd", None)
        row.pop("ignore", None)
    rng = np.random.default_rng(seed)
    for row in rows:
        row["category_id"] = int(rng.integers(3)) if rng.random() < 0.3 else row["category_id"]
        row["bbox"][0] += row["bbox"][2] * 0.45 * (rng.random() < 0.3)
        row["score"] = float(rng.random())
    return coco, rows


@pytest.mark.parametrize(
    ("rows", "kinds", "state"),
    [
        ([], [], "missed"),
        ([found(BOX, 0.9)], ["true"], "found"),
        ([found(HALF, 0.9)], ["localisation"], "localisation"),
        ([found(BOX, 0.9, category_id=2)], ["other category"], "other category"),
        ([found(HALF, 0.9, category_id=2)], ["both"], "missed"),
        ([found(BOX, 0.9), found(BOX, 0.8)], ["true", "duplicate"], "found"),
        ([found(FAR, 0.9)], ["background"], "missed"),
        ([found(SLIVER, 0.9)], ["background"], "missed"),
        ([found(BOX, 0.9, image_id=2)], ["background"], "missed"),
        # the weaker one stands first in the file: the order there does not matter
        ([found(BOX, 0.8), found(BOX, 0.9)], ["duplicate", "true"], "found"),
        # a loose box of its own category says more than a tight one of another
        ([found(HALF, 0.3), found(BOX, 0.9, category_id=2)], ["localisation", "other category"], "localisation"),
    ],
)
def test_each_kind_by_hand(rows, kinds, state):
    assert types(truth(BOX), rows) == (kinds, [state])


def test_detection_rests_on_its_strongest_mistake_and_names_the_object():
    coco = truth(FAR, BOX)
    rows = [found(HALF, 0.3), found(HALF, 0.6), found(FAR, 0.2, category_id=2)]
    errors = find_errors(coco, rows)
    assert errors.objects["annotation_id"].tolist() == [1, 2]
    assert errors.objects["state"].tolist() == ["other category", "localisation"]
    assert errors.objects["detection"].tolist() == [2, 1]
    assert errors.objects["iou"].round(6).tolist() == [1.0, 0.4]
    assert errors.objects["score"].tolist() == [0.2, 0.6]
    assert errors.detections["object"].tolist() == [1, 1, 0]
    assert errors.counts() == dict(zip(ERROR_TYPES, [1, 2, 0, 0, 0, 0], strict=True))
    assert errors.counts(min_score=0.5)["localisation"] == 1


def test_detections_that_do_not_count():
    rows = [found(BOX, 0.9), found(BOX, 0.8), found(BOX, 0.1)]
    assert types(truth(BOX), rows, max_dets=2)[0] == ["true", "duplicate", "not counted"]
    assert types(truth(BOX), rows, min_score=0.85)[0] == ["true", "not counted", "not counted"]


def test_ignored_objects_are_no_mistake():
    coco = truth(BOX, FAR)
    coco["annotations"][0]["iscrowd"] = 1
    assert types(coco, [found(BOX, 0.9), found(BOX, 0.8)]) == (["ignored", "ignored"], ["ignored", "missed"])
    coco["annotations"][0]["iscrowd"] = 0
    errors = find_errors(coco, [found(BOX, 0.9)], click(coco, 1), ignore_clicked=True)
    assert (errors.objects["state"].tolist(), errors.objects["clicked"].tolist()) == (["ignored", "missed"], [True, False])
    assert errors.detections["object"].tolist() == [0]


def test_clicked_object_is_no_excuse_for_another_category():
    coco = truth(BOX)
    rows = [found(BOX, 0.9), found(BOX, 0.8, category_id=2)]
    errors = find_errors(coco, rows, click(coco, 1), ignore_clicked=True)
    assert errors.detections["type"].tolist() == ["ignored", "other category"]
    assert errors.objects["state"].tolist() == ["ignored"]
    coco["annotations"][0]["iscrowd"] = 1
    assert types(coco, rows)[0] == ["ignored", "background"]


def test_objects_of_a_pair_without_prompt_are_marked():
    coco = truth(BOX)
    coco["annotations"].append({"id": 2, "image_id": 1, "category_id": 2, "bbox": FAR})
    assert find_errors(coco, [], click(coco, 1)).objects["prompted"].tolist() == [True, False]
    assert find_errors(coco, []).objects["prompted"].all()


def test_thresholds_are_arguments():
    assert types(truth(BOX), [found(HALF, 0.9)], foreground=0.35)[0] == ["true"]
    assert types(truth(BOX), [found(SLIVER, 0.9)], background=0.04)[0] == ["localisation"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_dets": 0}, "max_dets: expected at least 1, got 0"),
        ({"foreground": 0.1}, "thresholds: expected 0 < background < foreground <= 1, got 0.1 and 0.1"),
        ({"ignore_clicked": True}, "ignore_clicked: expected a click list, too"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        find_errors(truth(BOX), [], **options)


def test_bad_rows_are_named(tmp_path):
    file = tmp_path / "found.json"
    file.write_text(json.dumps([{"image_id": 1, "category_id": 7, "bbox": BOX, "score": 1}]))
    with pytest.raises(ValueError, match=r"found.json: predictions\[0\].category_id: expected an id of the ground truth, got 7"):
        find_errors(truth(BOX), file)


def test_empty_inputs():
    nothing = {"images": [], "categories": [], "annotations": []}
    made = errors_json(find_errors(nothing, []))
    assert made["ap50"] is None
    assert set(made["gain"].values()) == {None}
    assert made["confusion"]["matrix"] == []
    assert "AP50 –" in errors_text(made)
    assert types({"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": []}, []) == ([], [])


def test_confusion_counts_what_the_detections_lie_on():
    coco = truth(BOX)
    coco["annotations"].append({"id": 2, "image_id": 1, "category_id": 2, "bbox": FAR})
    rows = [found(BOX, 0.9), found(BOX, 0.8), found(FAR, 0.7), found([0, 0, 5, 5], 0.6), found(BOX, 0.5, category_id=2)]
    rows += [found(FAR, 0.1, category_id=2)]  # not shown
    matrix = confusion_matrix(find_errors(coco, rows), min_score=0.25)
    # cell: two on the cell (one a duplicate), one on the dust, one on nothing; dust: one on the cell
    assert matrix.tolist() == [[2, 1, 1], [1, 0, 0]]


def test_gains_by_hand():
    # one category, two objects: the first is found after a background box, the second has a loose box only
    coco = truth(BOX, FAR)
    rows = [found([0, 0, 5, 5], 0.9), found(BOX, 0.8), found([500, 500, 10, 4], 0.7)]
    gains = oracle_gains(find_errors(coco, rows))
    half = 51 / 101  # recall 0.5
    assert gains["ap50"] == pytest.approx(half * 1 / 2)
    without = gains["without"]
    assert without["background"] == pytest.approx(half)
    assert without["localisation"] == pytest.approx(2 / 3)  # precision 2/3 at full recall, and so before it
    assert without["all false positives"] == pytest.approx(half)
    assert without["all misses"] == pytest.approx(1 / 2)
    for kind in ("missed", "both", "duplicate", "other category"):
        assert gains["gain"][kind] == pytest.approx(0)


@pytest.mark.parametrize("seed", range(3))
def test_found_and_ap_are_those_of_the_evaluation(seed):
    coco, rows, clicks = random_case(seed)
    for ignore in (False, True):
        errors = find_errors(coco, rows, clicks, ignore_clicked=ignore, max_dets=7)
        scores = evaluate(coco, rows, clicks, max_dets=7)["clicked_ignored" if ignore else "all"]
        assert oracle_gains(errors)["ap50"] == pytest.approx(scores["ap50"], abs=1e-12)
    assert set(errors.objects["state"]) <= set(OBJECT_STATES)
    assert set(errors.detections["type"]) <= set(DETECTION_TYPES)


def assert_as_hotcoco(coco: dict, rows: list[dict], thresholds: tuple[float, float]) -> dict[str, int]:
    """Kinds of mistakes and oracle gains equal those of hotcoco; returns the kinds."""
    reference = hotcoco.COCO(coco)
    run = hotcoco.COCOeval(reference, reference.load_res(rows), "bbox")
    run.params.max_dets = [1500]
    run.params.iou_thrs = [thresholds[0]]
    run.evaluate()
    theirs = run.tide_errors(pos_thr=thresholds[0], bg_thr=thresholds[1])
    errors = find_errors(coco, rows, foreground=thresholds[0], background=thresholds[1])
    gains = oracle_gains(errors)
    names = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), ERROR_TYPES, strict=True))
    assert errors.counts() == {ours: theirs["counts"][name] for name, ours in names.items()}
    assert gains["ap50"] == pytest.approx(theirs["ap_base"], abs=1e-9)
    for name, ours in (names | {"FP": "all false positives", "FN": "all misses"}).items():
        assert gains["gain"][ours] == pytest.approx(theirs["delta_ap"][name], abs=1e-9), ours
    return errors.counts()


@pytest.mark.parametrize(("seed", "thresholds"), [(0, (0.5, 0.1)), (1, (0.5, 0.1)), (2, (0.25, 0.05)), (3, (0.75, 0.3))])
def test_kinds_and_gains_are_those_of_hotcoco(seed, thresholds):
    coco, rows = noisy_case(seed)
    anns = [a | {"area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0, "id": a["id"] + 1} for a in coco["annotations"]]
    assert min(assert_as_hotcoco(coco | {"annotations": anns}, rows, thresholds).values()) > 0


@pytest.mark.parametrize("source", ["hemocytometer", "pcb_joints"])
def test_kinds_and_gains_of_a_real_run_are_those_of_hotcoco(source, real_data):
    file = real_data / "realsmall" / source / "val.json"
    coco = read_json(file)
    coco = part_of(coco, images=in_order({image["id"] for image in coco["images"]}, 0)[:5])
    clicks = make_clicks(coco, setting="1/category", seed=0)
    rows = predict_coco(load_model(DEFAULT_CHECKPOINT), CocoFolder(file, file.parent / "images"), [clicks])[0]
    assert sum(assert_as_hotcoco(coco, rows, (0.5, 0.1)).values()) > 20


def test_json_and_text_can_be_read_back():
    coco, rows = noisy_case(0)
    made = errors_json(find_errors(coco, rows, make_clicks(coco, setting="1/category", seed=0)), min_score=0.4)
    again = json.loads(json.dumps(made))
    assert again == made
    assert len(again["objects"]["annotation_id"]) == len(coco["annotations"])
    assert len(again["detections"]["type"]) == len(rows)
    of = [i for i in again["detections"]["annotation_id"] if i is not None]
    assert set(of) <= {row["id"] for row in coco["annotations"]}
    text = errors_text(made)
    for kind in ERROR_TYPES:
        assert kind in text
