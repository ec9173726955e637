"""`dealkit.studies.label_efficiency`: labels of every row, pooling of sources, resuming and skipping; one real training."""

import json
from dataclasses import replace

import pytest
import torch

import dealkit.studies.label_efficiency
import dealkit.train.loop
from dealkit.baselines.detector import Detector
from dealkit.baselines.scoring import one_class
from dealkit.clicks import make_clicks
from dealkit.config import Budget, DetectorConfig, DetectorRun, RunConfig
from dealkit.data.coco import CocoFolder
from dealkit.files import read_json, sha_of
from dealkit.model.checkpoint import save_model
from dealkit.studies.label_efficiency import ROWS, Row, applies, make_run, pooled, run_row, run_rows, val_file, write_regime

pytestmark = pytest.mark.usefixtures("float32_cpu")

TINY = Budget(steps=1, batch_size=2, size=64)


@pytest.fixture
def files(make_coco, monkeypatch):
    """Two sources with train.json and val.json of three images."""
    monkeypatch.setattr(dealkit.train.loop, "tensorboard", lambda out: None)
    made = []
    for name in ("one", "two"):
        objects = [[(5, [10 + 20 * i, 12, 8, 8], 0) for i in range(3)] + [(9, [70, 40, 10, 10], 0)]] * 3
        file = make_coco(name, objects)
        file.rename(file.with_name("train.json"))
        file.with_name("val.json").write_text(file.with_name("train.json").read_text())
        made.append(file.with_name("train.json"))
    return made


@pytest.fixture
def quick(monkeypatch):
    """No training: a detector with random weights that is counted."""
    trained = []

    def train(run, out, *, resume=False, init=None):
        trained.append((run, resume, init))
        out.mkdir(parents=True)
        torch.manual_seed(run.train.seed)
        save_model(Detector(DetectorConfig(hidden_dim=32)), out / "model.safetensors")
        (out / "state.pt").touch()
        return [{"step": 1, "minutes": 0.5}]

    monkeypatch.setattr(dealkit.studies.label_efficiency, "train_with", train)
    return trained


def test_a_row_is_trained_on_the_labels_of_its_regime(files, tmp_path):
    def read(row):
        entries, cost = write_regime(row, files, tmp_path, 0)
        run = make_run(row, entries, files, 0, TINY)
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


def test_all_rows_share_data_and_schedule(files, tmp_path):
    trained = [row for row in ROWS if row.trained]
    runs = [make_run(row, ("a.json:b",), files, 3, Budget(steps=50)) for row in trained]
    assert len({str(run.train) for run in runs}) == 1 and runs[0].train.seed == 3 and runs[0].train.warmup == 10
    assert len({str(run.data) for run in runs}) == 1 and runs[0].data.synthetic == 0
    assert {type(run) for run in runs} == {RunConfig, DetectorRun}
    oracle = make_run(Row("full", "fcos", oracle=True), ("a.json:b",), files, 0, TINY)
    assert oracle.detector.categories == ("bolt", "nut")


def test_sources_are_pooled_as_one_data_set(files):
    """A perfect source and one without a find: half of the 24 objects at precision 1, 51 of COCO's 101 recall levels."""
    scored = []
    for k, file in enumerate(files):
        truth = read_json(file)
        rows = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in truth["annotations"]]
        scored.append((truth, [] if k else rows, make_clicks(truth, setting="1/category", seed=0)))
    results = pooled(scored)
    assert results["counts"]["objects"] == 24 and results["counts"]["images"] == 6 and results["counts"]["prompts"] == 12
    assert results["all"]["ap50"] == pytest.approx(51 / 101) and results["hit"] == 0.5


def test_boxes_of_several_categories_become_one_class():
    a = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.4}
    b = a | {"category_id": 2, "bbox": [0, 0, 10, 7], "score": 0.6}  # IoU 0.7
    c = a | {"category_id": 2, "bbox": [0, 0, 10, 5], "score": 0.3}  # 0.5 with a, 0.71 with b
    assert one_class([a, b, c]) == [b] and one_class([a, c]) == [a, c] and one_class([]) == []


def test_only_the_first_val_images_are_scored_where_asked(files, tmp_path):
    assert val_file(files[0], tmp_path, 0) == val_file(files[0], tmp_path, 3) == files[0].with_name("val.json")
    part = read_json(val_file(files[0], tmp_path, 2))
    assert [r["id"] for r in part["images"]] == [1, 2] and {r["image_id"] for r in part["annotations"]} == {1, 2}


def test_rows_that_cannot_be_are_left_out(files, tmp_path):
    oracle = Row("full", "fcos", oracle=True)
    assert applies(oracle, files, None) and not applies(Row("full", "deal published"), files, None)
    val = read_json(files[0].with_name("val.json"))
    val["categories"].append({"id": 11, "name": "screw"})
    files[0].with_name("val.json").write_text(json.dumps(val))
    assert not applies(oracle, files, None)


def test_without_any_label_a_row_is_what_it_starts_from(files, tmp_path, quick):
    start, rows = {"fcos": tmp_path / "scenes.safetensors"}, [Row("zero", "fcos"), Row("zero", "deal")]
    save_model(Detector(DetectorConfig(hidden_dim=32)), start["fcos"])
    assert [applies(row, files, None, start) for row in rows] == [True, False] and not applies(rows[0], files, None)
    made = run_rows(files, tmp_path / "out", rows=rows, budget=TINY, init=start)["rows"]
    assert not quick and [row["row"] for row in made] == ["zero fcos"] and made[0]["metrics"]["ap50"] is not None
    assert made[0]["cost"] | {"minutes": 0.0} == dict.fromkeys(made[0]["cost"], 0)


def test_a_sweep_goes_on_where_it_was_stopped_and_grows(files, tmp_path, quick):
    rows, out, results = [Row("full", "fcos"), Row("noise40", "fcos", "label_correction")], tmp_path / "out", tmp_path / "r.json"
    first = run_rows(files, out, rows=rows[1:], budget=TINY, results=results)
    assert len(quick) == 1 and [r["row"] for r in first["rows"]] == ["noise40 fcos label_correction"]
    assert not list(out.glob("runs/*/state.pt")) and list(first["request"]["sources"]) == ["one", "two"]
    both = run_rows(files, out, rows=rows, seeds=2, budget=TINY, results=results)
    assert len(quick) == 4 and [(r["row"].split()[0], r["seed"]) for r in both["rows"]] == [
        *(("full", 0), ("full", 1), ("noise40", 0), ("noise40", 1))
    ]
    assert read_json(results)["rows"] == both["rows"] and both["rows"][2] == first["rows"][0]
    cost = both["rows"][0]["cost"]
    assert (cost["steps"], cost["images"], cost["passes"], cost["minutes"], cost["labels"]) == (1, 2, 0.33, 0.5, 24)
    assert set(both["rows"][0]["domains"]) == {"one", "two"} and both["rows"][0]["metrics"]["ap50"] is not None
    with pytest.raises(ValueError, match="r.json: made with other sources or another budget"):
        run_rows(files, out, rows=rows, budget=replace(TINY, steps=2), results=results)


def test_rows_start_from_the_checkpoint_of_their_model(files, tmp_path, quick):
    save_model(Detector(DetectorConfig(hidden_dim=32)), tmp_path / "scenes.safetensors")
    rows, results = [Row("full", "fcos"), Row("full", "retinanet")], tmp_path / "r.json"
    start = {"fcos": tmp_path / "scenes.safetensors"}
    plain = run_rows(files, tmp_path / "out", rows=rows, budget=TINY)
    made = run_rows(files, tmp_path / "out", rows=rows, budget=TINY, init=start, results=results)
    assert [init for _, _, init in quick] == [None, None, start["fcos"]], "RetinaNet has no start and is not run again"
    assert made["request"] == plain["request"] | {"init": {"fcos": sha_of(start["fcos"])}}
    with pytest.raises(ValueError, match="r.json: made with other sources or another budget"):
        run_rows(files, tmp_path / "out", rows=rows, budget=TINY, results=results)
    without = run_rows(files, tmp_path / "out", rows=[Row("zero", "template box")], budget=TINY, results=results)
    assert without["request"] == made["request"], "a row that takes no start joins a table whose others have one"
    assert [row["row"] for row in without["rows"]] == [*(row["row"] for row in made["rows"]), "zero template box"]


def test_templates_and_errors(files, tmp_path):
    made = run_row(Row("zero", "template box"), files, tmp_path, seed=0, budget=TINY, checkpoint=None)
    assert made["metrics"]["hit"] == 1 and made["cost"]["minutes"] == 0 and made["metrics"]["ap50"] > 0.5
    with pytest.raises(ValueError, match="files: expected the train.json of at least one source"):
        run_rows([], tmp_path)
    files[1].with_name("val.json").unlink()
    with pytest.raises(ValueError, match="val.json: no such file; every train.json needs"):
        run_rows(files, tmp_path)
    with pytest.raises(ValueError, match="Budget.steps: expected at least 1, got 0"):
        Budget(steps=0)


def test_a_detector_is_really_trained_and_scored(files, tmp_path):
    made = run_row(Row("sparse1", "fcos", "mining"), files, tmp_path, seed=0, budget=TINY, checkpoint=None)
    assert made["cost"]["steps"] == 1 and made["cost"]["labels"] == 12 and 0 <= made["metrics"]["ap50"] <= 1
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(f.name for f in folder.glob("*.json")) == ["config.json", "results.json"]


@pytest.mark.slow
def test_deal_is_trained_with_the_same_budget(files, tmp_path):
    made = run_row(Row("full", "deal"), files, tmp_path, seed=0, budget=TINY, checkpoint=None)
    assert made["cost"]["steps"] == 1 and made["metrics"]["hit"] is not None
