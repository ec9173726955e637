"""One prompt for every image of a folder: goes on where it was stopped, loses nothing, says what could not be read."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from dealkit.config import DEFAULT_CHECKPOINT, MIN_SCORE, BuildConfig
from dealkit.data.parallel import Engine, map_tasks
from dealkit.files import IMAGE_SUFFIXES, Json, read_json_lines, sha_of, tell, write_text
from dealkit.jobs import journal, remove_strays, stop_request
from dealkit.predict.formats import Findings
from dealkit.predict.threshold import ADAPTIVE, check_threshold

if TYPE_CHECKING:  # torch comes with the first image: what is wrong before is said at once
    from dealkit.predict.detections import Detections

JOURNAL = "found.jsonl"
"""What a folder of results is known by: the request, then a line per image, or per shard."""
SHARDS = "shards"
"""Folder in it: what workers of Ray found, a file for each of their tasks, named after its content; an image per line."""


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
    rounds: int = 1
    """Passes of detection where an image is read in one piece; see `Predictor`."""
    rescale: bool = True
    """Read an image again where what was clicked is tiny or large; see `Predictor`."""

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        told = bool(self.points or self.boxes)
        if (self.embedding is None) != told or (self.of is None) == told:
            raise ValueError("FolderPrompt: expected either points and their image `of`, or an embedding")

    def absolute(self) -> "FolderPrompt":
        """The same for a process that works in another folder."""
        files = {name: getattr(self, name) for name in ("checkpoint", "of", "embedding")}
        return replace(self, **{name: file and file.absolute() for name, file in files.items()})

    def as_json(self) -> Json:
        """What results depend on, files by their hash."""
        files = {name: getattr(self, name) for name in ("checkpoint", "of", "embedding")}
        others = ("points", "labels", "boxes", "threshold", "tile", "overlap", "rounds", "rescale")
        rest = {name: getattr(self, name) for name in others}
        return {name: file and sha_of(file) for name, file in files.items()} | rest


@dataclass(frozen=True, kw_only=True)
class FolderResult:
    """What a prompt found in a folder."""

    found: Iterable[Findings]
    """One per image that could be read: a list by name, or with Ray what goes through the shards on disk each time."""
    failed: dict[str, str]
    """Image -> why it could not be read."""
    left: int
    """Images that a request to stop left undone."""

    def table(self) -> str:
        """Totals, a line each, then every image that failed."""
        images = empty = objects = adaptive = 0
        total = 0.0
        for each in self.found:
            images, empty, adaptive = images + 1, empty + (not each.scores), adaptive + each.adaptive
            objects, total = objects + len(each.scores), total + sum(each.scores)
        rows = {
            "images": f"{images}, {empty} of them without objects",
            "objects": f"{objects}, {objects / max(images, 1):.1f} per image",
            "adaptive": f"{adaptive} with a threshold for each image",
            "mean score": f"{total / objects:.2f}" if objects else "none",
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
    folder: str | Path,
    out: str | Path,
    prompt: FolderPrompt,
    *,
    images: Sequence[str] | None = None,
    overwrite: bool = False,
    engine: Engine = "processes",
    workers: int = 1,
    shard: int = 100,
    ask: "Callable[[Path], Detections] | None" = None,
) -> FolderResult:
    """Find what the prompt means in every image below a folder; what `out` holds of the same request is not done again.

    Ctrl-C and SIGTERM let the image in work be finished. An image that has changed since, or that failed, is tried again. The
    image that was clicked is asked by its clicks, all others by their embedding.

    Args:
        out: folder of results; receives `found.jsonl`, and with Ray `shards`.
        images: paths below `folder`; by default all of `list_images`.
        overwrite: begin anew where `out` holds the results of another request.
        engine: "processes" is this process; "ray", see `map_tasks`, has workers write what they find; this process keeps names.
        workers: of a local Ray.
        shard: images of a task of Ray and of the file that it writes; as many are done again after a kill, per worker.
        ask: finds in an image file, picklable, instead of the model of the prompt.

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
    folder, out, on_ray = Path(folder), Path(out), engine == "ray"
    names = list_images(folder, out)[0] if images is None else list(images)
    with journal(out / JOURNAL, prompt.as_json(), overwrite=overwrite) as (rows, add), stop_request() as stop:
        remove_strays(out)
        before = len(rows)
        stamps = {row["image"]: row["stamp"] for row in _last_rows(out, rows, names) if "error" not in row}
        todo = [name for name in names if stamps.get(name) != _stamp(folder / name)]
        again, left = set(todo), len(todo)
        done = [name for name in names if name not in again]
        shards, size = (out.absolute() / SHARDS, shard) if on_ray else (None, 1)
        finder = _Finder(folder=folder.absolute(), prompt=prompt.absolute(), shards=shards, ask=ask)
        tasks = ((todo[k : k + size], False) for k in range(0, left, size) if not stop.is_set())
        with tqdm(initial=len(done), total=len(names), desc=folder.name, unit="img", mininterval=1) as bar:
            for _, row in map_tasks(finder, tasks, workers=workers if on_ray else 1, engine=engine, instead=_one_by_one):
                add(row)
                left -= row.get("images", 1)
                bar.update(row.get("images", 1))

    def last() -> Iterator[Json]:
        yield from _last_rows(out, rows[before:], todo)
        yield from _last_rows(out, rows[:before], done)

    def findings() -> Iterator[Findings]:
        fields = Findings.__dataclass_fields__
        yield from (Findings(**{name: row[name] for name in fields}) for row in last() if "error" not in row)

    failed = {row["image"]: row["error"] for row in last() if "error" in row}
    found: Iterable[Findings] = _Anew(findings)
    if not on_ray:
        of_name = {each.image: each for each in found}
        found = [of_name[name] for name in names if name in of_name]
    return FolderResult(found=found, failed=failed, left=left)


@dataclass(frozen=True)
class _Anew:
    """Something that can be gone through several times."""

    make: Callable[[], Iterator[Findings]]

    def __iter__(self) -> Iterator[Findings]:
        return self.make()


def _last_rows(out: Path, rows: list[Json], names: Iterable[str]) -> Iterator[Json]:
    """The last row of each of these images, from the newest shard to the oldest, one in memory at a time."""
    left = set(names)
    for row in reversed(rows):
        for each in reversed(list(read_json_lines(out / SHARDS / row["shard"]))) if "shard" in row else [row]:
            if each["image"] in left:
                left.remove(each["image"])
                yield each


Task = tuple[list[str], bool]
"""Images below the folder, and whether workers have died of them."""


LOST = "every worker that read it died, most often for want of memory"


def _one_by_one(task: Task) -> list[Task]:
    """Instead of images of which one ends its worker: each for itself; and then that one is not read."""
    names, _ = task
    return [([name], len(names) == 1) for name in names]


@dataclass(kw_only=True)
class _Finder:
    """What is done with a task; in a worker of Ray it keeps its model from one to the next."""

    folder: Path
    prompt: FolderPrompt
    shards: Path | None
    ask: "Callable[[Path], Detections] | None"

    def __call__(self, task: Task) -> Json:
        """The row of one image; with `shards` those of all are a file of it, and the row says which."""
        names, lost = task
        self.ask = self.ask or _asker(self.prompt)
        rows = []
        for name in names:
            path = self.folder / name
            row = {"image": name, "stamp": _stamp(path)}
            rows.append(row | ({"error": LOST} if lost else _row(self.ask, path, self.prompt.threshold)))
        if self.shards is None:
            return rows[0]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        shard = f"{digest[:2]}/{digest[2:]}.jsonl"
        write_text(self.shards / shard, text)
        return {"shard": shard, "images": len(rows)}


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

    predictor = Predictor(prompt.checkpoint, threshold=MIN_SCORE, rounds=prompt.rounds, rescale=prompt.rescale)
    tiles = {"tile": prompt.tile, "overlap": prompt.overlap}
    example = (prompt.points, prompt.labels or None, prompt.boxes)
    if prompt.embedding is not None:
        kind = load_embedding(prompt.embedding)
        check_model(kind, predictor.model_hash)
    elif prompt.tile:
        kind = embed_large(predictor, prompt.of, example, **tiles)
    else:
        points, labels, boxes = example
        predictor.set_image(prompt.of)
        found = predictor.predict_categories([example])[0]
        if found.nothing_certain:
            tell(f"{prompt.of}: nothing certain where the points lie (score {found.certain:.2f}); all images are asked for it")
        kind = predictor.embed(None, points, labels, boxes=boxes)

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
