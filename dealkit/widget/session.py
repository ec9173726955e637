"""What a user has clicked, drawn and judged in some images, and what the model answers: the state behind widget and page.

Points, boxes and sizes are pixels of the original image; boxes are xyxy.
"""

import copy
import csv
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from dealkit import figures
from dealkit.config import DEFAULT_NMS, DEFAULT_THRESHOLD, BuildConfig
from dealkit.data.annotations import read_coco
from dealkit.data.images import AnyImage, as_image
from dealkit.files import Json, write_json
from dealkit.predict.detections import Detections, compete
from dealkit.predict.embedding import PromptEmbedding, mean_embedding
from dealkit.predict.folder import list_images
from dealkit.predict.predictor import Predictor
from dealkit.predict.threshold import ADAPTIVE, LOWEST
from dealkit.predict.tiles import embed_large, predict_large

Box = tuple[float, float, float, float]

LEAST_SHOWN = LOWEST / 2
"""Lowest score that the slider reaches. Choice: what scores lower is noise, and would be most of what is sent."""

SAME_BOX = DEFAULT_NMS
"""IoU from which a verdict on a box holds for another. Choice: no two detections of one answer overlap more."""

COVERED_BY_RIGHT = 0.5
"""IoU from which a box that is right stands for a detection: an object has one box."""

LONG_SIDE = 2048
"""Most pixels of a side of the picture that a browser gets. Choice: a screen shows no more, and it weighs under 2 MB."""

LARGE = 25_000_000
"""Pixels from which an image is read in tiles, again for every click. Choice: 25 million take about 4 GB."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Something to look for."""

    name: str
    colour: str
    """#RRGGBB."""
    threshold: float | None = None
    """Lowest score shown in all images; None: that of every answer, until the user chooses one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Marks:
    """What was done for one kind in one image, and the answer."""

    clicks: tuple[tuple[float, float, int], ...] = ()
    """x, y, label: 1 this, 0 not this."""
    drawn: tuple[Box, ...] = ()
    """Round example objects."""
    verdicts: tuple[tuple[Box, int], ...] = ()
    """1 right, -1 wrong."""
    found: Detections | None = None
    """What may be shown, without the image."""
    threshold: float = DEFAULT_THRESHOLD
    """Lowest score shown of this answer, unless the user chose one for the kind."""

    def prompt(self) -> tuple[list[tuple[float, float]], list[int], list[Box]]:
        """Points, their labels, and boxes, as a predictor takes them."""
        return [(x, y) for x, y, _ in self.clicks], [label for *_, label in self.clicks], list(self.drawn)

    def shows_object(self) -> bool:
        """Whether something was clicked as *this*, or drawn round."""
        return bool(self.drawn) or any(label for *_, label in self.clicks)

    def judged(self) -> list[tuple[Box, int]]:
        """Verdicts, and the drawn boxes that none of them is about as right."""
        boxes = [box for box, _ in self.verdicts]
        return [*self.verdicts, *((box, 1) for box in self.drawn if not _same(box, boxes))]


class Session:
    """Clicks in images, several kinds, verdicts on boxes, undo; runs without a browser.

    Every method below `apply` is an event that a browser may send. The model reads an image once, at its first question.

    >>> from dealkit.config import ModelConfig
    >>> from dealkit.model.deal import DEAL
    >>> predictor = Predictor(DEAL(ModelConfig(hidden_dim=32, fine_dim=16)))
    >>> session = Session(torch.zeros(3, 50, 70, dtype=torch.uint8), predictor)
    >>> session.click(20, 30)
    >>> session.draw_box([40, 10, 50, 22])
    >>> len(session.to_coco()["annotations"]) >= 1, session.prompts()[0]["points"]
    (True, [[20.0, 30.0]])
    """

    def __init__(self, images: Any, predictor: Predictor | None = None, out: Path | None = None):
        """`images`: as for `images_of`. `predictor`: of the default checkpoint if None; a copy is used, the model is shared.
        `out`: COCO file that `keep` writes; if it is there, the session goes on from it."""
        self.images = images_of(images)
        self.predictor = copy.copy(predictor or Predictor())
        self.adaptive = self.predictor.threshold == ADAPTIVE
        self.start = DEFAULT_THRESHOLD if self.adaptive else self.predictor.threshold
        self.predictor.threshold = 0.0  # the slider and an adaptive cut need all
        self.kinds: list[Kind] = []
        self.kind = self.index = 0
        self.pages: dict[int, dict[int, Marks]] = {}
        self.history: dict[int, list[dict[int, Marks]]] = {}
        self.sizes_wh: dict[int, tuple[int, int]] = {}
        self.embeddings: dict[tuple[int, int], PromptEmbedding] = {}
        self.message = ""
        self.out = out
        self.add_kind("object")
        self.open(0)
        if out is not None and out.is_file():
            self.restore(out)

    def apply(self, event: Json) -> Json:
        """Do what an event asks for and give the new `view`; a mistake changes nothing and becomes its `message`.

        An event is `{"do": NAME, ...arguments, "id": anything}`; the view has the id as `done`.
        """
        try:
            if not isinstance(event, dict) or event.get("do") not in EVENTS:
                raise ValueError(f"event: expected one of {', '.join(EVENTS)} as `do`, got {str(event)[:80]}")
            if event["do"] != "read":  # a browser sends it by itself after `open`, whose message is still to be seen
                self.message = ""
            given = {name: value for name, value in event.items() if name not in ("do", "id")}
            for name, kind in EVENTS[event["do"]].items():
                if not isinstance(given.get(name), kind) or isinstance(given[name], bool):
                    raise ValueError(f"{event['do']}: {name}: expected {kind}, got {given.get(name)!r}")
            getattr(self, event["do"])(**{name: given[name] for name in EVENTS[event["do"]]})
        except Exception as error:  # a browser that hears nothing would wait for ever
            self.message = (
                str(error) if isinstance(error, (ValueError, FileNotFoundError)) else f"{type(error).__name__}: {error}"
            )
        return self.view() | {"done": event.get("id") if isinstance(event, dict) else None}

    def open(self, index: int) -> None:
        """Show another image; the model reads it at `read`, or at the first click.

        Images that cannot be read are passed over, on the way that the user goes, and told.
        """
        if not 0 <= index < len(self.images):
            raise ValueError(f"open: index: expected 0 to {len(self.images) - 1}, got {index}")
        unread = []
        for at in range(index, len(self.images)) if index >= self.index else range(index, -1, -1):
            try:
                image = as_image(self.images[at][1])
                break
            except (ValueError, OSError) as error:
                unread.append(str(error))
        else:
            raise ValueError(unread[0])
        if self.sizes_wh:
            self._keep_embeddings()
            self.keep()
        self.message = f"passed over: {'; '.join(unread)}" if unread else ""
        self.index, self.image, self.is_read = at, image, False
        self.sizes_wh[at] = (image.shape[2], image.shape[1])

    def read(self) -> None:
        """Let the model read the image, and look in it for the kinds that were clicked in others."""
        if self.is_read:
            return
        if not self._is_large():
            self.predictor.set_image(self.image)
        self.is_read = True
        known = {k: self._embedding(k) for k in range(len(self.kinds)) if not self.marks(k).shows_object()}
        known = {kind: embedding for kind, embedding in known.items() if embedding is not None}
        if self._is_large():
            found = [predict_large(self.predictor, self.image, embedding=each)[0] for each in known.values()]
        else:
            found = [self.predictor.predict_embedding(each) for each in known.values()]
        found = compete(found) if self.predictor.together else found
        answers = {k: self._answered(self.marks(k), each) for k, each in zip(known, found, strict=True)}
        self.pages[self.index] = self.page() | answers

    def click(self, x: float, y: float, label: int = 1) -> None:
        """Something of the kind, or with label 0 something that is not meant."""
        if label not in (0, 1):
            raise ValueError(f"click: label: expected 1 (this) or 0 (not this), got {label!r}")
        marks = self.marks()
        self._ask(replace(marks, clicks=(*marks.clicks, (float(x), float(y), int(label)))))

    def draw_box(self, box: Sequence[float]) -> None:
        """A box drawn round one example of the kind: it asks as a click does, and counts as right."""
        marks = self.marks()
        self._ask(replace(marks, drawn=(*marks.drawn, self._box(box))))

    def judge(self, box: Sequence[float], verdict: int) -> None:
        """Say of a box that it is right (1), wrong (-1), or take that back (0); one that nothing found is added as right."""
        if verdict not in (-1, 0, 1):
            raise ValueError(f"judge: verdict: expected 1, -1 or 0, got {verdict!r}")
        marks, box = self.marks(), self._box(box)
        others = tuple(pair for pair in marks.verdicts if not _same(box, [pair[0]]))
        made = replace(marks, verdicts=(*others, (box, verdict)) if verdict else others)
        self._commit(self.page() | {self.kind: made})

    def set_threshold(self, value: float) -> None:
        """Lowest score shown of the kind, 0 to 1, in all images."""
        if not 0 <= value <= 1:
            raise ValueError(f"set_threshold: value: expected 0 to 1, got {value}")
        self._change_kind(threshold=float(value))

    def choose_kind(self, index: int) -> None:
        """The kind that clicks are about from now on."""
        if not 0 <= index < len(self.kinds):
            raise ValueError(f"choose_kind: index: expected 0 to {len(self.kinds) - 1}, got {index}")
        self.kind = index

    def add_kind(self, name: str = "") -> None:
        """Another kind, which clicks are about from now on; without a name it is numbered."""
        n = len(self.kinds)
        name = self._kind_name(name or f"object {n + 1}")
        colour = figures.CATEGORY_COLOURS[n % len(figures.CATEGORY_COLOURS)]
        self.kinds.append(Kind(name=name, colour=colour))
        self.kind = n

    def rename_kind(self, name: str) -> None:
        """Another name for the kind."""
        if name.strip() != self.kinds[self.kind].name:
            self._change_kind(name=self._kind_name(name))

    def undo(self) -> None:
        """Take back the last click, box, verdict or clearing in this image."""
        if not self.history.get(self.index):
            raise ValueError("undo: nothing was done in this image")
        self.pages[self.index] = self.history[self.index].pop()

    def clear(self) -> None:
        """Forget all that was done for the kind in this image."""
        self._commit(self.page() | {self.kind: Marks()})

    def page(self, index: int | None = None) -> dict[int, Marks]:
        """Kind -> marks in an image, by default the one shown."""
        return self.pages.get(self.index if index is None else index, {})

    def marks(self, kind: int | None = None, index: int | None = None) -> Marks:
        """Marks of one kind in one image, by default those shown."""
        return self.page(index).get(self.kind if kind is None else kind, Marks())

    def threshold(self, kind: int | None = None, index: int | None = None) -> float:
        """Lowest score shown of a kind in an image: what the user chose for the kind, or that of the answer."""
        chosen, marks = self.kinds[self.kind if kind is None else kind].threshold, self.marks(kind, index)
        return chosen if chosen is not None else self.start if marks.found is None else marks.threshold

    def rows(self, kind: int | None = None, index: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes (N, 4), scores (N,), verdicts (N,) 1, 0 or -1, and (N,) bool what holds, strongest first.

        Judged boxes stand for the detections that they cover; one that covers none scores 1. What is right holds, and what is
        not judged from the threshold on; an adaptive threshold keeps what was clicked.
        """
        kind = self.kind if kind is None else kind
        marks = self.marks(kind, index)
        found = Detections(boxes=torch.zeros(0, 4), scores=torch.zeros(0)) if marks.found is None else marks.found
        judged = marks.judged()
        boxes = torch.tensor([box for box, _ in judged]).reshape(-1, 4)
        least = torch.tensor([COVERED_BY_RIGHT if verdict == 1 else SAME_BOX for _, verdict in judged])
        covers = box_iou(boxes, found.boxes) >= least[:, None]  # (V, N)
        own = torch.tensor([float(found.scores[row].max()) if row.any() else 1.0 for row in covers]).reshape(-1)
        free = ~covers.any(0)
        right = torch.tensor([verdict for _, verdict in judged], dtype=torch.int64)
        holds = found.scores >= self.threshold(kind, index)
        if self.adaptive and self.kinds[kind].threshold is None and found.clicked is not None:
            holds |= found.clicked
        scores = torch.cat([own, found.scores[free]])
        order = scores.argsort(descending=True, stable=True)
        others = torch.zeros(int(free.sum()), dtype=torch.int64)
        parts = (boxes, found.boxes[free]), (own, found.scores[free]), (right, others), (right == 1, holds[free])
        return tuple(torch.cat(part)[order] for part in parts)

    def detections(self, kind: int | None = None, index: int | None = None) -> Detections:
        """What holds of a kind in an image, by default those shown: right boxes, and unjudged ones above its threshold."""
        kind = self.kind if kind is None else kind
        boxes, scores, _, keep = self.rows(kind, index)
        marks = self.marks(kind, index)
        points, labels, _ = marks.prompt()
        return Detections(
            boxes=boxes[keep],
            scores=scores[keep],
            image=self.image if index in (None, self.index) else None,
            points=torch.tensor(points).reshape(-1, 2),
            labels=torch.tensor(labels, dtype=torch.int64),
            certain=None if marks.found is None else marks.found.certain,
            count=None if marks.found is None else marks.found.count,
        )

    def view(self) -> Json:
        """All that a browser draws, as JSON; `rows` are x1, y1, x2, y2, score, verdict, and 1 if it holds at any score."""
        kinds = []
        for n, kind in enumerate(self.kinds):
            marks, (boxes, scores, verdicts, holds), cut = self.marks(n), self.rows(n), self.threshold(n)
            kept = holds & (verdicts == 0) & (scores < cut)
            table = torch.cat([boxes, scores[:, None], verdicts[:, None], kept[:, None]], dim=1).tolist()
            rows = [[*(round(v, 1) for v in row[:4]), round(row[4], 6), int(row[5]), int(row[6])] for row in table]
            row = {"name": kind.name, "colour": kind.colour, "threshold": round(cut, 6), "rows": rows}
            unsure = marks.found is not None and marks.found.nothing_certain
            row |= {"clicks": marks.clicks, "drawn": marks.drawn, "nothing_certain": unsure}
            kinds.append(row | {"count": None if marks.found is None else marks.found.count})
        (width, height), name = self.sizes_wh[self.index], self.images[self.index][0]
        image = {"name": name, "index": self.index, "of": len(self.images), "width": width, "height": height}
        about = {"read": self.is_read, "undo": bool(self.history.get(self.index)), "message": self.message}
        return about | {"image": image, "kinds": kinds, "kind": self.kind, "least": LEAST_SHOWN}

    def picture(self, box: Sequence[float] | None = None) -> bytes:
        """The image, or the part of it in a box of whole pixels, as a JPEG of at most `LONG_SIDE` pixels a side."""
        x1, y1, x2, y2 = map(int, self._box(box or (0, 0, *self.sizes_wh[self.index])))
        picture, out = Image.fromarray(self.image[:, y1:y2, x1:x2].permute(1, 2, 0).numpy()), io.BytesIO()
        picture.thumbnail((LONG_SIDE, LONG_SIDE))
        picture.save(out, "JPEG", quality=92, subsampling=0)
        return out.getvalue()

    def draw(self) -> Figure:
        """The image with the boxes and clicks of every kind, and how many there are."""
        (ax,) = figures.image_axes(tuple(self.image.shape[1:]), width=5.5)
        figures.show_image(ax, self.image, self.images[self.index][0])
        for n, kind in enumerate(self.kinds):
            found = self.detections(n)
            figures.draw_boxes(ax, found.boxes, kind.colour, label=f"{len(found)} {kind.name}")
            figures.draw_clicks(ax, found.points, found.labels, size=50)
        figures.legend_below(ax)
        return ax.figure

    def prompts(self) -> list[Json]:
        """Every prompt given: `image`, `kind`, `points` with `labels`, and `boxes` drawn."""
        given = []
        for index, page in sorted(self.pages.items()):
            for kind, marks in sorted(page.items()):
                if marks.clicks or marks.drawn:
                    row = {"image": self.images[index][0], "kind": self.kinds[kind].name}
                    row |= {"points": [[x, y] for x, y, _ in marks.clicks], "labels": [label for *_, label in marks.clicks]}
                    given.append(row | {"boxes": [list(box) for box in marks.drawn]})
        return given

    def to_coco(self) -> Json:
        """COCO JSON of the images in which something was asked or drawn: right and unjudged boxes, with their `score`.

        `checked` says that a user called the box right. Images without a box stay in: they were looked at.
        """
        images, annotations = [], []
        for index in sorted(index for index, page in self.pages.items() if page):
            width, height = self.sizes_wh[index]
            images.append({"id": index + 1, "file_name": self.images[index][0], "width": width, "height": height})
            for kind in sorted(self.page(index)):
                rows = zip(*(part.tolist() for part in self.rows(kind, index)), strict=True)
                for (x1, y1, x2, y2), score, verdict, holds in rows:
                    if holds:
                        box = [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
                        row = {"id": len(annotations) + 1, "image_id": index + 1, "category_id": kind + 1, "bbox": box}
                        row |= {"area": round(box[2] * box[3], 2), "iscrowd": 0}
                        annotations.append(row | {"score": round(score, 4), "checked": verdict == 1})
        categories = [{"id": n, "name": kind.name} for n, kind in enumerate(self.kinds, 1)]
        return {"images": images, "annotations": annotations, "categories": categories}

    def keep(self) -> None:
        """Write `to_coco` to `out`, if there is one; done by itself when another image is opened."""
        if self.out is not None:
            write_json(self.out, self.to_coco())

    def restore(self, file: Path) -> None:
        """Go on from what `keep` wrote, or any other COCO JSON of these images: the boxes come back, the clicks do not.

        A box that does not say whether it was `checked` counts as right, and one without a `score` as sure.

        Raises:
            ValueError: not a COCO file, or none of its images is one of these; names it.
        """
        coco, own = read_coco(file), {name: index for index, (name, _) in enumerate(self.images)}
        here = [row for row in coco["images"] if row.get("file_name") in own and row.get("width") and row.get("height")]
        if coco["images"] and not here:
            raise ValueError(f"{file}: expected images that are here, with width and height; the first is {coco['images'][0]}")
        images = {row["id"]: own[row["file_name"]] for row in here}
        self.sizes_wh |= {images[row["id"]]: (row["width"], row["height"]) for row in here}
        kinds = {row["id"]: n for n, row in enumerate(coco["categories"])}
        if kinds:
            self.kinds = []
        for row in coco["categories"]:
            self.add_kind(row.get("name", str(row["id"])))
        rows: dict[tuple[int, int], list[Json]] = {(index, k): [] for index in images.values() for k in range(len(self.kinds))}
        for row in coco["annotations"]:
            if row["image_id"] in images:
                rows[images[row["image_id"]], kinds[row["category_id"]]].append(row)
        for (index, kind), of_kind in rows.items():
            boxes = [(x, y, x + w, y + h) for x, y, w, h in (row["bbox"] for row in of_kind)]
            verdicts = tuple((box, 1) for box, row in zip(boxes, of_kind, strict=True) if row.get("checked", True))
            scores = torch.tensor([float(row.get("score", 1)) for row in of_kind])
            order = scores.argsort(descending=True, stable=True)
            found = Detections(boxes=torch.tensor(boxes).reshape(-1, 4), scores=scores).take(order) if of_kind else None
            self.pages.setdefault(index, {})[kind] = Marks(verdicts=verdicts, found=found, threshold=0.0)
        self.kind = 0

    def to_csv(self) -> str:
        """The boxes of `to_coco` as lines `image,kind,x1,y1,x2,y2,score,checked`."""
        coco, text = self.to_coco(), io.StringIO()
        names = {row["id"]: row["file_name"] for row in coco["images"]}
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(("image", "kind", "x1", "y1", "x2", "y2", "score", "checked"))
        for row in coco["annotations"]:
            x, y, w, h = row["bbox"]
            corners = (x, y, round(x + w, 2), round(y + h, 2))
            kind = self.kinds[row["category_id"] - 1].name
            lines.writerow((names[row["image_id"]], kind, *corners, row["score"], int(row["checked"])))
        return text.getvalue()

    def save_embedding(self, path: str | Path) -> None:
        """Write what the kind means to the model, the mean over the images it was clicked in.

        Raises:
            ValueError: it was clicked in no image.
        """
        self._keep_embeddings()
        if not (known := self._embedding(self.kind)):
            raise ValueError(f"save_embedding: {self.kinds[self.kind].name!r} was clicked in no image")
        known.save(path)

    def export(self, what: str) -> tuple[str, bytes]:
        """File name and content of `coco`, `csv` or `embedding`; a ValueError names another `what`."""
        if what == "coco":
            return "boxes.json", json.dumps(self.to_coco(), indent=1).encode()
        if what == "csv":
            return "boxes.csv", self.to_csv().encode()
        if what != "embedding":
            raise ValueError(f"export: expected coco, csv or embedding, got {what!r}")
        with tempfile.TemporaryDirectory() as folder:
            self.save_embedding(Path(folder) / "kind")
            stem = re.sub(r"[^A-Za-z0-9._-]+", "_", self.kinds[self.kind].name).strip("._") or "kind"
            return f"{stem}.safetensors", (Path(folder) / "kind").read_bytes()

    def _ask(self, marks: Marks) -> None:
        """Let the model answer and keep both, unless it refuses; kinds that are rivals are asked in one call."""
        self.read()
        if not marks.shows_object():
            raise ValueError("click: expected one on an object first; a box that is wrong can be rejected in review")
        page = self.page() | {self.kind: marks}
        asked = [k for k, each in page.items() if k == self.kind or (self.predictor.together and each.shows_object())]
        prompts = [page[kind].prompt() for kind in asked]
        if self._is_large():
            found = predict_large(self.predictor, self.image, prompts)
        else:
            found = self.predictor.predict_categories(prompts)
        self._commit(page | {k: self._answered(page[k], each) for k, each in zip(asked, found, strict=True)})

    def _answered(self, marks: Marks, found: Detections) -> Marks:
        """Marks with an answer and its threshold. As a predictor's own, it is empty where nothing certain was clicked, unless
        all was asked for."""
        if found.nothing_certain and self.start > 0:
            found = found.above(2.0)
        threshold = found.cut() if self.adaptive else self.start
        keep = found.scores >= min(LEAST_SHOWN, threshold)
        if self.adaptive and found.clicked is not None:
            keep |= found.clicked
        return replace(marks, found=replace(found.take(keep), image=None), threshold=threshold)

    def _commit(self, page: dict[int, Marks]) -> None:
        self.history.setdefault(self.index, []).append(self.page())
        self.pages[self.index] = page

    def _box(self, box: Sequence[float]) -> Box:
        """xyxy of the part of a box that lies in the image, at least a pixel wide and high."""
        if len(box) != 4 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in box):
            raise ValueError(f"box: expected four numbers x1, y1, x2, y2, got {list(box)}")
        width, height = self.sizes_wh[self.index]
        x1, y1, x2, y2 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], width), min(box[3], height)
        if x2 - x1 < 1 or y2 - y1 < 1:
            raise ValueError(f"box: expected at least 1 x 1 pixels in the image of {width} x {height}, got {list(box)}")
        return float(x1), float(y1), float(x2), float(y2)

    def _kind_name(self, name: str) -> str:
        name = name.strip()
        if not name or len(name) > 60 or name in [kind.name for kind in self.kinds]:
            raise ValueError(f"kind: name: expected 1 to 60 letters that no other kind has, got {name!r}")
        return name

    def _change_kind(self, **fields: Any) -> None:
        self.kinds[self.kind] = replace(self.kinds[self.kind], **fields)

    def _keep_embeddings(self) -> None:
        """Note what every kind means by the clicks in the image shown, which the model has read."""
        for kind in range(len(self.kinds)):
            marks = self.marks(kind)
            if not marks.shows_object():
                self.embeddings.pop((self.index, kind), None)
            elif self._is_large():
                embedding = embed_large(self.predictor, self.image, marks.prompt(), tile=BuildConfig.tile)
                self.embeddings[self.index, kind] = embedding
            elif self.is_read:
                points, labels, boxes = marks.prompt()
                self.embeddings[self.index, kind] = self.predictor.embed(None, points, labels, boxes=boxes)

    def _is_large(self) -> bool:
        return self.image.shape[1] * self.image.shape[2] > LARGE

    def _embedding(self, kind: int) -> PromptEmbedding | None:
        known = [embedding for (_, of), embedding in self.embeddings.items() if of == kind]
        return mean_embedding(known) if known else None


EVENTS: dict[str, dict[str, Any]] = {
    "open": {"index": int},
    "read": {},
    "click": {"x": int | float, "y": int | float, "label": int},
    "draw_box": {"box": list},
    "judge": {"box": list, "verdict": int},
    "set_threshold": {"value": int | float},
    "choose_kind": {"index": int},
    "add_kind": {"name": str},
    "rename_kind": {"name": str},
    "undo": {},
    "clear": {},
}
"""What a browser may ask a session for: method -> argument -> type."""


def images_of(source: Any) -> list[tuple[str, AnyImage]]:
    """Name and source of the images: one of any form that `Predictor.set_image` takes, a list of them, or those below a folder.

    Raises:
        ValueError: a folder without images, or an empty list. FileNotFoundError: a path that is not there.

    >>> images_of(torch.zeros(3, 4, 6, dtype=torch.uint8))[0][0]
    'image_1.png'
    """
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        source = [Path(source, name) for name in list_images(source)[0]]
    several = source if isinstance(source, (list, tuple)) else [source]
    if not several:
        raise ValueError("images: expected at least one")
    for path in several:
        if isinstance(path, (str, Path)) and not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such image or folder")
    paths = [Path(image).absolute() for image in several if isinstance(image, (str, Path))]
    root = os.path.commonpath([path.parent for path in paths]) if paths else ""
    names = [os.path.relpath(i, root) if isinstance(i, (str, Path)) else f"image_{n}.png" for n, i in enumerate(several, 1)]
    return list(zip(names, several, strict=True))


def _same(box: Box, boxes: Sequence[Box]) -> bool:
    """Whether one of the boxes is about this one."""
    return bool(boxes) and bool((box_iou(torch.tensor([box]), torch.tensor(list(boxes))) >= SAME_BOX).any())
