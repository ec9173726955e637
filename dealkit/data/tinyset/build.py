"""A TinySet: many sources merged into one data set of small objects, with splits that share no image, as COCO and as an index.

Three steps: every source is read into records; chunks of records are checked, hashed and cut into tiles, in parallel; what came
out is freed of copies, divided into splits and written. The first two keep their files in `work/` of the output until the end, so
that a build that was killed goes on where it was. What a build writes depends on its sources and settings only, not on the number
of workers, the engine, or how often it was interrupted.

The output: `images/` (tiles as PNG, other images as hard links to the originals), `train.json`, `val.json`, `test.json` (COCO),
`index.parquet` (`dealkit.data.tinyset.index`), `report.json` (what was left out and why), `build.json` (settings; written last).
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dealkit import __version__
from dealkit.config import BuildConfig
from dealkit.data.coco import NOT_STATED, SPLIT_NAMES
from dealkit.data.objects import load_domains
from dealkit.data.parallel import Engine, map_tasks
from dealkit.data.tinyset.categories import supercategory
from dealkit.data.tinyset.chunks import EXAMPLES, Reader, SourceFolder, cut_chunk, read_records, summarise_notes
from dealkit.data.tinyset.duplicates import components, find_copies, near_pairs, same_objects
from dealkit.data.tinyset.folders import detect_sources
from dealkit.data.tinyset.index import BOX_COLUMNS, TEXT_COLUMNS, arrow, write_index
from dealkit.files import Json, read_json, write_atomically, write_json
from dealkit.jobs import remove_strays


def build_tinyset(
    root: str | Path,
    out: str | Path,
    *,
    readers: Mapping[str, Reader] | None = None,
    domains: Mapping[str, str] | None = None,
    config: BuildConfig | None = None,
    workers: int = 1,
    engine: Engine = "processes",
) -> dict[str, Any]:
    """Merge the sources under `root` into a TinySet.

    Args:
        root: folder with one folder per source. One that holds `train.json`, `val.json`, `test.json` or `annotations.json`
            beside `images/` is a COCO folder, one with `data.yaml` or `classes.txt` a YOLO folder, one with `Annotations/` and
            `JPEGImages/` a Pascal VOC folder; another is read by the reader of its name.
            `domains.json` in it, source -> domain, adds to `domains`.
        out: folder to write; of a build that was interrupted, or empty.
        readers: by name of the source.
        domains: by name of the source; others are "not stated".
        workers, engine: see `map_tasks`.

    Returns:
        the report, as in `report.json`: `sources`, `failed` (source -> why), `skipped` folders, `problems` (what readers left
        out), `dropped` (what the build left out or changed, by reason), `splits`, `moved` (own split -> split), `groups`.

    Raises:
        FileNotFoundError: no such root.
        ValueError: no source that can be read, or `out` holds something else.
    """
    root, out, config = Path(root), Path(out), config or BuildConfig()
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder of sources")
    own = root / "domains.json"
    domains = {**(domains or {}), **(load_domains(own) if own.exists() else {})}
    sources, skipped = detect_sources(root, readers or {}, out, config)
    made_of = {
        "version": __version__,
        "settings": dataclasses.asdict(config),
        "sources": {source.name: source.work.name for source in sources},
        "domains": {source.name: domains.get(source.name, NOT_STATED) for source in sources},
    }
    if (out / "build.json").exists():
        if read_json(out / "build.json") != made_of:
            raise ValueError(f"{out}: build.json: a TinySet of other sources or settings; expected an empty folder or the same")
        shutil.rmtree(out / "work", ignore_errors=True)
        return read_json(out / "report.json")
    if out.exists() and any(out.iterdir()) and not (out / "work").is_dir():
        raise ValueError(f"{out}: expected an empty folder, or one of a build that was interrupted")
    (out / "work").mkdir(parents=True, exist_ok=True)

    failed: dict[str, str] = {}
    bar = tqdm(map_tasks(read_records, sources, workers=workers, engine=engine), desc="read sources", total=len(sources))
    for number, error in bar:
        if error is not None:
            failed[sources[number].name] = error
            tqdm.write(f"left out: {sources[number].name}: {error}")
    failed = dict(sorted(failed.items()))
    sources = [source for source in sources if source.name not in failed]
    if not sources:
        raise ValueError(f"{root}: no source can be read: " + "; ".join(f"{name}: {error}" for name, error in failed.items()))

    files = {source.name: arrow().parquet.read_metadata(source.work / "records.parquet") for source in sources}
    tasks = [(s, number, out / "images", config) for s in sources for number in range(files[s.name].num_row_groups)]
    with tqdm(desc="check and cut images", total=sum(file.num_rows for file in files.values()), unit="image") as bar:
        for _, count in map_tasks(cut_chunk, tasks, workers=workers, engine=engine):
            bar.update(count)

    report = _merge_sources(sources, out, config, made_of["domains"])
    report = {"settings": made_of["settings"], **report, "failed": failed, "skipped": skipped}
    write_json(out / "report.json", report)
    write_json(out / "build.json", made_of)
    shutil.rmtree(out / "work")
    return report


def report_text(report: Mapping[str, Any]) -> str:
    """What `python -m dealkit data build` prints of its report: splits, what was left out, sources that failed."""
    lines = []
    for split, domains in report["splits"].items():
        for domain, row in domains.items():
            lines.append(f"{split:6} {domain:25} {row['images']:9,} images {row['objects']:11,} objects")
    for reason, row in report["dropped"].items():
        lines.append(f"{row['count']:9,} x {reason}, as {row['examples'][0]}")
    for name, row in report["problems"].items():
        lines.append(f"{row['count']:9,} problems in {name}, as {row['examples'][0]}")
    lines += [f"moved from {move}: {count:,} images, for what they resemble" for move, count in report["moved"].items()]
    lines += [f"skipped: {name}: no reader of that name, no COCO file" for name in report["skipped"]]
    return "\n".join([*lines, *(f"left out: {name}: {error}" for name, error in report["failed"].items())])


def assign_splits(
    groups: Sequence[int], names: Sequence[str], sources: Sequence[str], own: Sequence[str], config: BuildConfig
) -> list[str]:
    """A split for every image, the same for all images of a group.

    A group with an own test image becomes test as a whole, else one with an own val image val: no test image ever goes to train,
    nor one that resembles it. Splits that a source does not have are drawn by group: val and test of sources that have neither,
    val of sources that have only train and test. Choice: the draw of a group depends on its name and the seed only, so that
    another source more or less moves no image of others.

    Args:
        groups: number of each image's group.
        names: of each image's own group, unique over sources; a group is known by the first of its names.
        sources: of each image.
        own: split that the source states, or "".
        config: `val`, `test`, `seed`.

    >>> assign_splits([0, 0, 1], ["a/1", "a/2", "a/3"], ["a", "a", "a"], ["train", "test", "test"], BuildConfig())
    ['test', 'test', 'test']
    """
    has = defaultdict(set)
    for source, split in zip(sources, own, strict=True):
        has[source].add(split)
    first: dict[int, str] = {}
    wishes: dict[int, set[str]] = defaultdict(set)
    for group, name, source, split in zip(groups, names, sources, own, strict=True):
        first[group] = min(name, first.get(group, name))
        if split in ("test", "val") or (split == "train" and "val" in has[source]):
            wishes[group].add(split)
        else:  # "" or train without val: drawn
            wishes[group].add("drawn" if not has[source] & {"test", "val"} else "train or val")
    made: dict[int, str] = {}
    for group, wish in wishes.items():
        key = hashlib.blake2b(f"{config.seed}:{first[group]}".encode(), digest_size=8).digest()
        draw = int.from_bytes(key, "big") / 2**64
        stated = [split for split in ("test", "val", "train") if split in wish]
        if stated:
            made[group] = stated[0]
        elif "train or val" in wish:
            made[group] = "val" if draw < config.val else "train"
        else:
            made[group] = "test" if draw < config.test else "val" if draw < config.test + config.val else "train"
    return [made[group] for group in groups]


def _merge_sources(sources: list[SourceFolder], out: Path, config: BuildConfig, domains: Mapping[str, str]) -> dict[str, Any]:
    """Copies, splits and categories over all sources; writes the index and the COCO files and clears `images`."""
    pa = arrow()
    notes: list[tuple[str, str, int, str, str]] = []
    seen: list[Json] = []  # one per source image that could be used
    parts: list[Any] = []  # tables of tiles
    problems, records = {}, {}
    for source in tqdm(sources, desc="collect", delay=3):
        records[source.name] = table = pa.parquet.read_table(source.work / "records.parquet", partitioning=None)
        problems[source.name] = json.loads(table.schema.metadata[b"problems"])
        names = json.loads(table.schema.metadata[b"categories"])
        texts = {name: table[name].to_pylist() for name in ("image_id", "group", "split", "width", "height", "path")}
        for file in sorted((source.work / "chunks").glob("*.parquet")):
            chunk = pa.parquet.read_table(file, partitioning=None)
            notes += [(source.name, *note) for note in json.loads(chunk.schema.metadata[b"notes"])]
            place = {}
            for row in json.loads(chunk.schema.metadata[b"images"]):
                place[row["record"]] = len(seen)
                own = {name: values[row["record"]] for name, values in texts.items()}
                seen.append({**row, **own, "source": source.name})
            parts.append((chunk.replace_schema_metadata(None), place, names, source))

    removed, groups = _copies_and_groups(seen, records, [source.name for source in sources], config, notes)
    group_names = [f"{row['source']}/{row['group']}" for row in seen]
    kept = [i for i in range(len(seen)) if i not in removed]
    of_kept = [(groups[i], group_names[i], seen[i]["source"], seen[i]["split"]) for i in kept]
    drawn = assign_splits(*map(list, zip(*of_kept, strict=True)), config) if kept else []
    splits = dict.fromkeys(range(len(seen)), "") | dict(zip(kept, drawn, strict=True))

    columns, categories = _columns(parts, seen, splits, groups, group_names, domains, out)
    write_index(out / "index.parquet", columns, categories)
    for split in SPLIT_NAMES:
        write = functools.partial(_write_coco, columns=columns, categories=categories, split=split)
        write_atomically(out / f"{split}.json", write)
    _clear(out / "images", set(columns["file_name"]))
    remove_strays(out)
    moved = Counter(f"{seen[i]['split']} to {splits[i]}" for i in kept if seen[i]["split"] not in ("", splits[i]))
    sizes = Counter(groups[i] for i in kept)
    of_source, of_split = _counts(columns, "source"), _counts(columns, "split", "domain")
    return {
        "sources": {
            name: {"domain": domains[name], "records": len(table), **of_source.get((name,), {"images": 0, "objects": 0})}
            for name, table in records.items()
        },
        "splits": {split: {key[1]: row for key, row in of_split.items() if key[0] == split} for split in SPLIT_NAMES},
        "problems": {name: found for name, found in problems.items() if found["count"]},
        "dropped": summarise_notes(iter(notes)),
        "moved": dict(sorted(moved.items())),
        "groups": {
            "count": len(sizes),
            "largest": [[group_names[group], size] for group, size in sizes.most_common(EXAMPLES) if size > 1],
        },
        "categories": len(categories),
        "other": [row["name"] for row in categories if row["supercategory"] == "other"],
    }


def _copies_and_groups(
    seen: list[dict[str, Any]], records: Mapping[str, Any], order: list[str], config: BuildConfig, notes: list[Any]
) -> tuple[dict[int, int], list[int]]:
    """Images that are copies of others (copy -> the one that is kept), and the group of each image.

    Images are linked if their hashes are near, their files are the same, or their source says so. Of linked images those are
    copies whose files are the same, or whose hashes are near and which show the same objects or come from different sources.
    Choice: a hash is of a 64 x 64 thumbnail and blind to tiny objects; two images of one source with near hashes and other boxes
    are two frames of one scene, not one image twice. Test images stay rather than val, val rather than train, then by source.
    """
    hashed = np.array([i for i, row in enumerate(seen) if row["hash"] is not None], dtype=np.int64)
    hashes = np.array([np.frombuffer(bytes.fromhex(seen[i]["hash"]), np.uint64) for i in hashed], np.uint64).reshape(-1, 4)
    near = hashed[near_pairs(hashes, config.near)]
    aspect = np.array([row["width"] / row["height"] for row in seen])
    near = near[np.abs(np.log(aspect[near[:, 0]] / aspect[near[:, 1]])) < 0.05]
    of_digest: dict[str, list[int]] = defaultdict(list)
    of_group: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, row in enumerate(seen):
        of_digest[row["digest"]].append(i)
        of_group[row["source"], row["group"]].append(i)
    rank = {"test": 0, "val": 1}
    places = sorted(range(len(seen)), key=lambda i: (rank.get(seen[i]["split"], 2), order.index(seen[i]["source"]), i))
    place = {image: k for k, image in enumerate(places)}
    firsts = {digest: min(members, key=place.__getitem__) for digest, members in of_digest.items()}
    same = [(first, i) for digest, first in firsts.items() for i in of_digest[digest] if i != first]
    linked = [(members[0], other) for members in of_group.values() for other in members[1:]]
    groups = components(len(seen), np.array([*near.tolist(), *same, *linked], dtype=np.int64).reshape(-1, 2)).tolist()

    @functools.lru_cache(maxsize=4096)
    def boxes(i: int) -> np.ndarray:
        row = seen[i]
        flat = records[row["source"]]["boxes"][row["record"]].as_py()
        return np.float64(flat).reshape(-1, 4) / [row["width"], row["height"], row["width"], row["height"]]

    copies = set(same)
    for i, j in tqdm(near.tolist(), desc="compare near-duplicates", delay=3):
        if seen[i]["source"] != seen[j]["source"] or same_objects(boxes(i), boxes(j)):
            copies.add((i, j))
    removed = find_copies(np.array(places, dtype=np.int64), np.array(sorted(copies), dtype=np.int64).reshape(-1, 2))
    for i, other in sorted(removed.items()):
        kept = f"as {seen[other]['source']}: {seen[other]['image_id']}"
        notes.append((seen[i]["source"], "copy of another image", 1, seen[i]["image_id"], kept))
    return removed, groups


def _columns(
    parts: list[Any],
    seen: list[Json],
    splits: Mapping[int, str],
    groups: Sequence[int],
    group_names: Sequence[str],
    domains: Mapping[str, str],
    out: Path,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Columns and categories of the index: rows by split, source, image and tile; images without a split are left out."""
    pa = arrow()
    used: dict[str, str] = {}
    for _, _, names, source in parts:
        for name in names:
            if used.get(name, "other") == "other":
                used[name] = supercategory(name, source.name)
    categories = [{"id": i, "name": name, "supercategory": used[name]} for i, name in enumerate(sorted(used), 1)]
    label = {row["name"]: row["id"] - 1 for row in categories}
    order: list[tuple[int, int]] = []  # (split, row over all parts)
    texts: list[dict[str, Any]] = []
    tables = []
    for table, place, names, source in parts:
        for record in table["record"].to_pylist():
            i = place[record]
            row = seen[i]
            if splits[i]:
                order.append((SPLIT_NAMES.index(splits[i]), len(texts)))
            origin = os.path.relpath(os.fsdecode(row["path"]), source.folder.parent)
            made = {"split": splits[i], "source": row["source"], "domain": domains[row["source"]], "own_split": row["split"]}
            made |= {"group": group_names[groups[i]], "image_id": row["image_id"]}
            made |= {"origin": origin.encode("utf-8", "backslashreplace").decode()}
            texts.append(made | {"origin_width": row["width"], "origin_height": row["height"]})
        mapping = np.array([label[name] for name in names], dtype=np.int32)
        lists = table["category"].combine_chunks()
        codes = pa.array(mapping[np.asarray(lists.flatten())] if len(mapping) else np.zeros(0, np.int32))
        tables.append(table.set_column(table.schema.get_field_index("category"), "label", _arrow_lists(lists, codes)))
    rows = np.array([row for _, row in sorted(order)], dtype=np.int64)
    table = pa.concat_tables(tables).take(rows) if len(rows) else pa.concat_tables(tables).slice(0, 0)
    boxes = table["boxes"].combine_chunks()
    flat = np.asarray(boxes.flatten(), dtype=np.float32).reshape(-1, 4)
    offsets = np.concatenate([[0], np.cumsum(np.asarray(boxes.value_lengths(), dtype=np.int64) // 4)])
    of_boxes = pa.array(offsets, pa.int32())
    columns: dict[str, Any] = {"file_name": table["file_name"].to_pylist()}
    from_texts = [*TEXT_COLUMNS[1:], "origin_width", "origin_height"]
    columns |= {name: [texts[row][name] for row in rows.tolist()] for name in from_texts}
    columns |= {name: np.asarray(table[name]) for name in ("width", "height", "x", "y")}
    columns |= {"num_boxes": np.diff(offsets).astype(np.int32)}
    columns |= {name: pa.ListArray.from_arrays(of_boxes, pa.array(flat[:, k])) for k, name in enumerate(BOX_COLUMNS)}
    columns |= {name: _arrow_lists(lists := table[name].combine_chunks(), lists.flatten()) for name in ("label", "ignore")}
    return columns, categories


def _arrow_lists(like: Any, values: Any) -> Any:
    """An Arrow list array with the lengths of another and these values."""
    pa = arrow()
    offsets = np.concatenate([[0], np.cumsum(np.asarray(like.value_lengths(), dtype=np.int64))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _write_coco(path: Path, *, columns: Mapping[str, Any], categories: list[dict[str, Any]], split: str) -> None:
    """The images of a split as COCO JSON, written row by row: at no time is it in memory as a whole.

    Ids are rows of the index from 1. Numbers are the shortest that give the float32 of the index.
    """
    ends = np.cumsum(columns["num_boxes"], dtype=np.int64)
    flat = np.stack([np.asarray(columns[name].values) for name in BOX_COLUMNS], axis=1)
    labels, ignore = np.asarray(columns["label"].values), np.asarray(columns["ignore"].values.cast("uint8"))
    chosen = [i for i, name in enumerate(columns["split"]) if name == split]
    extra = ("source", "domain", "own_split", "group", "origin")
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {{"description": "TinySet, {split}"}},\n"categories": {json.dumps(categories)},\n"images": [')
        for k, i in enumerate(chosen):
            row = {"id": i + 1, "file_name": columns["file_name"][i]}
            row |= {name: int(columns[name][i]) for name in ("width", "height")}
            row |= {name: columns[name][i] for name in extra} | {"offset": [int(columns["x"][i]), int(columns["y"][i])]}
            file.write(f"{',' if k else ''}\n{json.dumps(row)}")
        file.write('],\n"annotations": [')
        comma = ""
        for i in tqdm(chosen, desc=f"write {split}.json", unit="image", delay=3):
            rows = slice(int(ends[i] - columns["num_boxes"][i]), int(ends[i]))
            xywh = flat[rows].copy()
            xywh[:, 2:] -= xywh[:, :2]
            for k, box in enumerate(xywh):
                bbox = [float(str(value)) for value in box]
                row = {"id": rows.start + k + 1, "image_id": i + 1, "category_id": int(labels[rows.start + k]) + 1, "bbox": bbox}
                row |= {"area": bbox[2] * bbox[3], "iscrowd": int(ignore[rows.start + k])}
                file.write(f"{comma}\n{json.dumps(row)}")
                comma = ","
        file.write("]}\n")


def _clear(images: Path, wanted: set[str]) -> None:
    """Delete what is not in the index: tiles of copies, and what a killed build left behind."""
    for path, _, files in os.walk(images, topdown=False):
        for file in files:
            full = Path(path, file)
            if full.relative_to(images).as_posix() not in wanted:
                full.unlink()
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(path)


def _counts(columns: Mapping[str, Any], *names: str) -> dict[tuple[str, ...], dict[str, int]]:
    """Images and objects by the values of some columns, in their order."""
    made: dict[tuple[str, ...], dict[str, int]] = {}
    for *key, objects in sorted(zip(*(columns[name] for name in names), columns["num_boxes"].tolist(), strict=True)):
        row = made.setdefault(tuple(key), {"images": 0, "objects": 0})
        row["images"] += 1
        row["objects"] += objects
    return made
