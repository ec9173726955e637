"""What is wrong with the files that a command is given, said before anything heavy is imported."""

import inspect
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from dealkit.files import OUTSIDE, files_of

T = TypeVar("T")
Maybe = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]
"""An option that need not be given; its help says nothing of None."""
Several = Annotated[tuple[T, ...], tyro.conf.arg(help_behavior_hint="")]
"""Any number of values, by default none."""
Outside = Annotated[bool, tyro.conf.arg(help="take file names that are absolute or lead out of the folder of images.")]
"""An option of every command that reads COCO files; see `check_coco`."""

FIGURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".pdf", ".svg")
LONGEST_NAME = 255
"""Bytes of a file name, at most, on the file systems in use."""


def check_file(path: Path, what: str) -> None:
    """Raise a ValueError unless `path` is a file that can be opened, and not empty; `what` names the option."""
    if not path.exists():
        raise ValueError(f"{what} {path}: no such file")
    if not path.is_file():
        raise ValueError(f"{what} {path}: is a folder, expected a file")
    if not path.stat().st_size:
        raise ValueError(f"{what} {path}: is empty")


def check_json(what: str, *paths: Path | None) -> None:
    """Raise a ValueError unless every path that is given is a file that begins like JSON."""
    for path in filter(None, paths):
        check_file(path, what)
        if not (first := head(path)).startswith(("{", "[")):
            raise ValueError(f"{what} {path}: not a JSON file: expected {{ or [ at its start, got {first[:12]!r}")


def check_coco(what: str, *paths: Path, outside: bool) -> None:
    """`check_json`; with `outside` the reader takes file names that lead out of their folder from now on."""
    if outside:
        os.environ[OUTSIDE] = "1"
    check_json(what, *paths)


def check_effect(command: Callable[..., Any], given: Mapping[str, Any], options: Iterable[str], where: str) -> None:
    """Raise a ValueError for one of the options that has another value than its default where it has no effect.

    Args:
        given: value of every option. where: what the command does then, such as "with --templates".

    >>> def command(steps=1): ...
    >>> check_effect(command, {"steps": 2}, ["steps"], "with --resume")
    Traceback (most recent call last):
    ValueError: --steps: has no effect with --resume
    """
    for name in options:
        default = inspect.signature(command).parameters[name].default
        if given[name] != default:
            if is_dataclass(default):
                name = next(f.name for f in fields(default) if getattr(given[name], f.name) != getattr(default, f.name))
            raise ValueError(f"--{name.replace('_', '-')}: has no effect {where}")


def check_folder(path: Path | None, what: str) -> None:
    """Raise a ValueError for a path that is given and no folder."""
    if path is not None and not path.is_dir():
        raise ValueError(f"{what} {path}: {'is a file, expected a folder' if path.exists() else 'no such folder'}")


def check_weights(path: Path | None, kind: str = "checkpoint") -> None:
    """Raise a ValueError for a path that is given and holds no safetensors, whole or in parts."""
    if path is None:
        return
    if not (parts := files_of(path)):
        raise ValueError(f"{path}: no such {kind}")
    from safetensors import safe_open

    for part in parts:
        try:
            with safe_open(part, "np"):
                pass
        except Exception as error:
            raise ValueError(f"{part}: not a safetensors {kind}: {error}") from None


def check_graphs(folder: Path) -> None:
    """Raise a ValueError for a folder that is not one of `export onnx`, or without the runtime that reads it."""
    for name in ("model.json", "encode.onnx", "embed.onnx", "detect.onnx"):
        check_file(folder / name, "--checkpoint")
    if find_spec("onnxruntime") is None:
        raise ValueError(f"--checkpoint {folder}: needs ONNX Runtime; expected it: pip install 'dealkit[onnx]'")


def check_image(path: Path, what: str = "IMAGE") -> tuple[int, int] | None:
    """Width and height of an image file, upright; None where Pillow cannot tell and another reader may.

    Raises:
        ValueError: no such file, or not an image; names it.
    """
    check_file(path, what)
    from PIL import Image, UnidentifiedImageError

    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it complains of bands that another reader takes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size: the reader has a limit of its own
            with Image.open(path) as image:
                lying = image.getexif().get(0x0112, 1) >= 5
                return image.size[::-1] if lying else image.size
    except Image.DecompressionBombError:
        return None
    except UnidentifiedImageError:
        if path.suffix.lower() in (".tif", ".tiff", ".vrt"):
            return None
        raise ValueError(f"{what} {path}: not an image in any format that Pillow reads") from None
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        raise ValueError(f"{what} {path}: cannot be read as an image: {error}") from None


def check_map(path: Path, what: str) -> None:
    """Raise a ValueError for an image file without coordinates on the earth; `what` names the option that asks for them."""
    try:
        import rasterio
    except ImportError:
        raise ValueError(f"{what}: needs rasterio; expected it: pip install 'dealkit[geo]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is missing: it is said here
            with rasterio.open(path) as file:
                placed = file.crs is not None
    except rasterio.errors.RasterioError:
        placed = False
    if not placed:
        raise ValueError(f"{what}: {path} has no coordinates; expected a map, as a GeoTIFF")


def check_points(points: Iterable[tuple[float, float]], size_wh: tuple[int, int] | None, path: Path) -> None:
    """Raise a ValueError for a point outside an image of this size."""
    for x, y in points if size_wh else ():
        if not (0 <= x <= size_wh[0] and 0 <= y <= size_wh[1]):
            where = f"expected x in 0..{size_wh[0]}, y in 0..{size_wh[1]}"
            raise ValueError(f"--point {x:g} {y:g}: is outside {path}; {where}")


def check_out(
    path: Path | None,
    inputs: Sequence[Path | None] = (),
    *,
    suffixes: Sequence[str] = (".json",),
    ours: Callable[[Path], bool],
    overwrite: bool,
    option: str = "--out",
) -> None:
    """Raise a ValueError unless a command may write `path`; a path that is None is not written.

    Args:
        inputs: what the command reads: never written over. suffixes: what the name may end in.
        ours: whether a file is of the kind that the command writes; another is written over with `overwrite` only.
    """
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} {path}: expected a name that ends in {' or '.join(suffixes)}")
    parts = [part for given in inputs if given for part in files_of(given)]
    if any(part.resolve() == path.resolve() for part in parts):
        raise ValueError(f"{option} {path}: is an input of this command; expected another file")
    check_place(path, option)
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a folder, expected a file")
    if path.exists() and not (path.is_file() and (overwrite or not path.stat().st_size or ours(path))):
        raise ValueError(f"{option} {path}: is no earlier output of this command; expected another name, or --overwrite")


def check_place(path: Path, option: str = "--out") -> None:
    """Raise a ValueError where a file or folder of this path cannot be made: a file on the way, no right, too long a name."""
    if (longest := max(path.parts, default="", key=lambda part: len(os.fsencode(part)))) and len(
        os.fsencode(longest)
    ) > LONGEST_NAME:
        raise ValueError(f"{option}: {longest[:40]}...: expected a name of at most {LONGEST_NAME} bytes")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"{option} {path}: {above} is a file, expected a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {path}: {above} is a folder that cannot be written to")


def head(path: Path) -> str:
    """The first characters of a text file without white space, as JSON is recognised by them."""
    with path.open("rb") as file:
        return "".join(file.read(4096).decode("utf-8-sig", errors="replace").split())


def starts(*heads: str) -> Callable[[Path], bool]:
    """Whether a file begins with one of these, white space apart."""
    return lambda path: head(path).startswith(heads)


def is_weights(path: Path) -> bool:
    """Whether a file holds safetensors."""
    try:
        check_weights(path)
    except ValueError:
        return False
    return True


def is_figure(path: Path) -> bool:
    """Whether a file is a picture."""
    try:
        check_image(path)
    except ValueError:
        return starts("%PDF", "<?xml", "<svg")(path)
    return True
