"""`dealkit.report.showcase`: the median prompt of sources that may be shown."""

import pytest
from PIL import Image

from dealkit.clicks import make_clicks
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.families import write_families
from dealkit.evaluate.benchmark import benchmark
from dealkit.files import read_json, write_json
from dealkit.model.checkpoint import save_model
from dealkit.predict.predictor import Predictor
from dealkit.report.showcase import median_prompt, showcase, shown_sources

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture
def folder(tmp_path):
    for n, name in enumerate(names := write_families(tmp_path, train=1, val=3)):
        (tmp_path / name / "val.json").rename(tmp_path / name / "test.json")
        names[n] = {"name": name, "licence": "MIT (card)" if n else "none stated", "repository": f"a/{name}"}
    write_json(tmp_path / "sources.json", [entry | {"median_side_px": 20.0 - n} for n, entry in enumerate(names)])
    return tmp_path


def test_sources_without_a_free_licence_are_left_out_and_the_smallest_objects_come_first(folder):
    every = read_json(folder / "sources.json")
    assert [entry["name"] for entry in shown_sources(folder)] == [entry["name"] for entry in reversed(every[1:])]


def test_the_prompt_of_median_f1_is_shown(folder, tiny_model, monkeypatch):
    file = folder / shown_sources(folder)[0]["name"] / "test.json"
    clicks = make_clicks(file, setting="1/category", seed=0)
    clicks["prompts"], scores = clicks["prompts"][:4], [0.9, None, 0.2, 0.5]
    left = iter(scores)
    monkeypatch.setattr("dealkit.report.showcase.f1_of", lambda found, sample: next(left))
    chosen = median_prompt(Predictor(tiny_model), CocoFolder(file, file.parent / "images"), clicks)
    prompt, names = clicks["prompts"][3], {c["id"]: c["name"] for c in read_json(file)["categories"]}
    assert (chosen["f1"], chosen["prompts"], chosen["image"]) == (0.5, 3, prompt["image_id"])
    assert chosen["category"] == names[prompt["category_id"]] and len(chosen["sample"].labels.unique()) == 1


def test_the_picture_and_what_was_chosen(folder, tiny_model, tmp_path):
    checkpoint, scores = tmp_path / "tiny.safetensors", tmp_path / "scores.json"
    save_model(tiny_model, checkpoint)
    names = [entry["name"] for entry in shown_sources(folder)]
    benchmark(checkpoint, [folder / name / "test.json" for name in names], scores, seeds=1)
    made = showcase(folder, checkpoint, scores, tmp_path / "unseen.jpg", tmp_path / "unseen.json")
    assert [row["name"] for row in made["rows"]] == names and read_json(tmp_path / "unseen.json") == made
    assert all(row["prompts"] >= 1 and 0 <= row["f1"] <= 1 and 0 <= row["ap50"] <= 1 for row in made["rows"])
    assert Image.open(tmp_path / "unseen.jpg").width > 800
    write_json(scores, read_json(scores) | {"request": {"sha256": "0"}})
    with pytest.raises(ValueError, match="scores.json: scores of another checkpoint"):
        showcase(folder, checkpoint, scores, tmp_path / "unseen.jpg", tmp_path / "unseen.json")
