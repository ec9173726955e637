"""`dealkit.studies.claims`: tables, claims and series from hand-made rows; `data/paper.json`."""

import json
from dataclasses import fields

import matplotlib.pyplot as plt
import pytest
import torch
import yaml

from dealkit.config import Budget
from dealkit.data.coco import Sample
from dealkit.data.regimes import REGIMES
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.report.tables import beside_paper, claims_table, efficiency_table, race_table
from dealkit.studies.claims import (
    COLUMNS,
    MODEL_NAMES,
    NOT_REPRODUCED,
    NOT_RUN,
    PAPER_ROWS,
    REGIME_NAMES,
    REPRODUCED,
    check_claims,
    metrics_of,
    radar_series,
)
from dealkit.studies.efficiency_figures import labelled_view, race_figure, radar, regime_panel
from dealkit.studies.label_efficiency import ROWS

PAPER = read_json(PROJECT_ROOT / "data" / "paper.json")


def row(name, seed=0, domains=None, minutes=2.0, **metrics):
    regime, model, *rest = name.split(" ")
    values = {key: None for key in COLUMNS} | {"ap50_ignored": 0.2} | metrics
    cost = {"labelled_images": 12, "labels": 90, "images": 480, "steps": 60, "passes": 40.0, "minutes": minutes}
    of = {"row": name, "regime": regime, "model": model, "method": rest[0] if rest else "plain", "oracle": False}
    return of | {"seed": seed, "metrics": values, "domains": domains or {}, "cost": cost}


def like_the_paper():
    """Our rows with the paper's numbers, as shares."""
    theirs = {(r["regime"], r["method"]): r for r in PAPER["rows"]}
    rows = []
    for name, key in PAPER_ROWS.items():
        rows.append(row(name, **{c: None if theirs[key][c] is None else theirs[key][c] / 100 for c in COLUMNS}))
    rows.append(row("point fcos", ap25=0.1, ap50=0.0, ap75=0.0))
    return {"rows": rows}


def test_the_papers_numbers_are_there_in_per_cent():
    rows = {(r["regime"], r["method"]): r for r in PAPER["rows"]}
    assert rows["full", "RT-DETR"]["ap50"] == 43.1 and rows["noise40", "DN-TOD (FCOS)"]["ap75"] == 4.6
    assert rows["point", "Point Teacher"]["ap50_t"] is None  # not on the page
    assert len(rows) == len(PAPER["rows"]) == 6 + 4 + 4 + 3 * 3 + 3 * 3 + 5 + 2 + 1  # by regime
    for r in PAPER["rows"]:
        assert {"regime", "method", *COLUMNS} == set(r)
        values = [r[key] for key in ("ap25", "ap50", "ap75") if r[key] is not None]
        assert values == sorted(values, reverse=True) and all(0 <= v <= 100 for v in values)


def test_every_row_has_a_name_and_those_with_a_like_exist():
    assert {r.regime for r in ROWS} <= set(REGIMES) == set(REGIME_NAMES) and {r.model for r in ROWS} == set(MODEL_NAMES)
    names = [r.name for r in ROWS]
    assert len(set(names)) == len(names) and set(PAPER_ROWS) <= set(names)
    theirs = {(r["regime"], r["method"]) for r in PAPER["rows"]}
    assert set(PAPER_ROWS.values()) <= theirs
    assert names[-1] == "full deal published" and names[-2] == "full deal"


def test_a_table_has_a_row_per_method_mean_over_seeds():
    rows = [row("full fcos", 0, ap25=0.6, ap50=0.5, ap75=0.1, ap50_vt=0.25), row("full fcos", 1, ap25=0.8, ap50=0.7, ap75=0.3)]
    rows.append(row("zero template box", minutes=0.0, ap50=0.1) | {"model": "template box", "method": "plain"})
    lines = efficiency_table({"rows": rows}).splitlines()
    # AP50 0.5 and 0.7: mean 60, standard deviation 10 x sqrt(2)
    assert lines[2] == "| all labels | FCOS | 70.0 | 60.0 ± 14.1 | 20.0 | 25.0 | – | – | – | 20.0 | 12 | 40.0 | 2.0 | 2 |"
    assert lines[3].startswith("| none | template matching, box of one object | – | 10.0 |") and "| – | – | 1 |" in lines[3]
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_a_row_that_is_not_there_is_a_dash_beside_the_paper():
    lines = beside_paper({"rows": [row("full rtdetr", ap25=0.4, ap50=0.3, ap75=0.1)]}, PAPER).splitlines()
    assert "| all labels | RT-DETRv2 | RT-DETR | 40.0 | 30.0 | 10.0 | 57.2 | 43.1 | 12.1 |" in lines
    assert "| all labels | FCOS | FCOS | – | – | – | 66.3 | 49.5 | 17.1 |" in lines
    assert lines[-1].startswith("| one click per category | DEAL, one click per category | DEAL, one point per category |")
    assert metrics_of({"rows": []}, "full fcos") is None


def test_claims_without_rows_say_which_are_missing():
    claims = check_claims({"rows": []}, PAPER)
    assert len(claims) == 6 and {c.verdict for c in claims} == {NOT_RUN}
    assert claims[0].ours == "no row full deal, full rtdetr" and "43.1" in claims[0].paper
    assert claims_table(claims).count("**not run**") == 6


def test_the_papers_own_numbers_reproduce_its_claims():
    """What it does not state (AP75 of DEAL, the sizes of its semi-supervised rows) is set here."""
    results = like_the_paper()
    for r in results["rows"]:
        if r["row"] == "full deal":
            r["metrics"]["ap75"] = 0.159
        if r["regime"].startswith("semi"):
            r["metrics"] |= {"ap50_t": 0.2, "ap50_m": 0.5 if r["method"] == "plain" else 0.6}
    claims = check_claims(results, PAPER)
    assert [c.verdict for c in claims] == [REPRODUCED] * 6
    assert claims[2].ours == claims[2].paper == "80 %, 68 %, 16 %"  # 52.8 / 66.3, 33.5 / 49.5, 2.7 / 17.1
    assert claims[4].paper == "12 %, 23 %, 33 %"  # 5.1, 10.0, 14.2 of 43.2
    assert claims[5].ours == claims[5].paper == "72 % and 1 %"  # 47.8 / 66.3, 0.1 / 17.1


def test_claims_can_fail():
    results = like_the_paper()
    for r in results["rows"]:
        if r["row"] == "full deal":
            r["metrics"] |= {"ap50": 0.431, "ap75": 0.1}  # no better than RT-DETR
        if r["row"] == "noise40 fcos":
            r["metrics"] |= {"ap25": 0.3, "ap50": 0.4, "ap75": 0.17}
        if r["regime"].startswith("semi"):
            r["metrics"] |= {"ap50_t": 0.2 if r["method"] == "plain" else 0.3, "ap50_m": 0.5}
        if r["row"] == "sparse1 fcos":
            r["metrics"]["ap50"] = 0.3
        if r["row"] == "point fcos point_teacher":
            r["metrics"]["ap75"] = 0.1
    assert [c.verdict for c in check_claims(results, PAPER)] == [NOT_REPRODUCED] * 6


def test_series_are_means_over_seeds_by_domain():
    rows = [row("full fcos", s, {"a": v, "b": None}) for s, v in ((0, 0.2), (1, 0.4))]
    series = radar_series({"rows": rows}, {"FCOS": "full fcos", "DEAL": "full deal"})
    assert series == {"FCOS": {"a": pytest.approx(0.3), "b": None}}


def test_a_radar_has_an_axis_per_domain_and_a_line_per_method():
    figure = radar({"one": {"a": 0.1, "b": 0.2, "c": None}, "two": {"a": 0.3, "b": 0.2, "c": 0.1}}, title="AP50")
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["a", "b", "c"]
    assert [line.get_label() for line in ax.lines] == ["one", "two"] and ax.get_ylim()[1] == pytest.approx(
        40
    )  # 30 is the largest
    assert ax.lines[1].get_ydata().tolist() == pytest.approx([30, 20, 10, 30])


def test_a_panel_shows_the_image_once_per_regime():
    sample = Sample(
        image=torch.full((3, 20, 30), 99, dtype=torch.uint8),
        boxes=torch.tensor([[2.0, 2.0, 8.0, 8.0]]),
        labels=torch.zeros(1, dtype=torch.int64),
        image_id=1,
        crowd=torch.tensor([False]),
        annotation_ids=torch.tensor([1]),
        source="made",
    )
    reduced = {"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [2, 3, 4, 5]}, {"image_id": 1, "point": [9, 9]}]}
    assert labelled_view(sample, reduced, 2) is None
    assert labelled_view(sample, reduced, 1).boxes.tolist() == [[2, 3, 6, 8]]
    views = {"all": sample, "none": None, "points": sample, "more": sample, "last": sample}
    figure = regime_panel(views, points={"points": torch.tensor([[5.0, 5.0]])})
    assert [ax.get_title("left") for ax in figure.axes][:5] == list(views) and len(figure.axes) == 8
    assert json.dumps([len(ax.collections) for ax in figure.axes[:5]]) == "[2, 0, 1, 2, 2]"


def race_results():
    point = {"minutes": 1.0, "step": 30, "ap50": 0.1, "ap75": 0.01, "ap50_ignored": 0.05, "ap75_ignored": 0.0}
    plain = {"minutes": 2.04, "step": 90, "ap50": 0.3, "ap75": 0.0}
    deal = {"images_per_s": 2.0, "curve": [point, {**point, "minutes": 2.0, "step": 60, "ap50": 0.2}]}
    return {"models": {"deal": deal, "fcos": {"images_per_s": 3.04, "curve": [plain]}}}


def test_a_race_is_a_row_per_point_and_only_deal_has_clicked_objects():
    assert race_table(race_results()).splitlines()[2:] == [
        "| DEAL, one click per category | 2.0 | 1.0 | 30 | 10.0 | 1.0 | 5.0 |",
        "|  |  | 2.0 | 60 | 20.0 | 1.0 | 5.0 |",
        "| FCOS | 3.0 | 2.0 | 90 | 30.0 | 0.0 | – |",
    ]
    assert len(race_table({"models": {}}).splitlines()) == 2, "nothing run: the head alone"


def test_a_race_is_drawn_with_a_line_per_model_and_one_without_the_clicked():
    left, right = race_figure(race_results()).axes
    assert [list(line.get_ydata()) for line in left.lines] == [[10.0, 20.0], [5.0, 5.0], [30.0]]
    assert [list(line.get_ydata()) for line in right.lines] == [[1.0, 1.0], [0.0, 0.0], [0.0]]
    assert left.lines[1].get_label() == "DEAL, one click per category, clicked ignored"
    plt.close("all")


@pytest.mark.parametrize("name", ["domains", "realsmall"])
def test_the_notebooks_sweep_goes_on_with_the_published_one(name):
    """The same budget and the same models to start from: what is in the file is not refused as made with another request."""
    values = yaml.safe_load((PROJECT_ROOT / "notebooks" / "params" / f"06_label_efficient_benchmark_{name}.yml").read_text())
    request = read_json(PROJECT_ROOT / values["results"])["request"]
    budget = {key: values[key] for key in ("steps", "batch_size", "size", "hidden_dim")} | {"images": values.get("val_images", 0)}
    assert Budget(**budget) == Budget(**{field.name: request[field.name] for field in fields(Budget)})
    assert set(values["init"]) == set(request["init"]) and len(request["sources"]) == {"domains": 6, "realsmall": 18}[name]
