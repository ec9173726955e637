"""What one prompt finds in one image: boxes and scores, that draw themselves and turn into COCO results; tensors or arrays."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dealkit.config import CERTAIN, DEFAULT_NMS, MIN_SCORE
from dealkit.files import tell, write_atomically
from dealkit.predict.plain import close_pairs, iou, like, nms
from dealkit.predict.threshold import ADAPTIVE, adaptive_threshold

if TYPE_CHECKING:  # of `dealkit.predict.onnx` the fields are NumPy arrays, and torch need not be there
    from numpy.typing import ArrayLike
    from torch import Tensor

    from dealkit.data.raster import Raster


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """Boxes of one prompt in one image, strongest first; draws itself in a notebook.

    >>> import torch
    >>> d = Detections(boxes=torch.tensor([[1.0, 1.0, 5.0, 5.0]]), scores=torch.tensor([0.2]))
    >>> len(d), len(d.above(0.3))
    (1, 0)
    """

    boxes: "Tensor"
    """(N, 4) float32 xyxy pixels of the original image."""
    scores: "Tensor"
    """(N,) float32, 0 to 1."""
    image: "Tensor | Raster | None" = None
    """(3, H, W) uint8 image they were found in, or the map."""
    points: "Tensor | None" = None
    """(P, 2) clicks."""
    labels: "Tensor | None" = None
    """(P,) 1 object, 0 not this."""
    count: float | None = None
    """Objects that the density map estimates."""
    clicked: "Tensor | None" = None
    """(N,) bool: what was found at the clicks on objects; None if nothing was clicked."""
    certain: float | None = None
    """Score at the clicks themselves, the mean over those on objects; in tiles, of the tile where it is highest. None if nothing
    was clicked."""
    full: bool = False
    """The limit of boxes was reached in the image, or in one of its tiles: there may be more objects than these."""
    classes: "Tensor | None" = None
    """(N,) int64: category index of every box, from a detector without prompts; None: all are of one kind."""
    scale: float = 1.0
    """At which the image was read: 2 enlarged, 0.5 at half of its size; see `next_scale`."""

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def nothing_certain(self) -> bool:
        """Whether something was clicked, and its score is under `CERTAIN`."""
        return self.certain is not None and self.certain < CERTAIN

    def above(self, threshold: float) -> "Detections":
        """The detections whose score is at least `threshold`."""
        return self.take(self.scores >= threshold)

    def cut(self) -> float:
        """`adaptive_threshold` of what was not clicked: a click is scored high, and tells nothing of the others.

        >>> import torch
        >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(4, 1)
        >>> found = Detections(boxes=box, scores=torch.tensor([0.9, 0.1, 0.1, 0.02]))
        >>> [round(replace(found, clicked=c).cut(), 2) for c in (None, found.scores > 0.5)]  # half of 0.9, and of 0.1
        [0.45, 0.05]
        """
        return adaptive_threshold(self.scores if self.clicked is None else self.scores[~self.clicked])

    def kept(self) -> "Tensor":
        """(N,) bool: the detections from their `cut` on, and whatever was clicked."""
        keep = self.scores >= self.cut()
        return keep if self.clicked is None else keep | self.clicked

    def adaptive(self) -> "Detections":
        """The detections that are `kept`."""
        return self.take(self.kept())

    def take(self, keep: "Tensor") -> "Detections":
        """The detections of a mask (N,), or of row numbers in their order."""
        rows = {name: getattr(self, name) for name in ("boxes", "scores", "clicked", "classes")}
        return replace(self, **{name: None if values is None else values[keep] for name, values in rows.items()})

    def without_negatives(self) -> "Detections":
        """The detections in which no click that said "not this" lies; what was clicked as an object stays.

        >>> import torch
        >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0], [5.0, 0.0, 9.0, 4.0]])
        >>> clicks = {"points": torch.tensor([[1.0, 1.0], [7.0, 2.0]]), "labels": torch.tensor([1, 0])}
        >>> Detections(boxes=box, scores=torch.tensor([0.9, 0.8]), **clicks).without_negatives().scores
        tensor([0.9000])
        """
        xy = self.points[self.labels == 0]
        inside = ((self.boxes[:, None, :2] <= xy) & (xy <= self.boxes[:, None, 2:])).all(2).any(1)
        return self.take(~inside if self.clicked is None else ~inside | self.clicked)

    def to_dict(self) -> dict[str, list]:
        """`{"boxes": [[x1, y1, x2, y2], ...], "scores": [...]}`, for JSON."""
        boxes = [[round(v, 2) for v in box] for box in self.boxes.tolist()]
        return {"boxes": boxes, "scores": [round(s, 4) for s in self.scores.tolist()]}

    def plot(self, ax: Any = None, *, title: str | None = None) -> Any:
        """Draw image, boxes (stronger is brighter) and clicks (plus: object, cross: not this); returns the matplotlib axes."""
        import matplotlib.pyplot as plt

        height, width = self.image.shape[1:] if self.image is not None else (256, 256)
        if ax is None:
            scale = 7 / max(height, width)
            _, ax = plt.subplots(figsize=(max(width * scale, 2), max(height * scale, 2) + 0.3), dpi=100, layout="constrained")
        if self.image is not None:
            pixels = self.image.preview() if hasattr(self.image, "preview") else self.image
            ax.imshow(np.moveaxis(np.asarray(pixels), 0, -1), extent=(0, width, height, 0))
        colours = plt.get_cmap("plasma")(0.45 + 0.5 * np.asarray(self.scores))
        for (x1, y1, x2, y2), colour in zip(self.boxes.tolist(), colours, strict=True):
            ax.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.4))
        if self.points is not None:
            look = {"s": 90, "c": "white", "edgecolors": "black", "linewidths": 1.2, "zorder": 3}
            for chosen, marker in ((self.labels == 1, "P"), (self.labels != 1, "X")):
                ax.scatter(*np.asarray(self.points[chosen]).T, marker=marker, **look)
        ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        clicked = " with one click" if self.points is not None and len(self.points) == 1 else ""
        ax.set_title(title or f"{len(self)} found{clicked}")
        return ax

    def save_figure(self, path: Path, *, title: str | None = None) -> None:
        """Write the drawing to an image file, in one move."""
        picture = self._drawn(Path(path).suffix[1:] or "png", title)
        write_atomically(path, lambda temporary: temporary.write_bytes(picture))

    def _drawn(self, kind: str, title: str | None = None) -> bytes:
        import matplotlib.pyplot as plt

        figure, buffer = self.plot(title=title).figure, io.BytesIO()
        figure.savefig(buffer, format=kind)
        plt.close(figure)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes | None:
        return None if self.image is None else self._drawn("png")


def rescored(found: Detections, scores: "Tensor") -> Detections:
    """The detections with other scores (N,), strongest first."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    return replace(found, scores=like(scores, found.scores)).take(order)


def with_click(found: Detections, first: Detections) -> Detections:
    """The detections with the score at what was clicked no lower than it was in the first round."""
    if found.clicked is None or not found.clicked.any() or not first.clicked.any():
        return found
    least = first.scores[first.clicked].max()
    scores = np.asarray(found.scores)
    return rescored(found, np.where(found.clicked, scores.clip(min=float(least)), scores))


TINY, LARGE = 8, 192
"""Sides in pixels of what was clicked, under which an image is read again twice as large, and from which at half of its size."""
MOST_PIXELS = 4_000_000
"""An image is not enlarged beyond."""


def next_scale(found: Detections, size_hw: tuple[int, int]) -> float | None:
    """The scale at which an image of `size_hw` is better read after this answer, by the side of what was clicked, or None.

    Once twice as large, or at half of the size so far until the side is under `LARGE` there. Choice: on procedural scenes halving
    from 56 px on finds most, but on validation images of real sources objects of 56 to 192 px are found a little less often then.

    >>> import torch
    >>> clicked = {"scores": torch.tensor([0.9]), "clicked": torch.tensor([True])}
    >>> big = Detections(boxes=torch.tensor([[0.0, 0.0, 400.0, 400.0]]), **clicked)
    >>> [next_scale(replace(big, scale=scale), (900, 900)) for scale in (1.0, 0.5, 0.25)]
    [0.5, 0.25, None]
    """
    if found.clicked is None or not found.clicked.any():
        return None
    boxes = np.asarray(found.boxes)[np.asarray(found.clicked)]
    side = float(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)).mean()) * found.scale
    if side >= LARGE and found.scale <= 1:
        return found.scale / 2
    return 2.0 if side < TINY and found.scale == 1 and 4 * size_hw[0] * size_hw[1] <= MOST_PIXELS else None


def reread(
    ask: Callable[[list[tuple], float], Sequence[Detections]], sets: Sequence[tuple], size_hw: tuple[int, int], again: bool = True
) -> list[Detections]:
    """All detections of an image's prompt sets (of `read_prompts`), each at the scale that suits what was clicked.

    `ask(sets, scale)` reads the image at a scale, where the sets are given in its pixels; `again`: at others than 1, too.
    """
    found = list(ask(list(sets), 1.0))
    while again and (wanted := {n: scale for n, f in enumerate(found) if (scale := next_scale(f, size_hw))}):
        for scale in sorted(set(wanted.values())):
            rows = [n for n, at in wanted.items() if at == scale]
            for n, answer in zip(rows, ask(scaled([sets[n] for n in rows], scale), scale), strict=True):
                found[n] = in_image(answer, scale)
    return found


def in_image(found: Detections, scale: float) -> Detections:
    """What was found in an image at a scale, in pixels of the image."""
    return replace(found, boxes=found.boxes / scale, scale=scale)


def scaled(sets: Sequence[tuple], scale: float) -> list[tuple]:
    """Prompt sets of `read_prompts` in an image at a scale."""
    return [(points * scale, labels, sizes * scale) for points, labels, sizes in sets]


def compete(found: Sequence[Detections]) -> list[Detections]:
    """Detections of several kinds in one image as rivals: each score times its share of the score of its place.

    share = s / (s + strongest score of another kind with an IoU over 0.5). A kind alone keeps its scores.

    Source: CountGD++, which keeps a box only if its best positive prompt beats its best negative one. Choice: a share, which
    never removes a box.

    >>> import torch
    >>> a = Detections(boxes=torch.tensor([[0.0, 0.0, 4.0, 4.0]]), scores=torch.tensor([0.6]))
    >>> b = Detections(boxes=torch.tensor([[0.0, 0.0, 4.0, 5.0]]), scores=torch.tensor([0.2]))
    >>> [round(float(f.scores[0]), 3) for f in compete([a, b])]  # 0.6 x 0.6 / 0.8, 0.2 x 0.2 / 0.8
    [0.45, 0.05]
    """
    if len(found) < 2:
        return list(found)
    scores, counts = np.concatenate([np.asarray(of_set.scores) for of_set in found]), [len(of_set) for of_set in found]
    kind, best = np.repeat(np.arange(len(found)), counts), np.zeros_like(scores)
    a, b = close_pairs([of_set.boxes for of_set in found], 0.5)
    rival = kind[a] != kind[b]
    for of, by in ((a[rival], b[rival]), (b[rival], a[rival])):
        np.maximum.at(best, of, scores[by])
    shares = np.split(scores * (scores / (scores + best).clip(min=1e-9)), np.cumsum(counts)[:-1])
    return [rescored(*each) for each in zip(found, shares, strict=True)]


def shown(found: Detections, threshold: float | str) -> Detections:
    """The detections from a threshold on, or above the cut of the prompt itself; none where nothing certain was clicked, unless
    the threshold asks for all."""
    everything = threshold != ADAPTIVE and threshold <= MIN_SCORE
    if found.nothing_certain and not everything:
        return found.above(2.0)
    return found.adaptive() if threshold == ADAPTIVE else found.above(threshold)


def answers(
    found: Sequence[Detections], sets: Sequence[tuple], image: "Tensor | Raster", threshold: float | str, together: bool
) -> list[Detections]:
    """What is shown of all detections of some prompt sets (of `read_prompts`) in one image; `together`: as rivals."""
    asked = [replace(f, image=image, points=p, labels=lb).without_negatives() for f, (p, lb, _) in zip(found, sets, strict=True)]
    return [shown(f, threshold) for f in (compete(asked) if together else asked)]


def from_raw(
    logits: np.ndarray,
    boxes: np.ndarray,
    valid: np.ndarray,
    count: float,
    starts: int,
    size_hw: tuple[int, int],
    *,
    clicks: int = 0,
    limit: int = 1500,
    overlap: float = DEFAULT_NMS,
) -> Detections:
    """One prompt set's row of a `model.deal.Output`, as arrays, without duplicates: see `predictor.to_detections`."""
    scores = 1 / (1 + np.exp(-logits))
    own, certain = np.zeros(len(scores), dtype=bool), None
    if clicks:
        of_clicks = scores[: clicks * starts].reshape(starts, clicks)
        own[of_clicks.argmax(0) * clicks + np.arange(clicks)] = True
        real = valid[:clicks]
        certain = float(of_clicks.max(0)[real].mean()) if real.any() else None
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1).clip(0, np.float32([*size_hw[::-1]] * 2))
    usable = valid & ((scores >= MIN_SCORE) | own) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    full = max(int(usable.sum()), count) >= limit
    if full:
        tell(f"the most boxes of a prompt in one image or tile, {limit}, were reached: smaller tiles (`tile`) may find more")
    boxes, scores, own = boxes[usable], scores[usable], own[usable]
    keep = nms(boxes, scores, overlap)[:limit]
    clicked = clicked_rows(boxes, own, keep) if clicks else None
    return Detections(boxes=boxes[keep], scores=scores[keep], count=count, clicked=clicked, certain=certain, full=full)


def clicked_rows(boxes: "ArrayLike", own: "ArrayLike", keep: "ArrayLike") -> np.ndarray:
    """(K,) bool: which of the K rows `keep` stand for the clicked ones, `own` (N,): themselves or duplicates."""
    clicked = np.zeros(len(keep), dtype=bool)
    if len(keep) and np.asarray(own).any():
        clicked[iou(boxes[own], boxes[keep]).argmax(1)] = True
    return clicked


def to_rows(found: Detections, image_id: int, category_id: int) -> list[dict[str, Any]]:
    """Detections as COCO results: xywh pixels rounded to 0.01, scores to 0.00001.

    >>> import torch
    >>> to_rows(Detections(boxes=torch.tensor([[1.0, 1.0, 5.0, 4.0]]), scores=torch.tensor([0.5])), 7, 2)
    [{'image_id': 7, 'category_id': 2, 'bbox': [1.0, 1.0, 4.0, 3.0], 'score': 0.5}]
    """
    rows = []
    for (x1, y1, x2, y2), score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True):
        box = [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
        rows.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": round(score, 5)})
    return rows
