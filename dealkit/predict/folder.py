"""One prompt for every image of a folder: goes on where it was stopped, loses nothing, says what could not be read."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from dealkit.config import DEFAULT_CHECKPOINT, MIN_SCORE, BuildConfig
from dealkit.files import IMAGE_SUFFIXES, Json, journal, remove_strays, sha_of, stop_request
from dealkit.predict.formats import Findings
from dealkit.predict.threshold import ADAPTIVE, check_threshold

if TYPE_CHECKING:  # torch comes with the first image: what is wrong before is said at once
    from dealkit.predict.detections import Detections

JOURNAL = "found.jsonl"
"""What a folder of results is known by: the request, then an image per line."""


@dataclass(frozen=True, kw_only=True)
class FolderPrompt:
    """What is asked of every image, and how: clicks in one of them, or the embedding of clicks made before.

    Raises:
        ValueError: clicks without their image, both clicks and an embedding, or neither; a threshold out of range.
    """

    checkpoint: Path = DEFAULT_CHECKPOINT
    """Model weights."""
    of: Path | None = None
    """Image that was clicked; it need not lie in the folder."""
    points: tuple[tuple[float, float], ...] = ()
    """Clicks, x, y pixels of that image."""
    labels: tuple[int, ...] = ()
    """1 object, 0 not this, one per click; empty: all are objects."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """Boxes x1, y1, x2, y2 drawn round objects of it."""
    embedding: Path | None = None
    """File of `PromptEmbedding.save`, instead of clicks."""
    threshold: float | str = ADAPTIVE
    """Lowest score that is kept, or "adaptive"."""
    tile: int = 0
    """Side of the tiles that an image is read in, pixels; 0: in one piece."""
    overlap: int = BuildConfig.overlap
    """Pixels that tiles share."""

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        told = bool(self.points or self.boxes)
        if (self.embedding is None) != told or (self.of is None) == told:
            raise ValueError("FolderPrompt: expected either points and their image `of`, or an embedding")

    def as_json(self) -> Json:
        """What results depend on, files by their hash."""
        files = {name: getattr(self, name) for name in ("checkpoint", "of", "embedding")}
        rest = {name: getattr(self, name) for name in ("points", "labels", "boxes", "threshold", "tile", "overlap")}
        return {name: file and sha_of(file) for name, file in files.items()} | rest


@dataclass(frozen=True, kw_only=True)
class FolderResult:
    """What a prompt found in a folder."""

    found: list[Findings]
    """One per image that could be read, by name."""
    failed: dict[str, str]
    """Image -> why it could not be read."""
    left: int
    """Images that a request to stop left undone."""

    def table(self) -> str:
        """Totals, a line each, then every image that failed."""
        scores = [score for each in self.found for score in each.scores]
        images, empty = len(self.found), sum(not each.scores for each in self.found)
        rows = {
            "images": f"{images}, {empty} of them without objects",
            "objects": f"{len(scores)}, {len(scores) / max(images, 1):.1f} per image",
            "adaptive": f"{sum(each.adaptive for each in self.found)} with a threshold for each image",
            "mean score": f"{sum(scores) / len(scores):.2f}" if scores else "none",
        }
        if self.failed:
            rows["not read"] = str(len(self.failed))
        lines = [f"{name:12}{text}" for name, text in rows.items()]
        return "\n".join(lines + [f"  {name}: {why}" for name, why in self.failed.items()])


def list_images(folder: str | Path, without: Path | None = None) -> tuple[list[str], dict[str, int]]:
    """Images below a folder as sorted paths with `/`, and suffix -> number of the other files; hidden files count as neither.

    `without` is a folder in it that is left out. Links to folders are not followed.

    Raises:
        ValueError: no image.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> [(folder / name).touch() for name in ("b.PNG", "a.jpg", "notes.txt", ".c.png")][:0]
    []
    >>> list_images(folder)
    (['a.jpg', 'b.PNG'], {'.txt': 1})
    """
    images, others, out = [], Counter[str](), without and without.resolve()
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(place, name).resolve() != out]
        for path in (Path(place, name) for name in files if not name.startswith(".")):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                images.append(path.relative_to(folder).as_posix())
            else:
                others[path.suffix.lower() or "no suffix"] += 1
    if not images:
        raise ValueError(f"{folder}: no image in it; expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    return sorted(images), dict(others)


def predict_folder(
    folder: str | Path, out: str | Path, prompt: FolderPrompt, *, images: Sequence[str] | None = None, overwrite: bool = False
) -> FolderResult:
    """Find what the prompt means in every image below a folder; what `out` holds of the same request is not done again.

    Ctrl-C and SIGTERM let the image in work be finished. An image that has changed since, or that failed, is tried again. The
    image that was clicked is asked by its clicks, all others by their embedding.

    Args:
        out: folder of results; receives `found.jsonl`.
        images: paths below `folder`; by default all of `list_images`.
        overwrite: begin anew where `out` holds the results of another request.

    Raises:
        ValueError: no image; results of another request in `out`; a checkpoint, embedding, clicked image or click that is wrong.

    >>> import tempfile
    >>> import torch
    >>> from PIL import Image
    >>> from dealkit.config import ModelConfig
    >>> from dealkit.model.checkpoint import save_model
    >>> from dealkit.model.deal import DEAL
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_model(DEAL(ModelConfig(hidden_dim=32, fine_dim=16)), folder / "tiny.safetensors")
    >>> for name in ("a.png", "b.png"):
    ...     Image.new("RGB", (70, 50)).save(folder / name)
    >>> prompt = FolderPrompt(checkpoint=folder / "tiny.safetensors", of=folder / "a.png", points=((20, 30),))
    >>> [each.image for each in predict_folder(folder, folder / "found", prompt).found]
    ['a.png', 'b.png']
    """
    folder, out = Path(folder), Path(out)
    names = list_images(folder, out)[0] if images is None else list(images)
    with journal(out / JOURNAL, prompt.as_json(), overwrite=overwrite) as (rows, add), stop_request() as stop:
        remove_strays(out)
        stamps = {name: _stamp(folder / name) for name in names}
        done = {row["image"] for row in rows if "error" not in row and row["stamp"] == stamps.get(row["image"])}
        todo = [name for name in names if name not in done]
        ask = _asker(prompt) if todo else None
        for name in tqdm(todo, initial=len(done), total=len(names), desc=folder.name, unit="img", mininterval=1):
            if stop.is_set():
                break
            add({"image": name, "stamp": stamps[name]} | _row(ask, folder / name, prompt.threshold))
            done.add(name)
        last = {row["image"]: row for row in rows}
    found, failed = [], {}
    for name in names:
        row = {key: value for key, value in last.get(name, {}).items() if key != "stamp"}
        if "error" in row:
            failed[name] = row["error"]
        elif name in done:
            found.append(Findings(**row))
    return FolderResult(found=found, failed=failed, left=len(names) - len(done))


def _stamp(path: Path) -> str:
    """Changes with the file."""
    try:
        about = path.stat()
        return f"{about.st_size} {about.st_mtime_ns}"
    except OSError:
        return "none"


def _asker(prompt: FolderPrompt) -> "Callable[[Path], Detections]":
    """A function that finds what the prompt means in an image file."""
    from dealkit.predict.embedding import check_model, load_embedding
    from dealkit.predict.predictor import Predictor
    from dealkit.predict.tiles import embed_large, predict_large

    predictor = Predictor(prompt.checkpoint, threshold=MIN_SCORE)
    tiles = {"tile": prompt.tile, "overlap": prompt.overlap}
    example = (prompt.points, prompt.labels or None, prompt.boxes)
    if prompt.embedding is not None:
        kind = load_embedding(prompt.embedding)
        check_model(kind, predictor.model_hash)
    else:
        points, labels, boxes = example
        kind = (
            embed_large(predictor, prompt.of, example, **tiles)
            if prompt.tile
            else predictor.embed(prompt.of, points, labels, boxes=boxes)
        )

    def ask(path: Path) -> "Detections":
        clicked = prompt.of is not None and path.samefile(prompt.of)
        if prompt.tile:
            asked = {"prompts": [example]} if clicked else {"embedding": kind}
            return predict_large(predictor, path, **asked, **tiles)[0]
        predictor.set_image(path)
        return predictor.predict_categories([example])[0] if clicked else predictor.predict_embedding(kind)

    return ask


def _row(ask: "Callable[[Path], Detections]", path: Path, threshold: float | str) -> Json:
    """Fields of a `Findings`, or `error`."""
    try:
        every = ask(path)
        adaptive = every.adaptive()
    except (ValueError, OSError, MemoryError, RuntimeError) as error:  # torch runs out of memory by a RuntimeError
        return {"error": " ".join(str(error).split()).removeprefix(f"{path}: ") or type(error).__name__}
    height, width = every.image.shape[1:]
    kept = adaptive if threshold == ADAPTIVE else every.above(threshold)
    row = asdict(Findings(image="", width=width, height=height, **kept.to_dict(), adaptive=len(adaptive)))
    return {key: value for key, value in row.items() if key != "image"}
