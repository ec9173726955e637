"""What does the index of a TinySet as large as the paper's cost? Seconds of the CPU, so that other programs matter little."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dealkit.data.tinyset.index import BOX_COLUMNS, TinySet, arrow, write_index
from dealkit.files import Json, provenance


def bench_index(boxes: int, draws: int = 2000) -> Json:
    """Write, open and draw from an index of so many boxes, 33 an image as in the paper's; its numbers are random.

    Returns:
        `boxes`, `images`, `file_mb`; `write_s`, `open_s`; `draw_us`, one image of the training split, drawn as a training does,
        without its pixels; `held_mb`, what boxes, labels and crowd flags need in memory.

    >>> made = bench_index(1000, draws=10)
    >>> made["images"], round(made["held_mb"], 3)
    (31, 0.019)
    """
    with tempfile.TemporaryDirectory() as folder:
        file, images = Path(folder, "index.parquet"), -(-boxes // 33)
        categories = [{"id": i + 1, "name": f"kind {i}", "supercategory": "other"} for i in range(500)]
        columns, start = random_columns(images, boxes), time.process_time()
        write_index(file, columns, categories)
        written = time.process_time()
        data, size = TinySet(file), file.stat().st_size
        opened = time.process_time()
    parts, shares = data.select(split="train").balanced()
    rng, ready = np.random.default_rng(0), time.process_time()
    for _ in range(draws):
        part = parts[rng.choice(len(parts), p=shares)]
        part.record(int(rng.integers(len(part))))
    figures = {"boxes": boxes, "images": images, "file_mb": size / 1e6, "write_s": written - start, "open_s": opened - written}
    figures["draw_us"] = 1e6 * (time.process_time() - ready) / draws
    held = sum(values.nbytes for values in (data.boxes, data.labels, data.crowd))
    return figures | {"held_mb": held / 1e6, "made_by": provenance()}


def random_columns(images: int, boxes: int) -> dict[str, Any]:
    """Columns of `write_index`: boxes of 4 to 60 px in images of 72 sources and six domains, as even as can be."""
    pa, rng = arrow(), np.random.default_rng(0)
    number, ends = np.arange(images), np.linspace(0, boxes, images + 1).round().astype(np.int32)
    texts = {"file_name": "images/{:07d}.png", "group": "clip {}", "image_id": "train/{:07d}", "origin": "raw/{:07d}.jpg"}
    columns: dict[str, Any] = {name: [form.format(i) for i in range(images)] for name, form in texts.items()}
    columns |= {"source": [f"source {i % 72}" for i in range(images)], "domain": [f"domain {i % 6}" for i in range(images)]}
    columns |= dict.fromkeys(("split", "own_split"), np.where(number % 5 > 0, "train", "val"))
    columns |= dict.fromkeys(("width", "height", "origin_width", "origin_height"), np.full(images, 640, np.int32))
    columns |= {"x": 0 * number, "y": 0 * number, "num_boxes": np.diff(ends)}
    corners, sides = rng.uniform(0, 580, (2, boxes)), rng.uniform(4, 60, (2, boxes))
    values = dict(zip(BOX_COLUMNS, np.float32([*corners, *(corners + sides)]), strict=True))
    values |= {"label": rng.integers(0, 500, boxes).astype(np.int32), "ignore": rng.random(boxes) < 0.02}
    return columns | {name: pa.ListArray.from_arrays(pa.array(ends), pa.array(flat)) for name, flat in values.items()}
