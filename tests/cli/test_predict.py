"""`python -m dealkit predict`: one image, a folder, a data set; what it refuses, and before what."""

import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image

import dealkit.predict.tiles
from dealkit.clicks import make_clicks
from dealkit.data.coco import CocoFolder
from dealkit.files import PROJECT_ROOT, read_json, write_json
from dealkit.model.checkpoint import load_model
from dealkit.predict.predictor import Predictor, predict_coco

pytestmark = pytest.mark.usefixtures("float32_cpu")


def test_one_image_is_predicted_from_repeated_points(cli, tiny_coco, checkpoint, tmp_path):
    image, out = tiny_coco.parent / "images" / "0.png", tmp_path / "found.json"

    def scores(*points, more=()):
        code, said, err = cli("predict", image, "--checkpoint", checkpoint, *points, "--threshold", 0.0, "--out", out, *more)
        found = read_json(out)
        assert code == 0 and f"{len(found['boxes'])} objects" in said, err
        assert len(found["boxes"]) == len(found["scores"]) > 20 and all(len(b) == 4 for b in found["boxes"])
        return found["scores"]

    bolts = ("--point", 13, 16, "--point", "53.5", 43)
    first = scores(*bolts, "--not-point", 75, 15, more=("--figure", tmp_path / "new" / "found.png"))
    assert Image.open(tmp_path / "new" / "found.png").format == "PNG"
    assert first != scores(*bolts) != scores("--point", 13, 16)
    code, said, _ = cli("predict", image, "--checkpoint", checkpoint, "--point", 13, 16, "--threshold", "adaptive")
    assert code == 0 and int(said.split()[0]) >= 1, "it shows at least what was clicked"
    code, _, err = cli("predict", image, "--checkpoint", checkpoint, "--point", 91, 5)
    assert code == 2 and f"--point 91 5: is outside {image}; expected x in 0..90, y in 0..70" in err


def test_a_click_on_nothing_certain_says_what_to_do(cli, tiny_coco, checkpoint, monkeypatch):
    monkeypatch.setattr("dealkit.predict.detections.CERTAIN", 1.1)
    image = tiny_coco.parent / "images" / "0.png"
    code, out, err = cli("predict", image, "--point", 13, 16, "--checkpoint", checkpoint)
    assert code == 0 and "0 objects" in out and "nothing certain where the points lie (score 0." in err and "--box" in err


def test_a_prompt_is_kept_in_a_file_and_asked_of_another_image(cli, tiny_coco, checkpoint, tmp_path):
    first, second = (tiny_coco.parent / "images" / name for name in ("0.png", "1.png"))
    prompt, options = tmp_path / "bolt.safetensors", ("--checkpoint", checkpoint, "--threshold", 0.0)
    assert cli("predict", first, "--point", 13, 16, "--save-embedding", prompt, *options)[0] == 0
    code, out, _ = cli("predict", second, "--embedding", prompt, *options, "--out", tmp_path / "found.json")
    assert code == 0 and f"{len(read_json(tmp_path / 'found.json')['boxes'])} objects" in out


def test_points_are_numbers_apart_or_with_a_comma(cli, tiny_coco, checkpoint, tmp_path):
    image, found = tiny_coco.parent / "images" / "0.png", []
    for points in (("--point", 13, 16), ("--point", "13,16"), ("--point=13,16",)):
        assert cli("predict", *points, image, "--checkpoint", checkpoint, "--out", tmp_path / "f.json")[0] == 0
        found.append(read_json(tmp_path / "f.json"))
    assert found[0] == found[1] == found[2]


def test_the_suffix_of_the_output_is_its_format(cli, tiny_coco, checkpoint, tmp_path):
    image = tiny_coco.parent / "images" / "0.png"
    options = ("predict", image, "--point", 13, 16, "--checkpoint", checkpoint, "--threshold", 0.0)
    for name in ("f.json", "f.csv", "f.geojson"):
        code, out, err = cli(*options, "--out", tmp_path / name)
        assert code == 0 and str(tmp_path / name) in out, err
    boxes = read_json(tmp_path / "f.json")["boxes"]
    table = pd.read_csv(tmp_path / "f.csv")
    assert table[["x1", "y1", "x2", "y2"]].values.tolist() == boxes and set(table["image"]) == {"0.png"}
    rings = [feature["geometry"]["coordinates"][0] for feature in read_json(tmp_path / "f.geojson")["features"]]
    assert [[*ring[0], *ring[2]] for ring in rings] == boxes
    code, _, err = cli(*options, "--out", tmp_path / "f.xml")
    assert code == 2 and "f.xml: expected a name that ends in .json or .csv or .geojson" in err


def test_clicks_may_lie_in_another_image_and_in_tiles(cli, tiny_coco, checkpoint, tmp_path):
    first, second = (tiny_coco.parent / "images" / name for name in ("0.png", "1.png"))
    options = ("--checkpoint", checkpoint, "--threshold", 0.0, "--out", tmp_path / "f.json")
    assert cli("predict", second, "--of", first, "--point", 13, 16, *options)[0] == 0
    predictor = Predictor(checkpoint, threshold=0.0)
    predictor.set_image(second)
    assert predictor.predict_embedding(predictor.embed(first, [[13, 16]])).to_dict() == read_json(tmp_path / "f.json")
    tiles = ("--tile", 64, "--overlap", 16, "--save-embedding", tmp_path / "kind.safetensors")
    code, out, err = cli("predict", second, "--of", first, "--point", 13, 16, *options, *tiles)
    assert code == 0 and str(tmp_path / "kind.safetensors") in out, err


def test_rounds_readings_and_rivals_are_those_of_the_library(cli, tiny_coco, checkpoint, tmp_path):
    image, options = tiny_coco.parent / "images" / "0.png", ("--checkpoint", checkpoint, "--overwrite")
    for rounds, reading in ((1, "once"), (2, "again")):
        asked = ("predict", image, "--point", 13, 16, "--threshold", 0.0, "--rounds", rounds, "--reading", reading)
        assert cli(*asked, "--out", tmp_path / "f.json", *options)[0] == 0
        predictor = Predictor(checkpoint, threshold=0.0, rounds=rounds, rescale=reading == "again")
        predictor.set_image(image)
        assert predictor.click(13, 16).to_dict() == read_json(tmp_path / "f.json")
    clicks, data = make_clicks(tiny_coco, setting="1/category", seed=0), CocoFolder(tiny_coco)
    write_json(tmp_path / "clicks.json", clicks)
    asked = ("predict", "--coco", tiny_coco, "--clicks", tmp_path / "clicks.json", "--out", tmp_path / "p.json")
    found = []
    for flags, how in (((), {}), (("--together", "--rounds", 2), {"together": True, "rounds": 2})):
        code, _, err = cli(*asked, *flags, *options)
        assert code == 0, err
        found.append(read_json(tmp_path / "p.json"))
        assert found[-1] == predict_coco(load_model(checkpoint), data, [clicks], **how)[0]
    assert found[0] != found[1]


@pytest.fixture
def photos(tiny_coco):
    """The two images of the tiny data set, and what is none."""
    folder = tiny_coco.parent / "images"
    (folder / "notes.txt").write_text("x")
    return folder


def test_a_folder_is_predicted_and_says_what_it_wrote(cli, photos, checkpoint, tmp_path):
    options = ("--of", "0.png", "--point", "13,16", "--checkpoint", checkpoint, "--threshold", 0.0, "--out", tmp_path / "out")
    code, out, err = cli("predict", photos, *options, "--format", "coco", "--kind", "bolt")
    assert code == 0, err
    assert "images      2, 0 of them without objects" in out and "other files: 1 .txt" in out
    for name in ("counts.csv", "coco.json", "sheet.html"):
        assert str(tmp_path / "out" / name) in out and (tmp_path / "out" / name).is_file()
    assert read_json(tmp_path / "out" / "coco.json")["categories"] == [{"id": 1, "name": "bolt"}]
    (photos / "bad.png").write_text("no image")
    code, out, _ = cli("predict", photos, *options, "--format", "csv", "--no-sheet")
    assert code == 1 and "bad.png: not an image" in out and "sheet.html" not in out
    assert cli("predict", photos, *options[:2], "--point", "14,16", *options[4:])[0] == 2
    assert len(read_json(tmp_path / "out" / "coco.json")["images"]) == 2, "what was refused changed nothing"


def test_a_folder_that_is_stopped_says_so_in_one_line(cli, photos, checkpoint, tmp_path, monkeypatch):
    options = ("predict", photos, "--of", "0.png", "--point", "13,16", "--checkpoint", checkpoint, "--out", tmp_path / "out")
    encode, read = Predictor.set_image, []

    def set_image(self, image):
        read.append(image)
        if len(read) == 2:  # the example was the first
            os.kill(os.getpid(), signal.SIGINT)
        encode(self, image)

    monkeypatch.setattr(Predictor, "set_image", set_image)
    code, out, err = cli(*options)
    assert code == 130 and f"stopped: 1 images are left; the same command goes on from {tmp_path / 'out'}" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["found.jsonl"]
    monkeypatch.undo()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cli(*options)[0] == 0


@pytest.mark.parametrize("tiles", [(), ("--tile", 64, "--overlap", 16)], ids=["whole", "tiles"])
def test_a_data_set_goes_on_where_it_was_stopped(cli, make_coco, checkpoint, tmp_path, monkeypatch, tiles):
    coco = make_coco("set", [[(5, [10, 12, 6, 8], 0), (9, [70, 10, 10, 10], 0)]] * 3)
    cli("clicks", coco, "--out", tmp_path / "c.json")
    options = ("predict", "--coco", coco, "--clicks", tmp_path / "c.json", "--checkpoint", checkpoint, *tiles, "--out")
    assert cli(*options, tmp_path / "whole.json")[0] == 0
    whole = (tmp_path / "whole.json").read_bytes()

    def stop(*args, **options):  # a signal in the first image
        os.kill(os.getpid(), signal.SIGTERM)
        return make(*args, **options)

    make = dealkit.predict.tiles.predict_data_set
    monkeypatch.setattr(dealkit.predict.tiles, "predict_data_set", stop)
    code, _, err = cli(*options, tmp_path / "parts.json")
    assert code == 130 and "stopped: 2 images are left" in err
    assert not (tmp_path / "parts.json").exists() and (tmp_path / "parts.part.jsonl").is_file()
    monkeypatch.setattr(dealkit.predict.tiles, "predict_data_set", make)
    cli("clicks", coco, "--out", tmp_path / "other.json", "--seed", 1)
    code, _, err = cli(*options[:4], tmp_path / "other.json", *options[5:], tmp_path / "parts.json")
    assert code == 2 and "parts.part.jsonl: made for another request: clicks" in err
    assert cli(*options, tmp_path / "parts.json")[0] == 0
    assert (tmp_path / "parts.json").read_bytes() == whole and not (tmp_path / "parts.part.jsonl").exists()


def test_no_input_and_no_foreign_file_is_written_over(cli, tiny_coco, checkpoint, tmp_path):
    image = tiny_coco.parent / "images" / "0.png"
    shot = ("predict", image, "--point", 13, 16, "--checkpoint", checkpoint)
    cli("clicks", tiny_coco, "--out", tmp_path / "c.json")
    data = ("predict", "--coco", tiny_coco, "--clicks", tmp_path / "c.json", "--checkpoint", checkpoint)
    (link := tmp_path / "link.png").symlink_to(image)
    before = {path: path.read_bytes() for path in (image, tiny_coco, tmp_path / "c.json", checkpoint)}
    for args in (
        (*shot, "--figure", image),
        (*shot, "--figure", link),
        (*shot, "--save-embedding", checkpoint),
        (*data, "--out", tiny_coco),
        (*data, "--out", tmp_path / "c.json"),
        (*data, "--out", tmp_path / "c.json", "--overwrite"),
    ):
        code, _, err = cli(*args)
        assert code == 2 and "is an input of this command" in err, err
    code, _, err = cli(*shot, "--out", tiny_coco)
    assert code == 2 and "is no earlier output of this command; expected another name, or --overwrite" in err
    assert before == {path: path.read_bytes() for path in before}
    write_json(tmp_path / "mine.json", {"mine": 1})
    assert cli(*shot, "--out", tmp_path / "mine.json")[0] == 2 and read_json(tmp_path / "mine.json") == {"mine": 1}
    assert cli(*shot, "--out", tmp_path / "mine.json", "--overwrite")[0] == 0 and "boxes" in read_json(tmp_path / "mine.json")
    assert cli(*shot, "--out", tmp_path / "mine.json")[0] == 0, "its own output is written over"


BAD = [
    ("predict", "expected either IMAGE or FOLDER with --point X Y, or --coco"),
    ("predict good.png", "predict IMAGE: expected at least one --point X Y, a --box, or --embedding"),
    ("predict good.png --point 1 2 --embedding b", "predict --embedding: expected no --point"),
    ("predict good.png --point 1 2 --threshold 2", "threshold: expected a score, 0 to 1, or 'adaptive', got 2"),
    ("predict good.png --point 1 2 --threshold nan", "threshold: expected a score"),
    ("predict good.png --point 1 2 --checkpoint none.safetensors", "none.safetensors: no such checkpoint"),
    ("predict good.png --point 1 2 --checkpoint good.png", "good.png: not a safetensors checkpoint"),
    ("predict good.png --box 9,9,2,2", "--box 9 9 2 2: expected x1 < x2 and y1 < y2"),
    ("predict good.png --embedding bad.json", "bad.json: not a safetensors prompt embedding"),
    ("predict none.png --point 1 2", "IMAGE none.png: no such file"),
    ("predict empty.png --point 1 2", "IMAGE empty.png: is empty"),
    ("predict bad.json --point 1 2", "IMAGE bad.json: not an image in any format"),
    ("predict good.png --point 9 2", "--point 9 2: is outside good.png; expected x in 0..8, y in 0..6"),
    ("predict good.png --point 1 2 --not-point=1,-2", "--point 1 -2: is outside good.png"),
    ("predict good.png --point nan 2", "--point nan 2: is outside good.png"),
    ("predict good.png --point 1 2 --of none.png", "--of none.png: no such file"),
    ("predict good.png --point 1 2 --format coco", "predict IMAGE: --format has no effect; expected it with FOLDER"),
    ("predict good.png --point 1 2 --clicks c.json", "predict IMAGE: --clicks has no effect; expected it with --coco"),
    ("predict good.png --point 1 2 --overlap 8", "--overlap: has no effect without --tile"),
    ("predict good.png --point 1 2 --tile 256 --rounds 2", "--rounds: has no effect with --tile"),
    ("predict good.png --point 1 2 --rounds 0", "--rounds: expected 1 to 10, got 0"),
    ("predict good.png --point 1 2 --together", "predict IMAGE: --together has no effect; expected it with --coco"),
    ("predict --coco good.json --tile 256 --together", "--together: has no effect with --tile"),
    ("predict good.png --point 1 2 --tile 64", "--tile 64: expected more than the 128 pixels that tiles share"),
    ("predict good.png --point 1 2 --figure a.doc", "--figure a.doc: expected a name that ends in .png or"),
    ("predict good.png --point 1 2 --out a.xml", "--out a.xml: expected a name that ends in .json or .csv or .geojson"),
    ("predict good.png --point 1 2 --out a.gpkg", "--out a.gpkg: good.png has no coordinates; expected a map"),
    ("predict good.png --point 1 2 --out a.geojson --map-crs", "--map-crs: good.png has no coordinates; expected a map"),
    ("predict good.png --lonlat -9 45", "--lonlat: good.png has no coordinates; expected a map"),
    ("predict good.png --point 1 2 --out good.png/a.json", "good.png is a file, expected a folder"),
    ("predict good.png --point 1 2 --out photos", "--out photos: expected a name that ends in .json"),
    (f"predict good.png --point 1 2 --out {'x' * 300}.json", "...: expected a name of at most 255 bytes"),
    ("predict photos --point 1 2", "predict FOLDER: expected --of IMAGE, which the points lie in, or --embedding"),
    ("predict photos --point 1 2 --of a.png", "predict FOLDER: expected --out FOLDER"),
    ("predict photos --point 9 2 --of a.png --out f", "--point 9 2: is outside photos/a.png"),
    ("predict photos --point 1 2 --of a.png --out good.png", "--out good.png: is a file, expected a folder"),
    ("predict photos --point 1 2 --of a.png --out photos", "--out photos: holds files but no found.jsonl"),
    ("predict photos --point 1 2 --of a.png --out f --figure a.png", "predict FOLDER: --figure has no effect"),
    ("predict photos --point 1 2 --of a.png --out f --format yolo", "a.jpg and a.png would share one file"),
    ("predict --coco good.json", "expected --clicks and --out, too"),
    ("predict --coco good.json --clicks c.json --out p.json", "--clicks c.json: no such file"),
    ("predict --coco good.png --clicks good.json --out p.json", "--coco good.png: not a JSON file"),
    ("predict --coco good.json --clicks good.json --out p.csv", "--out p.csv: expected a name that ends in .json"),
    ("predict --coco good.json --clicks good.json --out p.json --images x", "--images x: no such folder"),
    *(
        (f"predict --coco good.json --clicks good.json --out p.json {option}", f"--coco: {option.split()[0]} has no effect")
        for option in ("--threshold 0.5", "--point 1 2", "--not-point 1 2", "--figure a.png", "--embedding a", "--kind bolt")
    ),
    ("click none", "IMAGES none: no such file"),
    ("click bad.json", "IMAGES bad.json: not an image"),
    ("click none_in_it", "none_in_it: no image in it; expected files that end in .png"),
    ("click photos --port 70000", "--port: expected 0 to 65,535, got 70000"),
    ("click photos --threshold 7", "threshold: expected a score, 0 to 1, or 'adaptive', got 7.0"),
    ("click photos --checkpoint none.safetensors", "none.safetensors: no such checkpoint"),
    ("serve --root none", "--root none: no such folder"),
    ("serve --media good.png", "--media good.png: is a file, expected a folder"),
    ("serve --threshold -1", "threshold: expected a score"),
    ("predict good.png --point 1 1 --checkpoint photos", "--checkpoint photos/model.json: no such file"),
    ("predict good.png --point 1 1 --checkpoint photos --tile 256", "--checkpoint photos: is a folder; graphs read one image"),
    ("predict photos --of good.png --point 1 1 --out f --checkpoint photos", "--checkpoint photos: is a folder; graphs read"),
    ("serve --checkpoint good.json", "good.json: not a safetensors checkpoint"),
    ("demo --checkpoint none.safetensors", "none.safetensors: no such checkpoint"),
    ("train --out good.png", "--out good.png: is a file, expected a folder"),
    ("train --out run --coco none*.json", "no file matches none*.json"),
    ("train --out run --init none.safetensors", "none.safetensors: no such checkpoint"),
    ("train --out run --resume", "config.json: no such file"),
    ("evaluate --coco none.json --predictions good.json --out r.json", "--coco none.json: no such file"),
    ("evaluate --coco good.json --predictions good.json --out good.json", "--out good.json: is an input of this command"),
    ("errors --coco good.json --predictions good.png --out r.json", "--predictions good.png: not a JSON file"),
    ("benchmark --coco none*.json --out r.json", "--coco: no file matches none*.json"),
    ("benchmark --coco good.json --out r.json --checkpoint good.png", "good.png: not a safetensors checkpoint"),
    ("bench --checkpoint none.safetensors", "none.safetensors: no such checkpoint"),
    ("bench --browser --size 256", "--size: has no effect with --browser"),
    ("bench --large --ray", "--ray: has no effect with --large"),
    ("bench --json bad.txt", "--json bad.txt: expected a name that ends in .json"),
    ("publish none --out a.safetensors", "RUN none: no such folder"),
    ("data check none.json", "FILE none.json: no such file"),
    ("data check good.json --images none", "--images none: no such folder"),
    ("data build --root none", "--root none: no such folder of sources"),
    ("data build --root photos --out photos", "--out photos: is an input of this command"),
    ("data scenes --out scenes --size 8", "--size: expected 16 to 8,192, got 8"),
    ("clicks none.json --out c.json", "COCO none.json: no such file"),
    ("browse none*.json", "FILES: no file matches none*.json"),
    ("browse good.json --predictions none.json", "--predictions none.json: no such file"),
    ("export none.json --out a.json", "FILE none.json: no such file"),
    ("run 99_none", "notebook: expected one of 00_quickstart, "),
    ("run 00_quickstart -f none.yml", "none.yml: not a YAML file"),
    ("fly high", "command: expected one of demo, click, predict, browse"),
]

ONE_BY_ONE = """
import contextlib, io, json, sys
from dealkit.__main__ import main

for line in sys.stdin:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            main(line.split())
        code = 0
    except SystemExit as end:
        code = end.code
    print(json.dumps([code, said.getvalue(), sorted({"torch", "torchvision", "fiftyone", "scipy", "pandas"} & set(sys.modules))]))
"""


def test_mistakes_are_one_clear_line_before_anything_heavy_is_imported(tmp_path):
    for name in ("good.png", "photos/a.png", "photos/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 6)).save(tmp_path / name)
    (tmp_path / "empty.png").touch()
    (tmp_path / "none_in_it").mkdir()
    for name, text in (("bad.json", "no"), ("good.json", "{}")):
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-c", ONE_BY_ONE]
    asked = "\n".join(line for line, _ in BAD)
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}, "capture_output": True, "text": True}
    done = subprocess.run(command, input=asked, **options)
    assert done.returncode == 0, done.stderr
    for (line, said), answer in zip(BAD, done.stdout.splitlines(), strict=True):
        code, error, heavy = json.loads(answer)
        assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and said in error, f"{line}: {error}"
        assert not heavy, f"{line}: {heavy}"
