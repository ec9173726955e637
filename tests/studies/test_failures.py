"""Reports of mistakes and causes: what they hold, that a finished one is kept, causes compared by hand, the worst cases first."""

import pytest

from dealkit.clicks import make_clicks
from dealkit.data.images import read_image
from dealkit.evaluate.errors import ERROR_TYPES, find_errors
from dealkit.evaluate.factors import FACTORS
from dealkit.figures import draw_cases
from dealkit.files import read_json
from dealkit.model.checkpoint import load_model
from dealkit.studies.failures import compare_causes, failure_report, predictions_of, worst_cases

pytestmark = pytest.mark.usefixtures("float32_cpu")


def observed_of(importance, span=(0.0, 10.0)):
    """Rows of a report whose factors all have one range."""
    row = {"part": "factor", "range_low": span[0], "range_high": span[1]}
    return [{**row, "factor": name, "importance": importance.get(name)} for name in FACTORS]


def levels_of(factor, *rows):
    return [{"part": "level", "factor": factor, "level": level, "measured": m, "shown": s} for level, m, s in rows]


def test_a_report_of_two_sources_is_finished_once(make_coco, checkpoint, tmp_path):
    box = [[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [70, 10, 10, 10], 0)], [(9, [20, 20, 8, 8], 0)]]
    files, out, folder = [make_coco("one", box), make_coco("two", box)], tmp_path / "out.json", tmp_path / "kept"
    made = failure_report(checkpoint, files, out, folder=folder)
    one, two = (row for row in made.rows if row["part"] == "source")
    assert (one["source"], two["source"]) == ("one", "two") and set(one["gain"]) >= set(ERROR_TYPES)
    assert sum(one["states"].values()) == 4 and one["states"]["ignored"] == 3  # the clicked ones
    every = made.rows[-1]
    assert every["part"] == "all" and every["objects"] == 2 and every["auc"] is None  # one bolt of each was not clicked
    assert read_json(out)["request"]["clicked"] == "ignored"
    for file in files:
        file.unlink()  # no longer needed
    assert failure_report(checkpoint, files, out, folder=folder).rows == made.rows


def test_predictions_of_the_first_images_are_kept(make_coco, checkpoint, tmp_path):
    file = make_coco("one", [[(5, [10, 12, 6, 8], 0)], [(5, [10, 12, 6, 8], 0)]])
    paths = predictions_of(load_model(checkpoint), file, tmp_path / "k", images=1)
    truth, found, clicks = (read_json(path) for path in paths)
    assert [image["id"] for image in truth["images"]] == [1] and {row["image_id"] for row in found} == {1}
    assert len(clicks["prompts"]) == 1
    assert predictions_of(None, file, tmp_path / "k", images=1) == paths


def test_causes_are_compared_within_the_range_that_occurs():
    levels = levels_of("size", (1, 0, 0.5), (2, 10, 0.9), (3, 99, 0.0))  # what lies beyond 10 does not occur
    levels += levels_of("contrast", (1, 0, 0.5), (2, 10, 0.8)) + levels_of("blur", (1, 0, 0.5), (2, 5, 0.5), (3, 20, 0.8))
    made = compare_causes(observed_of({"contrast": 0.3, "size": 0.2, "blur": 0.1}), levels).set_index("factor")
    assert made.index[:3].tolist() == ["contrast", "size", "blur"] and len(made) == len(FACTORS)
    # blur: 0.5 up to 5, then a line to 0.8 at 20, of which a third lies within
    assert made["controlled_drop"].dropna().to_dict() == pytest.approx({"size": 0.4, "contrast": 0.3, "blur": 0.1})


def test_a_level_that_moves_no_measurement_counts_over_all_levels():
    rows = levels_of("truncated", (-2, 0, 0.9), (0, 1, 0.6), (0.5, 1, 0.3))
    made = compare_causes(observed_of({}, span=(0.0, 0.0)), rows).set_index("factor")
    assert made["controlled_drop"].dropna().to_dict() == pytest.approx({"truncated": 0.6})


def test_the_worst_cases_come_first(make_coco):
    of_image = [(5, [10, 12, 6, 8], 0), (5, [50, 40, 12, 12], 0), (5, [30, 30, 8, 8], 0), (9, [70, 10, 10, 10], 0)]
    file = make_coco("one", [of_image, of_image[:1] + of_image[2:3]])
    truth = read_json(file)
    clicks = make_clicks(truth, setting="1/category", seed=0)
    rows = [([0, 55, 5, 5], 0.5), ([5, 1, 5, 5], 0.9), ([70, 10, 10, 10], 0.4), ([80, 60, 5, 5], 0.1)]
    rows = [{"image_id": 1, "category_id": 5, "bbox": box, "score": score} for box, score in rows]
    rows += [rows[0] | {"image_id": 2, "score": 0.95}]
    errors = find_errors(truth, rows, clicks, ignore_clicked=True)
    false = worst_cases(errors, truth, rows, clicks, "background")
    assert [(case["box"], case["score"]) for case in false] == [([0, 55, 5, 5], 0.95), ([5, 1, 5, 5], 0.9)]
    assert len(false[1]["shown"]) == len(false[1]["objects"]) == 3  # of four detections one is too weak
    (other,) = worst_cases(errors, truth, rows, clicks, "other category")
    assert (other["wanted"], other["got"]) == ("bolt", "nut")
    missed = worst_cases(errors, truth, rows, clicks, "missed")
    clicked = {i for prompt in clicks["prompts"] for i in prompt["annotation_ids"]}
    areas = [max(a["area"] for a in truth["annotations"] if a["image_id"] == i and a["id"] not in clicked) for i in (1, 2)]
    assert [case["box"][2] * case["box"][3] for case in missed] == sorted(areas, reverse=True)
    assert len(worst_cases(errors, truth, rows, clicks, "missed", most=1)) == 1
    image = read_image(file.parent / "images" / "0.png")
    figure = draw_cases([(case, image) for case in [*missed, other]], columns=2)
    assert [ax.get_title() for ax in figure.axes if ax.axison and ax.get_title()] == ["bolt", "bolt", "bolt 0.40\non nut"]
    assert draw_cases([]) is None
