import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dealkit.clicks import make_clicks
from dealkit.data.scenes.plan import TWINS
from dealkit.evaluate.errors import ERROR_TYPES, confusion_matrix, find_errors
from dealkit.evaluate.factors import FACTORS
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.model.checkpoint import load_model
from dealkit.studies import failure_figures
from dealkit.studies.controlled import STEPS
from dealkit.studies.failures import cause_table, compare, failure_report, failure_text, predictions_of

pytestmark = pytest.mark.usefixtures("float32_cpu")
RESULTS = PROJECT_ROOT / "data" / "results"


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def observed_of(importance: dict[str, float], span: tuple[float, float] = (0.0, 10.0)) -> dict:
    factors = {name: {"label": name, "range": list(span), "drop": 0.1, "bins": []} for name in FACTORS}
    return {"factors": factors, "model": {"importance": {k: {"mean": v, "spread": 0.0} for k, v in importance.items()}}}


def levels_of(*rows: tuple[float, float, float]) -> dict:
    return {"levels": [{"level": level, "measured": measured, "shown": shown} for level, measured, shown in rows]}


def test_report_of_two_sources_is_written_and_goes_on(make_coco, checkpoint, tmp_path, monkeypatch):
    box = [[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [70, 10, 10, 10], 0)], [(9, [20, 20, 8, 8], 0)]]
    files = [make_coco("one", box), make_coco("two", box)]
    out, folder = tmp_path / "out.json", tmp_path / "kept"
    made = failure_report(checkpoint, files, out, folder=folder)
    assert set(made["sources"]) == {"one", "two"} and made["observed"]["model"] is None
    assert made["observed"]["all"]["objects"] == 2  # one bolt in each source was not clicked
    assert set(made["mean"]["gain"]) >= set(ERROR_TYPES)
    assert json.loads(out.read_text())["request"]["clicked"] == "ignored"
    assert "too few objects" in failure_text(made)
    monkeypatch.setattr("dealkit.studies.failures.predict_coco", lambda *_: pytest.fail("predictions were kept"))
    again = failure_report(checkpoint, files, out, folder=folder)
    assert again["sources"] == made["sources"]


def test_predictions_of_the_first_images_only(make_coco, checkpoint, tmp_path):
    file = make_coco("one", [[(5, [10, 12, 6, 8], 0)], [(5, [10, 12, 6, 8], 0)]])
    truth, found, clicks = (read_json(p) for p in predictions_of(load_model(checkpoint), file, tmp_path / "k", images=1))
    assert [image["id"] for image in truth["images"]] == [1] and {row["image_id"] for row in found} == {1}
    assert len(clicks["prompts"]) == 1


def test_causes_are_compared_within_the_range_that_occurs():
    found = observed_of({"size": 0.3, "contrast": 0.2, "blur": 0.1, "clutter": 0.0})
    set_ = {"factors": {"size": levels_of((1, 0, 0.5), (2, 10, 0.9), (3, 99, 0.0))}}  # what lies beyond 10 does not occur
    set_["factors"] |= {"contrast": levels_of((1, 0, 0.5), (2, 10, 0.8)), "blur": levels_of((1, 0, 0.5), (2, 10, 0.6))}
    set_["factors"] |= {"clutter": levels_of((1, 0, 0.2), (2, 10, 0.9))}
    compared = compare(found, set_)
    assert compared["rows"]["size"]["controlled_drop"] == pytest.approx(0.4)
    assert compared["observed"] == ["size", "contrast", "blur"]
    assert compared["controlled"] == ["clutter", "size", "contrast"]
    assert compared["shared"] == ["size", "contrast"]
    # importance 1 2 3 4, controlled 2 3 4 1: Spearman 1 - 6 (1 + 1 + 1 + 9) / (4 x 15)
    assert compared["rank_correlation"] == pytest.approx(1 - 6 * 12 / 60)
    table = cause_table(compared)
    assert "| size, px ◦ • | 0.300 | 10.0 | 40.0 |" in table and table.count("\n") == len(FACTORS) + 3


def test_a_level_that_moves_no_measurement_counts_over_all_levels():
    found = observed_of({"truncated": 0.1, "click_offset": 0.1}, span=(0.0, 0.0))
    rows = levels_of((-2, 0, 0.9), (0, 1, 0.6), (0.5, 1, 0.3))
    compared = compare(found, {"factors": {"truncated": rows}})
    assert compared["rows"]["truncated"]["controlled_drop"] == pytest.approx(0.6)
    assert compared["rank_correlation"] is None


def test_pictures_of_cases_show_the_worst_first(make_coco):
    file = make_coco(
        "one", [[(5, [10, 12, 6, 8], 0), (5, [50, 40, 12, 12], 0), (5, [30, 30, 8, 8], 0), (9, [70, 10, 10, 10], 0)]]
    )
    truth = read_json(file)
    clicks = make_clicks(truth, setting="1/category", seed=0)
    rows = [{"image_id": 1, "category_id": 5, "bbox": [0, 55, 5, 5], "score": 0.5}]
    rows += [{"image_id": 1, "category_id": 5, "bbox": [5, 1, 5, 5], "score": 0.9}]
    rows += [{"image_id": 1, "category_id": 5, "bbox": [70, 10, 10, 10], "score": 0.4}]
    errors = find_errors(truth, rows, clicks, ignore_clicked=True)
    false = failure_figures.with_boxes(failure_figures.examples(errors, truth, clicks, "background", each=2), rows)
    assert [case["box"] for case in false] == [[5, 1, 5, 5], [0, 55, 5, 5]] and len(false[0]["shown"]) == 3
    (other,) = failure_figures.examples(errors, truth, clicks, "other category")
    assert (other["wanted"], other["got"]) == ("bolt", "nut")
    clicked = set(clicks["prompts"][0]["annotation_ids"])
    missed = failure_figures.with_boxes(failure_figures.examples(errors, truth, clicks, "missed", each=9), rows)
    areas = sorted((a["bbox"][2] * a["bbox"][3] for a in truth["annotations"][:3] if a["id"] not in clicked), reverse=True)
    assert [case["box"][2] * case["box"][3] for case in missed] == areas
    ranked = failure_figures.examples(errors, truth, clicks, "missed", rank={1: 1.0, 2: 2.0, 3: 3.0}, most=1)
    assert ranked[0]["box"] == truth["annotations"][max({1, 2, 3} - clicked) - 1]["bbox"]
    figure = failure_figures.draw_examples([(case, file.parent / "images") for case in [*missed, *false]])
    assert len(figure.axes) == 6
    assert failure_figures.draw_examples([]) is None
    assert failure_figures.most_confused(errors, confusion_matrix(errors)) == [("bolt", "nut", 1, 3)]
    states = failure_figures.object_states(errors)
    assert sum(states.values()) == 2
    failure_figures.state_bars({"one": states})


def test_curves_of_any_results_can_be_drawn():
    bins = [{"middle": x, "shown": x / 10, "interval": [0.0, 1.0]} for x in (1, 2, 4)]
    figure = failure_figures.factor_curves(
        {name: {"bins": bins} for name in FACTORS}, {"size": levels_of((1, 1, 0.2), (2, 2, 0.4))}
    )
    assert sum(ax.axison for ax in figure.axes) == len(FACTORS)
    failure_figures.factor_curves({"size": {"bins": []}}, {})
    failure_figures.gain_bars({"ap50": 0.5, "gain": dict.fromkeys(ERROR_TYPES, 0.1) | {"missed": None, "all misses": 0.2}})
    rows = {"levels": [{"step": s, "confused": None, "ap50": 0.5} for s in (0, 1)]}
    failure_figures.step_curves({"hue": rows}, {name: unit for name, (_, _, unit) in TWINS.items()})
    failure_figures.scale_bars({"ap50": 0.5, "4-8": 0.3, "8-16": None})
    failure_figures.importance_bars({"auc": 0.7, "importance": {"size": {"mean": 0.1, "spread": 0.0}}})


@pytest.mark.skipif(not (RESULTS / "controlled_nano.json").is_file(), reason="needs data/results/controlled_nano.json")
def test_committed_controlled_results_are_complete():
    made = read_json(RESULTS / "controlled_nano.json")
    assert set(made["fine_grained"]) == set(STEPS)
    for name, rows in made["fine_grained"].items():
        assert [row["step"] for row in rows["levels"]] == list(STEPS[name])
    for rows in made["factors"].values():
        assert all(0 <= row["shown"] <= row["recall"] <= 1 for row in rows["levels"])
    hue = made["fine_grained"]["hue"]["levels"]
    assert np.abs(hue[0]["confused"] - 0.5) < 0.1  # without a difference the kinds are taken for each other as often as not
