"""What the readers share: files with clear errors, problems that are raised or handed over, and boxes cut to their image."""

import json
import math
import os
import re
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from dealkit.data.annotations import BOX_TOLERANCE, Problem
from dealkit.data.sources.records import ImageRecord
from dealkit.files import IMAGE_SUFFIXES

OnProblem = Callable[[Problem], None]
ORIENTATION = 0x0112
"""EXIF tag; 5 to 8 are images lying on their side."""


@dataclass(frozen=True, slots=True)
class Found:
    """One object as a file states it, before it is checked."""

    where: str
    """Its record: `annotation 17`, `line 3`, `object 2`."""
    category: str
    box: Sequence[float]
    """x1, y1, x2, y2 in pixels of the image, (0, 0) its top-left corner."""
    ignore: bool = False
    polygon: np.ndarray | None = None
    """(P, 2) xy pixels."""


class Reading:
    """One pass over one source: opens its files, tells of its problems, makes its records.

    A **problem** is what the user can mend or must know: a file that is missing or broken, a line of another form, an unknown
    category. It raises `ValueError`; with `on_problem` it is handed over instead, what it concerns is left out and reading goes
    on. A **known defect** is one the published files have for everyone: it is left out, and handed over if there is
    `on_problem`. Boxes without area and boxes outside their image are known defects of published sources, and problems in a
    folder of one's `own`.
    """

    def __init__(self, source: str, root: str | Path, on_problem: OnProblem | None, *, own: bool = False) -> None:
        self.source, self.root, self.on_problem, self.own = source, Path(root), on_problem, own
        self._seen: set[str] = set()
        if not self.root.is_dir():
            self.wrong(self.root, "file", "path", "no such folder")

    def wrong(self, file: Path, where: str, field: str, message: str) -> None:
        """Raise a problem, or hand it over."""
        problem = Problem(os.fsencode(file).decode("utf-8", "backslashreplace"), where, field, message)
        if self.on_problem is None:
            raise ValueError(str(problem))
        self.on_problem(problem)

    def known(self, file: Path, where: str, field: str, message: str) -> None:
        """Hand over a known defect if anyone listens."""
        if self.on_problem is not None:
            self.wrong(file, where, field, message)

    def defect(self, file: Path, where: str, field: str, message: str) -> None:
        """Something wrong with one object: a problem in one's own folder, a known defect of a published source."""
        (self.wrong if self.own else self.known)(file, where, field, message)

    def first(self, *patterns: str) -> Path | None:
        """First file or folder under the root that one of the patterns matches, in their order, then by name."""
        return next((path for pattern in patterns for path in sorted(self.root.glob(pattern))), None)

    def present(self, files: Mapping[str, Path | None], expected: str) -> dict[str, Path]:
        """The annotation files or folders that are there, by split; a problem if none is, a known defect where one is missing.

        Choice: many keep only some splits of a source, so one missing split is no error.
        """
        found = {split: path for split, path in files.items() if path is not None and path.exists()}
        expected = expected.replace("{}", f"{{{','.join(files)}}}")
        for split in [s for s in files if s not in found] if found else ():
            self.known(self.root, "file", split, f"split not there; expected {expected}")
        if not found and self.root.is_dir():
            self.wrong(self.root, "file", "path", f"nothing of this source is here; expected {expected}")
        return found

    def lines(self, file: Path) -> list[tuple[str, str]]:
        """(`line N`, text) of the lines of a text file that are not blank."""
        text = self._content(file, "a text file in UTF-8", lambda f: f.read_text(encoding="utf-8-sig")) or ""
        return [(f"line {i}", line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]

    def numbers(
        self, file: Path, where: str, words: Sequence[str], form: str, count: int | None = None, field: str = "numbers"
    ) -> list[float] | None:
        """The words as finite numbers, `count` of them, or None after telling that `form` was expected."""
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if values and all(map(math.isfinite, values)) and count in (None, len(values)):
            return values
        self.wrong(file, where, field, f"expected {form}, got {' '.join(words)!r:.80}")
        return None

    def json(self, file: Path, key: str = "", kind: type = dict, expected: str = "") -> Any:
        """Content of a JSON file, an object in which `key`, if given, is of a kind; or None after telling why not."""
        data = self._content(file, "JSON", lambda f: json.loads(f.read_text(encoding="utf-8-sig")))
        if data is None or not key or isinstance(data, dict) and isinstance(data.get(key), kind):
            return data
        self.wrong(file, "file", key, f"expected an object with {expected}")
        return None

    def xml(self, file: Path) -> ET.Element | None:
        """Root of an XML file, or None after telling what is wrong with it."""
        return self._content(file, "XML", lambda f: ET.parse(f).getroot())

    def _content(self, file: Path, kind: str, load: Callable[[Path], Any]) -> Any:
        try:
            return load(file)
        except FileNotFoundError:
            self.wrong(file, "file", "path", "no such file")
        except (OSError, ValueError, RecursionError, ET.ParseError) as error:
            self.wrong(file, "file", "content", f"not {kind}: {error}")
        return None

    def images(self, *folders: Path) -> dict[str, Path]:
        """Image files by name without suffix, those of the first folder first, each folder's by name."""
        found: dict[str, Path] = {}
        for folder in folders:
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
                    continue
                if self.own and path.stem in found:
                    self.wrong(path, "image", "name", f"the same name as {found[path.stem].name}, expected one image per name")
                found.setdefault(path.stem, path)
        return found

    def size(self, path: Path, file: Path, where: str) -> tuple[int, int] | None:
        """Upright width and height from the image's header, or None after telling what is wrong with the image."""
        try:
            str(path).encode()
            if path.is_file() and path.stat().st_size == 0:
                raise EOFError("an empty file, 0 bytes")
            with Image.open(path) as image:
                turned = "exif" in image.info or image.format == "TIFF"  # of a PNG, getexif would decode the pixels
                turned = turned and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
                return image.size[::-1] if turned else image.size
        except UnicodeEncodeError:
            self.wrong(path, where, "file_name", "expected a name in UTF-8")
        except FileNotFoundError:
            self.wrong(file, where, "file_name", f"no such file: {path}")
        except EOFError as error:
            self.wrong(path, where, "image", str(error))
        except UnidentifiedImageError:
            self.wrong(path, where, "image", "not an image in any format that Pillow reads")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.wrong(path, where, "image", f"cannot be opened: {error}")
        return None

    def record(
        self,
        path: Path,
        objects: Iterable[Found],
        *,
        file: Path,
        where: str = "image",
        size: tuple[int, int] | None = None,
        group: str = "",
        split: str = "",
    ) -> Iterator[ImageRecord]:
        """Gives the record of one image, or nothing after telling why there is none.

        Args:
            path: image file; its path under the root becomes `image_id`.
            objects: what is in it; boxes are cut to the image, those without area are left out.
            file: annotation file that `where` and the objects' `where` are about.
            size: width and height as stated; they must be those of the image.
        """
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else ".."
        if ".." in path.parts or name == "..":
            self.wrong(file, where, "file_name", f"expected a path inside the folder of images, got {path}")
        elif name in self._seen:
            self.wrong(file, where, "file_name", f"{name} is used more than once")
        elif (actual := self.size(path, file, where)) is not None and size is not None and tuple(size) != actual:
            stated = f"stated {size[0]} x {size[1]} (width x height), {path} has {actual[0]} x {actual[1]}"
            self.wrong(file, where, "width, height", stated)
        elif actual is not None:
            self._seen.add(name)
            kept, boxes = self._cut(list(objects), actual, file)
            polygons = tuple(None if o.polygon is None else np.asarray(o.polygon, np.float32).reshape(-1, 2) for o in kept)
            objects_of = {"categories": tuple(found.category for found in kept), "boxes": boxes}
            objects_of |= {"ignore": np.array([found.ignore for found in kept], bool)}
            objects_of |= {"polygons": polygons if any(p is not None for p in polygons) else ()}
            of_image = {"path": path, "width": actual[0], "height": actual[1], "image_id": name, "group": group, "split": split}
            yield ImageRecord(source=self.source, **of_image, **objects_of)

    def _cut(self, objects: list[Found], size: tuple[int, int], file: Path) -> tuple[list[Found], np.ndarray]:
        """The objects that have an area inside the image, and their boxes (N, 4) cut to it; tells of the others."""
        stated = np.array([found.box for found in objects], np.float64).reshape(-1, 4)
        frame = np.array([*size, *size], np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            over = np.maximum(-stated, stated - frame).max(1, initial=-np.inf)
            cut = np.clip(stated, 0, frame).astype(np.float32)
        sound = np.isfinite(stated).all(1) & (stated[:, :2] < stated[:, 2:]).all(1)
        inside = over <= BOX_TOLERANCE if self.own else np.ones(len(stated), bool)
        good = sound & inside & (cut[:, :2] < cut[:, 2:]).all(1)
        for i in np.flatnonzero(~good):
            shown, image = stated[i].round(2).tolist(), f"the image of {size[0]} x {size[1]} (width x height)"
            wrong = f"{shown} (x1, y1, x2, y2) {'has no area inside' if inside[i] else 'is outside'} {image}"
            wrong = wrong if sound[i] else f"expected finite x1 < x2 and y1 < y2, got {shown}"
            self.defect(file, objects[i].where, "box", wrong)
        return [found for found, keep in zip(objects, good, strict=True) if keep], cut[good]


def named_part(pattern: str, name: str) -> str:
    """The first group of a pattern that a file's whole name without suffix matches, else nothing.

    >>> named_part(r"(.+)_I\\d+", "train/bb_V0032_I0001640.jpg")
    'bb_V0032'
    """
    found = re.fullmatch(pattern, Path(name).stem)
    return found.group(1) if found else ""


def are_numbers(values: Any) -> bool:
    """Whether it is a JSON list of numbers.

    >>> are_numbers([1, 2.5]), are_numbers([1, "2"]), are_numbers(None)
    (True, False, False)
    """
    return isinstance(values, list) and all(type(v) in (int, float) for v in values)


def box_of(polygon: np.ndarray) -> list[float]:
    """Smallest upright box around (P, 2) corners: x1, y1, x2, y2.

    >>> box_of(np.array([[4, 0], [8, 4], [4, 8], [0, 4]]))
    [0.0, 0.0, 8.0, 8.0]
    """
    return [*polygon.min(0).astype(float).tolist(), *polygon.max(0).astype(float).tolist()]


@contextmanager
def example(files: Mapping[str, str | bytes | tuple[int, int]]) -> Iterator[Path]:
    """A temporary folder of small files, for examples and tests: text, bytes, or a black image of (width, height).

    >>> with example({"images/a.png": (8, 6), "labels/a.txt": "0 0.5 0.5 1 1"}) as root:
    ...     sorted(path.name for path in root.iterdir())
    ['images', 'labels']
    """
    with tempfile.TemporaryDirectory() as name:
        for relative, content in files.items():
            path = Path(name, relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, tuple):
                Image.new("RGB", content).save(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        yield Path(name)
