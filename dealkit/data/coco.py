"""Samples, COCO folders, and a check that names the file, the record and the field (`dealkit.data.annotations`).

On disk boxes are `xywh` pixels, in a `Sample` `xyxy` pixels; this module is that border. `N` boxes, (0, 0) the image's
top-left corner.
"""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dealkit.data.annotations import BESIDE, Problem, inside, parse
from dealkit.data.images import read_image

SPLIT_NAMES = ("train", "val", "test")
NOT_STATED = "not stated"
"""What stands where a source says nothing: of its domain, its licence, its size."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its boxes."""

    image: Tensor
    """(3, H, W) uint8 RGB."""
    boxes: Tensor
    """(N, 4) float32 xyxy pixels of `image`, inside it; N may be 0."""
    labels: Tensor
    """(N,) int64: category index within its source, 0-based, in the order of the file's categories sorted by id."""
    image_id: int
    """Of the annotation file."""
    crowd: Tensor
    """(N,) bool: regions that are neither found nor missed."""
    annotation_ids: Tensor
    """(N,) int64 annotation ids of the file, never 0."""
    source: str
    """Name of the data set the image comes from."""


class CocoFolder(torch.utils.data.Dataset[Sample]):
    """Map-style data set over a COCO JSON file and its folder of images.

    The file is checked in full on construction (`read_coco`), images only for their presence; `check` also decodes them. Boxes
    are kept in flat arrays, 33 bytes each, so that millions fit and loader workers share them: those of image `i` are
    `boxes[rows(i)]`. `iscrowd: 1` or `ignore: 1` gives crowd. Images without annotations are ordinary samples.

    Attributes:
        categories: (id, name), sorted by id; a label is an index into this list.
        image_ids, file_names, sizes_hw: one entry per image, in the order of the file.
        boxes, labels, crowd, annotation_ids: one row per annotation, images in order; as in `Sample`.

    Args:
        images: folder that the file names are relative to; by default as in `image_folder`.
        source: name of the data set; by default the name of the folder that holds `annotations`.
        drop: leave out annotations without a positive width and height.

    Raises:
        ValueError: the first problem found, how many more there are, and the command that lists them all.

    >>> import json, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("L", (8, 6)).save(f"{folder}/a.png")
    ...     data = coco_dict([("a.png", (6, 8), torch.tensor([[1.0, 2.0, 4.0, 6.0]]), torch.tensor([0]))], ["bolt"])
    ...     _ = Path(folder, "train.json").write_text(json.dumps(data))
    ...     CocoFolder(Path(folder, "train.json"), Path(folder), source="bolts")[0].boxes
    tensor([[1., 2., 4., 6.]])
    """

    def __init__(
        self, annotations: str | Path, images: str | Path | None = None, *, source: str | None = None, drop: bool = False
    ) -> None:
        tables, problems = parse(Path(annotations), Path(images) if images else BESIDE, drop=drop)
        if tables is None or problems:
            more = f"{len(problems) - 1} more; " if len(problems) > 1 else ""
            command = f"python -m dealkit data check {shlex.quote(str(annotations))}"
            command += f" --images {shlex.quote(str(images))}" if images else ""
            raise ValueError(f"{problems[0]}\n{more}to list every problem: {command}")
        self.images: Path = tables["images"]
        self.source = source if source is not None else Path(annotations).resolve().parent.name
        self.categories: list[tuple[int, str]] = tables["categories"]
        self.image_ids: list[int] = tables["image_ids"]
        self.file_names: list[str] = tables["file_names"]
        self.sizes_hw: list[tuple[int, int]] = tables["sizes_hw"]
        rows, index = tables["rows"], {image_id: i for i, image_id in enumerate(self.image_ids)}
        image_index = torch.tensor([index[row["image_id"]] for row in rows], dtype=torch.int64)
        order = torch.argsort(image_index, stable=True)
        self._ends = torch.cumsum(torch.bincount(image_index, minlength=len(self)), 0)
        rows = [rows[i] for i in order.tolist()]
        label_of = {category_id: label for label, (category_id, _) in enumerate(self.categories)}
        boxes = [inside(row["bbox"], self.sizes_hw[index[row["image_id"]]]) for row in rows]
        self.boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        self.labels = torch.tensor([label_of[row["category_id"]] for row in rows], dtype=torch.int64)
        self.crowd = torch.tensor([row.get("iscrowd", 0) == 1 or row.get("ignore", 0) == 1 for row in rows], dtype=torch.bool)
        self.annotation_ids = torch.tensor([row["id"] for row in rows], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.image_ids)

    def rows(self, index: int) -> slice:
        """Rows of `boxes`, `labels`, `crowd` and `annotation_ids` that belong to image `index`; no image is read."""
        index = range(len(self))[index]
        return slice(int(self._ends[index - 1]) if index else 0, int(self._ends[index]))

    def __getitem__(self, index: int) -> Sample:
        rows = self.rows(index)
        path = self.images / self.file_names[index]
        image = read_image(path)
        if (wrong := _wrong_size(image, self.sizes_hw[index])) is not None:
            raise ValueError(f"{path}: image {self.image_ids[index]}: width, height: {wrong}")
        return Sample(
            image=image,
            boxes=self.boxes[rows].clone(),
            labels=self.labels[rows].clone(),
            image_id=self.image_ids[index],
            crowd=self.crowd[rows].clone(),
            annotation_ids=self.annotation_ids[rows].clone(),
            source=self.source,
        )


def check(annotations: str | Path, images: str | Path | None = None, *, drop: bool = False) -> list[Problem]:
    """Every problem of a COCO JSON file and its images; an empty list means that `CocoFolder`, of the same, reads it to the end.

    Looks for: JSON and keys missing or of the wrong type; duplicate ids and file names; annotation id 0, which pycocotools can
    never match; unknown categories and images; boxes that are not four finite numbers, have no area (unless `drop` leaves those
    out), or stand out of their image by more than `BOX_TOLERANCE`; file names that lead out of the folder; image files that are
    missing, truncated, or (upright) of another size than stated.
        Boxes under a pixel are legal. Every image is decoded, with a progress bar after three seconds.

    Choice: two records for one image file are a problem, since each shows the other's objects as background.

    >>> print(check("no/such.json", "no")[0])
    no/such.json: file: path: no such file
    """
    tables, problems = parse(Path(annotations), Path(images) if images else BESIDE, drop=drop)
    if tables is None:
        return problems
    rows = list(zip(tables["image_ids"], tables["file_names"], tables["sizes_hw"], strict=True))
    for image_id, name, size_hw in tqdm(rows, desc="check", delay=3, leave=False):
        file = tables["images"] / name
        if not file.is_file():
            continue  # already a problem of the file
        try:
            field, wrong = "width, height", _wrong_size(read_image(file), size_hw)
        except (ValueError, OSError) as error:
            field, wrong = "file_name", str(error).removeprefix(f"{file}: ")
        if wrong is not None:
            problems.append(Problem(str(file), f"image {image_id}", field, wrong))
    return problems


def check_report(annotations: str | Path, images: str | Path | None = None, *, drop: bool = False) -> tuple[str, int]:
    """What `python -m dealkit data check` prints, and its exit code: every problem on a line, 1 if there are any."""
    problems = check(annotations, images, drop=drop)
    if not problems:
        return f"{annotations}: no problems", 0
    return "\n".join([*map(str, problems), f"{annotations}: problems: {len(problems)}"]), 1


def coco_dict(
    images: Iterable[tuple[str, tuple[int, int], Tensor, Tensor] | tuple[str, tuple[int, int], Tensor, Tensor, Tensor]],
    categories: Sequence[str],
) -> dict[str, Any]:
    """COCO detection data, ready for `json.dump`, with all ids counted from 1.

    Args:
        images: file name, size_hw, boxes (N, 4) xyxy pixels, labels (N,) index into `categories`, optionally crowd (N,) bool.
        categories: names; label 0 becomes category id 1.

    >>> data = coco_dict([("a.png", (6, 8), torch.tensor([[1.0, 2.0, 4.0, 6.0]]), torch.tensor([0]))], ["bolt"])
    >>> data["annotations"]
    [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1.0, 2.0, 3.0, 4.0], 'area': 12.0, 'iscrowd': 0}]
    """
    records, annotations = [], []
    for image_id, (name, (height, width), boxes, labels, *rest) in enumerate(images, 1):
        records.append({"id": image_id, "file_name": name, "width": width, "height": height})
        crowd = rest[0].tolist() if rest else [False] * len(boxes)
        xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
        for box, label, is_crowd in zip(xywh.tolist(), labels.tolist(), crowd, strict=True):
            row = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1, "bbox": box}
            annotations.append(row | {"area": box[2] * box[3], "iscrowd": int(is_crowd)})
    names = [{"id": i, "name": name} for i, name in enumerate(categories, 1)]
    return {"images": records, "annotations": annotations, "categories": names}


def _wrong_size(image: Tensor, size_hw: tuple[int, int]) -> str | None:
    found = (image.shape[1], image.shape[2])
    if found == tuple(size_hw):
        return None
    hint = " (were the boxes drawn before the file's EXIF rotation was applied?)" if found == tuple(size_hw[::-1]) else ""
    return f"stated {size_hw[1]} x {size_hw[0]} (width x height), the file has {found[1]} x {found[0]}{hint}"
