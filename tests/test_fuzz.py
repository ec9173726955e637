"""Broken files by the hundred: a reader gives one clear error that names file and field, or the right content; nothing else.

The generators are seeded; what is accepted is compared with a reading of the file that shares no code with the library.
"""

import copy
import io
import json
import math
import random
import re
from collections import Counter
from functools import partial

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import dealkit.data.images as images
from dealkit.clicks import check_clicks, load_clicks, make_clicks
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder, check
from dealkit.evaluate.coco import evaluate
from dealkit.evaluate.errors import find_errors
from dealkit.model.checkpoint import load_model

pytestmark = pytest.mark.usefixtures("told")  # what is told of a case does not silence the next

HUGE, NAN = 10**400, float("nan")
VALUES = [None, True, False, "", "x", "1", "0.5", "\ud800", "a\0b", "../a.png", "/etc/passwd", "n" * 300 + ".png", -1, 0, 1, 2]
VALUES += [1.5, -0.0, 1e-320, 1e300, 2**53, 2**70, HUGE, -HUGE, NAN, math.inf, -math.inf, [], {}, [[]], [1], [1, 2, 3, 4]]
VALUES += [[1, 2, 0, 4], [1, 2, 3, HUGE], ["1", "2", "3", "4"], [NAN] * 4, [[1, 2, 3, 4]], [[1, 1, 5, 1, 5, 5]]]
VALUES += [{"size": [9, 9], "counts": "x"}]
"""What stands where something else should; the sound ones among them must be read as they are."""
ERROR = "clean error"
ACCEPTED = "accepted and right"

TRUTH = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 20, "height": 10},
        {"id": 2, "file_name": "b.png", "width": 20, "height": 10},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4], "area": 12.0, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 9, "bbox": [10, 0, 10, 10], "ignore": 0},
        {"id": 3, "image_id": 2, "category_id": 5, "bbox": [0.25, 0.5, 2.5, 1.25]},
    ],
    "categories": [{"id": 5, "name": "bolt"}, {"id": 9, "name": "nut"}],
}
FOUND = [
    {"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 0.9},
    {"image_id": 2, "category_id": 5, "bbox": [5, 5, 2, 2.5], "score": 0.1},
]
CLICKS = make_clicks(TRUTH, setting="1/category", seed=0)


def places(data, path=()):
    """Path of every value inside `data`."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def broken(data, rng):
    """A copy with a value replaced, deleted or doubled, and the key that this concerns."""
    data = copy.deepcopy(data)
    path = rng.choice(list(places(data)))
    of = data
    for key in path[:-1]:
        of = of[key]
    name = next((key for key in reversed(path) if isinstance(key, str)), "record")
    what = rng.choice(["replace"] * 6 + ["delete", "double"])
    if what == "delete":
        del of[path[-1]]
    elif what == "double" and isinstance(of, list):
        of.append(copy.deepcopy(of[path[-1]]))
    else:
        of[path[-1]] = copy.deepcopy(rng.choice(VALUES))
    return data, name


def broken_text(text, rng):
    """Bytes of a file that is cut, noisy, of another encoding, nested too deep, or not what it seems."""
    data = text.encode()
    cut = rng.randrange(len(data))
    return rng.choice(
        [
            data[:cut],
            data[:cut] + bytes([rng.randrange(256)]) + data[cut + 1 :],
            data[:cut] + data[cut + rng.randrange(1, 9) :],
            b"\xef\xbb\xbf" + data,
            text.encode("utf-16"),
            b"[" * 100_000,
            b'{"images":' * 100_000,
            data.replace(b"1", b"1" * 5000, 1),
            rng.choice([b"", b"{}", b"[]", b"null", b"1", b'"x"', b"[{}]", b"[[1]]", b'{"images": [], "annotations": []}']),
            rng.randbytes(50),
        ]
    )


def cases(data, count, seed):
    """(bytes of a file, the key that was changed or None) of `count` broken files."""
    for i in range(count):
        rng = random.Random(f"{seed} {i}")
        if i % 4 == 0:
            yield broken_text(json.dumps(data), rng), None
        else:
            made, name = broken(data, rng)
            yield json.dumps(made).encode(), name


def outcome(read, file, form, right):
    """Of one reading: a clean error, accepted and right, or what it did instead."""
    try:
        made = read()
    except (ValueError, FileNotFoundError) as error:
        line, *rest = str(error).split("\n")
        clean = re.fullmatch(f"{re.escape(str(file))}: {form}", line) and len(line) < 600 and line.encode()
        more = not rest or len(rest) == 1 and "data check" in rest[0]  # the command that lists every problem
        return ERROR if clean and more else f"unclear: {str(error)!r:.300}"
    except Exception as error:
        return f"crash: {error!r:.300}"
    return ACCEPTED if right(made) else f"accepted, but wrong: {made!r:.300}"


def assert_clean(outcomes, at_least):
    """Nothing but the two good outcomes, each of them, and enough of them."""
    print(f"{outcomes.total()} readings: {dict(outcomes)}")
    bad = [text for text in outcomes if text not in (ERROR, ACCEPTED)]
    assert not bad, f"{len(bad)} kinds: " + "\n".join(bad[:10])
    assert outcomes[ERROR] > 0 and outcomes[ACCEPTED] > 0 and outcomes.total() >= at_least


COCO_FORM = r"(file|(image|annotation|category) -?\d+|(images|annotations|categories)\[\d+\]): \w+: .+"
NOT_JSON = r"not a JSON file: .+"
CLICKS_FORM = rf"({NOT_JSON}|expected an object with .+|(prompts\[\d+\]\.)?\w+(\[\d+\])?: .+)"
FOUND_FORM = rf"({NOT_JSON}|expected a list of COCO results, got .+|predictions\[\d+\]\.(image_id|category_id|bbox|score): .+)"


def boxes_of(file):
    """xywh by annotation id, read plainly; a box that lacks is that of the polygon."""
    rows = json.loads(file.read_text(encoding="utf-8-sig"))["annotations"]

    def box(row):
        if row.get("bbox") not in (None, []):
            return [float(v) for v in row["bbox"]]
        xs, ys = ([v for polygon in row["segmentation"] for v in polygon[k::2]] for k in (0, 1))
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]

    return {row["id"]: box(row) for row in rows}


def clipped(file):
    """xyxy by annotation id, cut to the size that the file states."""
    data = json.loads(file.read_text(encoding="utf-8-sig"))
    sizes = {row["id"]: (row["width"], row["height"]) for row in data["images"]}
    made = {}
    for row in data["annotations"]:
        (x, y, w, h), (right, bottom) = boxes_of(file)[row["id"]], sizes[row["image_id"]]
        made[row["id"]] = np.float32([max(x, 0), max(y, 0), min(x + w, right), min(y + h, bottom)])
    return made


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (20, 10), 90).save(tmp_path / name)
    return tmp_path


def test_broken_coco_files(folder):
    file, outcomes = folder / "truth.json", Counter()

    def same(data):
        return [float(v) for row in data["annotations"] for v in row["bbox"]] == [v for b in boxes_of(file).values() for v in b]

    def same_folder(data):
        stored = dict(zip(data.annotation_ids.tolist(), data.boxes.numpy(), strict=True))
        truth = clipped(file)
        return stored.keys() == truth.keys() and all(np.array_equal(stored[i], truth[i]) for i in truth)

    def as_many(count):
        return count == len(boxes_of(file))

    readers = {
        "read_coco": (lambda: read_coco(file), same),
        "CocoFolder": (lambda: CocoFolder(file, folder), same_folder),
        "clicks": (lambda: make_clicks(file, setting="1/instance", seed=0), lambda m: check_clicks(m, read_coco(file)) is m),
        "evaluate": (lambda: evaluate(file, [])["counts"], lambda made: as_many(made["objects"] + made["ignored"])),
        "errors": (lambda: find_errors(file, []), lambda made: as_many(len(made.objects["state"]))),
    }
    for content, changed in cases(TRUTH, 400, "coco"):
        file.write_bytes(content)
        of_case = {name: outcome(read, file, COCO_FORM, right) for name, (read, right) in readers.items()}
        outcomes.update(of_case.values())
        problems = check(file, folder)
        assert all("\n" not in str(p) and str(p).encode() for p in problems)
        of_file = [p for p in problems if p.file == str(file)]  # others are of images that were decoded
        assert (of_case["CocoFolder"] == ACCEPTED) == (not of_file), (content, problems)
        named = changed is None or not problems or any(changed in str(p) or "id" in p.field for p in problems)
        assert named, (changed, problems)
    assert_clean(outcomes, 2000)


def test_broken_click_lists(folder):
    file, outcomes = folder / "clicks.json", Counter()

    def right(made):
        ids = {row["id"]: row for row in TRUTH["annotations"]}
        rows = [(prompt, ids[i]) for prompt in made["prompts"] for i in prompt["annotation_ids"]]
        inside = all(0 <= x <= 20 and 0 <= y <= 10 for prompt in made["prompts"] for x, y in prompt["points"])
        return inside and all((p["image_id"], p["category_id"]) == (r["image_id"], r["category_id"]) for p, r in rows)

    def scored():
        return evaluate(TRUTH, FOUND, file)["counts"]["prompts"]

    for content, _ in cases(CLICKS, 300, "clicks"):
        file.write_bytes(content)
        outcomes[outcome(lambda: load_clicks(file, TRUTH), file, CLICKS_FORM, right)] += 1
        outcomes[outcome(scored, file, CLICKS_FORM, lambda made: made == len(load_clicks(file)["prompts"]))] += 1
    assert_clean(outcomes, 600)


def test_broken_predictions(folder):
    file, outcomes = folder / "found.json", Counter()

    def scores():
        return [float(row["score"]) for row in json.loads(file.read_text(encoding="utf-8-sig"))]

    def count():
        return evaluate(TRUTH, file)["counts"]["predictions"]

    for content, _ in cases(FOUND, 300, "found"):
        file.write_bytes(content)
        outcomes[outcome(count, file, FOUND_FORM, lambda made: made == len(scores()))] += 1
        errors = outcome(lambda: find_errors(TRUTH, file), file, FOUND_FORM, lambda m: m.detections["score"].tolist() == scores())
        outcomes[errors] += 1
    assert_clean(outcomes, 600)


def image_files():
    """Bytes of small images of many kinds, by suffix."""
    rng = np.random.default_rng(0)
    colour, deep = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), rng.integers(0, 4096, (12, 16, 5), dtype=np.uint16)

    def by_pillow(image, kind, **options):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return kind.lower(), buffer.getvalue()

    def by_tifffile(values, **options):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, **options)
        return "tif", buffer.getvalue()

    rgb = Image.fromarray(colour)
    yield from (by_pillow(rgb, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"))
    yield by_pillow(rgb.convert("P"), "TIFF", compression="packbits")
    yield by_pillow(Image.fromarray(deep[..., 0]), "PNG")
    yield by_tifffile(deep, photometric="minisblack", planarconfig="contig")
    yield by_tifffile(deep.astype(np.float64), photometric="minisblack", planarconfig="contig", compression="zlib")
    yield by_tifffile(colour, photometric="rgb", tile=(16, 16))


def noisy(content, seed, changes, reach):
    """The bytes of a file with some changed, mostly among the first `reach`, and perhaps cut."""
    rng, data = random.Random(seed), bytearray(content)
    for _ in range(rng.choice(changes)):
        data[rng.randrange(min(len(data), rng.choice([reach, len(data)])))] = rng.randrange(256)
    return bytes(data[: rng.choice([len(data)] * 3 + [rng.randrange(len(data))])])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_broken_images(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 2**18)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # no warning of Pillow's: the limit above is lower
    outcomes = Counter()

    def right(image):
        return image.dtype == torch.uint8 and image.ndim == 3 and len(image) == 3 and image.numel() <= 3 * 2**18

    for n, (suffix, content) in enumerate(image_files()):
        file = tmp_path / f"{n}.{suffix}"
        for i in range(40):
            file.write_bytes(noisy(content, f"image {n} {i}", [0, 1, 1, 2, 8], 40))
            outcomes[outcome(partial(images.read_image, file), file, r".+", right)] += 1
    assert_clean(outcomes, 440)


def test_broken_weights(checkpoint):
    content, outcomes = checkpoint.read_bytes(), Counter()

    def right(model):
        return all(p.isfinite().all() for p in model.parameters())

    for i in range(20):
        checkpoint.write_bytes(noisy(content, f"weights {i}", [0, 1, 3], 3000))
        outcomes[outcome(lambda: load_model(checkpoint), checkpoint, r".+", right)] += 1
    assert_clean(outcomes, 20)
