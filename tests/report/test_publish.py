"""`dealkit.report`: what is published, and the tables and commands of the pages."""

import re
import shlex

import pytest
import torch

from dealkit.__main__ import GROUPS, main
from dealkit.clicks import clicks_hash, load_clicks
from dealkit.config import DEFAULT_CHECKPOINT, DEFAULT_NMS, DEFAULT_THRESHOLD
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.model.checkpoint import load_model, save_model
from dealkit.report.pages import PAGES, TABLES, update_tables
from dealkit.report.publish import publish
from dealkit.report.tables import SCORES, model_table, settings_table, source_table, threshold_table, training_sentence

RESULTS = PROJECT_ROOT / "data" / "results"


def test_tables_show_per_cent_with_their_spread():
    scores = dict.fromkeys((*SCORES, "ap25", "hit_shown"), 0.25)
    about = {"source": "cells", "images": 3, "objects": 20, "setting": "1/category", "kind": "centre", "prompts": "alone"}
    rows = [about | scores | {"seed": seed, "ap50": value} for seed, value in ((0, 0.5), (1, 0.6))]
    made = [[cell.strip() for cell in line.strip("|").split("|")] for line in source_table({"rows": rows}).splitlines()]
    assert made[2][:5] == ["cells", "3", "20", "55.0", "25.0"]
    assert made[3][:5] == ["**mean of 1**", "", "", "**55.0** ± 7.1", "**25.0** ± 0.0"]
    assert settings_table({"rows": rows}).splitlines()[2].split("|")[1].strip() == "1/category"


def test_publishing_halves_the_weights_and_keeps_configs_and_logs_without_anyones_folders(tiny_model, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    save_model(tiny_model, run / "model.safetensors")
    (run / "config.json").write_text('{"data": {"coco": ["/home/someone/real/bolts/train.json"]}, "train": {"batch_size": 8}}')
    log = '{"step": 20, "minutes": 0.5}\n{"step": 40, "minutes": 1.0}\n'
    (run / "log.jsonl").write_text(log)
    publish(run, tmp_path / "out.safetensors", after=[run], training=tmp_path / "training.json")
    full, half = (run / "model.safetensors").stat().st_size, (tmp_path / "out.safetensors").stat().st_size
    assert half < 0.6 * full
    assert (tmp_path / "out.log.jsonl").read_text() == 2 * log
    training = read_json(tmp_path / "training.json")
    assert training["parts"] == 2 * [{"steps": 40, "minutes": 1.0, "batch_size": 8, "device": "unknown"}]
    assert training["parameters"] == sum(p.numel() for p in tiny_model.parameters())
    assert "for 2 minutes on one core of a CPU (640 crops)" in training_sentence(training)
    config = read_json(tmp_path / "out.config.json")
    assert config["data"]["coco"] == config["started_from"][0]["data"]["coco"] == ["real/bolts/train.json"]
    for a, b in zip(
        tiny_model.state_dict().values(), load_model(tmp_path / "out.safetensors").state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


published = pytest.mark.skipif(not (RESULTS / "realsmall_nano.json").is_file(), reason="no published results yet")


@published
def test_the_pages_show_the_committed_results(tmp_path):
    update_tables(check=True)
    copies = [tmp_path / f"{k}.md" for k in range(len(PAGES))]
    for page, copy in zip(PAGES, copies, strict=True):
        copy.write_text(page.read_text().replace("| hit ", "| hits "))
    with pytest.raises(ValueError, match="0.md: table headline differs from .*unseen_nano.json"):
        update_tables(copies, check=True)
    assert "| hits " in copies[0].read_text(), "a check writes nothing"
    update_tables(copies)
    assert [copy.read_text() for copy in copies] == [page.read_text() for page in PAGES]


@published
def test_results_belong_to_the_committed_checkpoint_and_click_lists():
    import hashlib

    sha = hashlib.sha256(DEFAULT_CHECKPOINT.read_bytes()).hexdigest()[:12]
    for name in ("realsmall_nano.json", "unseen_nano.json", "open_nano.json"):
        assert read_json(RESULTS / name)["request"]["sha256"] == sha, name
    assert read_json(RESULTS / "photos_nano.json")["sha256"] == sha
    for row in read_json(RESULTS / "realsmall_nano.json")["rows"]:
        clicks = load_clicks(
            PROJECT_ROOT / "data" / "clicks" / f"{row['source']}-1-per-category-{row['kind']}-{row['seed']}.json"
        )
        assert clicks_hash(clicks) == row["clicks"]


@published
def test_the_defaults_are_those_found_on_training_images():
    results = read_json(RESULTS / "threshold_nano.json")
    curve = results["duplicate_iou"][str(DEFAULT_NMS)]["f1"]
    best = max(max(t["f1"]) for t in results["duplicate_iou"].values())
    assert curve[results["thresholds"].index(DEFAULT_THRESHOLD)] >= best - 0.01


def page_commands():
    text = "\n".join(page.read_text() for page in PAGES)
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("python -m dealkit"):
                yield line.split("  #")[0].strip()


def test_every_command_of_the_pages_has_options_and_files_that_exist(capsys):
    names, helps = {name for group in GROUPS.values() for name in group}, {}
    commands = [shlex.split(command)[3:] for command in page_commands() if shlex.split(command)[3:]]
    assert len(commands) > 5
    for words in commands:
        name = " ".join(words[:2]) if " ".join(words[:2]) in names else words[0]
        if name not in helps:
            with pytest.raises(SystemExit):
                main([*name.split(), "--help"])
            helps[name] = capsys.readouterr().out
        for option in (w for w in words if re.match(r"--?[a-z]", w)):
            assert re.search(rf"(^|[\s│,|]){re.escape(option)}[\s,│]", helps[name]), f"{option} of: {words}"
        for file in (w for w in words if w.startswith("notebooks/")):
            assert (PROJECT_ROOT / file).is_file(), f"{file} of: {words}"


def test_the_table_of_thresholds_shows_shares_in_per_cent():
    mean = {
        "f1": {"fixed": 0.5, "adaptive": 0.525, "best_of_source": 0.6, "oracle": 0.7},
        "count_mae": {"fixed": 4, "adaptive": 2.25},
    }
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in threshold_table({"fixed": 0.2, "mean": mean}).splitlines()]
    assert rows[2:4] == [["fixed at 0.2", "50.0", "4.0"], ["adaptive", "52.5", "2.2"]] and rows[5][1:] == ["70.0", "–"]


def test_models_stand_side_by_side_in_per_cent_and_milliseconds():
    scores = dict.fromkeys(("ap50", "ap75", "ap50_ignored", "ap75_ignored", "hit"), 0.5) | {"hit_shown": 0.25}
    about = {"setting": "1/category", "kind": "centre", "prompts": "alone"}
    nano = {
        "realsmall": {"rows": [{"seed": 0, "source": "cells", **about, **scores}]},
        "training": {
            "parameters": 9_012_830,
            "parts": [{"minutes": 30.2, "steps": 100, "batch_size": 8}, {"minutes": 29.7, "steps": 150, "batch_size": 8}],
        },
        "photos": {"scenes": {"ap50": 0.7}, "coins": {"recall": 0.875}},
        "bench": {"encode_ms": 48.3, "click_ms": 17.5},
    }
    row = model_table({"nano": nano}).splitlines()[2]
    assert row == "| `nano` | 9.0 M | 2,000 | 60 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 25.0 | 70.0 | 87.5 | 48 ms | 18 ms |"


def test_a_table_without_results_stays_as_it_is(tmp_path):
    readme = tmp_path / "README.md"
    text = "\n".join(f"<!-- table {name} -->\nNot run yet.\n<!-- end -->" for name in TABLES)
    readme.write_text(text)
    update_tables([readme], tmp_path)
    assert readme.read_text() == text
    readme.write_text(text.replace("<!-- table scales -->", ""))
    with pytest.raises(ValueError, match="expected one marker '<!-- table scales -->', found 0"):
        update_tables([readme], tmp_path)
    with pytest.raises(ValueError, match="expected one marker '<!-- table headline -->', found 2"):
        (tmp_path / "second.md").write_text(text)
        update_tables([tmp_path / "second.md", readme], tmp_path)
