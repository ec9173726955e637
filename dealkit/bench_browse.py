"""How long FiftyOne takes to hold a data set with the predictions of two models: `python -m dealkit bench browse`."""

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from dealkit.browse import build, import_fiftyone
from dealkit.browse_errors import add_predictions
from dealkit.clicks import make_clicks, save_clicks
from dealkit.data.statistics import read_table
from dealkit.data.synthetic import EVAL_SEED, write_coco
from dealkit.files import Json, provenance, write_json

OBJECTS_PER_SCENE = 36
"""About what a procedural scene of 256 px holds."""


def made_predictions(coco: Json, seed: int) -> list[Json]:
    """COCO results such as a fair model gives: most objects, moved a little; some twice, some as another category, and stray
    boxes.

    >>> box = {"id": 1, "image_id": 3, "category_id": 2, "bbox": [10, 20, 6, 6]}
    >>> rows = made_predictions({"annotations": [box] * 100, "categories": [{"id": 2}]}, seed=0)
    >>> sorted(rows[0]), {row["image_id"] for row in rows}, 100 < len(rows) < 150
    (['bbox', 'category_id', 'image_id', 'score'], {3}, True)
    """
    rng = np.random.default_rng(seed)
    categories = [row["id"] for row in coco["categories"]]
    rows = []
    for ann in coco["annotations"]:
        x, y, w, h = ann["bbox"]
        fate = rng.choice(["found", "twice", "other", "missed"], p=[0.7, 0.1, 0.05, 0.15])
        places = [(x, y)] * {"missed": 0, "twice": 2}.get(str(fate), 1) + [(x + 3 * w, y)] * bool(rng.random() < 0.2)
        for left, top in places:
            dx, dy = rng.normal(0, 0.1, 2)
            box = [round(float(v), 2) for v in (left + dx * w, top + dy * h, w, h)]
            category = int(rng.choice(categories)) if fate == "other" else ann["category_id"]
            row = {"image_id": ann["image_id"], "category_id": category, "bbox": box}
            rows.append(row | {"score": round(float(rng.uniform(0.25, 1)), 5)})
    return rows


def bench_browse(objects: int = 10_000) -> Json:
    """Seconds to make a data set of about `objects` objects with two sets of predictions, and to bring it up to date when
    nothing, and when one image of one set, has changed.

    Returns:
        `images`, `objects`, `detections` (of both sets), `ground_truth_s`, `predictions_s`, `unchanged_s`, `one_image_s` and
        what made it.
    """
    fo = import_fiftyone()
    with tempfile.TemporaryDirectory() as folder:
        file = write_coco(Path(folder, "scenes"), max(1, objects // OBJECTS_PER_SCENE), seed=EVAL_SEED)
        coco = json.loads(file.read_text())
        paths = [Path(folder, f"{name}.json") for name in ("first", "second")]
        for seed, path in enumerate(paths):
            write_json(path, made_predictions(coco, seed))
        clicks = Path(folder, "clicks.json")
        save_clicks(make_clicks(coco, setting="1/category", seed=0), clicks)
        name = f"dealkit-bench-{time.time_ns()}"
        try:
            made = build([file], name=name)
            table = read_table([file])
            first = add_predictions(made.dataset, table, paths, clicks)
            started = time.monotonic()
            build([file], name=name)
            add_predictions(made.dataset, table, paths, clicks)
            unchanged = time.monotonic() - started
            rows = json.loads(paths[0].read_text())
            rows[0]["score"] = 0.99
            write_json(paths[0], rows)
            one = add_predictions(made.dataset, table, paths, clicks)
        finally:
            if fo.dataset_exists(name):
                fo.delete_dataset(name)
    return {
        "images": len(coco["images"]),
        "objects": made.objects,
        "detections": sum(first.detections.values()),
        "ground_truth_s": round(made.seconds, 1),
        "predictions_s": round(first.seconds, 1),
        "unchanged_s": round(unchanged, 1),
        "one_image_s": round(one.seconds, 1),
        "one_image_written": one.written,
        "made_by": provenance(),
    }
