"""`dealkit.evaluate.benchmark`: rows of a checkpoint on sources, means over sources and seeds, clicks on a photograph."""

import pytest
import torch

from dealkit.clicks import clicks_hash, load_clicks
from dealkit.data.photos import photo
from dealkit.evaluate.benchmark import benchmark, click_every_object, over_seeds, recall_precision
from dealkit.files import read_json
from dealkit.predict.detections import Detections
from dealkit.predict.predictor import Predictor


def test_what_has_nothing_to_score_is_left_out_of_means():
    """Seed 0: (1.0 + 0.0) / 2 and 0.4 alone; seed 1: 0.3 and nothing, so `b` has one seed and no spread."""
    rows = [
        {"seed": 0, "source": "x", "a": 1.0, "b": None},
        {"seed": 0, "source": "y", "a": 0.0, "b": 0.4},
        {"seed": 1, "source": "x", "a": 0.3, "b": None},
    ]
    (row,) = over_seeds(rows).to_dict("records")
    assert row["a"] == pytest.approx(0.4) and row["a_std"] == pytest.approx(0.02**0.5)  # deviations of 0.1: sqrt(0.02 / 1)
    assert row["b"] == 0.4 and row["b_std"] != row["b_std"]


def test_a_second_box_on_one_object_is_a_false_one():
    found = Detections(boxes=torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 9]]), scores=torch.tensor([0.9, 0.8]))
    assert recall_precision(found, torch.tensor([[0.0, 0, 10, 10], [50.0, 50, 60, 60]])) == (0.5, 0.5)


def test_recall_and_precision_of_nothing_are_zero():
    nothing = Detections(boxes=torch.zeros(0, 4), scores=torch.zeros(0))
    assert recall_precision(nothing, torch.tensor([[0.0, 0, 1, 1]])) == (0.0, 0.0)
    one = Detections(boxes=torch.tensor([[0.0, 0, 1, 1]]), scores=torch.ones(1))
    assert recall_precision(one, torch.zeros(0, 4)) == (0.0, 0.0)


@pytest.mark.usefixtures("float32_cpu")  # in bfloat16 the last bits of a prompt's answer depend on those beside it
def test_the_benchmark_writes_every_seed_and_does_not_repeat_a_source(source, tmp_path):
    file, checkpoint = source
    kinds, out, folder = ["centre", "jitter"], tmp_path / "out.json", tmp_path / "clicks"
    rows = benchmark(checkpoint, [file], out, kinds=kinds, seeds=2, clicks_folder=folder).rows
    expected = [("source", k, i, use) for k in kinds for i in (0, 1) for use in ("alone", "together")]
    assert [(r["source"], r["kind"], r["seed"], r["prompts"]) for r in rows] == expected
    assert {(r["images"], r["objects"]) for r in rows} == {(2, 3)}
    for row in rows:
        assert clicks_hash(load_clicks(folder / f"source-1-per-category-{row['kind']}-{row['seed']}.json", file)) == row["clicks"]
    assert read_json(out)["made_by"]["python"] and read_json(out)["rows"] == rows
    assert benchmark(checkpoint, [file], out, kinds=kinds, seeds=2).rows == rows  # with its seconds: nothing was run again
    again = benchmark(checkpoint, [file], out, prompts=["alone"], rounds=[1, 2], seeds=1).rows  # another request begins anew
    assert [row["rounds"] for row in again] == [1, 2]
    assert all(again[0][name] == rows[0][name] for name in ("clicks", "ap50", "ap75", "hit"))


def test_every_object_of_a_photograph_is_clicked_once(tiny_model):
    sample = photo("coins")
    results = click_every_object(Predictor(tiny_model), sample)
    assert results["objects"] == len(results["clicks"]) == 24
    for entry, box in zip(results["clicks"], sample.boxes.tolist(), strict=True):
        assert entry["point"] == [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
