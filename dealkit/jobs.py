"""Long jobs: folders and files kept for one process, rows that outlive a kill, a stop that ends after a step."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dealkit.files import Json, writing


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
