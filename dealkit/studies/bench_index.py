"""How long the index of a TinySet takes to open, in how much memory, and how fast it is read at random; beside COCO JSON."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dealkit.data.tinyset.index import BOX_COLUMNS, SIZE_COLUMNS, TEXT_COLUMNS, arrow, write_index
from dealkit.files import provenance

BOXES_PER_IMAGE = 9_000_000 / 268_000
"""Source: TinySet-9M, arXiv 2604.02773: 9M+ boxes in 268K+ images."""

SIDE = 1024
DOMAINS = ("remote sensing", "UAV", "daily life", "driving", "microscopy", "agriculture")
NAMES = ("person", "vehicle", "ship", "cell", "fruit", "sign", "bird", "ball")

OPENERS = {
    "index": """
from dealkit.data.tinyset.index import TinySet, arrow
arrow()
def open_file(path): return TinySet(path)
def images(data): return len(data)
def record(data, i): return data.record(i).boxes
""",
    "json": """
import json
import numpy as np
def open_file(path):
    data = json.load(open(path))
    of_image = {}
    for row in data["annotations"]:
        of_image.setdefault(row["image_id"], []).append(row)
    return data["images"], of_image
def images(data): return len(data[0])
def record(data, i):
    rows = data[1].get(data[0][i]["id"], [])
    return np.float32([row["bbox"] for row in rows]), [row["category_id"] for row in rows]
""",
    "pycocotools": """
import numpy as np
from pycocotools.coco import COCO
def open_file(path): return COCO(path)
def images(data): return len(data.imgs)
def record(data, i):
    image = data.loadImgs(i + 1)[0]
    rows = data.loadAnns(data.getAnnIds(imgIds=[image["id"]]))
    return np.float32([row["bbox"] for row in rows]), [row["category_id"] for row in rows]
""",
}
"""How each is opened and read, run in a process of its own: boxes and labels of an image as arrays."""

MEASURE = """
import json, os, resource, sys, time
import numpy as np
def peak():  # in MiB; Linux lets ru_maxrss begin with what the parent process had, VmHWM does not
    if os.path.exists("/proc/self/status"):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
path, reads = sys.argv[1], int(sys.argv[2])
before, start = peak(), time.perf_counter()
data = open_file(path)
opened = time.perf_counter() - start
rss, order = peak(), np.random.default_rng(0).integers(images(data), size=reads).tolist()
start = time.perf_counter()
for i in order: record(data, i)
rate = reads / (time.perf_counter() - start)
print(json.dumps({"open_s": opened, "open_rss_mb": rss, "import_rss_mb": before, "records_per_s": rate}))
"""


def synthetic_columns(boxes: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Columns and categories of an index of made-up images: sizes about 20 px, counts as uneven as in real data.

    >>> columns, categories = synthetic_columns(1000)
    >>> len(columns["file_name"]), sum(columns["num_boxes"].tolist()), len(categories)
    (30, 1000, 8)
    """
    pa = arrow()
    rng = np.random.default_rng(seed)
    count = max(round(boxes / BOXES_PER_IMAGE), 1)
    share = rng.lognormal(0, 1.2, count)
    counts = np.bincount(np.searchsorted(np.cumsum(share) / share.sum(), rng.random(boxes)).clip(max=count - 1), minlength=count)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    side = rng.lognormal(np.log(18), 0.5, (boxes, 2)).clip(1, 200).astype(np.float32)
    corner = (rng.random((boxes, 2), dtype=np.float32) * (SIDE - side)).round(1)
    flat = np.concatenate([corner, corner + side], axis=1)
    domain = rng.integers(len(DOMAINS), size=count)
    source = [f"{DOMAINS[d]} {k}" for d, k in zip(domain.tolist(), rng.integers(4, size=count).tolist(), strict=True)]
    names = [f"{s.replace(' ', '_')}/{i:07}.jpg" for i, s in enumerate(source)]
    texts = {"file_name": names, "split": ["train"] * count, "own_split": ["train"] * count, "source": source}
    texts |= {"domain": [DOMAINS[d] for d in domain.tolist()], "group": names, "image_id": names, "origin": names}
    sizes = dict.fromkeys(SIZE_COLUMNS, np.full(count, SIDE, np.int32)) | {"num_boxes": counts.astype(np.int32)}
    sizes |= dict.fromkeys(("x", "y"), np.zeros(count, np.int32))
    lists = {name: pa.ListArray.from_arrays(offsets, pa.array(flat[:, k])) for k, name in enumerate(BOX_COLUMNS)}
    lists["label"] = pa.ListArray.from_arrays(offsets, pa.array(rng.integers(len(NAMES), size=boxes, dtype=np.int32)))
    lists["ignore"] = pa.ListArray.from_arrays(offsets, pa.array(rng.random(boxes) < 0.01))
    categories = [{"id": i, "name": name, "supercategory": name} for i, name in enumerate(NAMES, 1)]
    return {name: texts[name] for name in TEXT_COLUMNS} | sizes | lists, categories


def write_coco(path: Path, columns: dict[str, Any], categories: list[dict[str, Any]]) -> None:
    """The same images and boxes as one COCO JSON."""
    flat = np.stack([columns[name].values.to_numpy() for name in BOX_COLUMNS], axis=1).round(1).tolist()
    labels = columns["label"].values.to_pylist()
    owner = np.repeat(np.arange(1, len(columns["file_name"]) + 1), columns["num_boxes"]).tolist()
    with path.open("w") as file:
        images = [{"id": i, "file_name": n, "width": SIDE, "height": SIDE} for i, n in enumerate(columns["file_name"], 1)]
        file.write(f'{{"images": {json.dumps(images)}, "categories": {json.dumps(categories)}, "annotations": [')
        rows = tqdm(zip(flat, labels, owner, strict=True), desc=f"write {path.name}", total=len(flat), mininterval=1, leave=False)
        for i, ((x1, y1, x2, y2), label, image) in enumerate(rows, 1):
            box = [x1, y1, round(x2 - x1, 1), round(y2 - y1, 1)]
            row = {"id": i, "image_id": image, "category_id": label + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            file.write(f"{',' if i > 1 else ''}\n{json.dumps(row)}")
        file.write("]}\n")


def measure(reader: str, path: Path, reads: int) -> dict[str, float]:
    """Seconds to open, peak memory of the whole process in MiB by then (and before, imports only), records read per second.

    In a fresh process, so that nothing opened before counts.

    Raises:
        ValueError: the process failed; says how.
    """
    code = OPENERS[reader] + MEASURE
    done = subprocess.run([sys.executable, "-c", code, str(path), str(reads)], capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ValueError(f"bench index: {reader} of {path.name}: {last[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def bench_index(boxes: int = 9_000_000, coco_boxes: int = 1_000_000, reads: int = 20_000) -> dict[str, Any]:
    """Measure the index from 10^5 boxes to `boxes`, and COCO JSON, plain and by pycocotools, up to `coco_boxes`.

    Args:
        boxes: size of the largest index.
        coco_boxes: largest COCO JSON; it takes about 1 GB of memory per million boxes.
        reads: random records read from each.

    Returns:
        `open_s`, `open_rss_mb` (MiB of the whole process, PyTorch with it) and `records_per_s` of the largest index; `rows`: all
        measurements, `import_rss_mb` being the memory before opening; `growth`: for each reader the exponent with which time
        and memory above that of the imports grow with the number of boxes; `made_by`.

    Raises:
        ValueError: fewer than one box.
    """
    if boxes < 1 or coco_boxes < 0 or reads < 1:
        raise ValueError(f"bench index: expected boxes >= 1, coco_boxes >= 0, reads >= 1, got {boxes}, {coco_boxes}, {reads}")
    sizes = sorted({size for size in (100_000, 1_000_000) if size < boxes} | {boxes})
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(sizes), desc="bench index") as bar:
        for size in sizes:
            columns, categories = synthetic_columns(size)
            files = {"index": Path(folder, f"{size}.parquet")}
            write_index(files["index"], columns, categories)
            if size <= coco_boxes:
                files["json"] = files["pycocotools"] = Path(folder, f"{size}.json")
                write_coco(files["json"], columns, categories)
            images = len(columns["file_name"])
            del columns
            for reader, path in files.items():
                row = {"reader": reader, "boxes": size, "images": images, "file_mb": path.stat().st_size / 2**20}
                rows.append(row | measure(reader, path, reads))
            for path in set(files.values()):
                path.unlink()
            bar.update()
    largest = next(row for row in reversed(rows) if row["reader"] == "index")
    growth = {reader: _growth([row for row in rows if row["reader"] == reader]) for reader in OPENERS}
    figures = ("images", "open_s", "open_rss_mb", "records_per_s")
    return {"boxes": boxes, **{k: largest[k] for k in figures}, "growth": growth, "rows": rows, "made_by": provenance()}


def _growth(rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Exponents of time and memory between the smallest and the largest size; None with one size."""
    if len(rows) < 2:
        return None
    first, last = rows[0], rows[-1]
    ratio = np.log(last["boxes"] / first["boxes"])
    memory = [max(row["open_rss_mb"] - row["import_rss_mb"], 0.1) for row in (first, last)]
    return {
        "open_s": float(np.log(last["open_s"] / first["open_s"]) / ratio),
        "memory": float(np.log(memory[1] / memory[0]) / ratio),
        "records_per_s": float(np.log(last["records_per_s"] / first["records_per_s"]) / ratio),
    }


def index_table(figures: dict[str, Any]) -> str:
    """The figures of `bench_index` as text: a line per reader and size, then how each grows."""
    lines = [f"{'reader':12} {'boxes':>10} {'file MB':>8} {'open s':>8} {'peak MB':>8} {'above imports':>13} {'records/s':>10}"]
    for row in sorted(figures["rows"], key=lambda row: (list(OPENERS).index(row["reader"]), row["boxes"])):
        above = row["open_rss_mb"] - row["import_rss_mb"]
        sizes = f"{row['reader']:12} {row['boxes']:10,} {row['file_mb']:8.1f} {row['open_s']:8.2f} {row['open_rss_mb']:8.0f}"
        lines.append(f"{sizes} {above:13.0f} {row['records_per_s']:10,.0f}")
    for reader, growth in figures["growth"].items():
        if growth:
            lines.append(f"{reader}: open ~ boxes^{growth['open_s']:.2f}, memory above imports ~ boxes^{growth['memory']:.2f}")
    return "\n".join(lines)
