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
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

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


def lock(stream: IO[Any]) -> None:
    """Keep an open file for this process, until it is closed or the process ends, were it by a kill.

    Raises:
        BlockingIOError: it is kept already.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        stream.seek(2**30)  # a byte that is locked cannot be read: one that no file has
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from None
    else:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder for this process by the file `lock` in it, which holds the number of the process and goes at the end.

    A folder that was made for it and stays empty goes, too. What a kill leaves of it is no obstacle.

    Raises:
        ValueError: another process keeps the folder; names both.

    >>> import tempfile
    >>> run = Path(tempfile.mkdtemp(), "run")
    >>> with locked(run):
    ...     (run / "lock").read_text() == str(os.getpid())
    True
    >>> run.exists()
    False
    """
    folder = Path(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "lock"
    with file.open("a+b", buffering=0) as stream:
        try:
            lock(stream)
            mine = file.exists() and os.path.samestat(os.fstat(stream.fileno()), file.stat())
        except BlockingIOError:
            mine = False
        if not mine:  # or the other process has ended this moment, and taken the file along
            stream.seek(0)
            raise ValueError(f"{folder}: process {stream.read().decode() or 'unknown'} works in it; expected one at a time")
        try:
            with writing(file):
                stream.truncate(0)
                stream.write(str(os.getpid()).encode())
            yield
        finally:
            with suppress(OSError):  # Windows deletes no open file
                file.unlink()
            with suppress(OSError):
                for place in made:
                    place.rmdir()


@contextmanager
def journal(path: Path, request: Json, *, overwrite: bool = False) -> Iterator[tuple[list[Json], Callable[[Json], None]]]:
    """Rows of a long job, one line each: the list of those there are, and a function that adds one, on disk at once.

    A kill at any moment leaves whole lines and perhaps a cut one, which is taken off when the job goes on. The first line holds
    `request`, what the rows depend on. A file without rows is removed.

    Args:
        overwrite: begin anew where the rows are of another request.

    Raises:
        ValueError: the rows are of another request, or another process is adding some; names the file and what differs.
        OSError: the system refuses; names the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for image in ("a.png", "b.png"):  # the second time the first row is there
    ...         with journal(Path(folder, "found.jsonl"), {"threshold": 0.5}) as (rows, add):
    ...             add({"image": image})
    >>> [row["image"] for row in rows]
    ['a.png', 'b.png']
    """
    path, request = Path(path), json.loads(json.dumps(request))  # as a file gives it back: tuples are lists
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as stream:
        try:
            lock(stream)
        except BlockingIOError:
            raise ValueError(f"{path}: another process is writing it; expected one at a time") from None
        stream.seek(0)
        content, first = stream.read(), json.dumps({"request": request}).encode() + b"\n"
        rows, end = _whole_lines(content)
        made_for = rows[0].get("request", {}) if rows else request if first.startswith(content) else {}
        no_loss = overwrite or [list(row) for row in rows] == [["request"]]  # a request without rows
        if made_for != request and not no_loss:
            name = next(name for name in {**request, **made_for} if made_for.get(name) != request.get(name))
            asked = f"{name} {made_for.get(name)!r}, now {request.get(name)!r}"
            raise ValueError(f"{path}: made for another request: {asked}; expected the same, another --out, or --overwrite")
        if made_for != request:
            rows, end = [], 0
        stream.truncate(end)

        def write(line: bytes) -> None:
            with writing(path):
                while line:
                    line = line[stream.write(line) :]

        def add(row: Json) -> None:
            write(json.dumps(row).encode() + b"\n")
            done.append(row)

        done = rows[1:]
        try:
            if not rows:
                write(first)
            yield done, add
        finally:
            if not done:
                with suppress(OSError):  # Windows deletes no open file
                    path.unlink()


def _whole_lines(content: bytes) -> tuple[list[Json], int]:
    """JSON objects of the whole lines at the start, and the byte after the last of them."""
    rows, end = [], 0
    for line in content.splitlines(keepends=True):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if not isinstance(row, dict):
            break
        rows.append(row)
        end += len(line)
    return rows, end


@contextmanager
def stop_request() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets instead of ending the program: a loop ends after its step. The second one ends it.

    Outside the main thread, where Python takes no signals, nothing sets it.
    """
    event = threading.Event()
    old: dict[int, Any] = {}

    def restore(*_: Any) -> None:
        event.set()
        while old:
            signal.signal(*old.popitem())

    if threading.current_thread() is threading.main_thread():
        old |= {number: signal.signal(number, restore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        while old:
            signal.signal(*old.popitem())


def remove_strays(folder: Path) -> None:
    """Delete the half-written files that a kill left in a folder and those below: of `write_atomically` and of safetensors.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     Path(name, "boxes").mkdir()
    ...     for file in ("model.safetensors", "model.safetensors.12.tmp", ".tmpAb1xYz", "notes.tmp", "boxes/a.txt.7.tmp"):
    ...         Path(name, file).touch()
    ...     remove_strays(Path(name))
    ...     sorted(os.listdir(name)), os.listdir(Path(name, "boxes"))
    (['boxes', 'model.safetensors', 'notes.tmp'], [])
    """
    for place, _, files in os.walk(folder):
        for name in files:
            if re.fullmatch(r".+\.\d+\.tmp|\.tmp\w{6}", name):
                Path(place, name).unlink(missing_ok=True)


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
