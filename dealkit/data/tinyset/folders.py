"""The sources under a folder, each told by the files that only its form has: COCO, YOLO, Pascal VOC, or a reader of its name."""

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dealkit import __version__
from dealkit.config import BuildConfig
from dealkit.data.coco import SPLIT_NAMES, CocoFolder
from dealkit.data.sources.readers.voc_xml import read_voc
from dealkit.data.sources.readers.yolo_txt import read_yolo
from dealkit.data.sources.records import ImageRecord
from dealkit.data.tinyset.chunks import Reader, SourceFolder
from dealkit.files import read_json


def detect_sources(
    root: Path, readers: Mapping[str, Reader], out: Path, config: BuildConfig
) -> tuple[list[SourceFolder], list[str]]:
    """The sources under `root`, by name, and the folders that are none.

    The work of each lies in a folder named by a hash of what it depends on: names, sizes and times of the source's files, and the
    settings of the cut. A source that changed between two runs of one build is read again.
    """
    found: list[SourceFolder] = []
    skipped: list[str] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if folder.resolve() == out.resolve():
            continue
        name = folder.name
        own = _own_format(folder)
        reader = readers.get(name) if own is None else functools.partial(own, source=name)
        if reader is None:
            skipped.append(name)
            continue
        state = hashlib.blake2b(repr((__version__, config.tile, config.overlap, config.min_visible)).encode(), digest_size=8)
        for path, folders, files in os.walk(folder):
            folders.sort()
            for file in sorted(files):
                stat = os.stat(os.path.join(path, file), follow_symlinks=False)
                state.update(os.fsencode(os.path.relpath(os.path.join(path, file), folder)))
                state.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        work = out / "work" / f"{name}-{state.hexdigest()}"
        found.append(SourceFolder(name=name, folder=folder, reader=reader, work=work))
    if not found:
        names = ", ".join(sorted(readers)) or "none"
        raise ValueError(f"{root}: no source: expected folders named as a reader ({names}), or in COCO, YOLO or VOC form")
    return found, skipped


def read_coco_folder(folder: Path, *, source: str, on_problem: Any = None) -> Iterator[ImageRecord]:
    """Records of a COCO folder: `train.json`, `val.json`, `test.json` or `annotations.json`, and `images/`.

    `group` of an image record is its group. A problem in a file, as `data check` lists them, raises ValueError.
    """
    for file in _coco_files(folder):
        data = CocoFolder(file, source=source)
        groups = {row["id"]: row.get("group") for row in read_json(file)["images"]}
        for i, (image_id, name) in enumerate(zip(data.image_ids, data.file_names, strict=True)):
            rows = data.rows(i)
            yield ImageRecord(
                path=data.images / name,
                width=data.sizes_hw[i][1],
                height=data.sizes_hw[i][0],
                boxes=data.boxes[rows].numpy(),
                categories=tuple(data.categories[label][1] for label in data.labels[rows].tolist()),
                ignore=data.crowd[rows].numpy(),
                source=source,
                image_id=f"{file.stem}/{Path(name).stem}",
                group=str(groups[image_id] or ""),
                split=file.stem if file.stem in SPLIT_NAMES else "",
            )


def _coco_files(folder: Path) -> list[Path]:
    return [file for name in (*SPLIT_NAMES, "annotations") if (file := folder / f"{name}.json").is_file()]


def _own_format(folder: Path) -> Reader | None:
    """The reader of a folder in COCO, YOLO or Pascal VOC form, told by the files that only it has; None for another."""
    if _coco_files(folder):
        return read_coco_folder
    if (folder / "data.yaml").is_file() or (folder / "classes.txt").is_file():
        return read_yolo
    if (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir():
        return read_voc
    return None
