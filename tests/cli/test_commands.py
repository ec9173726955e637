"""`python -m dealkit`: each command on tiny files, exit codes, and one clear line for an error."""

import functools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import dealkit
import dealkit.baselines.scoring
import dealkit.report.publish
import dealkit.widget.page
from dealkit.__main__ import GROUPS
from dealkit.clicks import clicks_hash, load_clicks, make_clicks
from dealkit.data.coco import CocoFolder
from dealkit.data.scenes import domains
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.predict.predictor import Predictor

pytestmark = pytest.mark.usefixtures("float32_cpu")

COMMANDS = {name: function for group in GROUPS.values() for name, function in group.items()}


def perfect(file):
    rows = read_json(file)["annotations"]
    return [{key: row[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for row in rows]


def test_the_program_lists_its_commands_in_groups_and_imports_no_torch():
    command = [sys.executable, "-X", "importtime", "-m", "dealkit", "--help"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and set(GROUPS) <= set(lines) and max(map(len, lines)) <= 130
    assert [line[2:15].strip() for line in lines if line.startswith("  ")] == list(COMMANDS)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "dealkit.config" in imported and not imported & {"torch", "numpy", "papermill", "nbformat", "fiftyone", "yaml"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_all_its_options(cli, name):
    code, out, _ = cli(*name.split(), "--help")
    said = " ".join(out.replace("│", " ").split())
    assert code == 0 and COMMANDS[name].__doc__.splitlines()[0] in said
    listed = COMMANDS[name].__doc__.partition("Args:")[2].partition("Raises:")[0]
    args = {line.strip().split(":")[0] for line in listed.splitlines() if line.startswith(" " * 8) and line[8] != " "}
    assert args <= set(COMMANDS[name].__annotations__)
    assert "{None}" not in said and "default: None" not in said
    assert "Example: python -m dealkit " in said


EXAMPLES = [
    (name, line.strip().removeprefix("Example: python -m dealkit "))
    for name, function in COMMANDS.items()
    for line in function.__doc__.splitlines()
    if line.strip().startswith("Example: ")
]


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_the_examples_in_the_help_are_understood(monkeypatch, cli, name, example):
    called = []

    @functools.wraps(COMMANDS[name])
    def instead(**options):
        called.append(options)

    for group in GROUPS.values():
        if name in group:
            monkeypatch.setitem(group, name, instead)
    code, _, err = cli(*shlex.split(example))
    assert code == 0 and len(called) == 1, err


def test_the_version_is_that_of_the_package(cli):
    assert cli("--version")[:2] == (0, f"dealkit {dealkit.__version__}\n")


def test_a_system_error_is_one_line_with_path_wish_and_reason(cli, monkeypatch, tmp_path):
    def fails(error):
        def command(out: Path) -> None:
            """Fail."""
            raise error

        monkeypatch.setitem(GROUPS["Use"], "demo", command)
        return cli("demo", "--out", tmp_path)

    denied = "error: x.json: cannot be opened: Permission denied\n"
    assert fails(PermissionError(13, "Permission denied", "x.json")) == (2, "", denied)
    assert fails(OSError(28, "No space left on device"))[2] == "error: a file: cannot be opened: No space left on device\n"
    assert fails(FileNotFoundError("x.png: no such image"))[2] == "error: x.png: no such image\n"
    assert fails(KeyboardInterrupt()) == (130, "", "stopped by Ctrl-C\n")
    assert fails(KeyboardInterrupt("stopped after step 3")) == (130, "", "stopped after step 3\n")


def test_data_sets_are_checked_and_every_problem_is_listed(cli, tiny_coco):
    images = tiny_coco.parent / "images"
    code, out, _ = cli("data", "check", tiny_coco)
    assert code == 0 and "no problems" in out
    data = read_json(tiny_coco)
    data["annotations"][0]["bbox"][2], data["annotations"][1]["category_id"] = -3, 77
    tiny_coco.write_text(json.dumps(data))
    (images / "1.png").unlink()
    code, out, _ = cli("data", "check", tiny_coco, "--images", images)
    assert code == 1 and all(part in out for part in ("annotation 1: bbox", "annotation 2: category_id", "1.png"))


def test_images_outside_their_folder_are_read_where_that_is_allowed(cli, tiny_coco, checkpoint, tmp_path, monkeypatch):
    clicks, found = tmp_path / "c.json", tmp_path / "p.json"
    cli("clicks", tiny_coco, "--out", clicks)
    found.write_text(json.dumps(perfect(tiny_coco)))
    data = read_json(tiny_coco)
    data["images"][0]["file_name"] = str((tiny_coco.parent / "images" / "0.png").rename(tmp_path / "0.png"))
    tiny_coco.write_text(json.dumps(data))
    small = ("--steps", 1, "--batch-size", 1, "--size", 64, "--workers", 0, "--hidden-dim", 32)
    commands = {
        "data check": (tiny_coco,),
        "clicks": (tiny_coco, "--out", tmp_path / "again.json"),
        "predict": ("--coco", tiny_coco, "--clicks", clicks, "--checkpoint", checkpoint, "--out", tmp_path / "found.json"),
        "evaluate": ("--coco", tiny_coco, "--predictions", found, "--out", tmp_path / "results.json"),
        "errors": ("--coco", tiny_coco, "--predictions", found, "--out", tmp_path / "errors.json"),
        "benchmark": ("--coco", tiny_coco, "--checkpoint", checkpoint, "--seeds", 1, "--out", tmp_path / "scores.json"),
        "train": ("--model", "fcos", "--per-category", "--synthetic", 0, "--coco", tiny_coco, *small, "--out", tmp_path / "run"),
    }
    monkeypatch.setattr(dealkit.baselines.scoring, "validate_detector", lambda detector: {"val_ap50": 0.5})
    for name, args in commands.items():
        code, out, err = cli(*name.split(), *args)
        assert code and "image 1: file_name: expected a path inside the folder of images" in out + err, (name, out, err)
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", os.environ.copy())
            code, _, err = cli(*name.split(), *args, "--allow-outside")
        assert code == 0, (name, err)


def test_scenes_of_the_seed_given_or_of_six_domains_are_written_and_can_be_read(cli, tmp_path, monkeypatch):
    for name, seed in (("a", ()), ("b", ("--seed", 5))):
        code, out, _ = cli("data", "scenes", "--out", tmp_path / name, "--count", 2, "--size", 64, *seed)
        assert code == 0 and str(tmp_path / name / "annotations.json") in out
    assert CocoFolder(tmp_path / "a" / "annotations.json", tmp_path / "a")[1].image.shape == (3, 64, 64)
    a, b = ((tmp_path / name / "images" / "000001.png").read_bytes() for name in "ab")
    assert a != b
    write = domains.write_domains
    monkeypatch.setattr(domains, "write_domains", lambda out, size: write(out, train=1, val=1, size=size))
    assert cli("data", "scenes", "--domains", "--out", tmp_path / "six", "--size", 128)[0] == 0
    assert len(list((tmp_path / "six").glob("*/train.json"))) == 6


def test_sources_become_a_tinyset_that_says_what_it_left_out(cli, make_coco, tmp_path):
    file = make_coco("root/screws", [[(5, [10, 12, 6, 8], 0)], [(9, [70, 10, 10, 10], 0)]])
    file.rename(file.with_name("train.json"))
    options = ("--root", tmp_path / "root", "--out", tmp_path / "out", "--workers", 1)
    code, out, _ = cli("data", "build", *options, "--tile", 80, "--overlap", 16, "--val", 0, "--test", 0)
    # 90 x 70 in tiles of 80: each image at 0..80 and 10..90, and both objects whole in both
    assert code == 0 and "4 images           4 objects" in out and "report.json" in out
    assert read_json(tmp_path / "out" / "report.json")["settings"]["tile"] == 80
    assert len(CocoFolder(tmp_path / "out" / "train.json", tmp_path / "out" / "images")) == 4
    code, _, err = cli("data", "build", *options, "--tile", 64)
    assert code == 2 and "BuildConfig.overlap" in err
    code, _, err = cli("data", "build", "--root", tmp_path / "none")
    assert code == 2 and "no such folder of sources" in err


def test_a_click_list_is_written_with_its_hash_printed(cli, tiny_coco, tmp_path):
    options = ("--setting", "3/category", "--seed", 2, "--kind", "jitter")
    code, out, _ = cli("clicks", tiny_coco, "--out", tmp_path / "c.json", *options)
    clicks = load_clicks(tmp_path / "c.json", tiny_coco)
    assert clicks == make_clicks(tiny_coco, setting="3/category", seed=2, kind="jitter")
    assert code == 0 and clicks_hash(clicks) in out and "2 prompts, 3/category, jitter, seed 2" in out


def test_page_bands_and_window_of_an_image_are_options(cli, checkpoint, tmp_path, monkeypatch):
    values = np.zeros((2, 40, 50, 5), dtype=np.uint16)  # two pages of five bands
    values[1, ..., 4], values[1, ..., 0] = 900, 300
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in values:
            file.write(page, photometric="minisblack", planarconfig="contig")
    seen, set_image = [], Predictor.set_image
    monkeypatch.setattr(Predictor, "set_image", lambda self, image: seen.append(image) or set_image(self, image))
    about = ("--checkpoint", checkpoint, "--point", 13, 16)
    code, _, _ = cli("predict", tmp_path / "a.tif", *about, "--page", 2, "--bands", 5, 1, 2, "--window", 0, 1500)
    assert code == 0 and seen[0][:, 0, 0].tolist() == [153, 51, 0]  # 900 / 1500, 300 / 1500
    for bad, said in (
        (("--page", 3), "a.tif: page: expected 1 to 2, got 3"),
        (("--bands", 6), "a.tif: bands: expected one or three of 1 to 5, got 6"),
        (("--window", 7, 7), "a.tif: window: expected two numbers, black below white, got 7.0 and 7.0"),
    ):
        code, _, err = cli("predict", tmp_path / "a.tif", *about, *bad)
        assert code == 2 and said in err


def test_the_click_page_prints_its_address_and_ends_with_ctrl_c(cli, tiny_coco, checkpoint, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(dealkit.widget.page.ThreadingHTTPServer, "serve_forever", interrupt)
    options = ("--checkpoint", checkpoint, "--threshold", "adaptive", "--no-browser")
    code, out, _ = cli("click", tiny_coco.parent / "images", *options, "--out", tiny_coco.parent / "clicked.json")
    assert read_json(tiny_coco.parent / "clicked.json")["images"] == []
    assert code == 0 and out.startswith("http://127.0.0.1:") and "?token=" in out
    code, _, err = cli("click", tiny_coco.parent / "none", *options)
    assert code == 2 and "none: no such file" in err


def test_a_data_set_is_predicted_from_a_click_list_and_scored(cli, tiny_coco, checkpoint, tmp_path):
    clicks, found, scored = (tmp_path / name for name in ("c.json", "p.json", "r.json"))
    cli("clicks", tiny_coco, "--out", clicks)
    files = ("--coco", tiny_coco, "--clicks", clicks)
    code, out, _ = cli("predict", *files, "--checkpoint", checkpoint, "--out", found)
    rows = read_json(found)
    assert code == 0 and f"{len(rows)} detections" in out and {row["category_id"] for row in rows} == {5, 9}
    code, out, _ = cli("evaluate", "--coco", tiny_coco, "--predictions", found, "--clicks", clicks, "--out", scored)
    results = read_json(scored)
    assert code == 0 and "AP50" in out and results["protocol"]["setting"] == "1/category" and results["counts"]["objects"] == 3


def test_perfect_predictions_score_one_hundred_and_options_are_in_the_protocol(cli, tiny_coco, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(perfect(tiny_coco)))
    files = ("--coco", tiny_coco, "--predictions", tmp_path / "p.json", "--out", tmp_path / "r.json")
    for options, asked in (((), (False, 1500)), (("--class-agnostic", "--max-dets", 7), (True, 7))):
        code, out, _ = cli("evaluate", *files, *options)
        results = read_json(tmp_path / "r.json")
        assert code == 0 and "AP50 100.0" in out and results["all"]["ap"] == pytest.approx(1)
        assert (results["protocol"]["class_agnostic"], results["protocol"]["max_dets"]) == asked
        assert results["hit"] is None, "there is no click list"


def test_kinds_of_mistakes_are_printed_and_written(cli, tiny_coco, tmp_path):
    rows = perfect(tiny_coco)
    rows[1]["bbox"][2] /= 3  # loose: IoU 1/3
    rows[2]["category_id"] = 5
    (tmp_path / "found.json").write_text(json.dumps(rows))
    files = ("--coco", tiny_coco, "--predictions", tmp_path / "found.json", "--out", tmp_path / "errors.json")
    code, out, _ = cli("errors", *files)
    assert code == 0 and "1 found, 1 localisation, 1 other category" in out
    assert read_json(tmp_path / "errors.json")["detections"]["type"] == ["true", "localisation", "other category"]
    assert "2 found, 1 other category" in cli("errors", *files, "--foreground", 0.3)[1]
    code, _, err = cli("errors", *files, "--background", 0.6)
    assert code == 2 and "expected 0 < background < foreground" in err


def test_a_detector_is_trained_and_scored_by_the_commands_of_deal(cli, tiny_coco, tmp_path, monkeypatch):
    monkeypatch.setattr(dealkit.baselines.scoring, "validate_detector", lambda detector: {"val_ap50": 0.5})
    size = ("--steps", 1, "--batch-size", 1, "--size", 64, "--workers", 0, "--hidden-dim", 32)
    options = ("--coco", tiny_coco, "--synthetic", 0, "--per-category", "--method", "label_correction", *size)
    code, _, err = cli("train", "--model", "fcos", "--out", tmp_path / "run", *options)
    assert code == 0, err
    config = read_json(tmp_path / "run" / "config.json")
    assert config["detector"]["categories"] == ["bolt", "nut"] and config["method"]["method"] == "label_correction"
    assert cli("train", "--out", tmp_path / "run", "--resume")[0] == 0, "finished: nothing to add"
    model = tmp_path / "run" / "model.safetensors"
    code, _, err = cli("benchmark", "--checkpoint", model, "--coco", tiny_coco, "--out", tmp_path / "results.json")
    assert code == 0, err
    assert read_json(tmp_path / "results.json")["request"]["detector"] == "fcos"
    code, _, err = cli("train", "--model", "fcos", "--out", tmp_path / "other", "--coco", tiny_coco, "--per-category", *size)
    assert code == 2 and "data.synthetic: expected 0 with categories" in err


def test_a_benchmark_is_of_a_checkpoint_of_templates_or_of_thresholds(cli, tiny_coco, checkpoint, tmp_path):
    def made(name, *options):
        out, weights = tmp_path / f"{name}.json", () if name == "templates" else ("--checkpoint", checkpoint)
        code, said, err = cli("benchmark", "--coco", tiny_coco, *weights, "--out", out, *options)
        assert code == 0, err
        return read_json(out), said

    assert made("deal", "--seeds", 1, "--settings", "1/category", "3/category")[0]["request"]["settings"] == [
        "1/category",
        "3/category",
    ]
    assert {row["variant"] for row in made("templates", "--seeds", 1, "--templates", "click")[0]["rows"]} == {"click"}
    chosen, said = made("chosen", "--thresholds", "choose", "--images", 1)
    assert str(chosen["best"]) in said and chosen["images_per_source"] == 1
    assert set(made("compared", "--thresholds", "compare")[0]["mean"]) == {"f1", "count_mae"}
    for wrong in ("--scenes", "--images"):
        code, _, err = cli("benchmark", "--coco", tiny_coco, "--checkpoint", checkpoint, "--out", tmp_path / "r.json", wrong, 2)
        assert code == 2 and f"{wrong}: has no effect for a DEAL" in err


@pytest.mark.parametrize("weights", [0, 1, 3])
def test_a_run_is_published_with_its_own_weights_others_or_an_average(cli, checkpoint, tmp_path, monkeypatch, weights):
    asked = {}
    for file in (tmp_path / "run" / "model.safetensors",):
        file.parent.mkdir()
        file.write_bytes(checkpoint.read_bytes())
    average = {"shares": [{"share": 0.5, "ap50": 0.4, "ap50_ignored": 0.3}], "best": 0.5}

    def choose(*paths, shares, scenes):
        asked.update(paths=paths, shares=shares)
        return average

    monkeypatch.setattr(dealkit.report.publish, "choose_average", choose)
    monkeypatch.setattr(dealkit.report.publish, "publish", lambda run, out, **options: asked.update(options))
    options = ("--weights", *[checkpoint] * weights) if weights else ()
    options += ("--shares", 0, 0.5) if weights > 1 else ()
    code, out, err = cli("publish", tmp_path / "run", "--out", tmp_path / "new.safetensors", *options)
    assert code == 0, err
    averaged = tmp_path / "run" / "averaged.safetensors"
    assert asked["weights"] == {0: None, 1: checkpoint, 3: averaged}[weights]
    assert asked["training"] == tmp_path / "training_new.json", "beside a checkpoint that is not of data/checkpoints"
    if weights == 3:
        assert (asked["paths"], asked["shares"]) == ((checkpoint, (checkpoint, checkpoint), averaged), (0.0, 0.5))
        assert read_json(tmp_path / "average_new.json") == average and "0.50 of the later is published" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("benchmark", "--coco", "none*.json", "--out", "r.json"), "--coco: no file matches none*.json"),
        (("browse", "none*.json"), "FILES: no file matches none*.json"),
        (("browse", __file__, "--clicks", "c.json"), "--clicks: has no effect without --predictions"),
        (("clicks", "none.json", "--out", "c.json"), "none.json"),
        (("evaluate", "--coco", "none.json", "--predictions", "p.json", "--out", "r.json"), "none.json"),
        (("data", "scenes", "--out", "scenes", "--size", "8"), "--size: expected 16 to 8,192, got 8"),
        (("data", "scenes", "--out", "scenes", "--count", "-1"), "--count: expected 1 to 1,000,000, got -1"),
        (("clicks", "none.json", "--out", "c.json", "--seed", "-1"), "--seed: expected 0 to 4,294,967,295, got -1"),
        (("serve", "--host", "0.0.0.1"), "--host 0.0.0.1 --port 9090: cannot listen there"),
        (("bench", "--size", "-1"), "--size: expected 16 to 8,192, got -1"),
        (("browse", __file__, "--predictions", "p.json", "--score", "nan"), "--score: expected 0 to 1, got nan"),
        (("browse", __file__, "--no-app", "--port", "80"), "--port: has no effect with --no-app"),
        (("data", "scenes", "--out", "scenes", "--domains", "--count", "3"), "--count: has no effect with --domains"),
        (("train", "--out", "run", "--resume", "--steps", "9"), "--steps: has no effect with --resume"),
        (("train", "--out", "run", "--config", "c.json", "--model", "small"), "--model: has no effect with --config"),
        (("train", "--out", "run", "--model", "fcos", "--cycles", "2"), "--cycles: has no effect with --model fcos"),
        (("train", "--out", "run", "--partly"), "--partly: has no effect without --init"),
        (("benchmark", "--out", "r.json", "--templates", "click", "--rounds", "2"), "--rounds: has no effect with --templates"),
        (("report", "--check", "--photos"), "--photos: has no effect with --check"),
        (("benchmark", "--coco", __file__, "--out", "r.json", "--seeds", "0"), "--seeds: expected 1 to 1,000, got 0"),
        (
            ("publish", "run", "--out", "a", "--weights", "a", "b", "--shares", "2"),
            "--shares: expected 0 to 1, got 2",
        ),
        (("run", "99_none"), "notebook: expected one of 00_quickstart, "),
        (("fly", "high"), "command: expected one of demo, click, predict, browse"),
        (("data",), "got 'data'"),
    ],
    ids=lambda v: " ".join(v)[:60] if isinstance(v, tuple) else None,
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(cli, tmp_path, monkeypatch, args, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*args)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and said in last, err


def test_an_unknown_option_or_value_is_named(cli):
    bad = ["clicks a.json --out b.json --speed 3", "clicks a.json --out b.json --setting 2/category", "predict a.png --point 1"]
    bad += ["benchmark --scenes 1 --templates boxes --out r.json", "predict --checkpoint"]
    bad += ["train --out run --clip nan", "train --out run --max-scale 1e9"]
    named = ("--speed", "2/category", "--point", "boxes", "--checkpoint", "TrainConfig.clip", "DataConfig.max_scale")
    for args, said in zip(bad, named, strict=True):
        code, out, err = cli(*args.split())
        assert code == 2 and said in out + err
