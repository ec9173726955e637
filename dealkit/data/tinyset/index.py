"""The index of a TinySet: one Parquet file with a row per image, which opens millions of boxes in seconds.

Columns: `file_name` (below `images/` beside the index), `width`, `height`, `split`, `source`, `domain`; where the image comes
from: `own_split`, `group`, `image_id` and `origin` (file) of the source, `origin_width`, `origin_height`, and `x`, `y` of this
tile in it; the objects: `num_boxes` and the lists `x1`, `y1`, `x2`, `y2` (pixels), `label` (row in the categories), `ignore`.
The categories, with id, name and supercategory, are JSON in the file's metadata. Any Parquet reader can query it.

Image ids and annotation ids count the rows from 1, over all splits, in the index as in the COCO files beside it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dealkit.data.coco import SPLIT_NAMES, Sample
from dealkit.data.images import read_image
from dealkit.files import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

BOX_COLUMNS = ("x1", "y1", "x2", "y2")
TEXT_COLUMNS = ("file_name", "split", "source", "domain", "own_split", "group", "image_id", "origin")
SIZE_COLUMNS = ("width", "height", "origin_width", "origin_height", "x", "y", "num_boxes")

ROW_GROUP = 4096
"""Images of a Parquet row group. Choice: opening works one group at a time, so that it needs hardly more than what it keeps."""


def arrow() -> Any:
    """The pyarrow package, with `pyarrow.parquet`.

    Raises:
        ValueError: it is not installed; names the extra that brings it.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError("the index is a Parquet file: install pyarrow with `pip install -e .[tinyset]`") from None
    return pyarrow


def write_index(path: Path, columns: Mapping[str, Any], categories: list[dict[str, Any]]) -> None:
    """Write an index in one move: a kill leaves the old or the new file.

    Args:
        columns: the columns of this module's first lines as arrays or lists, one entry per image.
        categories: `{"id", "name", "supercategory"}`, ids from 1 in order.

    Raises:
        ValueError: a column is missing, unknown or of another length.

    >>> import tempfile
    >>> one = {name: [""] for name in TEXT_COLUMNS} | {name: [1] for name in SIZE_COLUMNS}
    >>> one |= {name: [[float(i)]] for i, name in enumerate(BOX_COLUMNS)} | {"label": [[0]], "ignore": [[False]]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_index(Path(folder, "index.parquet"), one, [{"id": 1, "name": "bolt", "supercategory": "part"}])
    ...     TinySet(Path(folder, "index.parquet")).boxes
    tensor([[0., 1., 2., 3.]])
    """
    pa = arrow()
    types = {name: pa.string() for name in TEXT_COLUMNS} | {name: pa.int32() for name in SIZE_COLUMNS}
    types |= {name: pa.list_(pa.float32()) for name in BOX_COLUMNS}
    types |= {"label": pa.list_(pa.int32()), "ignore": pa.list_(pa.bool_())}
    if set(columns) != set(types):
        raise ValueError(f"{path}: columns: expected {', '.join(types)}, got {', '.join(columns)}")
    schema = pa.schema(types, metadata={"categories": json.dumps(categories)})
    table = pa.table({name: columns[name] for name in types}, schema=schema)
    repeated = [*TEXT_COLUMNS, "label.list.element"]  # a dictionary of coordinates would be given up after a megabyte each time
    options = {"row_group_size": ROW_GROUP, "compression": "zstd", "use_dictionary": repeated}
    write_atomically(path, lambda to: pa.parquet.write_table(table, to, **options))


@dataclass(frozen=True)
class IndexRecord:
    """What the index says about one image, without reading it. `N` objects."""

    path: Path
    """Image file."""
    width: int
    height: int
    boxes: Tensor
    """(N, 4) float32 xyxy pixels."""
    labels: Tensor
    """(N,) int64 index into the categories."""
    ignore: Tensor
    """(N,) bool: neither found nor missed."""
    image_id: int
    """Row of the image in the index, from 1."""
    annotation_ids: Tensor
    """(N,) int64 rows of the objects in the index, from 1."""
    split: str
    source: str
    domain: str


class TinySet(torch.utils.data.Dataset[Sample]):
    """Map-style data set over an index: boxes in flat arrays of 19 bytes each, texts in Arrow.

    `select` gives parts of it (a split, a domain, a source) that share its memory. Loader workers share it, too, where they are
    forked; where they are spawned, each opens the file again.

    Attributes:
        categories: (id, name), sorted by id; a label is an index into this list.
        supercategories: of each category.
        members: (len,) int64 rows of the index in this part.
        boxes, labels, crowd: one row per object of the **whole** index; those of image `i` of this part are `boxes[rows(i)]`.

    Args:
        index: Parquet file of `python -m dealkit data build`.
        images: folder that the file names are relative to; by default `images` beside the index.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an index, or pyarrow is not installed; names the file and the column.
    """

    def __init__(self, index: str | Path, images: str | Path | None = None) -> None:
        self.path = Path(index)
        self.images = Path(images) if images is not None else self.path.parent / "images"
        self._open()
        self.members = np.arange(len(self._width))

    def _open(self) -> None:
        pa = arrow()
        try:
            schema = pa.parquet.read_schema(self.path)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path}: no such index; made by `python -m dealkit data build`") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{self.path}: not a Parquet file: {error}") from None
        missing = {*TEXT_COLUMNS, *SIZE_COLUMNS, *BOX_COLUMNS, "label", "ignore"} - set(schema.names)
        metadata = schema.metadata or {}
        if missing or b"categories" not in metadata:
            lacks = f"column {sorted(missing)[0]}" if missing else "categories in its metadata"
            raise ValueError(f"{self.path}: not the index of a TinySet: no {lacks}")
        with pa.parquet.ParquetFile(self.path, read_dictionary=["split", "source", "domain"]) as file:
            categories = json.loads(metadata[b"categories"])
            # Texts before boxes, and one row group at a time: what one step frees serves the next, and the peak stays low.
            self._file_name = file.read(["file_name"], use_threads=False)["file_name"].combine_chunks()
            self._split, self._source, self._domain = (_read_codes(file, name) for name in ("split", "source", "domain"))
            self._width, self._height, counts = (
                np.concatenate([np.zeros(0, np.int32), *_flats(file, name)]) for name in ("width", "height", "num_boxes")
            )
            self._ends = np.cumsum(counts, dtype=np.int64)
            total = int(counts.sum(dtype=np.int64))
            small = np.int16 if len(categories) < 2**15 else np.int32
            boxes, labels, crowd = np.empty((total, 4), np.float32), np.empty(total, small), np.empty(total, np.bool_)
            columns = dict(zip(BOX_COLUMNS, boxes.T, strict=True)) | {"label": labels, "ignore": crowd}
            for name, into in columns.items():
                start = 0
                for flat in _flats(file, name):
                    into[start : start + len(flat)] = flat[: total - start]
                    start += len(flat)
                if start != total:
                    raise ValueError(f"{self.path}: num_boxes: {total} in all, but column {name} has {start} entries")
        self.categories: list[tuple[int, str]] = [(row["id"], row["name"]) for row in categories]
        self.supercategories: list[str] = [row["supercategory"] for row in categories]
        self.boxes, self.labels, self.crowd = torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(crowd)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "images": self.images, "members": self.members}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self.members)

    @property
    def counts(self) -> np.ndarray:
        """(len,) int64 objects of each image."""
        return np.diff(self._ends, prepend=0)[self.members]

    @property
    def domains(self) -> list[str]:
        """Domains of this part, sorted."""
        return sorted({self._domain[1][code] for code in np.unique(self._domain[0][self.members])})

    @property
    def sources(self) -> list[str]:
        """Sources of this part, sorted."""
        return sorted({self._source[1][code] for code in np.unique(self._source[0][self.members])})

    def select(self, *, split: str | None = None, domain: str | None = None, source: str | None = None) -> "TinySet":
        """The images of this part that are of a split, a domain and a source; nothing is copied but their row numbers.

        Raises:
            ValueError: the index has no such domain or source, names those it has; or no such split can be. A part may be empty.
        """
        keep = np.ones(len(self.members), dtype=bool)
        for field, wanted in (("split", split), ("domain", domain), ("source", source)):
            codes, names = getattr(self, f"_{field}")
            if wanted in names:
                keep &= codes[self.members] == names.index(wanted)
            elif field == "split" and wanted in SPLIT_NAMES:
                keep[:] = False
            elif wanted is not None:
                raise ValueError(f"{self.path}: {field}: expected one of {', '.join(sorted(names))}, got {wanted!r}")
        part = object.__new__(TinySet)
        part.__dict__.update(self.__dict__)
        part.members = self.members[keep]
        return part

    def rows(self, index: int) -> slice:
        """Rows of `boxes`, `labels` and `crowd` that belong to image `index` of this part."""
        row = self.members[index]
        return slice(int(self._ends[row - 1]) if row else 0, int(self._ends[row]))

    def record(self, index: int) -> IndexRecord:
        """Everything but the pixels of image `index` of this part.

        Raises:
            IndexError: no such image.
        """
        row, rows = int(self.members[index]), self.rows(index)
        return IndexRecord(
            path=self.images / self._file_name[row].as_py(),
            width=int(self._width[row]),
            height=int(self._height[row]),
            boxes=self.boxes[rows].clone(),
            labels=self.labels[rows].long(),
            ignore=self.crowd[rows].clone(),
            image_id=row + 1,
            annotation_ids=torch.arange(rows.start + 1, rows.stop + 1),
            split=self._split[1][self._split[0][row]],
            source=self._source[1][self._source[0][row]],
            domain=self._domain[1][self._domain[0][row]],
        )

    def __getitem__(self, index: int) -> Sample:
        record = self.record(index)
        image = read_image(record.path)
        if tuple(image.shape[1:]) != (record.height, record.width):
            found = f"the file has {image.shape[2]} x {image.shape[1]}"
            raise ValueError(f"{record.path}: width, height: the index says {record.width} x {record.height}, {found}")
        same = {name: getattr(record, name) for name in ("boxes", "labels", "image_id", "annotation_ids", "source")}
        return Sample(image=image, crowd=record.ignore, **same)

    def balanced(self, power: float = 0.5) -> tuple[list["TinySet"], np.ndarray]:
        """Its parts by domain and source, none empty, and the probability of drawing each, for a training stream.

        Every domain is drawn equally often, and in a domain each source by its number of images to the `power`, 0 to 1. Choice:
        0.5, between one that never leaves the largest source (1) and one that shows the images of a small source a thousand
        times as often (0).

        Raises:
            ValueError: nothing to draw from, or a power outside 0 to 1.
        """
        if not 0 <= power <= 1:
            raise ValueError(f"balanced: power: expected 0 to 1, got {power}")
        if not len(self):
            raise ValueError(f"{self.path}: balanced: no image to draw")
        parts, shares = [], []
        for domain in self.domains:
            whole = self.select(domain=domain)
            parts += (of_domain := [whole.select(source=source) for source in whole.sources])
            sizes = np.array([len(part) for part in of_domain], dtype=np.float64) ** power
            shares += (sizes / sizes.sum() / len(self.domains)).tolist()
        return parts, np.array(shares)


def _read_codes(file: "pa.parquet.ParquetFile", name: str) -> tuple[np.ndarray, list[str]]:
    """A text column as (N,) int32 codes and the list of different texts."""
    codes: dict[str, int] = {}
    found = [np.zeros(0, np.int32)]
    for group in range(file.num_row_groups):
        for text in file.read_row_group(group, [name], use_threads=False)[name].chunks:
            own = text.dictionary.to_pylist()
            found.append(np.int32([codes.setdefault(value, len(codes)) for value in own])[np.from_dlpack(text.indices)])
    return np.concatenate(found), list(codes)


def _flats(file: "pa.parquet.ParquetFile", name: str) -> Iterator[np.ndarray]:
    """A column of numbers, or all entries of a column of lists of them, by row group.

    Not by `to_numpy`, which imports pandas (70 MB).
    """
    for group in range(file.num_row_groups):
        array = file.read_row_group(group, [name], use_threads=False)[name].combine_chunks()
        flat = array.flatten() if hasattr(array, "offsets") else array
        yield np.from_dlpack(flat.cast("uint8") if str(flat.type) == "bool" else flat)
