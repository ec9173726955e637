"""`dealkit.studies.dior_dota`: DIOR and DOTA end to end on small folders in the official layout, and on real labels."""

from pathlib import Path

import pytest
from PIL import Image

import dealkit.studies.dior_dota
from dealkit.config import DEFAULT_CHECKPOINT
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import in_order, part_of
from dealkit.evaluate.benchmark import benchmark
from dealkit.files import read_json, write_json
from dealkit.report.study_tables import public_table
from dealkit.studies.dior_dota import PAPER, SEEN, SPLITS, public_scores, to_coco

pytestmark = pytest.mark.usefixtures("float32_cpu")


def picture(path, size_wh, boxes):
    """A dark image with bright boxes (xyxy)."""
    image = Image.new("RGB", size_wh, (60, 60, 60))
    for box in boxes:
        image.paste((230, 230, 230), box)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def dior(tmp_path):
    """Three images, 800 x 800 as DIOR's: a train one, and two of the test split; corners on disk are 1-based and inclusive."""
    root = tmp_path / "dior"
    objects = {
        "00001": ("trainval", [("ship", (10, 10, 30, 20))]),
        "11726": ("test", [("vehicle", (100, 100, 112, 108)), ("vehicle", (300, 200, 312, 208)), ("dam", (500, 500, 560, 540))]),
        "11727": ("test", [("Expressway-toll-station", (50, 60, 90, 80))]),
    }
    for name, (folder, of_image) in objects.items():
        picture(root / f"JPEGImages-{folder}" / f"{name}.jpg", (800, 800), [b for _, b in of_image])
        shapes = "".join(
            f"<object><name>{n}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for n, (x1, y1, x2, y2) in of_image
        )
        file = root / "Annotations" / "Horizontal Bounding Boxes" / f"{name}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"<annotation><filename>{name}.jpg</filename>{shapes}</annotation>")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, names in (("train", ["00001"]), ("val", []), ("test", ["11726", "11727"])):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
    return root


@pytest.fixture
def dota(tmp_path):
    """A val image of 300 x 200 with a slanted ship, a difficult one and a pool, and a train image."""
    root = tmp_path / "dota-v2.0"
    head = "imagesource:GoogleEarth\ngsd:0.25\n"
    lines = ["30 10 50 30 30 50 10 30 ship 0", "200 20 220 20 220 40 200 40 ship 1"]
    lines += ["100 100 120 100 120 116 100 116 swimming-pool 0"]
    for split, name, text in (("val", "P0001", lines), ("train", "P0002", lines[:1])):
        picture(root / split / "images" / f"{name}.png", (300, 200), [(20, 20, 40, 40), (200, 20, 220, 40), (100, 100, 120, 116)])
        labels = root / split / "labelTxt-v2.0" / f"{name}.txt"
        labels.parent.mkdir(parents=True)
        labels.write_text(head + "\n".join(text) + "\n")
    return root


def test_dior_becomes_coco_of_its_test_split(dior, tmp_path):
    data = CocoFolder(to_coco("dior", dior, tmp_path / "dior.json"), dior, source="dior")
    assert sorted(data.file_names) == ["JPEGImages-test/11726.jpg", "JPEGImages-test/11727.jpg"]
    assert {name for _, name in data.categories} == {"vehicle", "dam", "Expressway-toll-station"}
    assert data[0].boxes.tolist()[:2] == [[100, 100, 112, 108], [300, 200, 312, 208]]  # 0-based, the end not included
    assert len(CocoFolder(to_coco("dior", dior, tmp_path / "train.json", split="train"), dior)) == 1


def test_dota_boxes_are_those_around_its_quadrilaterals_and_difficult_ones_are_ignored(dota, tmp_path):
    data = CocoFolder(to_coco("dota-v2.0", dota, tmp_path / "dota.json"), dota)
    assert data.file_names == ["val/images/P0001.png"]
    assert data.boxes.tolist() == [[10, 10, 50, 50], [200, 20, 220, 40], [100, 100, 120, 116]]
    assert data.crowd.tolist() == [False, True, False]


def test_what_is_not_there_is_an_error(dior, tmp_path):
    with pytest.raises(ValueError, match="public data set: expected one of dior, dota-v2.0, dota-v1.0, got 'moon'"):
        to_coco("moon", dior, tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"no labelled image of the split 'val'; .*layout: Annotations.*no test labels"):
        to_coco("dior", dior, tmp_path / "x.json", split="val")
    get = rf"none/dota-v2.0: no such folder; `python -m dealkit data get dota-v2.0 --root {tmp_path}/none` fetches"
    with pytest.raises(ValueError, match=get):
        public_scores("dota-v2.0", tmp_path / "none" / "dota-v2.0", __file__, tmp_path / "r.json", tmp_path / "work")
    assert not (tmp_path / "x.json").exists()


def test_dior_end_to_end_seen_and_unseen_apart(dior, checkpoint, tmp_path):
    out = tmp_path / "results.json"
    made = public_scores("dior", dior, checkpoint, out, tmp_path / "work", seeds=2, tile=512, overlap=64)
    assert read_json(out)["rows"] == made.rows and str(tmp_path) not in out.read_text()
    assert (made.request["split"], made.request["seen"], len({r["clicks"] for r in made.rows})) == ("test", ["vehicle"], 2)
    rows = {r["group"]: r for r in made.rows if r["seed"] == 0}
    of_groups = {"all": (3, 2, 4), "seen": (1, 2, 2), "unseen": (2, 2, 2), "class-agnostic": (3, 2, 4)}
    assert {group: (r["categories"], r["images"], r["objects"]) for group, r in rows.items()} == of_groups
    assert all(0 <= r["ap50"] <= 1 for r in made.rows)
    # a mean over categories: one seen, two unseen
    assert rows["all"]["ap50"] == pytest.approx((rows["seen"]["ap50"] + 2 * rows["unseen"]["ap50"]) / 3)
    table = public_table([made.as_json()])
    assert "class-agnostic (3)" in table and "dior test, 2 images" in table and "54.5" in table and len(table.splitlines()) == 6


def test_dota_end_to_end_in_tiles(dota, checkpoint, tmp_path):
    options = {"seeds": 1, "tile": 128, "overlap": 32}
    made = public_scores("dota-v2.0", dota, checkpoint, tmp_path / "r.json", tmp_path / "work", seen=["ship"], **options)
    assert {r["group"]: (r["categories"], r["objects"]) for r in made.rows}["unseen"] == (1, 1)  # the swimming pool
    with pytest.raises(ValueError, match="seen: no category 'car' in dota-v2.0 val; it has ship, swimming-pool"):
        public_scores("dota-v2.0", dota, checkpoint, tmp_path / "r.json", tmp_path / "work", seen=["car"], **options)


def test_a_run_goes_on_after_a_kill_and_is_not_predicted_again(dior, checkpoint, tmp_path, monkeypatch):
    options = {"seeds": 1, "tile": 800, "overlap": 0}

    def scores(name):
        rows = public_scores("dior", dior, checkpoint, tmp_path / name, tmp_path / "work", **options).rows
        return [{key: value for key, value in row.items() if key != "predict_s"} for row in rows]

    whole = scores("a.json")
    [file] = (tmp_path / "work").glob("*.jsonl")
    lines = file.read_text().splitlines()
    assert len(lines) == 2
    file.write_text(lines[0] + "\n" + lines[1][:40])  # killed while it wrote the second image
    assert scores("b.json") == whole and len(file.read_text().splitlines()) == 2
    monkeypatch.setattr(dealkit.studies.dior_dota, "to_rows", lambda *a: pytest.fail("predicted again"))
    assert scores("c.json") == whole
    monkeypatch.undo()
    options["images"] = 1  # drawn by a hash, into a file of their own: fewer pairs are clicked
    assert {row["images"] for row in scores("d.json")} == {1} and len(list((tmp_path / "work").glob("*.jsonl"))) == 2
    assert set(SEEN) == set(SPLITS) == {*PAPER, "dota-v1.0"}


@pytest.mark.real
def test_real_labels_of_dota_are_read_and_scored_as_by_the_benchmark(real_data, tmp_path):
    """A part of DOTA-v1.0 written back as official text labels: clockwise corners, hyphenated names, an image file for each."""
    given, root = read_coco(real_data / "unseen" / "dota" / "test.json"), tmp_path / "dota-v1.0"
    kinds = {row["id"]: row["name"].replace(" ", "-") for row in given["categories"]}
    for folder in ("images", "labelTxt-v1.0"):
        (root / "val" / folder).mkdir(parents=True)
    for image in given["images"]:
        (root / "val" / "images" / image["file_name"]).symlink_to(real_data / "unseen" / "dota" / "images" / image["file_name"])
        lines = ["imagesource:GoogleEarth", "gsd:null"]
        for row in (a for a in given["annotations"] if a["image_id"] == image["id"]):
            x, y, w, h = row["bbox"]
            corners = f"{x} {y} {x + w} {y} {x + w} {y + h} {x} {y + h}"
            lines.append(f"{corners} {kinds[row['category_id']]} {row['iscrowd']}")
        (root / "val" / "labelTxt-v1.0" / f"{Path(image['file_name']).stem}.txt").write_text("\n".join(lines) + "\n")

    options = {"seeds": 1, "images": 4}
    rows = public_scores("dota-v1.0", root, DEFAULT_CHECKPOINT, tmp_path / "r.json", tmp_path / "work", **options).rows
    of_group = {row["group"]: row for row in rows}
    truth = read_coco(tmp_path / "work" / "dota-v1.0-val.json")
    assert sorted(row["name"] for row in truth["categories"]) == sorted(kinds.values()) and len(truth["images"]) == 84
    names = {row["id"]: row["file_name"] for row in truth["images"]}
    read = sorted((names[a["image_id"]], [round(v, 2) for v in a["bbox"]]) for a in truth["annotations"])
    names = {row["id"]: f"val/images/{row['file_name']}" for row in given["images"]}
    assert read == sorted((names[a["image_id"]], [round(v, 2) for v in a["bbox"]]) for a in given["annotations"])

    part = part_of(truth, images=in_order({a["image_id"] for a in truth["annotations"]}, 0)[:4])
    write_json(tmp_path / "dota" / "val.json", part)
    (tmp_path / "dota" / "images").symlink_to(root)
    [row] = benchmark(DEFAULT_CHECKPOINT, [tmp_path / "dota" / "val.json"], None, prompts=["alone"], seeds=1).rows
    assert row["clicks"] == of_group["all"]["clicks"] and row["ap50"] > 0.05
    for metric in ("ap50", "ap75", "ap50_ignored", "hit"):
        assert of_group["all"][metric] == pytest.approx(row[metric], abs=0.01)
