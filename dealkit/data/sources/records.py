"""One image of a public data set with its annotations, the same whatever the format it was read from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dealkit.data.coco import SPLIT_NAMES


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRecord:
    """What a source says about one image; the pixels stay on disk. `N` objects, (0, 0) is the image's top-left corner.

    Raises:
        ValueError: a field has another type, shape or range than stated; names source, image, field and object.

    >>> record = ImageRecord(path=Path("a.png"), width=8, height=6, boxes=np.float32([[1, 2, 4, 6]]), categories=("bolt",),
    ...                      ignore=np.array([False]), polygons=(), source="bolts", image_id="a", split="train")
    >>> record.group
    'a'
    """

    path: Path
    """Image file."""
    width: int
    height: int
    """Pixels of the upright image."""
    boxes: np.ndarray
    """(N, 4) float32 xyxy pixels, inside the image, x2 > x1 and y2 > y1; N may be 0."""
    categories: tuple[str, ...]
    """N names as the source gives them."""
    ignore: np.ndarray
    """(N,) bool: regions and objects that are neither found nor missed."""
    polygons: tuple[np.ndarray | None, ...] = ()
    """Per object its outline, (P, 2) float32 xy pixels with P of at least 3, or None; empty if no object has one. Corners may
    lie outside the image."""
    source: str
    """Key of `dealkit.data.sources.catalogue.SOURCES`, or the name of a folder of one's own."""
    image_id: str
    """Unique within the source."""
    group: str = ""
    """Images of one group must stay on one side of a split: frames of a video, parts of a large image. Default: `image_id`."""
    split: str = ""
    """The source's own split: one of `SPLIT_NAMES`, or empty where it states none."""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", self.image_id)
        count = len(self.categories)
        for field in ("source", "image_id"):
            if not (isinstance(value := getattr(self, field), str) and value):
                self._wrong(field, f"expected text, got {value!r}")
        if not isinstance(self.path, Path):
            self._wrong("path", f"expected a Path, got {self.path!r}")
        for field in ("width", "height"):
            value = getattr(self, field)
            if not (type(value) is int and value > 0):
                self._wrong(field, f"expected a positive integer, got {value!r}")
        if self.split not in (*SPLIT_NAMES, ""):
            self._wrong("split", f"expected {', '.join(SPLIT_NAMES)} or nothing, got {self.split!r}")
        self._check_array("boxes", np.float32, (count, 4))
        self._check_array("ignore", np.bool_, (count,))
        for i, name in enumerate(self.categories):
            if not (isinstance(name, str) and name):
                self._wrong(f"categories[{i}]", f"expected a name, got {name!r}")
        limits = np.float32([self.width, self.height])
        inside = (self.boxes[:, :2] >= 0) & (self.boxes[:, 2:] > self.boxes[:, :2]) & (self.boxes[:, 2:] <= limits)
        for i in np.flatnonzero(~inside.all(axis=1))[:1]:
            expected = f"expected 0 <= x1 < x2 <= {self.width} and 0 <= y1 < y2 <= {self.height}"
            self._wrong(f"boxes[{i}]", f"{expected}, got {self.boxes[i].tolist()}")
        if self.polygons and len(self.polygons) != count:
            self._wrong("polygons", f"expected none or one per object ({count}), got {len(self.polygons)}")
        for i, polygon in enumerate(self.polygons):
            if polygon is None:
                continue
            form = isinstance(polygon, np.ndarray) and polygon.dtype == np.float32 and polygon.ndim == 2
            if not (form and polygon.shape[0] >= 3 and polygon.shape[1] == 2 and np.isfinite(polygon).all()):
                self._wrong(f"polygons[{i}]", f"expected (P, 2) finite float32 with P >= 3, got {polygon!r:.80}")

    def _check_array(self, field: str, dtype: type, shape: tuple[int, ...]) -> None:
        value = getattr(self, field)
        if not (isinstance(value, np.ndarray) and value.dtype == dtype and value.shape == shape):
            got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else repr(value)
            self._wrong(field, f"expected {np.dtype(dtype).name} {shape} as there are {shape[0]} categories, got {got:.80}")

    def _wrong(self, field: str, message: str) -> None:
        raise ValueError(f"{self.source}: image {self.image_id}: {field}: {message}")
