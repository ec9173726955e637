"""`python -m dealkit`: each command on tiny files, exit codes, and one clear line for an error."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from dealkit.__main__ import main
from dealkit.clicks import clicks_hash, load_clicks, make_clicks
from dealkit.data.coco import CocoFolder
from dealkit.files import PROJECT_ROOT
from dealkit.model.checkpoint import save_model

pytestmark = pytest.mark.usefixtures("float32_cpu")


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs a command line; gives the exit code, what it printed and its errors."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["dealkit", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def checkpoint(tiny_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_model(tiny_model, path)
    return path


def perfect(coco):
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9} for a in coco["annotations"]
    ]


def test_a_good_data_set_passes_the_check(cli, tiny_coco):
    code, out, _ = cli("data", "check", tiny_coco, "--images", tiny_coco.parent / "images")
    assert code == 0 and "no problems" in out


def test_every_problem_of_a_bad_data_set_is_listed(cli, tiny_coco):
    data = json.loads(tiny_coco.read_text())
    data["annotations"][0]["bbox"][2], data["annotations"][1]["category_id"] = -3, 77
    tiny_coco.write_text(json.dumps(data))
    (tiny_coco.parent / "images" / "1.png").unlink()
    code, out, _ = cli("data", "check", tiny_coco, "--images", tiny_coco.parent / "images")
    assert code == 1
    for part in ("annotation 1: bbox", "annotation 2: category_id", "1.png"):
        assert part in out


def test_scenes_are_written_and_can_be_read(cli, tmp_path):
    code, out, _ = cli("data", "synth", "--out", tmp_path / "scenes", "--count", 2, "--size", 64)
    assert code == 0 and str(tmp_path / "scenes" / "annotations.json") in out
    folder = CocoFolder(tmp_path / "scenes" / "annotations.json", tmp_path / "scenes")
    assert len(folder) == 2 and folder[0].image.shape == (3, 64, 64) and len(folder.boxes)


def test_the_seed_of_scenes_is_the_one_given(cli, tmp_path):
    for name, seed in (("a", ()), ("b", ("--seed", 5))):
        assert cli("data", "synth", "--out", tmp_path / name, "--count", 1, "--size", 64, *seed)[0] == 0
    a, b = ((tmp_path / name / "images" / "000001.png").read_bytes() for name in "ab")
    assert a != b


def test_sources_become_a_tinyset_that_says_what_it_left_out(cli, make_coco, tmp_path):
    file = make_coco("root/screws", [[(5, [10, 12, 6, 8], 0)], [(9, [70, 10, 10, 10], 0)]])
    file.rename(file.with_name("train.json"))
    options = ("--root", tmp_path / "root", "--out", tmp_path / "out", "--workers", 1)
    code, out, _ = cli("data", "build", *options, "--tile", 80, "--overlap", 16, "--val", 0, "--test", 0)
    # 90 x 70 in tiles of 80: each image at 0..80 and 10..90, and both objects whole in both
    assert code == 0 and "4 images           4 objects" in out and "report.json" in out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["settings"]["tile"] == 80
    assert len(CocoFolder(tmp_path / "out" / "train.json", tmp_path / "out" / "images")) == 4
    code, _, err = cli("data", "build", *options, "--tile", 64)
    assert code == 2 and "BuildConfig.overlap" in err
    code, _, err = cli("data", "build", "--root", tmp_path / "none")
    assert code == 2 and "no such folder of sources" in err


@pytest.mark.slow
def test_the_index_is_timed_beside_coco_json(cli, tmp_path):
    code, out, _ = cli("bench", "index", "--boxes", 2000, "--reads", 20, "--json", tmp_path / "new" / "f.json")
    figures = json.loads((tmp_path / "new" / "f.json").read_text())
    assert code == 0 and "pycocotools" in out and {"open_s", "open_rss_mb", "records_per_s"} <= set(figures)


def test_a_click_list_is_written_with_its_hash_printed(cli, tiny_coco, tmp_path):
    options = ("--setting", "3/category", "--seed", 2, "--kind", "jitter")
    code, out, _ = cli("clicks", tiny_coco, "--out", tmp_path / "c.json", *options)
    clicks = load_clicks(tmp_path / "c.json", tiny_coco)
    assert clicks == make_clicks(tiny_coco, setting="3/category", seed=2, kind="jitter")
    assert code == 0 and clicks_hash(clicks) in out and "2 prompts, 3/category, jitter, seed 2" in out


def test_a_regime_of_a_file_is_written(cli, tiny_coco, tmp_path):
    code, out, _ = cli("regime", "semi1", tiny_coco, "--out", tmp_path / "semi.json", "--seed", 2)
    assert code == 0 and "in 1 images, 1 images without, semi1, seed 2" in out
    assert json.loads((tmp_path / "semi.json").read_text())["info"] == {"regime": "semi1", "seed": 2}
    code, out, _ = cli("regime", "point", tiny_coco, "--out", tmp_path / "point.json", "--training")
    assert code == 0 and "3 labels in 2 images, point" in out
    assert len(CocoFolder(tmp_path / "point.json", tiny_coco.parent / "images").boxes) == 3
    code, _, err = cli("regime", "semi2", tiny_coco, "--out", tmp_path / "none.json")
    assert code == 2 and "regime: expected one of full" in err and not (tmp_path / "none.json").exists()


def test_one_image_is_predicted_from_repeated_points(cli, tiny_coco, checkpoint, tmp_path):
    image = tiny_coco.parent / "images" / "0.png"
    points = ("--point", 13, 16, "--point", "53.5", 43, "--not-point", 75, 15)
    files = ("--out", tmp_path / "found.json", "--figure", tmp_path / "new" / "found.png")
    code, out, _ = cli("predict", image, "--checkpoint", checkpoint, *points, "--threshold", 0.0, *files)
    found = json.loads((tmp_path / "found.json").read_text())
    assert code == 0 and f"{len(found['boxes'])} objects" in out
    assert len(found["boxes"]) == len(found["scores"]) > 20 and all(len(b) == 4 for b in found["boxes"])
    assert Image.open(tmp_path / "new" / "found.png").format == "PNG"

    def scores(*points):
        cli("predict", image, "--checkpoint", checkpoint, *points, "--threshold", 0.0, *files[:2])
        return json.loads((tmp_path / "found.json").read_text())["scores"]

    assert found["scores"] != scores("--point", 13, 16, "--point", "53.5", 43) != scores("--point", 13, 16)


def test_a_prompt_is_kept_in_a_file_and_asked_of_another_image(cli, tiny_coco, checkpoint, tmp_path):
    first, second = (tiny_coco.parent / "images" / name for name in ("0.png", "1.png"))
    prompt, options = tmp_path / "bolt.safetensors", ("--checkpoint", checkpoint, "--threshold", 0.0)
    assert cli("predict", first, "--point", 13, 16, "--save-embedding", prompt, *options)[0] == 0
    code, out, _ = cli("predict", second, "--embedding", prompt, *options, "--out", tmp_path / "found.json")
    assert code == 0 and f"{len(json.loads((tmp_path / 'found.json').read_text())['boxes'])} objects" in out


def test_an_adaptive_threshold_shows_at_least_what_was_clicked(cli, tiny_coco, checkpoint):
    image = tiny_coco.parent / "images" / "0.png"
    code, out, _ = cli("predict", image, "--checkpoint", checkpoint, "--point", 13, 16, "--threshold", "adaptive")
    assert code == 0 and int(out.split()[0]) >= 1


def test_a_data_set_is_predicted_from_a_click_list_and_scored(cli, tiny_coco, checkpoint, tmp_path):
    cli("clicks", tiny_coco, "--out", tmp_path / "c.json")
    code, out, _ = cli(
        *("predict", "--coco", tiny_coco, "--images", tiny_coco.parent / "images", "--clicks", tmp_path / "c.json"),
        *("--checkpoint", checkpoint, "--out", tmp_path / "p.json"),
    )
    rows = json.loads((tmp_path / "p.json").read_text())
    assert code == 0 and f"{len(rows)} detections" in out and {row["category_id"] for row in rows} == {5, 9}
    code, out, _ = cli(
        *("evaluate", "--coco", tiny_coco, "--predictions", tmp_path / "p.json"),
        *("--clicks", tmp_path / "c.json", "--out", tmp_path / "r.json"),
    )
    results = json.loads((tmp_path / "r.json").read_text())
    assert code == 0 and "AP50" in out and results["protocol"]["setting"] == "1/category" and results["counts"]["objects"] == 3


def test_kinds_of_mistakes_are_printed_and_written(cli, tiny_coco, tmp_path):
    coco = json.loads(tiny_coco.read_text())
    rows = perfect(coco)
    rows[1]["bbox"][2] /= 3  # loose: IoU 1/3
    rows[2]["category_id"] = 5
    (tmp_path / "found.json").write_text(json.dumps(rows))
    files = ("--coco", tiny_coco, "--predictions", tmp_path / "found.json", "--out", tmp_path / "errors.json")
    code, out, _ = cli("errors", *files)
    made = json.loads((tmp_path / "errors.json").read_text())
    assert code == 0 and "other category" in out and "1 found, 1 localisation, 1 other category" in out
    assert made["detections"]["type"] == ["true", "localisation", "other category"]
    assert made["objects"]["state"] == ["found", "localisation", "other category"]
    code, out, _ = cli("errors", *files, "--foreground", 0.3)
    assert "2 found, 1 other category" in out
    code, _, err = cli("errors", *files, "--background", 0.6)
    assert code == 2 and "expected 0 < background < foreground" in err


def test_failures_and_controlled_scenes_are_analysed(cli, tiny_coco, checkpoint, tmp_path):
    options = ("--checkpoint", checkpoint, "--folder", tmp_path / "kept")
    code, out, _ = cli("failures", "--coco", tiny_coco, "--out", tmp_path / "f.json", *options)
    assert code == 0 and "without localisation" in out and (tmp_path / "f.json").is_file()
    few = ("--scenes", 1, "--large", 0, "--factors", "clutter", "--attributes", "hue")
    code, out, _ = cli("controlled", "--out", tmp_path / "c.json", "--checkpoint", checkpoint, *few)
    made = json.loads((tmp_path / "c.json").read_text())
    assert code == 0 and "clutter" in out and len(made["fine_grained"]["hue"]["levels"]) == 5


@pytest.mark.parametrize(("options", "agnostic", "most"), [((), False, 1500), (("--class-agnostic", "--max-dets", 7), True, 7)])
def test_perfect_predictions_score_one_hundred(cli, tiny_coco, tmp_path, options, agnostic, most):
    (tmp_path / "p.json").write_text(json.dumps(perfect(json.loads(tiny_coco.read_text()))))
    code, out, _ = cli(
        "evaluate", "--coco", tiny_coco, "--predictions", tmp_path / "p.json", "--out", tmp_path / "r.json", *options
    )
    results = json.loads((tmp_path / "r.json").read_text())
    assert code == 0 and "AP50 100.0" in out and results["all"]["ap"] == pytest.approx(1)
    assert (results["protocol"]["class_agnostic"], results["protocol"]["max_dets"]) == (agnostic, most)
    assert results["hit"] is None  # without a click list


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("predict",), "expected either IMAGE with --point X Y, or --coco"),
        (("predict", "a.png", "--coco", "b.json"), "expected either IMAGE"),
        (("predict", "a.png"), "expected at least one --point X Y, or --embedding"),
        (("predict", "a.png", "--point", "1", "2", "--embedding", "b"), "predict --embedding: expected no --point"),
        (
            ("predict", "a.png", "--point", "1", "2", "--threshold", "2"),
            "threshold: expected a score, 0 to 1, or 'adaptive', got 2",
        ),
        (("thresholds", "--coco", "none*.json", "--out", "r.json"), "--coco: no file matches none*.json"),
        (("transfer", "--coco", "none*.json", "--out", "r.json"), "--coco: no file matches none*.json"),
        (("predict", "--coco", "b.json"), "expected --images, --clicks and --out, too"),
        (("predict", "a.png", "--point", "1", "2", "--checkpoint", "none.safetensors"), "none.safetensors: no such checkpoint"),
        (("clicks", "none.json", "--out", "c.json"), "none.json"),
        (("evaluate", "--coco", "none.json", "--predictions", "p.json", "--out", "r.json"), "none.json"),
        (("data", "synth", "--out", "scenes", "--size", "8"), "size_hw >= 16"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else None,
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(cli, tmp_path, monkeypatch, args, said):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*args)
    last = err.strip().splitlines()[-1]
    assert code == 2 and last.startswith("error: ") and said in last, err


def test_a_click_outside_the_image_is_an_error_with_its_range(cli, tiny_coco, checkpoint):
    image = tiny_coco.parent / "images" / "0.png"
    code, _, err = cli("predict", image, "--checkpoint", checkpoint, "--point", 91, 5)
    assert code == 2 and "error: prompt set 0: point [91.0, 5.0] is outside the image; expected x in 0..90, y in 0..70" in err


def test_a_file_of_results_that_is_not_json_is_named(cli, tiny_coco, tmp_path):
    (tmp_path / "p.json").write_text("[")
    code, _, err = cli("evaluate", "--coco", tiny_coco, "--predictions", tmp_path / "p.json", "--out", tmp_path / "r.json")
    assert code == 2 and "error: " in err and "p.json: not a JSON file" in err and not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    "args",
    [
        ("clicks", "a.json", "--out", "b.json", "--speed", "3"),
        ("data", "synth", "--out", "a", "--sise", "64"),
        ("clicks", "a.json", "--out", "b.json", "--setting", "2/category"),
        ("predict", "a.png", "--point", "1"),
        ("fly",),
    ],
    ids=" ".join,
)
def test_an_unknown_option_command_or_value_is_an_error(cli, args):
    code, out, err = cli(*args)
    assert code == 2 and (out + err).strip()


def test_the_module_runs_as_a_program_and_lists_its_commands():
    command = [sys.executable, "-m", "dealkit", "--help"]
    done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("train", "clicks", "predict", "evaluate", "data check|synth", "bench index"))


def test_curves_over_clicks_and_positions_are_printed_and_written(cli, tiny_coco, checkpoint, tmp_path):
    common = ("--coco", tiny_coco, "--checkpoint", checkpoint, "--images", 1)
    code, out, _ = cli("rounds", *common, "--out", tmp_path / "r.json", "--clicks", 2, "--kinds", "positive")
    assert code == 0 and "positive   1: " in out and list(json.loads((tmp_path / "r.json").read_text())["mean"]) == ["positive"]
    code, out, _ = cli("positions", *common, "--out", tmp_path / "p.json", "--offsets", 0, 0.5)
    assert code == 0 and [line[:4] for line in out.splitlines()[-2:]] == ["0.00", "0.50"]
    assert json.loads((tmp_path / "p.json").read_text())["request"]["offsets"] == [0, 0.5]
    code, _, err = cli("positions", *common, "--out", tmp_path / "q.json", "--offsets", 2)
    assert code == 2 and "offset: expected 0 to 1, got 2" in err


def test_a_detector_is_trained_and_scored_by_the_commands_of_deal(cli, tiny_coco, tmp_path, monkeypatch):
    import dealkit.baselines.scoring
    import dealkit.train.loop

    monkeypatch.setattr(dealkit.train.loop, "tensorboard", lambda out: None)
    monkeypatch.setattr(dealkit.baselines.scoring, "validate_detector", lambda detector: {"val_ap50": 0.5})
    size = ("--steps", 1, "--batch-size", 1, "--size", 64, "--workers", 0, "--hidden-dim", 32)
    options = ("--coco", tiny_coco, "--synthetic", 0, "--per-category", "--method", "label_correction", *size)
    code, _, err = cli("train", "--model", "fcos", "--out", tmp_path / "run", *options)
    assert code == 0, err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["detector"]["detector"] == "fcos" and config["detector"]["categories"] == ["bolt", "nut"]
    assert config["method"]["method"] == "label_correction"
    assert cli("train", "--out", tmp_path / "run", "--resume")[0] == 0  # finished: nothing to add
    model = tmp_path / "run" / "model.safetensors"
    code, _, err = cli("benchmark", "--checkpoint", model, "--coco", tiny_coco, "--out", tmp_path / "results.json")
    assert code == 0, err
    assert json.loads((tmp_path / "results.json").read_text())["request"]["detector"] == "fcos"
    code, _, err = cli("train", "--model", "fcos", "--out", tmp_path / "other", "--coco", tiny_coco, "--per-category", *size)
    assert code == 2 and "data.synthetic: expected 0 with categories" in err
