"""Fetching a source: downloads that go on where they broke off, are checked and unpacked; or how to get it by hand."""

import errno
import hashlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dealkit import __version__
from dealkit.data.coco import Problem
from dealkit.data.sources.catalogue import SOURCES, Download, Source
from dealkit.data.sources.unpack import need_space, unpack

CHUNK = 1 << 20
PERMANENT = {400, 401, 403, 404, 405, 406, 410, 451}
"""Answers of a server that no second try will change."""
SHOWN = 20
"""Problems that a check prints in full."""


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    tries: int = 6,
    wait: float = 1.0,
    timeout: float = 60.0,
) -> str:
    """Download a file; after an interruption the next call goes on where it was.

    What has come lies in `<path>.part`, with the server's mark of the file's version in `<path>.part.json`, and becomes `path`
    only when it is complete. A server that ignores ranges, or has another version by now, starts it again. A wrong checksum
    removes the file. Choice: own code on `urllib`, since pooch and torchvision begin again after a broken connection.

    Args:
        sha256: checksum, where it is known.
        md5: the same, looked at where sha256 is not known.
        size: bytes, where they are known; else what the server states.
        tries: give up after so many in a row that brought nothing new.
        wait: seconds before the second try, doubled each time, a minute at most.
        timeout: seconds without a byte that count as a broken connection.

    Returns:
        What was checked, in words.

    Raises:
        ValueError: the server refuses, the connection keeps breaking, the disk is full, or size or checksum are wrong; says what
            is kept.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.txt").write_text("hello")
    ...     fetch(Path(folder, "a.txt").as_uri(), Path(folder, "b.txt"), size=5)
    '5 bytes as expected; no checksum is published, its sha256 is 2cf24dba5fb0...'
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _download(url, path, size, tries, wait, timeout)
        checked = _check(part, url, sha256, md5, size, _read_state(path).get("total"))
        os.replace(part, path)
        _state_file(path).unlink(missing_ok=True)
        return checked
    return _check(path, url, sha256, md5, size)


def _download(url: str, path: Path, size: int | None, tries: int, wait: float, timeout: float) -> Path:
    """The complete, unchecked `<path>.part`."""
    part = path.with_name(path.name + ".part")
    failures, best, reason = 0, part.stat().st_size if part.exists() else 0, ""
    with tqdm(desc=path.name, unit="B", unit_scale=True, unit_divisor=1024, total=size) as bar:
        while failures < tries:
            if reason:
                time.sleep(min(wait * 2**failures, 60.0))
            try:
                if _attempt(url, path, part, size, timeout, bar):
                    return part
                reason = "the connection closed early"
            except urllib.error.HTTPError as error:
                if error.code in PERMANENT:
                    raise ValueError(f"{url}: the server answers {error.code} {error.reason}") from None
                if error.code == 416:  # no such range: what is there is not a part of the file
                    part.unlink(missing_ok=True)
                reason = f"{error.code} {error.reason}"
            except urllib.error.URLError as error:
                reason = str(error.reason)
            except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
            have = part.stat().st_size if part.exists() else 0
            failures, best = 0 if have > best else failures + 1, max(best, have)
    kept = f"{best} bytes are kept in {part}, run again to go on" if best > 0 else "nothing came"
    raise ValueError(f"{url}: {tries} tries in a row brought nothing new, the last: {reason}; {kept}")


def _attempt(url: str, path: Path, part: Path, size: int | None, timeout: float, bar: Any) -> bool:
    """One connection; True if the file is complete."""
    state = _read_state(path)
    have = part.stat().st_size if part.exists() and state.get("url") == url else 0
    if have and have == state.get("total"):
        return True
    headers = {"User-Agent": f"dealkit/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if state.get("version"):
            headers["If-Range"] = state["version"]
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
        if response.status == 206:
            start, total = _content_range(response.headers.get("Content-Range", ""))
            known = state.get("total")
            total = known if total is None else total
            if start != have or known not in (None, total):
                part.unlink()
                raise http.client.HTTPException(f"asked for the rest from byte {have}, the server sends something else")
        else:  # the whole file: the first time, ranges ignored, or another version
            have, length = 0, response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
        if size is not None and total is not None and total != size:
            raise ValueError(f"{url}: the server has {total} bytes, expected {size}: another version of the file")
        etag = response.headers.get("ETag", "")
        version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        _state_file(path).write_text(json.dumps({"url": url, "version": version, "total": total}))
        if total is not None:
            need_space(path.parent, total - have, f"{url} of {total} bytes")
            bar.total = total
        bar.n = have
        bar.refresh()
        with open(part, "ab" if have else "wb", buffering=0) as file:  # unbuffered: what was read is on disk
            while block := response.read1(CHUNK):
                rest = memoryview(block)
                try:
                    while rest:
                        rest = rest[file.write(rest) :]
                except OSError as error:
                    if error.errno in (errno.ENOSPC, errno.EDQUOT):
                        raise ValueError(f"{part}: the disk is full; make room and run again to go on: {error}") from None
                    raise ValueError(f"{part}: cannot be written: {error}") from None
                have += len(block)
                bar.update(len(block))
    return have == total if total is not None else True


def _check(file: Path, url: str, sha256: str | None, md5: str | None, size: int | None, announced: int | None = None) -> str:
    """What was checked, in words; removes a file that is wrong."""
    found = file.stat().st_size
    if size is not None and found != size:
        _remove(file)
        raise ValueError(f"{url}: {found} bytes came, expected {size}; the file was removed, run again")
    kind, expected = ("md5", md5) if sha256 is None and md5 is not None else ("sha256", sha256)
    digest = hashlib.new(kind, usedforsecurity=False)
    with (
        open(file, "rb") as stream,
        tqdm(desc=f"check {file.name}", unit="B", unit_scale=True, total=found, delay=3, leave=False) as bar,
    ):
        while block := stream.read(CHUNK):
            digest.update(block)
            bar.update(len(block))
    if expected is None:
        known = "as expected" if size is not None else "as the server announced" if announced == found else "of unknown length"
        return f"{found} bytes {known}; no checksum is published, its sha256 is {digest.hexdigest()}"
    if digest.hexdigest() != expected.lower():
        _remove(file)
        raise ValueError(f"{url}: {kind} is {digest.hexdigest()}, expected {expected}; the file was removed, run again")
    return f"{found} bytes, {kind} as expected"


def _remove(file: Path) -> None:
    file.unlink()
    _state_file(file.with_name(file.name.removesuffix(".part"))).unlink(missing_ok=True)


def _state_file(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(_state_file(path).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _content_range(text: str) -> tuple[int | None, int | None]:
    """First byte and bytes in all of `bytes 5-9/10`."""
    unit, _, rest = text.partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    return (int(start) if unit == "bytes" and start.isdigit() else None, int(total) if total.isdigit() else None)


def get(name: str, root: Path) -> tuple[str, int]:
    """Fetch a source into `root/name` and check it, or say how to get it: what `python -m dealkit data get` prints and returns.

    Archives are removed when they are unpacked; `root/name/.downloads` remembers which ones were, so that a second call does only
    what is left.

    Returns:
        Text, and 0, or 1 if nothing in the folder could be read, or 2 if it has to be fetched by hand and is not there.

    Raises:
        ValueError: no source of that name, or a download fails.

    >>> text, code = get("xview", Path("no/such/folder"))
    >>> code, "register on its page" in text
    (2, True)
    """
    if name not in SOURCES:
        close = get_close_matches(name, SOURCES, 1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(SOURCES)}"
        raise ValueError(f"{name}: no such source; {hint}")
    source, folder = SOURCES[name], Path(root) / name
    if source.downloads:
        print(f"{source.title}: by downloading you accept its owners' terms ({source.licence}): {source.page}", flush=True)
        for item in source.downloads:
            print(f"{item.url}: {_get(item, folder)}", flush=True)
    elif not folder.is_dir() or not any(folder.iterdir()):
        return _instructions(source, folder), 2
    return check_source(name, folder)


def _get(item: Download, folder: Path) -> str:
    if item.url.endswith(".git"):
        return _clone(item.url, folder)
    done = folder / ".downloads" / f"{item.name}.json"
    if done.is_file():
        return "already there"
    urls = item.parts or (item.url,)
    pieces = [done.parent / Download(url=url).name for url in urls]
    if item.parts:
        checked = "; ".join(fetch(url, piece) for url, piece in zip(urls, pieces, strict=True))
        found = sum(piece.stat().st_size for piece in pieces)
        if item.size is not None and found != item.size:
            raise ValueError(
                f"{item.url}: the pieces in {done.parent} have {found} bytes, expected {item.size}; remove them and run again"
            )
    else:
        checked = fetch(item.url, pieces[0], sha256=item.sha256, md5=item.md5, size=item.size)
    count = unpack(pieces, folder)
    done.write_text(json.dumps({"url": item.url, "checked": checked, "files": count}, indent=1) + "\n")
    for piece in pieces:
        piece.unlink()
    return f"{checked}; {count} files"


def _clone(url: str, folder: Path) -> str:
    """Clone the newest commit of a repository; what exists is left as it is."""
    if not (folder / ".git").exists():
        hidden = folder.with_name(f".{folder.name}.cloning")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder}: has files, but is no clone of {url}; move it away")
        command = ["git", "clone", "--depth", "1", "--progress", url, str(hidden)]
        try:
            code = subprocess.run(command, env=os.environ | {"GIT_TERMINAL_PROMPT": "0"}, check=False).returncode
        except FileNotFoundError:
            raise ValueError(f"{url}: fetching it needs git") from None
        if code:
            shutil.rmtree(hidden, ignore_errors=True)
            raise ValueError(f"{url}: git clone failed, see above; run again")
        if folder.exists():
            folder.rmdir()
        os.replace(hidden, folder)
    head = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return f"commit {head.stdout.strip() or 'unknown'}, checked by git"


def _instructions(source: Source, folder: Path) -> str:
    lines = [
        f"{source.title} cannot be fetched by a program." if source.by_hand else f"{source.title}: put it there.",
        f"  page      {source.page}",
        f"  licence   {source.licence}",
        f"  how       {source.by_hand or 'your own data'}",
        f"  folder    {folder}",
        f"  expected  {source.layout}",
        "Then run this command again: it checks the folder.",
    ]
    return "\n".join(lines)


def check_source(name: str, folder: Path) -> tuple[str, int]:
    """Read a whole source: how many images and objects, what was left out and why; exit code 1 if nothing could be read.

    >>> from dealkit.data.sources.readers.reading import example
    >>> with example({"classes.txt": "nut", "images/a.png": (8, 8), "labels/a.txt": "0 0.5 0.5 1 1"}) as root:
    ...     text, code = check_source("yolo", root)
    >>> text.split(": ", 1)[1], code
    ('1 images, 1 objects, 0 of them ignored; nothing left out', 0)
    """
    problems: list[Problem] = []
    images = objects = ignored = 0
    for record in tqdm(
        SOURCES[name].read(folder, on_problem=problems.append), desc=f"check {name}", unit=" images", delay=3, leave=False
    ):
        images += 1
        objects += len(record.boxes)
        ignored += int(record.ignore.sum())
    left = f"left out: {len(problems)}" if problems else "nothing left out"
    lines = [f"{folder}: {images} images, {objects} objects, {ignored} of them ignored; {left}", *_shown(problems)]
    if not images:
        lines.append(f"expected: {SOURCES[name].layout}")
    return "\n".join(lines), 0 if images else 1


def _shown(problems: Sequence[Problem]) -> Iterator[str]:
    yield from (f"  {problem}" for problem in problems[:SHOWN])
    if len(problems) > SHOWN:
        yield f"  and {len(problems) - SHOWN} more"
