"""`data.tinyset.build`: what a build keeps, cuts, leaves out and says, its splits, and that a killed build ends the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dealkit.data.tinyset.chunks as chunks
from dealkit.config import BuildConfig, DataConfig
from dealkit.data.annotations import Problem
from dealkit.data.coco import CocoFolder, check
from dealkit.data.sources.records import ImageRecord
from dealkit.data.tinyset.build import assign_splits, build_tinyset, report_text
from dealkit.data.tinyset.categories import SUPERCATEGORIES, supercategory
from dealkit.data.tinyset.index import TinySet
from dealkit.train.stream import TrainingStream, open_sources

SMALL = BuildConfig(tile=100, overlap=20)


def smooth(seed, width=64, height=48):
    """A random picture with coarse and fine structure, as photographs have; the same at every size."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((48, 64, 3))
    for cells in (2, 4, 8, 16, 32):
        grid = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += np.asarray(grid.resize((64, 48), Image.Resampling.BICUBIC), dtype=np.float64) / cells
    pixels = 255 * (pixels - pixels.min()) / np.ptp(pixels)
    return Image.fromarray(pixels.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def record(path, boxes=((10, 10, 20, 20),), names=None, *, ignore=None, **fields):
    with Image.open(path) as image:
        width, height = image.size
    boxes = np.float32(boxes).reshape(-1, 4)
    return ImageRecord(
        **{"path": path, "width": width, "height": height, "boxes": boxes, "source": path.parent.name, "image_id": path.stem}
        | {"categories": tuple(names or ["bolt"] * len(boxes)), "ignore": np.array(ignore or [False] * len(boxes), dtype=bool)}
        | fields
    )


def reader_of(make):
    """A reader as `dealkit.data.tinyset.build` calls it; `make(folder, on_problem)` gives its records."""

    def read(folder, on_problem):
        yield from make(folder, on_problem)

    return read


@pytest.fixture
def root(tmp_path):
    """`a`: a large image, a small one, an empty one and a copy; `b`: two frames of a video and a copy of one of `a`."""
    a, b = tmp_path / "root" / "a", tmp_path / "root" / "b"
    save(smooth(0, 150, 80), a / "large.png")
    save(smooth(1), a / "small.png")
    save(smooth(2), a / "empty.jpg")
    save(smooth(1, 128, 96), a / "twice.jpg", quality=80)  # `small` enlarged
    save(smooth(3), b / "frame1.png")
    save(smooth(4), b / "frame2.png")
    save(smooth(1), b / "same.bmp")
    return tmp_path / "root"


def read_a(folder, on_problem):
    large = [(10, 10, 20, 20), (95, 40, 105, 50), (46, 60, 54, 70), (40, 5, 56, 15)]
    yield record(folder / "large.png", large, ["bolt", "bolt", "nut", "small-vehicle"])
    yield record(folder / "small.png", [(10, 10, 20, 20), (30, 30, 40, 40)], ["nut", "region"], ignore=[False, True])
    yield record(folder / "empty.jpg", [])
    yield record(folder / "twice.jpg", [(20, 20, 40, 40), (60, 60, 80, 80)])
    on_problem(Problem("labels.txt", "line 3", "numbers", "expected four"))


def read_b(folder, on_problem):
    yield record(folder / "frame2.png", group="video")
    yield record(folder / "frame1.png", group="video", split="test")
    yield record(folder / "same.bmp", split="train")


READERS = {"a": reader_of(read_a), "b": reader_of(read_b)}


@pytest.fixture
def made(root, tmp_path):
    """(report, folder) of a build of both."""
    out = tmp_path / "out"
    return build_tinyset(root, out, readers=READERS, domains={"a": "factory"}, config=SMALL), out


def rows_of(out):
    """Index row of each file name."""
    data = TinySet(out / "index.parquet")
    return {data.record(i).path.relative_to(out / "images").as_posix(): (data, i) for i in range(len(data))}


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# What comes out


def test_a_large_image_becomes_tiles_that_remember_where_they_lie(made, root):
    _, out = made
    # 150 wide: tiles at 0..100 and 50..150. The nut at 46..54 is half in the second (4 of 8 columns), the vehicle at 40..56 has 6
    # of 16 columns in it, less than half, and the bolt at 95..105 half in the first.
    rows = rows_of(out)
    data, i = rows["a/large@0_0.png"]
    left = data.record(i)
    assert left.boxes.tolist() == [[10, 10, 20, 20], [95, 40, 100, 50], [46, 60, 54, 70], [40, 5, 56, 15]]
    assert left.ignore.tolist() == [False] * 4 and (left.width, left.height) == (100, 80)
    data, i = rows["a/large@50_0.png"]
    right = data.record(i)
    assert right.boxes.tolist() == [[45, 40, 55, 50], [0, 60, 4, 70], [0, 5, 6, 15]]
    assert right.ignore.tolist() == [False, False, True]
    assert [data.categories[k][1] for k in right.labels.tolist()] == ["bolt", "nut", "small-vehicle"]
    with Image.open(root / "a" / "large.png") as whole:
        pixels = torch.from_numpy(np.asarray(whole)[:, 50:].copy()).permute(2, 0, 1)
    assert torch.equal(data[i].image, pixels)
    found = [row for s in ("train", "val", "test") for row in json.loads((out / f"{s}.json").read_text())["images"]]
    [row] = [row for row in found if row["file_name"] == "a/large@50_0.png"]
    assert row["offset"] == [50, 0] and row["origin"] == "a/large.png" and row["domain"] == "factory"


def test_small_images_are_the_files_themselves_and_empty_ones_stay(made, root):
    _, out = made
    rows = rows_of(out)
    data, i = rows["a/small.png"]
    small = data.record(i)
    assert small.boxes.tolist() == [[10, 10, 20, 20], [30, 30, 40, 40]] and small.ignore.tolist() == [False, True]
    assert (out / "images" / "a" / "small.png").samefile(root / "a" / "small.png")
    data, i = rows["a/empty.jpg"]
    assert len(data.record(i).boxes) == 0 and data[i].image.shape == (3, 48, 64)


def test_copies_are_left_out_and_what_stays_is_not(made):
    report, out = made
    # `twice` shows the objects of `small` only in part the same names, but in the same places; `same` has the same pixels
    assert {row.split("/")[-1] for row in rows_of(out)} == {
        "large@0_0.png", "large@50_0.png", "small.png", "empty.jpg", "frame1.png", "frame2.png",
    }  # fmt: skip
    copies = report["dropped"]["copy of another image"]
    assert copies["count"] == 2 and copies["sources"] == {"a": 1, "b": 1}
    assert copies["examples"] == ["a: twice: as a: small", "b: same: as a: small"]
    assert not list((out / "images").rglob("twice*")) and not list((out / "images").rglob("same*"))


def test_every_coco_file_passes_the_check_and_says_what_the_index_says(made):
    _, out = made
    data = TinySet(out / "index.parquet")
    for split in ("train", "val", "test"):
        assert check(out / f"{split}.json", out / "images") == []
        coco, part = CocoFolder(out / f"{split}.json", out / "images"), data.select(split=split)
        assert len(coco) == len(part)
        assert coco.categories == data.categories
        for i in range(len(coco)):
            a, b = coco[i], part[i]
            assert a.image_id == b.image_id and torch.equal(a.image, b.image) and torch.equal(a.boxes, b.boxes)
            assert torch.equal(a.labels, b.labels) and torch.equal(a.annotation_ids, b.annotation_ids)
            assert torch.equal(a.crowd, b.crowd)
    assert len(data) == 6 and len(data.select(source="b", split="test")) == 2  # the two frames of the video, one of them stated
    rows = json.loads((out / "train.json").read_text())["categories"]
    assert {row["name"]: row["supercategory"] for row in rows} == {
        **{"bolt": "part", "nut": "part", "region": "other", "small-vehicle": "vehicle"}
    }


def test_super_categories_go_by_words():
    expected = {"Expressway-Service-area": "structure", "swimming-pool": "structure", "traffic light": "traffic"}
    expected |= {"sea_person": "person", "PEOPLE": "person", "awning-tricycle": "vehicle", "buses": "vehicle"}
    expected |= {"red blood cell": "cell", "Fishing vessel": "ship", "2": "other", "": "other"}
    assert {name: supercategory(name) for name in expected} == expected
    words = [word for text in SUPERCATEGORIES.values() for word in text.split()]
    assert len(words) == len(set(words)), "no word is of two super-categories"


def test_the_report_says_what_readers_and_build_left_out(made):
    report, out = made
    assert report == json.loads((out / "report.json").read_text())
    assert report["sources"]["a"] == {"domain": "factory", "records": 4, "images": 4, "objects": 9}
    assert report["problems"]["a"]["count"] == 1 and "labels.txt: line 3: numbers" in report["problems"]["a"]["examples"][0]
    assert report["dropped"]["object mostly outside a tile, ignored there"]["count"] == 1
    assert report["other"] == ["region"] and report["failed"] == {} and report["skipped"] == []
    text = report_text(report)
    assert "2 x copy of another image, as a: twice: as a: small" in text and "1 problems in a" in text


# Broken sources


def test_a_broken_image_or_record_is_left_out_and_named(tmp_path):
    a = tmp_path / "root" / "a"
    good = record(save(smooth(1), a / "good.png"))
    other = record(save(smooth(2), a / "other.png"), [(1, 1, 9, 9), (1, 1, 9, 9), (2, 2, 9, 9)])
    (a / "zero.png").touch()
    (a / "half.png").write_bytes((a / "good.png").read_bytes()[:200])
    save(Image.new("RGB", (64, 48), 7), a / "black.png")
    strange = Path(os.fsdecode(os.fsencode(str(a)) + b"/\xff odd.png"))
    shutil.copy(save(smooth(5), tmp_path / "x.png"), strange)

    def read(folder, on_problem):
        yield from (good, other, record(a / "black.png"))
        yield from (replace(good, image_id="wide", width=65), replace(other, image_id="good"))
        for name in ("zero", "half", "missing"):
            yield replace(good, path=a / f"{name}.png", image_id=name)
        yield record(strange)

    report = build_tinyset(tmp_path / "root", tmp_path / "out", readers={"a": reader_of(read)}, config=SMALL)
    dropped = report["dropped"]
    assert dropped["image cannot be read"]["count"] == 3
    assert any("missing.png: no such image" in e or "No such file" in e for e in dropped["image cannot be read"]["examples"])
    assert any("a: zero: zero.png: not an image" in e for e in dropped["image cannot be read"]["examples"])
    assert dropped["image of another size than stated"]["examples"] == ["a: wide: stated 65 x 48, is 64 x 48"]
    assert dropped["image of one colour with objects"]["examples"] == ["a: black"]
    assert dropped["object listed twice"] == {"count": 1, "sources": {"a": 1}, "examples": ["a: other"]}
    assert "image good: image_id: used more than once" in report["problems"]["a"]["examples"][0]
    data = TinySet(tmp_path / "out" / "index.parquet")
    names = [data.record(i).path.name for i in range(len(data))]
    assert len(names) == 3 and all(name.isascii() for name in names) and all(len(data[i].image) == 3 for i in range(3))


def test_a_source_that_fails_is_left_out_and_the_build_goes_on(root, tmp_path):
    def fails(folder, on_problem):
        yield record(folder / "frame1.png")
        raise ValueError(f"{folder}/labels.txt: line 2: box: expected four numbers")

    (root / "c").mkdir()
    (root / "c" / "train.json").write_text('{"images": [')
    (root / "notes").mkdir()
    readers = {"a": READERS["a"], "b": reader_of(fails)}
    report = build_tinyset(root, tmp_path / "out", readers=readers, config=SMALL)
    assert report["failed"]["b"] == "labels.txt: line 2: box: expected four numbers"
    assert report["failed"]["c"].startswith("train.json: file: content: not a JSON file")
    assert report["skipped"] == ["notes"] and list(report["sources"]) == ["a"]
    assert "left out: b: labels.txt" in report_text(report) and "skipped: notes" in report_text(report)


def test_nothing_to_build_is_an_error(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder of sources"):
        build_tinyset(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match=r"no source: expected folders named as a reader \(dota\), or in COCO, YOLO or VOC form"):
        build_tinyset(root, tmp_path / "out", readers={"dota": READERS["a"]})
    with pytest.raises(ValueError, match="no source can be read: a: no image"):
        build_tinyset(root, tmp_path / "out", readers={"a": reader_of(lambda folder, on_problem: [])})
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0"):
        build_tinyset(root, tmp_path / "out", readers=READERS, workers=0)


def test_a_folder_of_something_else_is_left_alone(root, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="mine: expected an empty folder"):
        build_tinyset(root, tmp_path / "mine", readers=READERS)
    build_tinyset(root, tmp_path / "out", readers=READERS, config=SMALL)
    with pytest.raises(ValueError, match="a TinySet of other sources or settings"):
        build_tinyset(root, tmp_path / "out", readers=READERS)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"overlap": 1024}, "BuildConfig.overlap: expected 0 to 1023"),
        ({"min_visible": 0}, "BuildConfig.min_visible"),
        ({"near": 128}, "BuildConfig.near: expected 0 to 127, got 128"),
        ({"val": 0.6, "test": 0.4}, "BuildConfig.val, test"),
    ],
)
def test_settings_are_checked(fields, said):
    with pytest.raises(ValueError, match=said):
        BuildConfig(**fields)


def test_domains_of_own_folders_come_from_a_file(root, tmp_path):
    (root / "domains.json").write_text('{"b": "street"}')
    report = build_tinyset(root, tmp_path / "out", readers=READERS, domains={"a": "factory", "b": "x"}, config=SMALL)
    assert {name: row["domain"] for name, row in report["sources"].items()} == {"a": "factory", "b": "street"}
    (root / "domains.json").write_text('["street"]')
    with pytest.raises(ValueError, match="domains.json: file: expected an object"):
        build_tinyset(root, tmp_path / "other", readers=READERS)


def test_folders_in_coco_yolo_and_voc_form_are_read_by_their_files(make_coco, tmp_path):
    """Own copies of a public set are often converted to COCO under its name, so a folder's form goes before its name."""
    coco, yolo, voc = (tmp_path / "root" / name for name in ("sirst", "mine", "old"))
    file = make_coco("root/sirst", [[(5, [10, 12, 6, 8], 0), (9, [70, 10, 10, 10], 1)], []])
    file.rename(coco / "val.json")
    save(smooth(5), yolo / "images" / "train" / "a.png")
    (yolo / "labels" / "train").mkdir(parents=True)
    (yolo / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (yolo / "data.yaml").write_text("names: {0: washer}\n")
    save(smooth(6), voc / "JPEGImages" / "b.png")
    (voc / "Annotations").mkdir()
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    (voc / "Annotations" / "b.xml").write_text(f"<annotation><object><name>screw</name>{box}</object></annotation>")
    report = build_tinyset(tmp_path / "root", tmp_path / "out", readers={"sirst": reader_of(read_a)})
    data = TinySet(tmp_path / "out" / "index.parquet")
    assert not report["failed"] and not report["skipped"] and len(data) == 4
    part = data.select(source="sirst", split="val")
    assert part.counts.tolist() == [2, 0] and report["sources"]["sirst"]["objects"] == 2
    first = part.record(0)
    assert first.boxes.tolist() == [[10, 12, 16, 20], [70, 10, 80, 20]] and first.ignore.tolist() == [False, True]
    assert {name for _, name in data.categories} == {"bolt", "nut", "washer", "screw"}


# Splits and frames


def test_frames_of_one_scene_stay_both_and_together(tmp_path):
    a = tmp_path / "root" / "a"
    for i in range(2):  # the same ground; an object of 4 x 4 moves
        image = smooth(0, 200, 150)
        image.paste((255, 255, 255), (20 + 60 * i, 40, 24 + 60 * i, 44))
        save(image, a / f"{i}.png")

    def read(folder, on_problem):
        for i, split in enumerate(("train", "val")):
            yield record(folder / f"{i}.png", [(20 + 60 * i, 40, 24 + 60 * i, 44)], split=split)

    report = build_tinyset(tmp_path / "root", tmp_path / "out", readers={"a": reader_of(read)})
    data = TinySet(tmp_path / "out" / "index.parquet")
    assert len(data) == 2 and [data.record(i).split for i in range(2)] == ["val", "val"]
    assert report["moved"] == {"train to val": 1} and "copy of another image" not in report["dropped"]


def test_a_copy_of_a_test_image_leaves_the_training_set(tmp_path):
    save(smooth(1), tmp_path / "root" / "a" / "x.png")
    save(smooth(1, 96, 72), tmp_path / "root" / "b" / "y.png")
    readers = {
        "a": reader_of(lambda folder, on_problem: [record(folder / "x.png", split="train")]),
        "b": reader_of(lambda folder, on_problem: [record(folder / "y.png", [(0, 0, 5, 5)], split="test")]),
    }
    report = build_tinyset(tmp_path / "root", tmp_path / "out", readers=readers)
    data = TinySet(tmp_path / "out" / "index.parquet")
    assert [(data.record(i).source, data.record(i).split) for i in range(len(data))] == [("b", "test")]
    assert report["dropped"]["copy of another image"]["examples"] == ["a: x: as b: y"]


def test_own_splits_are_kept_and_what_is_missing_is_drawn():
    config = BuildConfig(val=0.2, test=0.3)

    def splits(own):
        names = [f"s/{i}" for i in range(len(own))]
        return assign_splits(range(len(own)), names, ["s"] * len(own), own, config)

    kept = ["train", "val", "test", "train"] * 50
    assert splits(kept) == kept
    assert splits(["train", "val"] * 50) == ["train", "val"] * 50  # val is there to judge by: no test is taken from train
    tested = splits(["train", "test"] * 500)
    assert tested[1::2] == ["test"] * 500 and tested[::2].count("val") == pytest.approx(100, abs=30) and "test" not in tested[::2]
    for own in ("", "train"):  # neither
        drawn = splits([own] * 2000)
        assert drawn.count("test") == pytest.approx(600, abs=60) and drawn.count("val") == pytest.approx(400, abs=60)
    assert splits([]) == []


def test_a_draw_depends_on_the_group_and_the_seed_only():
    config = BuildConfig(val=0.4, test=0.3)
    names = [f"s/{i}" for i in range(40)]
    alone = assign_splits(range(40), names, ["s"] * 40, [""] * 40, config)
    more = assign_splits(range(41), ["r/0", *names], ["r"] + ["s"] * 40, ["test"] + [""] * 40, config)
    assert more[1:] == alone
    assert assign_splits(range(40), names, ["s"] * 40, [""] * 40, replace(config, seed=1)) != alone
    pairs = assign_splits([i // 2 for i in range(40)], names, ["s"] * 40, [""] * 40, config)
    assert pairs[::2] == pairs[1::2] and len(set(pairs)) == 3


# Killed, resumed, repeated


class Killed(BaseException):
    pass


def test_a_build_killed_at_any_point_ends_as_one_that_was_not(root, tmp_path, monkeypatch):
    """Every file comes into being by `os.replace`: the build is ended before its first, second, ... move, and started again."""
    monkeypatch.setattr(chunks, "CHUNK_IMAGES", 2)
    whole = tmp_path / "whole"
    report = build_tinyset(root, whole, readers=READERS, config=SMALL)
    expected, move = files(whole), os.replace
    assert not any("work" in name or name.endswith(".tmp") for name in expected)
    moves = 0
    for point in range(100):
        out, moves = tmp_path / f"out{point}", 0

        def replace_or_die(*names, point=point):
            nonlocal moves
            if moves == point:
                raise Killed
            moves += 1
            move(*names)

        monkeypatch.setattr(os, "replace", replace_or_die)
        try:
            build_tinyset(root, out, readers=READERS, config=SMALL)
            break
        except Killed:
            monkeypatch.setattr(os, "replace", move)
            assert build_tinyset(root, out, readers=READERS, config=SMALL) == report
        assert files(out) == expected, point
    assert moves == point > 15  # every point was tried, and one more


def test_a_finished_build_is_not_done_again(root, tmp_path, made):
    report, out = made
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    (out / "work").mkdir()  # killed while it cleared up
    assert build_tinyset(root, out, readers=READERS, domains={"a": "factory"}, config=SMALL) == report
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path != out}.items() <= before.items()
    assert not (out / "work").exists()


def test_a_source_that_changed_meanwhile_is_read_again(root, tmp_path, monkeypatch):
    def stop(*_):
        raise Killed

    monkeypatch.setattr("dealkit.data.tinyset.build._merge_sources", stop)
    with pytest.raises(Killed):
        build_tinyset(root, tmp_path / "out", readers=READERS, config=SMALL)
    monkeypatch.undo()
    save(smooth(9), root / "a" / "small.png")
    build_tinyset(root, tmp_path / "out", readers=READERS, config=SMALL)
    assert (tmp_path / "out" / "images" / "a" / "small.png").read_bytes() == (root / "a" / "small.png").read_bytes()


@pytest.fixture
def coco_root(make_coco, tmp_path):
    """Two COCO folders of 40 images each, a third of them larger than a tile of 64."""
    for name in ("one", "other"):
        file = make_coco(f"root/{name}", [[(5, [10 + i % 9, 12, 6, 8], 0), (9, [60, 10 + i, 9, 9], 0)] for i in range(40)])
        for i in range(0, 40, 3):
            save(smooth(i + 100 * len(name), 90, 70), file.parent / "images" / f"{i}.png")
        file.rename(file.with_name("train.json"))
    return tmp_path / "root"


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"workers": 2}, {"engine": "ray"}], ids=["workers", "ray"])
def test_workers_and_engine_change_nothing(coco_root, tmp_path, options):
    ray = pytest.importorskip("ray", reason="needs Ray: pip install -e .[ray]") if "engine" in options else None
    config = BuildConfig(tile=64, overlap=16)
    try:
        one, two = (build_tinyset(coco_root, tmp_path / f"out{n}", config=config, **more) for n, more in enumerate(({}, options)))
    finally:
        if ray is not None:
            ray.shutdown()
    assert one == two and files(tmp_path / "out0") == files(tmp_path / "out1")
    assert len(TinySet(tmp_path / "out0" / "index.parquet")) > 80


@pytest.mark.slow
def test_a_build_killed_by_the_system_ends_as_one_that_was_not(coco_root, tmp_path):
    options = ["--root", coco_root, "--tile", "64", "--overlap", "16"]
    command = [sys.executable, "-m", "dealkit", "data", "build", *map(str, options)]
    build_tinyset(coco_root, tmp_path / "whole", config=BuildConfig(tile=64, overlap=16))
    out, rng, kills = tmp_path / "out", random.Random(0), 0
    while kills < 3:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([*command, "--out", str(out), "--workers", "2"], **quiet)
        while process.poll() is None and not list(out.glob("work/*/chunks/*.parquet"))[kills:]:
            time.sleep(0.01)
        time.sleep(0.2 * rng.random())
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run([*command, "--out", str(out), "--workers", "1"], check=True, capture_output=True)
    assert kills and files(out) == files(tmp_path / "whole")


def test_a_training_stream_draws_from_the_index(made):
    """Sources with training images only, each domain equally often: `a` is of a factory, `b` of no stated domain."""
    _, out = made
    sources, shares = open_sources((str(out / "index.parquet"),))
    assert len(sources) == len(shares) and shares.sum() == pytest.approx(1)
    assert all(source.record(0).path.is_file() and len(source) for source in sources)
    assert shares.tolist() == pytest.approx([1 / len(sources)] * len(sources))
    sample = TrainingStream(DataConfig(coco=(str(out / "index.parquet"),), synthetic=0.0, size=64), 0, 4)[1]
    assert sample.image.shape == (3, 64, 64) and sample.source != "synthetic"
