"""Click and get all of its kind: `Predictor` for people, `predict_coco` for whole data sets.

Points and boxes are pixels of the original image. The network reads it at its own resolution, and again at another where what
was clicked is tiny or large (`next_scale`).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from dealkit.boxes import to_cxcywh
from dealkit.clicks import check_clicks
from dealkit.config import DEFAULT_CHECKPOINT, DEFAULT_NMS
from dealkit.data.coco import CocoFolder
from dealkit.data.images import AnyImage, as_image
from dealkit.data.transforms import pad_to, to_input
from dealkit.device import autocast, default_device
from dealkit.files import Json
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL, Features, Output
from dealkit.model.fuse import for_inference
from dealkit.model.queries import EXTENT
from dealkit.predict import plain
from dealkit.predict.detections import (
    Detections,
    answers,
    compete,
    from_raw,
    in_image,
    reread,
    scaled,
    shown,
    to_rows,
    with_click,
)
from dealkit.predict.embedding import PromptEmbedding, check_model, model_hash
from dealkit.predict.threshold import ADAPTIVE, check_threshold
from dealkit.prompts import PointPrompts, stack_prompts, without_clicks


class Predictor:
    """One image at a time: encode once with `set_image`, then click as often as wanted.

    >>> from dealkit.config import ModelConfig
    >>> predictor = Predictor(DEAL(ModelConfig(hidden_dim=32, fine_dim=16)))
    >>> predictor.set_image(torch.zeros(3, 50, 70, dtype=torch.uint8))
    >>> isinstance(predictor.click(20, 30), Detections)
    True
    """

    def __init__(
        self,
        model: DEAL | str | Path = DEFAULT_CHECKPOINT,
        *,
        threshold: float | Literal["adaptive"] = ADAPTIVE,
        together: bool = True,
        rounds: int = 1,
        rescale: bool = True,
        device: torch.device | str | None = None,
    ):
        """Load and prepare a model.

        Args:
            model: a DEAL or the path of a checkpoint.
            threshold: lowest score returned, or "adaptive": a cut for each image and prompt (`adaptive_threshold`) that keeps
                what was clicked.
            together: the categories of one call are rivals, see `compete`.
            rounds: passes of detection; each but the first has the surest detections of the one before as further prompts.
            rescale: read the image again where what was clicked is tiny or large, see `next_scale`.
        """
        self.threshold = check_threshold(threshold)
        self.together, self.rounds, self.rescale = together, rounds, rescale
        self.device = torch.device(device) if device else default_device()
        loaded = model if isinstance(model, DEAL) else load_model(Path(model))
        self.model_hash = model_hash(loaded)
        self.model = for_inference(loaded.to(self.device))
        self.reading: Reading | None = None

    def set_image(self, image: AnyImage) -> None:
        """Encode an image: a path, a PIL image, an (H, W) or (H, W, 3) array, a (3, H, W) tensor; see `as_image`."""
        self.reading = Reading(self.model, as_image(image))
        self.reading.features()

    @property
    def image(self) -> Tensor | None:
        """(3, H, W) uint8: the image that is set."""
        return self.reading and self.reading.image

    @property
    def features(self) -> Features | None:
        """What the model sees in it, at its own size."""
        return self.reading and self.reading.features()

    def click(self, x: float, y: float) -> Detections:
        """Everything that is of the kind of the object at pixel (x, y)."""
        return self.predict([[x, y]])

    def predict(
        self,
        points: Sequence[Sequence[float]] | Tensor = (),
        labels: Sequence[int] | Tensor | None = None,
        *,
        boxes: Sequence[Sequence[float]] | Tensor = (),
    ) -> Detections:
        """Everything of the kind shown by `points` (P, 2), `labels` (P,): 1 object (default), 0 not this, and by `boxes` (Q, 4)
        xyxy, drawn round objects: they say where the edge of an object is, of their own and of all others. No box is returned
        under a point that is not meant."""
        return self.predict_categories([(points, labels, boxes)])[0]

    def predict_categories(self, prompts: Sequence[plain.Prompt]) -> list[Detections]:
        """Several categories in one call: one `(points, labels or None)` or `(points, labels or None, boxes)` per category,
        one `Detections` each, in order.

        Raises:
            ValueError: no image is set, a point lies outside it, or a category has no positive point.
        """
        reading = self._encoded()
        sets = read_prompts(prompts, reading.size_hw)
        return self.answers(reading.answers(sets, rescale=self.rescale, rounds=self.rounds), sets, reading.image)

    def embed(
        self,
        image: AnyImage | None,
        points: Sequence[Sequence[float]] | Tensor = (),
        labels: Sequence[int] | Tensor | None = None,
        *,
        boxes: Sequence[Sequence[float]] | Tensor = (),
    ) -> PromptEmbedding:
        """What the clicks in `image` (None: the image that is set, which stays) mean, to ask others with `predict_embedding`.

        Raises:
            ValueError: no image, a point outside it, or no positive point.
        """
        reading = self._encoded() if image is None else Reading(self.model, as_image(image))
        sets = read_prompts([(points, labels, boxes)], reading.size_hw)
        scale = reading.answers(sets)[0].scale if self.rescale else 1.0
        vectors = embed(self.model, reading.features(scale), stack_sets_of(scaled(sets, scale)).to(self.device))[0].cpu()
        return PromptEmbedding(vectors=vectors, clicks=len(sets[0][0]), model=self.model_hash, scale=scale)

    def predict_embedding(self, embedding: PromptEmbedding) -> Detections:
        """Everything in the image that is set of the kind that was clicked elsewhere.

        Raises:
            ValueError: no image is set, or another model made the embedding.
        """
        reading = self._encoded()
        check_model(embedding, self.model_hash, self.model.embedding_dim)
        asked, vectors = without_clicks([0]), embedding.vectors[None].to(self.device)
        found = reading.ask(asked, embedding.scale, embedding=vectors, rounds=self.rounds)[0]
        return replace(shown(in_image(found, embedding.scale), self.threshold), image=self.image)

    def answers(
        self, found: Sequence[Detections], sets: Sequence[tuple[Tensor, Tensor, Tensor]], image: Tensor
    ) -> list[Detections]:
        """What is shown of all detections of some prompt sets (of `read_prompts`) in one image."""
        return answers(found, sets, image, self.threshold, self.together)

    def _encoded(self) -> "Reading":
        if self.reading is None:
            raise ValueError("no image: call set_image first")
        return self.reading


class Reading:
    """An image (3, H, W) uint8 as a model reads it: encoded once at each scale that is asked for."""

    def __init__(self, model: DEAL, image: Tensor):
        self.model, self.image, self.size_hw = model, image, tuple(image.shape[1:])
        self.kept: dict[float, tuple[Features, tuple[int, int]]] = {}

    def features(self, scale: float = 1.0) -> Features:
        """What the model sees in the image at a scale."""
        return self._read(scale)[0]

    def ask(self, prompts: PointPrompts, scale: float = 1.0, **options: Any) -> list[Detections]:
        """`detect_all` at a scale, of prompts in its pixels."""
        features, size_hw = self._read(scale)
        return detect_all(self.model, features, prompts.to(features.maps[0].device), size_hw, **options)

    def answers(self, sets: Sequence[tuple], *, rescale: bool = True, **options: Any) -> list[Detections]:
        """All detections of prompt sets of `read_prompts`, each at the scale that suits what was clicked."""
        return reread(lambda of, scale: self.ask(stack_sets_of(of), scale, **options), sets, self.size_hw, rescale)

    def _read(self, scale: float) -> tuple[Features, tuple[int, int]]:
        if scale not in self.kept:
            image = self.image if scale == 1 else torch.from_numpy(plain.resized(self.image.cpu().numpy(), scale).copy())
            self.kept[scale] = encode_images(self.model, [image]), tuple(image.shape[1:])
        return self.kept[scale]


def read_prompts(prompts: Sequence[plain.Prompt], size_hw: tuple[int, int]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Points (P, 2) float32, labels (P,) int64 and sizes (P, 2) of every `(points, labels or None)` with or without boxes.

    Without labels all points are objects. A box becomes a point at its centre that has its size.

    Raises:
        ValueError: points or boxes of another shape or outside the image; names the prompt, if there are several.

    >>> read_prompts([([[1, 2]], None, [[2, 2, 6, 4]])], (10, 10))
    [(tensor([[1., 2.],
            [4., 3.]]), tensor([1, 1]), tensor([[0., 0.],
            [4., 2.]]))]
    """
    return [tuple(map(torch.from_numpy, arrays)) for arrays in plain.read_prompts(prompts, size_hw)]


def stack_sets_of(sets: Sequence[tuple[Tensor, Tensor, Tensor]]) -> PointPrompts:
    """What `read_prompts` gives, all on one image, as a batch."""
    return stack_prompts([(p, labels) for p, labels, _ in sets], [0] * len(sets), [sizes for *_, sizes in sets])


@torch.inference_mode()
def encode_images(model: DEAL, images: Sequence[Tensor]) -> Features:
    """Features of (3, H, W) uint8 images of any sizes, padded to a common multiple of 32, in bfloat16 where that is faster."""
    device = next(model.parameters()).device
    batch, sizes = pad_to([to_input(image.to(device)) for image in images])
    with autocast(device):
        return model.encode(batch, sizes)


@torch.inference_mode()
def embed(model: DEAL, features: Features, prompts: PointPrompts) -> Tensor:
    """`model.embed` in bfloat16 where that is faster: (N, 2, D) float32. They tell how much wider boxes were drawn than what is
    found there, too, so that the boxes in other images and tiles follow them."""
    with autocast(prompts.points.device):
        vectors = model.embed(features, prompts)
    if bool(prompts.sizes.any()):
        vectors[:, 0, -2:] = detect(model, features, prompts, vectors).wider
    return vectors


@torch.inference_mode()
def detect(model: DEAL, features: Features, prompts: PointPrompts, embedding: Tensor | None = None) -> Output:
    """`model.detect` in bfloat16 where that is faster; with embeddings (N, 2, D) `prompts` are `without_clicks`."""
    with autocast(prompts.points.device):
        return model.detect(features, prompts, embedding=embedding)


@torch.inference_mode()
def detect_all(
    model: DEAL,
    features: Features,
    prompts: PointPrompts,
    size_hw: tuple[int, int],
    *,
    embedding: Tensor | None = None,
    rounds: int = 1,
    **options: Any,
) -> list[Detections]:
    """Detections of all prompt sets of one image, from a score of `MIN_SCORE` on.

    Args:
        embedding: (N, 2, E) of other images, instead of that of the prompts' own clicks.
        rounds: see `surest`. options: of `to_detections`.
    """
    if embedding is None and rounds > 1:
        embedding = embed(model, features, prompts)
    clicks, every = prompts.points.shape[1], []
    for n_round in range(rounds):
        output = detect(model, features, prompts, embedding)
        every.append([to_detections(output, n, size_hw, clicks=clicks, **options) for n in range(len(prompts))])
        if n_round + 1 < rounds:
            embedding = surest(model, features, every[-1], embedding)
    found = [replace(f, certain=first.certain) for f, first in zip(every[-1], every[0], strict=True)]
    if rounds > 1:  # what was clicked keeps the score that the click itself gave it
        found = [with_click(f, first) for f, first in zip(found, every[0], strict=True)]
    return found


SURE, PROMPTS = 0.5, 5
"""Score from which a detection may become a prompt, and how many do at most."""


def surest(model: DEAL, features: Features, found: Sequence[Detections], embedding: Tensor) -> Tensor:
    """Embeddings (N, 2, E) in which the surest detections weigh as much as the click itself; the farthest from each other first.

    Source: Chain-of-Prompts, arXiv 2605.29429, and the pseudo-exemplars of CountGD++. Choice: half of the weight stays with the
    click, so that the kind cannot drift.
    """
    new = embedding.clone()
    for n, of_set in enumerate(found):
        centres = to_cxcywh(of_set.above(SURE).boxes)[:, :2]
        if not len(centres):
            continue
        chosen = [0]
        while len(chosen) < min(PROMPTS, len(centres)):
            chosen.append(int(torch.cdist(centres, centres[chosen]).amin(1).argmax()))
        sets = [(centres[chosen], torch.ones(len(chosen), dtype=torch.int64))]
        vectors = embed(model, features, stack_prompts(sets, [0]).to(embedding.device))[0]
        new[n, 0, :-EXTENT] = 0.5 * (embedding[n, 0, :-EXTENT] + vectors[0, :-EXTENT])  # the drawn size stays
    return new


def to_detections(
    output: Output,
    n: int,
    size_hw: tuple[int, int],
    *,
    clicks: int = 0,
    limit: int = 1500,
    overlap: float = DEFAULT_NMS,
) -> Detections:
    """Prompt set `n` of an output as detections: xyxy clipped to the image, without duplicates, strongest first, at most
    `limit`, from a score of `MIN_SCORE` on.

    `clicks` is the number of points, P, of the prompts. What was clicked is the detection at the strongest of a click's own
    queries, or the stronger duplicate that stands for it.
    """
    logits, boxes, valid = (rows[n].cpu().numpy() for rows in (output.pred_logits, output.pred_boxes, output.valid))
    options = {"clicks": clicks, "limit": limit, "overlap": overlap}
    found = from_raw(logits, boxes, valid, float(output.count[n]), output.starts, size_hw, **options)
    arrays = {name: getattr(found, name) for name in ("boxes", "scores", "clicked")}
    return replace(found, **{name: torch.from_numpy(rows) for name, rows in arrays.items() if rows is not None})


def predict_coco(model: DEAL, data: CocoFolder, click_lists: Sequence[Json], **options: Any) -> list[list[Json]]:
    """COCO results (`to_rows`) for each click list; every category of every image from its own prompt; see `predict_prompts`."""
    results: list[list[Json]] = [[] for _ in click_lists]
    for k, prompt, found in predict_prompts(model, data, click_lists, **options):
        results[k] += to_rows(found, prompt["image_id"], prompt["category_id"])
    return results


def predict_prompts(
    model: DEAL,
    data: CocoFolder,
    click_lists: Sequence[Json],
    *,
    max_dets: int = 1500,
    overlap: float = DEFAULT_NMS,
    together: bool = False,
    rounds: int = 1,
    rescale: bool = False,
) -> Iterator[tuple[int, Json, Detections]]:
    """Which click list, prompt and detections, image by image; each image is encoded once for all lists.

    Args:
        overlap: IoU above which the weaker of two detections of one prompt is dropped; 1 keeps all.
        together: the prompts of one list in one image are rivals, see `compete`. rounds: see `surest`.
        rescale: see `next_scale`. Choice: off, since published scores are of one reading.
    """
    model = for_inference(model)
    options = {"limit": max_dets, "overlap": overlap, "rounds": rounds, "rescale": rescale}
    for index, prompts in prompted_images(data, click_lists):
        reading, sets = Reading(model, data[index].image), clicked_sets([prompt for _, prompt in prompts])
        found: dict[int, Detections] = {}
        for rows in batches([len(points) for points, *_ in sets]):
            found |= zip(rows, reading.answers([sets[i] for i in rows], **options), strict=True)
        for k in sorted({k for k, _ in prompts}) if together else ():
            rows = [i for i, (of_list, _) in enumerate(prompts) if of_list == k]
            found |= zip(rows, compete([found[i] for i in rows]), strict=True)
        for i, (k, prompt) in enumerate(prompts):
            yield k, prompt, found[i]


def prompted_images(
    data: CocoFolder, click_lists: Sequence[Json], done: Collection[int] = ()
) -> Iterator[tuple[int, list[tuple[int, Json]]]]:
    """Row of every image that a list prompts, and (which list, prompt) of its prompts; ids in `done` are left out."""
    by_image: dict[int, list[tuple[int, Json]]] = {}
    for k, clicks in enumerate(click_lists):
        for prompt in check_clicks(clicks)["prompts"]:
            by_image.setdefault(prompt["image_id"], []).append((k, prompt))
    todo = [i for i, image_id in enumerate(data.image_ids) if image_id in by_image and image_id not in done]
    for index in tqdm(todo, unit="img", desc=data.source, mininterval=2):
        yield index, by_image[data.image_ids[index]]


def clicked_sets(prompts: Sequence[Json]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Prompts of click lists as `read_prompts` gives them."""
    sizes = [p.get("sizes", [[0.0, 0.0]] * len(p["points"])) for p in prompts]
    return [
        (torch.tensor(p["points"], dtype=torch.float32), torch.tensor(p["labels"]), torch.tensor(of, dtype=torch.float32))
        for p, of in zip(prompts, sizes, strict=True)
    ]


def stack_clicks(prompts: Sequence[Json]) -> PointPrompts:
    """Prompts of click lists, all on one image, as a batch."""
    return stack_sets_of(clicked_sets(prompts))


def batches(counts: Sequence[int], largest: int = 8) -> Iterator[list[int]]:
    """Groups of prompt sets with similar numbers of points, so that padding costs little.

    >>> list(batches([1, 5, 1, 2], largest=2))
    [[0, 2], [3, 1]]
    """
    ordered = sorted(range(len(counts)), key=lambda n: counts[n])
    for start in range(0, len(ordered), largest):
        yield ordered[start : start + largest]
