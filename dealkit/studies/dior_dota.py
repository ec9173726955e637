"""DIOR and DOTA-v2.0, which the paper tests on without training: from the official folder to scores, one click per category.

Boxes are horizontal; of DOTA those around its quadrilaterals. Large images are read in tiles. A run goes on where it was stopped.
"""

import json
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import torch

from dealkit.clicks import clicks_hash, make_clicks
from dealkit.config import BuildConfig
from dealkit.data.coco import CocoFolder, coco_dict
from dealkit.data.sources.catalogue import SOURCES
from dealkit.data.subsets import in_order
from dealkit.evaluate.benchmark import mean_row, row_of, spread_row
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, provenance, read_json, sha_of, write_json
from dealkit.model.checkpoint import load_model
from dealkit.predict.detections import to_rows
from dealkit.predict.tiles import predict_coco_tiled

SPLITS = {"dior": "test", "dota-v2.0": "val"}
"""What is tested. Choice: DOTA's test labels are not public, and its val is what papers report without the server."""

SEEN = {"dior": ("vehicle",), "dota-v2.0": ("small-vehicle", "large-vehicle", "swimming-pool")}
"""Categories that have a like in the published model's training: cars from a drone and a street camera, swimming pools. All
others are unseen. For a model of other training data give its own."""

PAPER = {"dior": {"ap50": 54.5}, "dota-v2.0": {"ap50": 55.9}}
"""AP50 of DEAL without fine-tuning, class-agnostic, one click per category. Source: arXiv 2604.02773, unseen data sets."""


def to_coco(name: str, root: Path, out: Path, *, split: str | None = None) -> Path:
    """A public source's split as one COCO file; file names are relative to `root`, ignored objects are `iscrowd`.

    Args:
        name: a key of `SPLITS`, read by the reader of `data.sources`. root: its folder, in the official layout.
        out: file to write. split: another than that of `SPLITS`.

    Raises:
        ValueError: an unknown name, or no image of the split; what a reader finds wrong is named by file and line.
    """
    if name not in SPLITS:
        raise ValueError(f"public data set: expected one of {', '.join(SPLITS)}, got {name!r}")
    split = split or SPLITS[name]
    rows, names = [], {}
    for record in SOURCES[name].read(root, on_problem=None):
        if record.split != split:
            continue
        labels = torch.tensor([names.setdefault(c, len(names)) for c in record.categories], dtype=torch.int64)
        size_hw = record.height, record.width
        file = record.path.relative_to(root).as_posix()
        rows.append((file, size_hw, torch.from_numpy(record.boxes), labels, torch.from_numpy(record.ignore)))
    if not rows:
        raise ValueError(f"{root}: no labelled image of the split {split!r}; layout: {SOURCES[name].layout}")
    write_json(out, coco_dict(rows, list(names)))
    return out


def evaluate_public(
    name: str,
    root: Path,
    checkpoint: Path,
    out: Path,
    work: Path,
    *,
    seeds: int = 3,
    images: int | None = None,
    split: str | None = None,
    seen: Collection[str] | None = None,
    tile: int = BuildConfig.tile,
    overlap: int = BuildConfig.overlap,
) -> Json:
    """Predict and score a public data set; writes and returns the results.

    Detections are kept image by image in `work`, so that a run goes on where it was stopped, and only one click list's are in
    memory at a time.

    Args:
        work: folder of what is in between. seeds: click lists. images: at most so many, drawn by a hash; None: all.
        split: another than that of `SPLITS`. seen: categories with a like in training; default `SEEN`. tile, overlap: pixels.

    Returns:
        `groups`: for `all`, `seen` and `unseen` categories, and `class-agnostic`, mean, spread, categories and images; the hashes
        of the click lists; seconds.
    """
    sha, split = sha_of(checkpoint), split or SPLITS.get(name)
    truth_file = Path(work) / f"{name}-{split}.json"
    if not truth_file.is_file():
        to_coco(name, root, truth_file, split=split)
    truth = read_json(truth_file)
    if images is not None:
        truth = of_images(truth, in_order({a["image_id"] for a in truth["annotations"]}, 0)[:images])
    ids = {row["name"]: row["id"] for row in truth["categories"]}
    for category in seen or ():
        if category not in ids:
            raise ValueError(f"seen: no category {category!r} in {name} {split}; it has {', '.join(sorted(ids))}")
    seen = SEEN[name] if seen is None else seen
    lists = [make_clicks(truth, setting="1/category", seed=seed) for seed in range(seeds)]
    hashes = [clicks_hash(clicks) for clicks in lists]
    data = CocoFolder(truth_file, root, source=name)
    found_file = Path(work) / f"{name}-{split}-{sha}-{tile}-{overlap}-{'-'.join(hashes)}.jsonl"
    seconds = _predict(checkpoint, data, lists, found_file, tile=tile, overlap=overlap)

    of_group = {"all": set(ids.values()), "seen": {ids[n] for n in seen if n in ids}}
    of_group["unseen"] = of_group["all"] - of_group["seen"]
    runs: dict[str, list[Json]] = {}
    for k, clicks in enumerate(lists):
        rows = [row for _, of_lists in _read_found(found_file) for row in of_lists[k]]
        for group, kept in of_group.items():
            parts = of_categories(truth, kept), [r for r in rows if r["category_id"] in kept], clicks_of(clicks, kept)
            if kept and parts[0]["annotations"]:
                runs.setdefault(group, []).append(row_of(evaluate(*parts)))
        runs.setdefault("class-agnostic", []).append(row_of(evaluate(truth, rows, clicks, class_agnostic=True)))
    counted = {group: sorted(n for n in ids if ids[n] in kept) for group, kept in of_group.items()} | {
        "class-agnostic": sorted(ids)
    }
    results: Json = {
        "data": name,
        "split": split,
        "checkpoint": {"name": Path(checkpoint).name, "sha256": sha},
        "tile": tile,
        "overlap": overlap,
        "setting": "1/category centre",
        "clicks": hashes,
        "images": len(truth["images"]),
        "objects": sum(not a.get("iscrowd") for a in truth["annotations"]),
        "predict_s": seconds,
        "groups": {g: {"categories": counted[g], "mean": mean_row(rs), "spread": spread_row(rs)} for g, rs in runs.items()},
        "paper": PAPER.get(name),
    }
    write_json(out, {**results, "made_by": provenance()})
    return results


def _predict(checkpoint: Path, data: CocoFolder, lists: list[Json], file: Path, *, tile: int, overlap: int) -> float:
    """Append what is missing to the file of detections; seconds that all of it took, earlier parts included."""
    done, spent, started = set(), 0.0, time.monotonic()
    for line in _read_lines(file):
        done.add(line["image_id"])
        spent = line["seconds"]
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_file():
        _drop_cut_line(file)
    with file.open("a", encoding="utf-8") as stream:
        for image_id, found in predict_coco_tiled(load_model(checkpoint), data, lists, tile=tile, overlap=overlap, done=done):
            of_lists: list[list[Json]] = [[] for _ in lists]
            for k, prompt, detections in found:
                of_lists[k] += to_rows(detections, image_id, prompt["category_id"])
            seconds = round(spent + time.monotonic() - started, 1)
            stream.write(json.dumps({"image_id": image_id, "seconds": seconds, "found": of_lists}) + "\n")
            stream.flush()
    return round(spent + time.monotonic() - started, 1)


def _drop_cut_line(file: Path) -> None:
    """Cut a file after its last whole line."""
    with file.open("rb+") as stream:
        whole = sum(len(line) for line in stream if line.endswith(b"\n"))
        stream.truncate(whole)


def _read_lines(file: Path) -> Iterator[Json]:
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as stream:
        for text in stream:
            try:
                yield json.loads(text)
            except json.JSONDecodeError:
                return  # the last line, cut by a kill


def _read_found(file: Path) -> Iterator[tuple[int, list[list[Json]]]]:
    for line in _read_lines(file):
        yield line["image_id"], line["found"]


def of_images(truth: Json, image_ids: Collection[int]) -> Json:
    """Ground truth of some images; all categories stay."""
    chosen = set(image_ids)
    images = [row for row in truth["images"] if row["id"] in chosen]
    return {**truth, "images": images, "annotations": [a for a in truth["annotations"] if a["image_id"] in chosen]}


def of_categories(truth: Json, category_ids: Collection[int]) -> Json:
    """Ground truth of some categories; all images stay.

    >>> truth = {"images": [], "categories": [{"id": 1}, {"id": 2}], "annotations": [{"category_id": 1}, {"category_id": 2}]}
    >>> of_categories(truth, {2})["annotations"]
    [{'category_id': 2}]
    """
    categories = [row for row in truth["categories"] if row["id"] in category_ids]
    return {
        **truth,
        "categories": categories,
        "annotations": [a for a in truth["annotations"] if a["category_id"] in category_ids],
    }


def clicks_of(clicks: Json, category_ids: Collection[int]) -> Json:
    """The prompts of a click list that ask for some categories."""
    return {**clicks, "prompts": [p for p in clicks["prompts"] if p["category_id"] in category_ids]}
