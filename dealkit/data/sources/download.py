"""Fetching a source: downloads that are checked and unpacked, clones, or how to get it by hand."""

import os
import re
import shutil
import subprocess
import tarfile
import zipfile
import zlib
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from dealkit.data.annotations import Problem
from dealkit.data.sources.catalogue import SOURCES, Download, Source
from dealkit.files import write_json

HUB = re.compile(r"(https?://[^/]+)/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
"""Address of a file of a data set on the Hugging Face Hub: host, data set, revision, file."""
SHOWN = 20
"""Problems that a check prints in full."""


def fetch(item: Download, folder: Path) -> tuple[Path, str]:
    """Download a file into `folder`, unless it is there; gives the file, and in words what was checked.

    A file has its name only when it is complete and its checksum right. A connection to the Hugging Face Hub that breaks is taken
    up again at once; any other download that breaks begins again with the next call.

    Raises:
        ValueError: the server refuses, the connection breaks, or the checksum is wrong; names address and file.
    """
    try:
        import pooch
    except ImportError:
        raise ValueError(f"{item.url}: fetching it needs pooch: pip install dealkit[data]") from None
    pooch.get_logger().setLevel("WARNING")
    kind = "sha256" if item.sha256 else "md5"
    known = item.sha256 or item.md5
    loader = _from_hub if HUB.fullmatch(item.url) else pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 20)
    try:
        file = Path(pooch.retrieve(item.url, known and f"{kind}:{known}", item.name, folder, downloader=loader))
    except Exception as error:  # the libraries below have many kinds
        raise ValueError(f"{item.url}: {folder / item.name}: {' '.join(str(error).split())}") from error
    checked = f"{kind} as expected" if known else f"not checked, its sha256 is {pooch.file_hash(str(file))}"
    return file, f"{file.stat().st_size} bytes, {checked}"


def _from_hub(url: str, file: str | Path, pooch: object = None) -> None:
    """A downloader of pooch's."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ValueError("fetching it needs huggingface_hub: pip install dealkit[data]") from None
    host, data, revision, name = HUB.fullmatch(url).groups()  # type: ignore[union-attr]
    folder = Path(file).parent / "hub"
    try:
        found = hf_hub_download(data, name, repo_type="dataset", revision=revision, endpoint=host, local_dir=folder)
        os.replace(found, file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip or tar file into a folder; gives the number of files.

    Names that lead out of the folder are refused, a link becomes no link out of it, and the folder `__MACOSX` is left out. Modes
    follow the umask.

    Raises:
        ValueError: broken, dangerous, or neither zip nor tar; names the archive, which is removed; or the disk is full.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     with zipfile.ZipFile(Path(name, "a.zip"), "w") as file:
    ...         file.writestr("images/a.txt", "hello")
    ...     unpack(Path(name, "a.zip"), Path(name, "out")), Path(name, "out/images/a.txt").read_text()
    (1, 'hello')
    """
    count = 0
    try:
        zipped = zipfile.is_zipfile(archive)
        with zipfile.ZipFile(archive) if zipped else tarfile.open(archive) as file:
            members = file.infolist() if zipped else file
            for member in tqdm(members, desc=f"unpack {archive.name}", delay=3, leave=False):
                name = member.filename if zipped else member.name
                path = PurePosixPath(name)
                if not name:
                    raise ValueError("an entry has no name")
                if path.is_absolute() or ".." in path.parts:
                    raise ValueError(f"{str(path)!r} leads out of the folder")
                if path.parts[:1] != ("__MACOSX",):
                    file.extract(member, folder, **({} if zipped else {"filter": _as_umask}))
                    count += not (member.is_dir() if zipped else member.isdir())
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        if broken := getattr(error, "errno", None) is None:  # else it is the disk that is full
            archive.unlink()
        raise ValueError(f"{archive}: cannot be unpacked{' and was removed' if broken else ''}: {error}") from error
    return count


def _as_umask(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    return tarfile.data_filter(member, folder).replace(mode=None, deep=False)  # type: ignore[arg-type]


def get(name: str, root: Path) -> tuple[str, int]:
    """Fetch a source into `root/name` and check it: what `python -m dealkit data get` prints and returns.

    Archives are removed when they are unpacked. `root/.downloads/name`, where no archive unpacks to, remembers which ones were:
    a second call does only what is left. A download that no checksum or commit pins says so before it starts.

    Returns:
        Text, and 0, or 1 if nothing in the folder could be read, or 2 if it has to be fetched by hand and is not there.

    Raises:
        ValueError: no source of that name, or a download fails.

    >>> text, code = get("soda-d", Path("no/such/folder"))
    >>> code, "shares linked on its page" in text
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
            if not item.pinned:
                print(f"{item.url}: no checksum or commit is known, so it is taken as it comes", flush=True)
            print(f"{item.url}: {_get(item, folder)}", flush=True)
    elif not folder.is_dir() or not any(folder.iterdir()):
        return _instructions(source, folder), 2
    return check_source(name, folder)


def _get(item: Download, folder: Path) -> str:
    if item.url.endswith(".git"):
        return _clone(item, folder)
    done = folder.parent / ".downloads" / folder.name / f"{item.name}.json"
    if done.is_file():
        return "already there"
    archive, checked = fetch(item, done.parent)
    count = unpack(archive, folder)
    write_json(done, {"url": item.url, "checked": checked, "files": count})
    archive.unlink()
    return f"{checked}; {count} files"


def _clone(item: Download, folder: Path) -> str:
    """Fetch one commit of a repository, the newest if none is given; what exists is left as it is."""
    if not (folder / ".git").exists():
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder}: has files, but is no clone of {item.url}; move it away")
        hidden = folder.with_name(f".{folder.name}.cloning")
        shutil.rmtree(hidden, ignore_errors=True)
        fetching = ["fetch", "--depth", "1", "--progress", item.url, item.commit or "HEAD"]
        hidden.mkdir(parents=True)
        try:
            for command in (["init", "-q"], fetching, ["checkout", "-q", "FETCH_HEAD"]):
                subprocess.run(["git", *command], cwd=hidden, env=os.environ | {"GIT_TERMINAL_PROMPT": "0"}, check=True)
        except FileNotFoundError:
            raise ValueError(f"{item.url}: fetching it needs git") from None
        except subprocess.CalledProcessError:
            raise ValueError(f"{item.url}: git fetch failed, see above; run again") from None
        hidden.replace(folder)
    head = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = head.stdout.strip() or "unknown"
    return f"commit {commit}, " + (f"expected {item.commit}" if item.commit not in (None, commit) else "checked by git")


def _instructions(source: Source, folder: Path) -> str:
    head = f"{source.title} cannot be fetched by a program." if source.by_hand else f"{source.title}: put it there."
    facts = {"page": source.page, "licence": source.licence, "how": source.by_hand or "your own data"}
    rows = (f"  {name:10}{value}" for name, value in (facts | {"folder": folder, "expected": source.layout}).items())
    return "\n".join([head, *rows, "Then run this command again: it checks the folder."])


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
    records = SOURCES[name].read(folder, on_problem=problems.append)
    for record in tqdm(records, desc=f"check {name}", unit=" images", delay=3, leave=False):
        images += 1
        objects += len(record.boxes)
        ignored += int(record.ignore.sum())
    left = f"left out: {len(problems)}" if problems else "nothing left out"
    lines = [f"{folder}: {images} images, {objects} objects, {ignored} of them ignored; {left}"]
    lines += [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN} more")
    if not images:
        lines.append(f"expected: {SOURCES[name].layout}")
    return "\n".join(lines), 0 if images else 1
