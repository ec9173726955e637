"""How does it do on DIOR and DOTA-v2.0, which the paper tests on without training? One click per category and image.

Boxes are horizontal; of DOTA those around its quadrilaterals. Large images are read in tiles. A run goes on where it was stopped.
DOTA-v1.0, a part of 2.0, is read, too.
"""

import json
import time
from collections.abc import Collection
from pathlib import Path

import torch

from dealkit.clicks import clicks_hash, make_clicks
from dealkit.config import BuildConfig
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder, coco_dict
from dealkit.data.sources.catalogue import SOURCES
from dealkit.data.subsets import in_order, part_of
from dealkit.evaluate.benchmark import row_of
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, Results, read_json_lines, sha_of, write_json
from dealkit.model.checkpoint import load_model
from dealkit.predict.detections import to_rows
from dealkit.predict.tiles import predict_coco_tiled

SPLITS = {"dior": "test", "dota-v2.0": "val", "dota-v1.0": "val"}
"""What is tested. Choice: DOTA's test labels are not public, and its val is what papers report without the server."""

SEEN = {"dior": ("vehicle",), **dict.fromkeys(("dota-v2.0", "dota-v1.0"), ("small-vehicle", "large-vehicle", "swimming-pool"))}
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
        ValueError: an unknown name, no such folder, or no image of the split; names the command that fetches it. What a reader
            finds wrong is named by file and line.
    """
    if name not in SPLITS:
        raise ValueError(f"public data set: expected one of {', '.join(SPLITS)}, got {name!r}")
    split, fetch = split or SPLITS[name], f"`python -m dealkit data get {name} --root {Path(root).parent}` fetches what it can"
    if not Path(root).is_dir():
        raise ValueError(f"{root}: no such folder; {fetch}")
    rows, names = [], {}
    for record in SOURCES[name].read(root, on_problem=None):
        if record.split != split:
            continue
        labels = torch.tensor([names.setdefault(c, len(names)) for c in record.categories], dtype=torch.int64)
        size_hw = record.height, record.width
        file = record.path.relative_to(root).as_posix()
        rows.append((file, size_hw, torch.from_numpy(record.boxes), labels, torch.from_numpy(record.ignore)))
    if not rows:
        facts = f"layout: {SOURCES[name].layout}; {SOURCES[name].note}"
        raise ValueError(f"{root}: no labelled image of the split {split!r}; {fetch}; {facts}")
    write_json(out, coco_dict(rows, list(names)))
    return out


def public_scores(
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
) -> Results:
    """Predict and score a public data set: a row per group of categories and seed of clicks.

    Groups are `all`, `seen` and `unseen` categories, and `class-agnostic`. A row holds `categories`, `images`, `objects`, the
    hash of the click list, `predict_s` and the numbers of `row_of`. Detections are kept image by image in `work`, and one click
    list's at a time are in memory.

    Args:
        out: JSON to go on with. work: folder of what is in between. seeds: click lists.
        images: at most so many, drawn by a hash; None: all. split: another than that of `SPLITS`.
        seen: categories with a like in training; default `SEEN`. tile, overlap: pixels.

    Raises:
        ValueError: as `to_coco`, or a category of `seen` that the data set does not have.
    """
    sha, split = sha_of(checkpoint), split or SPLITS.get(name)
    truth_file = Path(work) / f"{name}-{split}.json"
    if not truth_file.is_file():
        to_coco(name, root, truth_file, split=split)
    truth = read_coco(truth_file)
    if images is not None:
        truth = part_of(truth, images=in_order({a["image_id"] for a in truth["annotations"]}, 0)[:images])
    ids = {row["name"]: row["id"] for row in truth["categories"]}
    for category in seen or ():
        if category not in ids:
            raise ValueError(f"seen: no category {category!r} in {name} {split}; it has {', '.join(sorted(ids))}")
    like = {ids[n] for n in (SEEN[name] if seen is None else seen) if n in ids}
    groups = {"all": set(ids.values()), "seen": like, "unseen": set(ids.values()) - like, "class-agnostic": set(ids.values())}

    request = {"data": name, "split": split, "checkpoint": Path(checkpoint).name, "sha256": sha, "seeds": seeds}
    request |= {"images": images, "seen": sorted(n for n in ids if ids[n] in like), "tile": tile, "overlap": overlap}
    made = Results(out, request)
    lists = [make_clicks(truth, setting="1/category", seed=seed) for seed in range(seeds)]
    hashes = [clicks_hash(clicks) for clicks in lists]
    data = CocoFolder(truth_file, root, source=name)
    found_file = Path(work) / f"{name}-{split}-{sha}-{tile}-{overlap}-{'-'.join(hashes)}.jsonl"
    seconds = _predict(checkpoint, data, lists, found_file, tile=tile, overlap=overlap)
    for key in made.todo([{"seed": seed} for seed in range(seeds)], "scored"):
        found = [row for line in read_json_lines(found_file) for row in line["found"][key["seed"]]]
        for group, kept in groups.items():
            part, clicks = (part_of(whole, categories=kept) for whole in (truth, lists[key["seed"]]))
            rows = [row for row in found if row["category_id"] in kept]
            if objects := sum(not a.get("iscrowd") for a in part["annotations"]):
                scores = evaluate(part, rows, clicks, class_agnostic=group == "class-agnostic")
                about = {"group": group, "categories": len(kept), "images": len(part["images"]), "objects": objects}
                made.add(key | about, {"clicks": hashes[key["seed"]], "predict_s": seconds, **row_of(scores)})
    return made


def _predict(checkpoint: Path, data: CocoFolder, lists: list[Json], file: Path, *, tile: int, overlap: int) -> float:
    """Append what is missing to the file of detections; seconds that all of it took, earlier parts included."""
    done, spent, started = set(), 0.0, time.monotonic()
    for line in read_json_lines(file):
        done.add(line["image_id"])
        spent = line["seconds"]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as stream:
        stream.seek(0)
        stream.truncate(sum(len(line) for line in stream if line.endswith(b"\n")))  # a kill may have cut the last line
        for image_id, found in predict_coco_tiled(load_model(checkpoint), data, lists, tile=tile, overlap=overlap, done=done):
            of_lists: list[list[Json]] = [[] for _ in lists]
            for k, prompt, detections in found:
                of_lists[k] += to_rows(detections, image_id, prompt["category_id"])
            seconds = round(spent + time.monotonic() - started, 1)
            stream.write(json.dumps({"image_id": image_id, "seconds": seconds, "found": of_lists}).encode() + b"\n")
            stream.flush()
    return round(spent + time.monotonic() - started, 1)
