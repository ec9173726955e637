"""The contact sheet: pages, pictures that stand alone, names that are no HTML."""

import base64
import io
import re

import numpy as np
from PIL import Image

import dealkit.predict.sheet
from dealkit.predict.formats import Findings
from dealkit.predict.sheet import SIDE, SMALLEST, thumbnail, write_sheet


def found(name, boxes, size=(80, 60)):
    return Findings(image=name, width=size[0], height=size[1], boxes=boxes, scores=[0.5] * len(boxes), adaptive=0)


def pictures(page):
    return [Image.open(io.BytesIO(base64.b64decode(text))) for text in re.findall(r"base64,([^\"]+)\"", page)]


def test_pages_hold_every_image_once_and_stand_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(dealkit.predict.sheet, "PAGE", 2)
    names = ["<b>.png", "two.png", "three.png"]
    for name in names:
        Image.new("L", (80, 60)).save(tmp_path / name)
    every = [found(name, [[1.0, 2.0, 9.0, 9.0]]) for name in names] + [found("gone.png", [])]
    paths = write_sheet(every, tmp_path, tmp_path / "out", "a & b", {"bad.png": "truncated"})
    assert [path.name for path in paths] == ["sheet.html", "sheet-2.html"]
    first, second = (path.read_text() for path in paths)
    assert "&lt;b&gt;.png" in first and "<b>.png" not in first and "a &amp; b: 3 in 4 images" in first
    assert [picture.size for page in (first, second) for picture in pictures(page)] == [(640, 480)] * 3
    assert "bad.png: truncated" in first and "bad.png" not in second and "gone.png: no such image" in second
    assert not re.search(r'(src|href)="(?!data:image/jpeg|sheet)', first + second), "nothing from elsewhere"


def test_nothing_found_at_all_is_a_page(tmp_path):
    (path,) = write_sheet([], tmp_path, tmp_path, "bolt", {})
    assert "bolt: 0 in 0 images" in path.read_text()


def test_a_thumbnail_of_a_large_image_shows_even_the_smallest_box(tmp_path):
    Image.new("RGB", (4 * SIDE, 2 * SIDE)).save(tmp_path / "a.png")
    made = thumbnail(found("a.png", [[400.0, 400.0, 404.0, 404.0]], (4 * SIDE, 2 * SIDE)), tmp_path)
    pixels = np.array(Image.open(io.BytesIO(made)).convert("L"))
    assert pixels.shape == (SIDE // 2, SIDE)
    rows, columns = np.nonzero(pixels > 100)  # 400..404 at a quarter: round 100.5, `SMALLEST` wide and a line more
    assert rows.min() >= 96 and rows.max() <= 104 and np.ptp(columns) in (SMALLEST, SMALLEST + 1)
