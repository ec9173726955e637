"""Unpacking archives of strangers: nothing outside the folder, nothing half-written, nothing larger than the disk."""

import io
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

CHUNK = 1 << 20


def need_space(folder: Path, count: int, what: str) -> None:
    """Raise a `ValueError` if fewer than `count` bytes are free where `folder` is.

    >>> need_space(Path("."), 0, "nothing")
    """
    free = shutil.disk_usage(folder).free
    if count > free:
        raise ValueError(f"{folder}: {what} needs {count} bytes more, {free} are free; make room and run again to go on")


def unpack(archives: Path | Sequence[Path], folder: Path) -> int:
    """Unpack a zip or tar file, or one cut in pieces, into a folder; gives the number of files.

    Files come into being in a hidden folder and move to their places when all are there, so that no half-written file ever has
    its name. Links and names that lead out of the folder are refused; the folder `__MACOSX` is left out.

    Raises:
        ValueError: broken, dangerous, larger than the free space, or neither zip nor tar; names the member.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     with zipfile.ZipFile(Path(name, "a.zip"), "w") as file:
    ...         file.writestr("images/a.txt", "hello")
    ...     unpack(Path(name, "a.zip"), Path(name, "out")), Path(name, "out/images/a.txt").read_text()
    (1, 'hello')
    """
    pieces = [archives] if isinstance(archives, Path) else list(archives)
    hidden = folder / f".{pieces[0].name}.unpacking"
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(pieces[0]):
            _unzip(pieces[0], hidden)
        else:
            _untar(pieces, hidden)
        files = [path for path in hidden.rglob("*") if not path.is_dir()]
        for path in files:
            target = folder / path.relative_to(hidden)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{pieces[0]}: cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return len(files)


def _unzip(archive: Path, folder: Path) -> None:
    inside = folder.resolve()
    with zipfile.ZipFile(archive) as file:
        members = [m for m in file.infolist() if not m.filename.startswith("__MACOSX/")]
        for member in members:
            if not (folder / member.filename).resolve().is_relative_to(inside):
                raise ValueError(f"{archive}: {member.filename!r} leads out of the folder")
            if member.external_attr >> 16 & 0o170000 == 0o120000:
                raise ValueError(f"{archive}: {member.filename!r} is a link")
        need_space(folder, sum(member.file_size for member in members), str(archive))
        for member in tqdm(members, desc=f"unpack {archive.name}", delay=3, leave=False):
            file.extract(member, folder)


def _untar(pieces: Sequence[Path], folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise ValueError("unpacking tar files safely needs Python 3.10.12, 3.11.4 or newer")
    with _Joined(pieces) as joined, tarfile.open(fileobj=io.BufferedReader(joined, CHUNK), mode="r|*") as file:
        for member in tqdm(file, desc=f"unpack {pieces[0].name}", delay=3, leave=False):
            if member.issym() or member.islnk():
                raise ValueError(f"{pieces[0]}: {member.name!r} is a link")
            if member.name.startswith("__MACOSX/"):
                continue
            if member.isfile():
                need_space(folder, member.size, f"{pieces[0]}: {member.name}")
            file.extract(member, folder, filter="data")


class _Joined(io.RawIOBase):
    """Files read as one, in order."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[BinaryIO] = [open(path, "rb") for path in paths]  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        for file in self._files:
            if count := file.readinto(buffer):  # type: ignore[attr-defined]
                return count
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
