"""Images too large for one pass: overlapping tiles, one click for all of them, every object once.

The click is embedded in the tile that shows it best, and the embedding is asked of every tile; one tile is in memory at a time,
and of a map (`Raster`) no more than that. Tiles that are black all over, as ground that was not seen, hold nothing.
Small tiles tell less well apart what is alike: take them as large as the memory allows, and no smaller than 256 px. `N` prompt
sets, `P` points, `D` width. Boxes and points are pixels of the whole image.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_area, clip_boxes_to_image
from tqdm import tqdm

from dealkit.boxes import overlapping, without_duplicates
from dealkit.config import DEFAULT_NMS, BuildConfig
from dealkit.data.coco import CocoFolder
from dealkit.data.raster import Raster, open_image
from dealkit.data.tiles import tile_windows
from dealkit.files import Json
from dealkit.model.deal import DEAL, Features, Output
from dealkit.model.encoder import STRIDES, cell_centres
from dealkit.model.fuse import for_inference
from dealkit.predict.detections import Detections, clicked_rows, in_image, reread, shown
from dealkit.predict.embedding import PromptEmbedding, check_model
from dealkit.predict.plain import Prompt, resized
from dealkit.predict.predictor import (
    Predictor,
    batches,
    detect,
    embed,
    encode_images,
    predict_prompts,
    prompted_images,
    read_prompts,
    stack_clicks,
    stack_sets_of,
    to_detections,
)
from dealkit.prompts import PointPrompts, without_clicks

Window = tuple[int, int, int, int]

CUT = 2.0
"""Pixels from a tile's inner edge within which a box counts as cut by it. Choice: boxes are right within a pixel or two."""

COVERED = 0.5
"""Share of a cut box that a whole box of another tile must cover to stand for it."""


def predict_large(
    predictor: Predictor,
    image: Any,
    prompts: Sequence[Prompt] = (),
    *,
    embedding: PromptEmbedding | None = None,
    tile: int = BuildConfig.tile,
    overlap: int = BuildConfig.overlap,
) -> list[Detections]:
    """`Predictor.predict_categories` in one round for an image of any size; the image that is set in the predictor stays set.

    Args:
        image: any form that `Predictor.set_image` takes, or a `Raster`, as which the file of a map is opened.
        prompts: as `Predictor.predict_categories`.
        embedding: instead of prompts: a kind that was clicked in another image.
        tile: side of a tile, pixels; an image that fits is one tile, and the result is that of `Predictor`. Where what was
            clicked is tiny or large, the image is read again at another scale, but not a map.
        overlap: pixels that tiles share: an object up to this size is whole in one of them; a larger one may be found in parts.

    Raises:
        ValueError: as `Predictor.predict_categories`; an overlap that is not smaller than the tile; prompts and an embedding.

    >>> from dealkit.config import ModelConfig
    >>> predictor = Predictor(DEAL(ModelConfig(hidden_dim=32, fine_dim=16)))
    >>> image = torch.zeros(3, 80, 100, dtype=torch.uint8)
    >>> isinstance(predict_large(predictor, image, [([[20, 30]], None)], tile=64, overlap=16)[0], Detections)
    True
    """
    pixels = open_image(image)
    options = {"tile": tile, "overlap": overlap}
    if embedding is None:
        size_hw = tuple(pixels.shape[1:])
        sets = read_prompts(prompts, size_hw)

        def ask(of: list[tuple], scale: float) -> list[Detections]:
            return predict_tiles(predictor.model, _at(pixels, scale), stack_sets_of(of), **options)

        again = predictor.rescale and isinstance(pixels, Tensor)
        return predictor.answers(reread(ask, sets, size_hw, again), sets, pixels)
    if prompts:
        raise ValueError("predict_large: expected prompts or an embedding, got both")
    check_model(embedding, predictor.model_hash, predictor.model.embedding_dim)
    scale = embedding.scale if isinstance(pixels, Tensor) else 1.0
    asked = {"embedding": embedding.vectors[None], **options}
    found = predict_tiles(predictor.model, _at(pixels, scale), without_clicks([0]), **asked)[0]
    return [replace(shown(in_image(found, scale), predictor.threshold), image=pixels, clicked=None)]


def _at(pixels: Tensor | Raster, scale: float) -> Tensor | Raster:
    """The image at a scale; a map only at its own."""
    return pixels if scale == 1 else torch.from_numpy(resized(pixels.numpy(), scale).copy())


def embed_large(
    predictor: Predictor, image: Any, prompt: Prompt, *, tile: int, overlap: int = BuildConfig.overlap
) -> PromptEmbedding:
    """`Predictor.embed` for an image of any size: every click is seen in the tile that shows it best.

    Raises:
        ValueError: as `Predictor.embed`; an overlap that is not smaller than the tile.

    >>> from dealkit.config import ModelConfig
    >>> predictor = Predictor(DEAL(ModelConfig(hidden_dim=32, fine_dim=16)))
    >>> embed_large(predictor, torch.zeros(3, 80, 100, dtype=torch.uint8), ([[20, 30]], None), tile=64, overlap=16).clicks
    1
    """
    pixels = open_image(image)
    sets = read_prompts([prompt], tuple(pixels.shape[1:]))
    windows = tile_windows(pixels.shape[2], pixels.shape[1], tile, overlap)
    with torch.inference_mode():
        vectors = _embed_sets(predictor.model, pixels, windows, stack_sets_of(sets).to(predictor.device))[0][0].cpu()
    return PromptEmbedding(vectors=vectors, clicks=len(sets[0][0]), model=predictor.model_hash)


def predict_coco_tiled(
    model: DEAL,
    data: CocoFolder,
    click_lists: Sequence[Json],
    *,
    tile: int = BuildConfig.tile,
    overlap: int = BuildConfig.overlap,
    done: Collection[int] = (),
    max_dets: int = 1500,
) -> Iterator[tuple[int, list[tuple[int, Json, Detections]]]]:
    """Image by image, but of those in `done`, its id and (which list, prompt, detections) for every prompt of all lists."""
    model = for_inference(model)
    for index, prompts in prompted_images(data, click_lists, done):
        stacked = stack_clicks([prompt for _, prompt in prompts])
        found = predict_tiles(model, data[index].image, stacked, tile=tile, overlap=overlap, limit=max_dets)
        yield data.image_ids[index], [(k, p, f) for (k, p), f in zip(prompts, found, strict=True)]


def predict_data_set(
    model: DEAL,
    data: CocoFolder,
    clicks: Json,
    done: Collection[int] = (),
    *,
    tile: int = 0,
    overlap: int = BuildConfig.overlap,
    **options: Any,
) -> Iterator[tuple[int, list[tuple[Json, Detections]]]]:
    """Image by image, but of those in `done`, its id and (prompt, detections) for every prompt; whole where `tile` is 0.

    `options` of images that are read whole: `rounds`, `rescale` and `together` of `predict_prompts`.
    """
    if tile:
        for image_id, found in predict_coco_tiled(model, data, [clicks], tile=tile, overlap=overlap, done=done):
            yield image_id, [(prompt, each) for _, prompt, each in found]
        return
    rest = {**clicks, "prompts": [prompt for prompt in clicks["prompts"] if prompt["image_id"] not in done]}
    for image_id, found in groupby(predict_prompts(model, data, [rest], **options), key=lambda each: each[1]["image_id"]):
        yield image_id, [(prompt, each) for _, prompt, each in found]


@torch.inference_mode()
def predict_tiles(
    model: DEAL,
    image: Tensor | Raster,
    prompts: PointPrompts,
    *,
    tile: int = BuildConfig.tile,
    overlap: int = BuildConfig.overlap,
    limit: int = 1500,
    embedding: Tensor | None = None,
) -> list[Detections]:
    """Detections of N prompt sets in one image, tile by tile; `count` sums the density over the image, every place once.

    Args:
        model: of `for_inference`. image: (3, H, W) uint8, or a map. prompts: in pixels of the image.
        limit: most detections of a set in one tile; where it was reached, `Detections.full` is True.
        embedding: (N, 2, E) of other images, instead of that of the points.
    """
    height, width = image.shape[1:]
    windows = tile_windows(width, height, tile, overlap)
    prompts = prompts.to(next(model.parameters()).device)
    kept: dict[Window, Features] = {}
    if embedding is None:
        embedding, kept = _embed_sets(model, image, windows, prompts)
    nothing = Detections(boxes=torch.zeros(0, 4), scores=torch.zeros(0))
    parts: list[list[tuple[Window, Detections, float]]] = [[((0, 0, 0, 0), nothing, 0.0)] for _ in range(len(prompts))]
    steps = tqdm(zip(windows, cores(windows), strict=True), total=len(windows), desc="tiles", unit="tile", delay=5, leave=False)
    for window, core in steps:
        if (features := kept.pop(window, None)) is None:
            if not (pixels := _cut_out(image, window)).any():
                continue
            features = encode_images(model, [pixels])
        size_hw = window[3] - window[1], window[2] - window[0]
        for rows in batches((prompts.labels >= 0).sum(1).tolist()):
            here = _in_window(prompts, rows, window)
            output = detect(model, features, here, embedding[rows].to(here.points.device))
            for i, (n, count) in enumerate(zip(rows, _count_in(output, core, window).tolist(), strict=True)):
                found = to_detections(output, i, size_hw, clicks=here.points.shape[1], limit=limit)
                parts[n].append((window, found, count))
    counts = [sum(count for *_, count in of_set) for of_set in parts]
    merged = [merge_tiles([part[:2] for part in of_set], (height, width)) for of_set in parts]
    return [replace(found, count=count) for found, count in zip(merged, counts, strict=True)]


def cores(windows: Sequence[Window]) -> list[tuple[float, float, float, float]]:
    """What each of an image's tiles answers for alone: xyxy with borders in the middle of the overlaps, without end outside.

    >>> cores([(0, 0, 100, 80), (60, 0, 160, 80)])
    [(-inf, -inf, 80.0, inf), (80.0, -inf, inf, inf)]
    """
    ends = []
    for axis in (0, 1):
        spans = sorted({w[axis::2] for w in windows})
        bounds = [-math.inf, *((after[0] + before[1]) / 2 for before, after in pairwise(spans)), math.inf]
        ends.append(dict(zip(spans, pairwise(bounds), strict=True)))
    pairs = [(ends[0][w[0::2]], ends[1][w[1::2]]) for w in windows]
    return [(x1, y1, x2, y2) for (x1, x2), (y1, y2) in pairs]


def merge_boxes(boxes: Tensor, scores: Tensor, tiles: Tensor, cut: Tensor, overlap: float = DEFAULT_NMS) -> Tensor:
    """Rows that stay of what several tiles found, strongest first.

    A box that an inner edge of its tile cuts is what a tile sees of an object beyond its edge. Of two boxes with an IoU above
    `overlap` the one that is not cut stays, of equals the stronger. A cut box goes if a box of another tile that is not cut, or
    larger, covers half of it. A single tile, without duplicates, keeps all its boxes.

    Args:
        boxes: (N, 4) xyxy. scores: (N,). tiles: (N,) int64, where each was found. cut: (N,) bool.

    >>> boxes = torch.tensor([[90.0, 0, 100, 10], [90.0, 0, 110, 10], [92.0, 0, 110, 10]])  # half of an object, and it, twice
    >>> merge_boxes(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 2]), torch.tensor([True, False, False])).tolist()
    [1]
    """
    order = (scores + (~cut).float()).argsort(descending=True, stable=True)  # scores are at most 1: what is not cut comes first
    a, b, shared, iou = overlapping(boxes)
    stays, area = without_duplicates(order.argsort(), a[iou > overlap], b[iou > overlap]), box_area(boxes)
    rivals = stays[a] & stays[b] & (tiles[a] != tiles[b])
    for part, other in ((a, b), (b, a)):
        better = cut[part] & (~cut[other] | (area[other] > area[part])) & (shared / area[part].clamp(min=1e-6) >= COVERED)
        stays[part[rivals & better]] = False
    keep = order[stays[order]]
    return keep[scores[keep].argsort(descending=True, stable=True)]


def _cut_out(image: Tensor | Raster, window: Window) -> Tensor:
    x1, y1, x2, y2 = window
    return image[:, y1:y2, x1:x2]


def _in_window(prompts: PointPrompts, rows: list[int], window: Window, only: Tensor | None = None) -> PointPrompts:
    """These sets in pixels of a tile; points outside it, or not in `only` (N, P), are padding."""
    points, labels = prompts.points[rows], prompts.labels[rows]
    low, high = points.new_tensor(window[:2]), points.new_tensor(window[2:])
    inside = ((points >= low) & (points <= high)).all(-1) if only is None else only[rows]
    return PointPrompts(
        points=torch.where(inside[..., None], points - low, 0.0),
        labels=torch.where(inside, labels, -1),
        image_index=prompts.image_index[rows],
        sizes=torch.where(inside[..., None], prompts.sizes[rows], 0.0),
        embedded=True,
    )


def _embed_sets(
    model: DEAL, image: Tensor | Raster, windows: Sequence[Window], prompts: PointPrompts
) -> tuple[Tensor, dict[Window, Features]]:
    """Embeddings (N, 2, D), each click seen in the tile where it is farthest from an edge within the image, and the features of
    the only tile if there is one.

    Clicks of one set in several tiles are averaged, as the model averages those of one image.
    """
    points, labels = prompts.points, prompts.labels
    box = points.new_tensor(windows)  # (T, 4)
    margin = torch.cat([points[:, :, None] - box[:, :2], box[:, 2:] - points[:, :, None]], dim=-1)  # (N, P, T, 4)
    height, width = image.shape[1:]
    outer = box == box.new_tensor([0, 0, width, height])
    best = margin.masked_fill(outer & (margin >= 0), math.inf).amin(-1).argmax(-1)  # (N, P)
    total, weights, kept = 0.0, 0.0, {}
    for t in sorted(set(best[labels >= 0].tolist())):
        features = encode_images(model, [_cut_out(image, windows[t])])
        mine = (best == t) & (labels >= 0)
        rows = mine.any(1).nonzero()[:, 0]
        vectors = embed(model, features, _in_window(prompts, rows.tolist(), windows[t], mine))
        seen = torch.stack([mine & (labels == 1), mine & (labels == 0)], dim=1).sum(-1).float()[..., None]  # (N, 2, 1)
        spread = vectors.new_zeros(len(points), *vectors.shape[1:])
        spread[rows] = vectors
        total, weights = total + spread * seen, weights + seen
        if len(windows) == 1:
            kept[windows[t]] = features
    return total / weights.clamp(min=1), kept


def _count_in(output: Output, core: tuple[float, float, float, float], window: Window) -> Tensor:
    """(N,) objects that the density sums to within a core."""
    total = torch.zeros_like(output.count)
    for level, stride in ((output.activation, STRIDES[0]), (output.large, STRIDES[2])):
        if level is not None:
            centres = cell_centres(*level.density.shape[-2:], stride, level.density.device)
            x, y = (centres + centres.new_tensor(window[:2])).unbind(-1)
            inside = (x >= core[0]) & (x < core[2]) & (y >= core[1]) & (y < core[3])
            total += (level.density * inside).flatten(1).sum(1)
    return total


def merge_tiles(parts: Sequence[tuple[Window, Detections]], size_hw: tuple[int, int]) -> Detections:
    """One kind's detections in all tiles, boxes in pixels of their tile, as one image's; see `merge_boxes`.

    >>> box, found = torch.tensor([[90.0, 0.0, 100.0, 10.0]]), torch.tensor([0.5])
    >>> parts = [((0, 0, 100, 50), Detections(boxes=box, scores=found)), ((80, 0, 180, 50), Detections(boxes=box, scores=found))]
    >>> merge_tiles(parts, (50, 180)).boxes.tolist()
    [[170.0, 0.0, 180.0, 10.0], [90.0, 0.0, 100.0, 10.0]]
    """
    boxes, cut, clicked = [], [], []
    for (x1, y1, x2, y2), found in parts:
        at_edge = torch.cat([found.boxes[:, :2] <= CUT, found.boxes[:, 2:] >= torch.tensor([x2 - x1, y2 - y1]) - CUT], dim=1)
        inner = torch.tensor([x1 > 0, y1 > 0, x2 < size_hw[1], y2 < size_hw[0]])
        cut.append((at_edge & inner).any(1))
        boxes.append(found.boxes + found.boxes.new_tensor([x1, y1, x1, y1]))
        clicked.append(torch.zeros(len(found), dtype=torch.bool) if found.clicked is None else found.clicked)
    every, scores = torch.cat(boxes), torch.cat([found.scores for _, found in parts])
    tiles = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(b) for b in boxes]))
    keep = merge_boxes(every, scores, tiles, torch.cat(cut))
    certain = [found.certain for _, found in parts if found.certain is not None]
    return Detections(
        boxes=clip_boxes_to_image(every[keep], size_hw),
        scores=scores[keep],
        clicked=torch.from_numpy(clicked_rows(every, torch.cat(clicked), keep)),
        certain=max(certain) if certain else None,
        full=any(found.full for _, found in parts),
    )
