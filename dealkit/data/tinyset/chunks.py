"""The two steps of a TinySet build that run in many processes: a source read into a file of records, and a chunk of these records
checked, hashed and cut into tiles. Each step's file is written last and in one move, so a build that was killed goes on after it.
"""

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dealkit.config import BuildConfig
from dealkit.data.annotations import Problem
from dealkit.data.images import read_image
from dealkit.data.sources.records import ImageRecord
from dealkit.data.tiles import objects_in_window, tile_windows
from dealkit.data.tinyset.duplicates import perceptual_hash
from dealkit.data.tinyset.index import arrow
from dealkit.files import write_atomically

Reader = Callable[..., Iterator[ImageRecord]]
"""`reader(folder, on_problem=function)` gives the records of a source and hands its problems to the function."""

CHUNK_IMAGES = 32
"""Images of a chunk: what a killed build may have to do again, per worker."""

EXAMPLES = 5
"""Examples kept of each kind of problem."""


@dataclass(frozen=True, kw_only=True)
class SourceFolder:
    """A source found on disk."""

    name: str
    folder: Path
    reader: Reader
    work: Path
    """Where its records and chunks are written."""


def read_records(source: SourceFolder) -> str | None:
    """Write `records.parquet` of a source: its records sorted by image id, a row group per chunk.

    Returns:
        None, or why there is no such file: what the reader raised, or that it found nothing.

    Choice: a source whose reader fails is left out as a whole, since half a data set would go by the name of the whole. What a
    reader hands to `on_problem` is left out alone.
    """
    file = source.work / "records.parquet"
    if file.exists():
        return None
    pa = arrow()
    problems: list[Problem] = []

    try:
        records = sorted(
            source.reader(source.folder, on_problem=problems.append), key=lambda r: (r.image_id, os.fsencode(r.path))
        )
    except (ValueError, OSError, KeyError, TypeError, IndexError, AttributeError) as error:
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        return _said(f"{kind}{error}", source)
    if not records:
        return "; ".join(["no image", *(_said(problem, source) for problem in problems[:EXAMPLES])])
    first = {}
    for record in records:
        if first.setdefault(record.image_id, record) is not record:
            where = f"image {record.image_id}"
            problems.append(Problem(source.name, where, "image_id", "used more than once; the first is kept"))
    records = list(first.values())
    names = sorted({_printable(name) for record in records for name in record.categories})
    number = {name: i for i, name in enumerate(names)}
    columns = {
        "path": [os.fsencode(r.path) for r in records],
        "image_id": [_printable(r.image_id) for r in records],
        "group": [_printable(r.group) for r in records],
        "split": [r.split for r in records],
        "width": [r.width for r in records],
        "height": [r.height for r in records],
        "boxes": [r.boxes.ravel() for r in records],
        "category": [[number[_printable(name)] for name in r.categories] for r in records],
        "ignore": [r.ignore for r in records],
        "polygons": [[[] if p is None else p.ravel() for p in r.polygons] for r in records],
    }
    floats, texts = pa.list_(pa.float32()), dict.fromkeys(("image_id", "group", "split"), pa.string())
    types = {"path": pa.binary(), **texts, "width": pa.int32(), "height": pa.int32(), "boxes": floats}
    types |= {"category": pa.list_(pa.int32()), "ignore": pa.list_(pa.bool_()), "polygons": pa.list_(floats)}
    examples = [_said(problem, source) for problem in problems[:EXAMPLES]]
    notes = {"categories": json.dumps(names), "problems": json.dumps({"count": len(problems), "examples": examples})}
    table = pa.table(columns, schema=pa.schema(types, metadata=notes))
    write_atomically(file, lambda path: pa.parquet.write_table(table, path, row_group_size=CHUNK_IMAGES))
    return None


def cut_chunk(task: tuple[SourceFolder, int, Path, BuildConfig]) -> int:
    """Check, hash and cut the images of one row group of `records.parquet`; write tiles and links under `images`, then
    `chunks/NNNNNN.parquet` with a row per tile.

    Args:
        task: source, number of the row group, folder `images` of the TinySet, settings.

    Returns:
        the number of source images.
    """
    source, number, images, config = task
    pa = arrow()
    with pa.parquet.ParquetFile(source.work / "records.parquet") as file:
        rows = file.read_row_group(number, use_threads=False).to_pylist()
    done = source.work / "chunks" / f"{number:06}.parquet"
    if done.exists():
        return len(rows)
    tiles, seen, notes = [], [], []
    for i, row in enumerate(rows):
        record = number * CHUNK_IMAGES + i

        def note(reason: str, count: int = 1, detail: str = "", image: str = row["image_id"]) -> None:
            notes.append((reason, count, image, detail))

        made = _cut_image(row, source, images, config, note)
        if made is not None:
            seen.append({"record": record, **made[0]})
            tiles += [{"record": record, **tile} for tile in made[1]]
    floats, whole = pa.list_(pa.float32()), pa.int32()
    types = {"record": whole, "file_name": pa.string(), "x": whole, "y": whole, "width": whole, "height": whole}
    types |= {"boxes": floats, "category": pa.list_(whole), "ignore": pa.list_(pa.bool_())}
    schema = pa.schema(types, metadata={"images": json.dumps(seen), "notes": json.dumps(notes)})
    table = pa.Table.from_pylist(tiles, schema=schema)
    write_atomically(done, lambda path: pa.parquet.write_table(table, path))
    return len(rows)


def _cut_image(
    row: dict[str, Any], source: SourceFolder, images: Path, config: BuildConfig, note: Callable[..., None]
) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Hashes and tiles of one image, whose files are written; None if it cannot be used."""
    path = Path(os.fsdecode(row["path"]))
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        pixels = read_image(path).permute(1, 2, 0).numpy()
    except (ValueError, OSError) as error:
        note("image cannot be read", 1, _said(error, source))
        return None
    height, width = pixels.shape[:2]
    if (width, height) != (row["width"], row["height"]):
        note("image of another size than stated", 1, f"stated {row['width']} x {row['height']}, is {width} x {height}")
        return None
    if row["boxes"] and (pixels == pixels[0, 0]).all():
        note("image of one colour with objects")
        return None
    boxes = np.float32(row["boxes"]).reshape(-1, 4)
    category, ignore = np.int32(row["category"]), np.array(row["ignore"], dtype=bool)
    polygons = [np.float32(p).reshape(-1, 2) if p else None for p in row["polygons"]]
    table = np.concatenate([boxes, category[:, None], ignore[:, None]], axis=1, dtype=np.float64)
    first = np.sort(np.unique(table, axis=0, return_index=True)[1]) if len(boxes) else np.zeros(0, np.int64)
    if len(first) < len(boxes):
        note("object listed twice", len(boxes) - len(first))
        boxes, category, ignore, polygons = boxes[first], category[first], ignore[first], [polygons[i] for i in first if polygons]

    name = f"{source.name}/{_file_name(row['image_id'])}"
    windows = tile_windows(width, height, config.tile, config.overlap)
    best = np.zeros(len(boxes))
    tiles: list[dict[str, Any]] = []
    grey = len(windows) > 1 and bool((pixels == pixels[..., :1]).all())
    for window in windows:
        x, y, right, bottom = window
        rows, inside, visible = objects_in_window(boxes, window, tuple(polygons))
        best[rows] = np.maximum(best[rows], visible)
        cut = (visible < config.min_visible) & ~ignore[rows]
        hidden = ignore[rows] | cut
        if len(windows) == 1:
            file_name = f"{name}{_suffix(path)}"
            _link(path, images / file_name)
        elif hidden.all():
            note("tile without an object")
            continue
        else:
            file_name = f"{name}@{x}_{y}.png"
            part = Image.fromarray(pixels[y:bottom, x:right, 0] if grey else np.ascontiguousarray(pixels[y:bottom, x:right]))
            write_atomically(images / file_name, lambda to, part=part: part.save(to, "PNG", compress_level=3))
        if cut.any():
            note("object mostly outside a tile, ignored there", int(cut.sum()))
        made = {"file_name": file_name, "x": x, "y": y, "width": right - x, "height": bottom - y}
        tiles.append(made | {"boxes": inside.ravel(), "category": category[rows], "ignore": hidden})
    if lost := int(((best < config.min_visible) & ~ignore).sum()):
        note("object not visible enough in any tile", lost)
    hashed = perceptual_hash(pixels)
    return {"digest": digest, "hash": None if hashed is None else hashed.tobytes().hex()}, tiles


def _link(path: Path, to: Path) -> None:
    """The image under another name: a hard link, or a copy where the file system has none."""

    def write(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path.resolve(), temporary)
        except OSError:
            shutil.copyfile(path, temporary)

    if not (to.exists() and to.samefile(path)):  # moving a link over a link to the same file does nothing
        write_atomically(to, write)


def _file_name(image_id: str) -> str:
    """A name below `images/<source>` for an image, different for different ids, without a suffix.

    >>> _file_name("train/P0706"), _file_name("a b")
    ('train/P0706', 'a_b-7faae47c')
    """
    plain = re.sub(r"[^A-Za-z0-9_./-]", "_", image_id)
    parts = plain.split("/")
    if plain == image_id and len(plain) < 150 and all(part.strip(".") for part in parts):
        return plain
    return f"{plain.replace('/', '_')[:80]}-{hashlib.blake2b(image_id.encode(), digest_size=4).hexdigest()}"


def _suffix(path: Path) -> str:
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix := path.suffix.lower()) else ""


def _printable(text: str) -> str:
    """Text that JSON and Parquet hold: bytes of a file name that are no UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _said(message: object, source: SourceFolder) -> str:
    """A message without the path of the source."""
    return _printable(str(message)).replace(f"{source.folder}/", "")


def summarise_notes(notes: Iterator[tuple[str, str, int, str, str]]) -> dict[str, dict[str, Any]]:
    """What was left out or changed, by reason: how often, in which sources, and the first examples.

    Args:
        notes: source, reason, count, image, detail.

    >>> summarise_notes(iter([("dota", "object listed twice", 2, "P01", "")]))
    {'object listed twice': {'count': 2, 'sources': {'dota': 2}, 'examples': ['dota: P01']}}
    """
    made: dict[str, dict[str, Any]] = {}
    for source, reason, count, image, detail in notes:
        row = made.setdefault(reason, {"count": 0, "sources": Counter(), "examples": []})
        row["count"] += count
        row["sources"][source] += count
        if len(row["examples"]) < EXAMPLES:
            row["examples"].append(f"{source}: {image}" + (f": {detail}" if detail else ""))
    return {reason: {**row, "sources": dict(row["sources"])} for reason, row in sorted(made.items())}
