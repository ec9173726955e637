"""`dealkit.studies.label_efficiency`: labels of every row, resuming and skipping, with trainings of one step."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dealkit.config import Budget, DetectorRun, RunConfig
from dealkit.data.coco import CocoFolder
from dealkit.files import read_json, sha_of
from dealkit.model.checkpoint import save_model
from dealkit.studies.label_efficiency import best_rates, label_efficiency, rate_check, score_row
from dealkit.studies.label_rows import ROWS, Row, applies, learned_from, row_run
from dealkit.train.stream import open_sources

pytestmark = pytest.mark.usefixtures("float32_cpu")

TINY = Budget(steps=1, batch_size=2, size=64, backbone="pico", hidden_dim=32)


@pytest.fixture
def files(make_sources):
    """Two sources of three images."""
    objects = [[(5, [10 + 20 * i, 12, 8, 8], 0) for i in range(3)] + [(9, [70, 40, 10, 10], 0)]] * 3
    root = make_sources(one=objects, two=objects)
    return [root / name / "train.json" for name in ("one", "two")]


def names(results):
    return [row["row"] for row in results.rows]


def test_a_row_is_trained_on_the_labels_of_its_regime(files, tmp_path):
    def read(row):
        run, cost = row_run(row, files, tmp_path, 0, TINY)
        folders = [CocoFolder(*entry.split(":"), source="x") for entry in run.data.coco]
        boxes = torch.cat([f.boxes for f in folders])
        return boxes, torch.cat([f.crowd for f in folders]), sum(map(len, folders)), cost

    boxes, crowd, images, cost = read(Row("full", "fcos"))
    assert (len(boxes), images, cost) == (24, 6, {"labels": 24, "labelled_images": 6, "drawn_from": 6})
    boxes, crowd, images, cost = read(Row("semi5", "fcos"))  # one image of each source
    assert (len(boxes), images, cost["labelled_images"]) == (8, 2, 2) and not crowd.any()
    boxes, crowd, images, cost = read(Row("semi5", "fcos", "mean_teacher"))  # the others are covered
    assert images == 6 and crowd.sum() == 4 and cost == {"labels": 8, "labelled_images": 2, "drawn_from": 6}
    assert boxes[crowd].tolist() == [[0, 0, 90, 70]] * 4
    assert len(read(Row("sparse1", "fcos"))[0]) == 12
    points = read(Row("point", "fcos"))[0]
    assert ((points[:, 2:] - points[:, :2]) == 16).all()


def test_all_rows_share_images_and_schedule(files, tmp_path):
    trained = [row for row in ROWS if row.regime == "full" and row.model != "deal published"]
    runs = [row_run(row, files, tmp_path, 3, Budget(steps=50))[0] for row in trained]
    assert len({str(run.train) for run in runs}) == 1 and runs[0].train.seed == 3 and runs[0].train.warmup == 10
    assert len({str(run.data) for run in runs}) == 1 and runs[0].data.synthetic == 0
    assert {type(run) for run in runs} == {RunConfig, DetectorRun}
    oracle = row_run(Row("full", "fcos", oracle=True), files, tmp_path, 0, TINY)[0]
    assert oracle.detector.categories == ("bolt", "nut")


def test_unlabelled_images_come_on_top_of_as_many_labelled_ones(files, tmp_path):
    plain, teacher = (row_run(Row("semi5", "fcos", m), files, tmp_path, 0, TINY)[0] for m in ("plain", "mean_teacher"))
    assert (plain.train.batch_size, teacher.train.batch_size) == (2, 4)
    sources, shares = open_sources(teacher.data.coco, teacher.data.weights, teacher.data.temperature)
    assert [len(source) for source in sources] == [1, 2, 1, 2] and shares == pytest.approx([0.25] * 4), "half show labels"
    assert row_run(Row("sparse1", "fcos", "mining"), files, tmp_path, 0, TINY)[0].train.batch_size == 2


def test_a_source_has_the_same_share_of_the_crops_in_every_regime(files, tmp_path):
    small = read_json(files[1])
    kept = {small["images"][0]["id"]}
    small |= {"images": small["images"][:1], "annotations": [a for a in small["annotations"] if a["image_id"] in kept]}
    files[1].write_text(json.dumps(small))
    full, few = (row_run(Row(regime, "fcos"), files, tmp_path, 0, TINY)[0].data for regime in ("full", "semi5"))
    images, shares = zip(*(open_sources(data.coco, data.weights, data.temperature) for data in (full, few)), strict=True)
    assert [[len(source) for source in of] for of in images] == [[3, 1], [1, 1]]
    assert shares[0] == pytest.approx(shares[1]) and shares[0][0] == pytest.approx(3**0.3 / (3**0.3 + 1))


def test_rows_that_cannot_be_are_left_out(files):
    oracle = Row("full", "fcos", oracle=True)
    assert applies(oracle, files, None) and not applies(Row("full", "deal published"), files, None)
    val = read_json(files[0].with_name("val.json"))
    val["categories"].append({"id": 11, "name": "screw"})
    files[0].with_name("val.json").write_text(json.dumps(val))
    assert not applies(oracle, files, None)


def test_a_sweep_goes_on_where_it_was_stopped_and_grows(files, tmp_path):
    rows, out = [Row("full", "fcos"), Row("noise40", "fcos", "label_correction")], tmp_path / "out"
    first = label_efficiency(files, out, rows=rows[1:], budget=TINY, results=tmp_path / "r.json")
    assert names(first) == ["noise40 fcos label_correction"] and list(first.request["sources"]) == ["one", "two"]
    both = label_efficiency(files, out, rows=rows, seeds=2, budget=TINY, results=tmp_path / "r.json")
    made = [(row["row"].split()[0], row["seed"]) for row in both.rows]
    assert made == [("noise40", 0), ("full", 0), ("full", 1), ("noise40", 1)]
    assert len(list(out.glob("runs/*/training.json"))) == 4 and not list(out.glob("runs/*/state.pt"))
    assert read_json(tmp_path / "r.json")["rows"] == both.rows and both.rows[0] == first.rows[0]
    row = both.rows[1]
    assert (row["steps"], row["crops"], row["passes"], row["labels"]) == (1, 2, 0.33, 24) and row["minutes"] >= 0
    assert {"ap50 in one", "ap50 in two"} < set(row) and 0 <= row["ap50"] <= 1
    options = {"rows": [Row("zero", "template box")], "budget": replace(TINY, steps=2)}
    other = label_efficiency(files, out, results=tmp_path / "r.json", **options)
    assert names(other) == ["zero template box"], "rows of another budget do not stand in one table"


def test_the_labels_that_a_method_makes_are_scored_against_all_boxes(files, tmp_path):
    """One labelled image of each source, two without labels: 16 objects that labels can be made for."""
    row, budget = Row("semi5", "fcos", "mean_teacher"), replace(TINY, steps=2, points=1)
    batches = learned_from(row_run(row, files, tmp_path, 0, budget)[0], files, 8)
    assert [[len(of.boxes) for of in targets] for targets, _, _ in batches] == [[4, 0, 0]] * 2
    assert [[len(boxes) for boxes in truth] for _, _, truth in batches] == [[4, 4, 4]] * 2
    made = score_row(row, files, tmp_path, seed=0, budget=budget)
    assert [step for step, _, _ in made["label_curve"]] == [2] and made["label_curve"][0][2] <= 1
    assert "label_curve" not in score_row(Row("semi5", "fcos"), files, tmp_path, seed=0, budget=budget)


def test_a_training_is_scored_on_the_way_at_equal_steps(files, tmp_path):
    budget = replace(TINY, steps=4, points=2)
    made = label_efficiency(files, tmp_path, rows=[Row("full", "fcos"), Row("zero", "template box")], budget=budget)
    curve = made.rows[0]["curve"]
    assert [step for step, _ in curve] == [2, 4] and "curve" not in made.rows[1]
    means = [made.rows[0][f"ap50 in {name}"] for name in ("one", "two")]
    assert curve[-1][1] == pytest.approx(sum(means) / 2)
    with pytest.raises(ValueError, match="Budget.points: expected at most steps = 1, got 2"):
        replace(TINY, points=2)


def test_every_model_has_the_best_rate_of_its_own(files, tmp_path):
    checked = rate_check(files, tmp_path, models=("fcos", "deal"), rates=(1e-4, 1e-3), budget=TINY)
    assert [(row["model"], row["rate"]) for row in checked.rows] == [(m, r) for m in ("fcos", "deal") for r in (1e-4, 1e-3)]
    assert {file["config"]["train"]["lr"] for file in map(read_json, tmp_path.glob("runs/*/training.json"))} == {1e-4, 1e-3}
    rates = best_rates(checked.rows)
    made = label_efficiency(files, tmp_path, rows=[Row("full", "fcos")], budget=TINY, rates=rates)
    assert made.request["rates"] == rates and len(list(tmp_path.glob("runs/*"))) == 4, "a training of the check stands for a row"


def test_all_models_start_from_the_same_backbone():
    for model in ("fcos", "rtdetr", "deal"):
        run = row_run(Row("full", model), [], Path("unused"), 0, Budget())[0]
        settings = run.model if model == "deal" else run.detector
        assert (settings.backbone, settings.pretrained, settings.frozen, settings.hidden_dim) == ("lite0", True, True, 128)


def test_a_new_checkpoint_takes_the_place_of_the_published_row(files, tmp_path, make_tiny):
    for seed in (0, 1):
        published = tmp_path / f"{seed}.safetensors"
        save_model(make_tiny(seed), published)
        made = label_efficiency(files, tmp_path, rows=[Row("full", "deal published")], budget=TINY, checkpoint=published)
        assert [row["checkpoint"] for row in made.rows] == [sha_of(published)]


def test_templates_are_scored_on_the_first_val_images(files, tmp_path):
    made = score_row(Row("zero", "template box"), files, tmp_path, seed=0, budget=replace(TINY, images=2))
    assert made["hit"] == 1 and made["minutes"] == 0 and made["ap50"] > 0.5
    part = read_json(tmp_path / "val-2" / "one" / "val.json")
    assert [r["id"] for r in part["images"]] == [1, 2] and {r["image_id"] for r in part["annotations"]} == {1, 2}


def test_bad_input_is_named(files, tmp_path):
    with pytest.raises(ValueError, match="files: .*train.json"):
        label_efficiency([], tmp_path)
    files[1].with_name("val.json").unlink()
    with pytest.raises(ValueError, match="two/val.json: no such file"):
        label_efficiency(files, tmp_path)
    with pytest.raises(ValueError, match="Budget.steps: .*got 0"):
        Budget(steps=0)


@pytest.mark.slow
def test_deal_is_trained_with_the_same_budget(files, tmp_path):
    made = score_row(Row("full", "deal"), files, tmp_path, seed=0, budget=TINY)
    assert made["steps"] == 1 and made["hit"] is not None
