"""Files: where the project lies, JSON that is read with clear errors and written in one move, hashes, what made a result."""

import errno
import glob
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    import pandas as pd

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""Folder that holds `notebooks/`, `data/` and `figures/`; every relative path of a notebook starts here."""

Json = dict[str, Any]
"""A JSON object."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""What the names of image files end in, in lower case."""

OUTSIDE = "DEALKIT_ALLOW_OUTSIDE"
"""Environment variable: where it is set, the file names of COCO files may be absolute or climb out of their folder.

Choice: of the process and those that it starts, so that every reader of a file agrees.
"""

MOST_LINES = 20
"""How many lines `tell` says in one process: a data set of a thousand odd images says it that often, not a thousand times."""

_told: set[str] = set()


def tell(line: str) -> None:
    """Say on stderr, by the logger `dealkit`, what a reader decided for the user; every line once, the first `MOST_LINES`."""
    if line not in _told and len(_told) <= MOST_LINES:
        _told.add(line)
        last = len(_told) > MOST_LINES
        logging.getLogger("dealkit").warning("%s", "more lines of this kind are not shown" if last else line)


def read_json(source: Any) -> Any:
    """The content of a JSON file, with or without a byte order mark; anything that is not a path is returned as it is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not JSON, nested too deep, or cannot be read; names it.
    """
    if not isinstance(source, str | Path):
        return source
    try:
        return json.loads(Path(source).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{source}: no such file") from None
    except RecursionError:
        raise ValueError(f"{source}: not a JSON file: nested too deep") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{source}: not a JSON file: {error}") from None


def read_json_lines(file: Path) -> Iterator[Json]:
    """Rows of a JSON lines file, one in memory at a time; a last line cut by a kill is left out, a missing file has none."""
    if not Path(file).is_file():
        return
    with Path(file).open(encoding="utf-8") as stream:
        for text in stream:
            try:
                yield json.loads(text)
            except json.JSONDecodeError:
                return


def write_json(path: Path, values: Any) -> None:
    """JSON by `write_text`; what is not JSON leaves the old file."""
    write_text(path, json.dumps(values, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, with the line ends of `text`, by `write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file under another name, then move it to `path`: a kill leaves the old file, the new one, or none.

    A link is followed, not replaced; a device or pipe is written to as it is.

    Raises:
        OSError: the system refuses; names `path`, and of the other name nothing is left.
    """
    path = Path(path)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        write(path)
        return
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f"{path.name[:50]}.{os.getpid()}.tmp")  # as short as a name may have to be
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            mode = temporary.stat().st_mode  # what the umask leaves; safetensors makes a file that nobody else can read
            write(temporary)
            if temporary.stat().st_nlink == 1:  # a hard link has the mode of its file
                temporary.chmod(mode)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the system become an OSError that names the file to be written, others stay as they are.

    Choice: safetensors and torch raise errors of their own, which have the system's number in their text, or none.
    """
    try:
        yield
    except Exception as error:
        number = errno.ENOTDIR if isinstance(error, FileExistsError) else getattr(error, "errno", None)
        if number is None and not isinstance(error, OSError | TypeError | ValueError):
            found = re.search(r"\(os error (\d+)\)", str(error))
            full = not found and shutil.disk_usage(path.parent).free < 2**16
            number = int(found[1]) if found else errno.ENOSPC if full else None
        if number is None:
            raise
        raise OSError(number, f"cannot be written: {os.strerror(number)}", str(path)) from error


def link_folder(link: Path, folder: Path) -> None:
    """A link to a folder; a junction on a Windows whose users may make no links.

    Raises:
        OSError: the system refuses; names `link`.
    """
    try:
        link.symlink_to(folder.resolve(), target_is_directory=True)
    except OSError as error:
        try:
            from _winapi import CreateJunction
        except ImportError:
            raise error from None
        CreateJunction(str(folder.resolve()), str(link))


def find_files(patterns: list[str], option: str = "--coco") -> list[Path]:
    """Files that match the patterns, each pattern's sorted; a path that exists is a file, whatever characters it has.

    Raises:
        ValueError: nothing matches; names the option and the patterns.
    """
    files = [Path(f) for pattern in patterns for f in ([pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern)))]
    if not files:
        raise ValueError(f"{option}: no file matches {', '.join(patterns)}")
    return files


def files_and_folder(entry: str, option: str = "--coco") -> tuple[list[Path], Path | None]:
    """Files of a pattern, or of `pattern:image_folder` with that folder: of the longest pattern that matches something.

    >>> files_and_folder(f"{__file__}:images")[1].as_posix(), files_and_folder(__file__)[1]
    ('images', None)
    """
    pattern, folder = entry, None
    while not (os.path.exists(pattern) or glob.glob(pattern)) and ":" in pattern:
        pattern = pattern.rpartition(":")[0]
        folder = Path(entry[len(pattern) + 1 :])
    return find_files([pattern], option), folder


WEIGHTS_PART = "-?????-of-?????"
"""What their names have before the dot."""


def files_of(path: Path) -> list[Path]:
    """The file at `path`, or the parts that stand for it, in order; empty if there is neither."""
    path = Path(path)
    return [path] if path.is_file() else sorted(path.parent.glob(f"{glob.escape(path.stem)}{WEIGHTS_PART}{path.suffix}"))


def read_safetensors(path: Path, kind: str, framework: str = "pt") -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors (`np`: arrays) and metadata of a file or its parts; an error names the file and, by `kind`, what was expected."""
    from safetensors import safe_open

    files = files_of(path)
    if not files:
        raise ValueError(f"{path}: no such {kind}")
    if files[0] != Path(path) and len(files) != (expected := int(files[0].stem[-5:])):
        raise ValueError(f"{path}: only {len(files)} of its {expected} parts: {', '.join(f.name for f in files)}")
    tensors: dict[str, Any] = {}
    for part in files:
        try:
            with safe_open(part, framework) as file:
                tensors |= {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
                metadata = file.metadata() or {}
        except Exception as error:
            raise ValueError(f"{part}: not a safetensors {kind}: {error}") from None
    return tensors, metadata


def sha_of(file: Path) -> str:
    """First 12 hex digits of the sha256 of a file, or of the parts that stand for it (`dealkit.files.files_of`)."""
    content = hashlib.sha256()
    for part in files_of(file) or [Path(file)]:
        content.update(part.read_bytes())
    return content.hexdigest()[:12]


def short_path(path: str | Path) -> str:
    """The last three parts of a path: what a published file says of data, wherever it lies.

    >>> short_path("/home/me/data/cells/train.json")
    'data/cells/train.json'
    """
    return "/".join(Path(path).parts[-3:])


def provenance() -> dict[str, str]:
    """What made a result: git commit, Python and package versions, machine type."""
    commit = ""
    if shutil.which("git"):
        command = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True).stdout.strip()
    import torch  # here, so that the command line starts without it

    return {
        "commit": commit or "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads",
    }


class Results:
    """Tidy rows of a study in one JSON file, `{"request", "rows", "made_by"}`: what is finished is not run again.

    A row is a flat object: what it is of (source, seed, ...) and its numbers, shares from 0 to 1. The file is written after
    every `add`, so a run that was cut off goes on where it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for _ in range(2):  # the second time nothing is left to do
    ...         results = Results(Path(folder, "made.json"), {"images": 12})
    ...         for key in results.todo([{"source": "cells", "seed": 0}, {"source": "cells", "seed": 1}]):
    ...             results.add(key, {"ap50": 0.5 + key["seed"] / 4})
    ...     results.frame()["ap50"].mean()
    np.float64(0.625)
    """

    def __init__(self, out: str | Path | None, request: Json):
        """`out`: JSON to go on with, None to keep nothing. `request`: what the rows depend on; rows of another are not kept."""
        self.out = None if out is None else Path(out)
        self.request = json.loads(json.dumps(request))  # as a file gives it back: tuples are lists
        old = read_json(self.out) if self.out is not None and self.out.is_file() else {}
        self.rows: list[Json] = old["rows"] if old.get("request") == self.request else []

    def todo(self, keys: Iterable[Json], what: str = "rows") -> Iterator[Json]:
        """The keys that no row has yet, with progress; a row has a key if it holds all its values."""
        keys = [json.loads(json.dumps(key)) for key in keys]
        yield from tqdm([key for key in keys if not any(key.items() <= row.items() for row in self.rows)], desc=what, unit="row")

    def sources(self, files: Iterable[str | Path]) -> Iterator[tuple[Json, Path]]:
        """Key and file of every COCO file whose source, the name of its folder, has no row yet; with progress."""
        of_source = {Path(file).parent.name: Path(file) for file in files}
        for key in self.todo([{"source": source} for source in of_source], "sources"):
            yield key, of_source[key["source"]]

    def add(self, key: Json, *rows: Json) -> None:
        """Rows of a key, which each of them takes; an empty one says that there is nothing to score."""
        self.rows += [key | row for row in rows]
        if self.out is not None:
            write_json(self.out, self.as_json())

    def as_json(self) -> Json:
        """What the file holds."""
        return {"request": self.request, "rows": self.rows, "made_by": provenance()}

    def frame(self) -> "pd.DataFrame":
        """The rows as a pandas table; a number that is not there is NaN."""
        return tidy(self.rows)


def tidy(rows: str | Path | Json | list[Json]) -> "pd.DataFrame":
    """Rows, a results file or what it holds as a pandas table; columns that hold numbers or None are floats.

    >>> tidy([{"source": "cells", "ap50": None}])["ap50"].isna().all()
    np.True_
    """
    import pandas as pd  # here, so that the command line starts without it

    rows = read_json(rows)
    frame = pd.DataFrame(rows["rows"] if isinstance(rows, dict) else rows)
    empty = [name for name in frame if frame[name].isna().all()]
    return frame.astype(dict.fromkeys(empty, float))
