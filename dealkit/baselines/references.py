"""Training-free references: what one example finds without a detector of ours: template matching, and open models by others.

`P` examples of a prompt, xyxy pixels of the original image. Every reference is a function `find(image, boxes, name)` that gives
the `Detections` of one prompt, and all are scored by the same click lists and the same evaluator as DEAL. Template matching
needs nothing but scikit-image. OWLv2, Grounding DINO and SAM 3 are read from the local cache of Hugging Face, never downloaded.

What each is told differs, and is said with its scores: OWLv2 and SAM 3 take the *box* of the clicked object, Grounding DINO the
*name* of its category and no click; template matching takes the box, or the click alone with `estimate_box`.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from skimage.feature import match_template, peak_local_max
from skimage.transform import AffineTransform, warp
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms
from tqdm.auto import tqdm

from dealkit.boxes import to_xyxy
from dealkit.clicks import check_clicks, clicks_hash, make_clicks
from dealkit.data.coco import CocoFolder
from dealkit.evaluate.benchmark import row_of
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, Results, read_json
from dealkit.predict.detections import Detections, to_rows

Array = np.ndarray
Find = Callable[[Tensor, Tensor, str], Detections]
"""(3, H, W) uint8 image, (P, 4) xyxy boxes of examples, name of their category -> detections."""

SCALES = (1.0,)
"""Sizes of the template relative to the example. Choice: on training images of the real sources a template that is also scaled
and turned finds more false matches than objects."""

TURNS = 1
"""Rotations of the template, equally spaced: 4 for quarter turns, 8 for eighth turns. Choice: as `SCALES`."""

MARGIN = 0.25
"""What the template shows around the example, as a share of its sides: without an edge a spot of a few pixels looks like any."""

LEAST = 0.3
"""Correlations under it are never written."""

OVERLAP = 0.3
"""IoU above which the weaker of two matches is dropped."""

SIDES = (4, 6, 8, 11, 16, 23, 32, 45, 64)
"""Sides in pixels that `estimate_box` chooses from, half an octave apart."""

VARIANTS: dict[str, Json] = {
    "box": {},
    "click": {},
    "box, scaled and turned": {"scales": (0.8, 1.0, 1.25), "turns": 4},
}
"""Ways of `benchmark_templates`: what the method is shown, and how its templates vary."""


def match_box(
    image: Tensor,
    boxes: Tensor,
    *,
    scales: Sequence[float] = SCALES,
    turns: int = TURNS,
    margin: float = MARGIN,
    least: float = LEAST,
    overlap: float = OVERLAP,
    max_dets: int = 1500,
) -> Detections:
    """Everything that looks like one of the examples, by normalised cross-correlation of grey values.

    Each example is cut out, turned and scaled, and correlated with the whole image; local maxima of the correlation become boxes
    of its turned and scaled size, and of those that overlap the strongest stays. The score is the correlation. The examples
    themselves are returned with a score of 1, since whoever drew them knows them.

    Args:
        image: (3, H, W) uint8.
        boxes: (P, 4) xyxy pixels.
        scales, turns, margin, least, overlap: see `SCALES`, `TURNS`, `MARGIN`, `LEAST`, `OVERLAP`.
        max_dets: most boxes returned.

    Choice: grey values, as the classical method has; colour costs fourteen times as much in `match_template`. A template under
    3 px or without any contrast is passed over, as it correlates with everything or nothing.

    >>> image = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    >>> for x in (5, 30, 50):
    ...     image[:, 10:16, x : x + 6] = 200
    >>> match_box(image, torch.tensor([[5.0, 10.0, 11.0, 16.0]])).above(0.9).boxes[:, 0].sort().values
    tensor([ 5., 30., 50.])
    """
    height, width = image.shape[-2:]
    grey = to_grey(image)
    found, scores = [boxes.float().reshape(-1, 4)], [torch.ones(len(boxes))]
    for box in boxes.tolist():
        for turn in range(turns):
            for scale in scales:
                template, size_wh = cut_template(grey, box, angle=2 * np.pi * turn / turns, scale=scale, margin=margin)
                if min(template.shape) < 3 or template.shape[0] > height or template.shape[1] > width or np.ptp(template) < 1e-3:
                    continue
                response = match_template(grey, template)
                peaks = peak_local_max(
                    response, min_distance=1, threshold_abs=least, exclude_border=False, num_peaks=2 * max_dets
                )
                centre = peaks[:, ::-1] + np.array(template.shape[::-1]) / 2  # x, y
                half = np.array(size_wh) / 2
                found.append(torch.from_numpy(np.concatenate([centre - half, centre + half], 1)).float())
                scores.append(torch.from_numpy(response[tuple(peaks.T)]).float())
    every, score = clip_boxes_to_image(torch.cat(found), (height, width)), torch.cat(scores).clamp(max=1.0)
    keep = nms(every, score, overlap)[:max_dets]
    return Detections(boxes=every[keep], scores=score[keep], image=image)


def cut_template(
    grey: Array, box: Sequence[float], *, angle: float = 0.0, scale: float = 1.0, margin: float = 0.0
) -> tuple[Array, tuple[float, float]]:
    """An example as a template: what `grey` (H, W) shows in the box and its margin, turned by `angle` radians and scaled.

    Returns:
        the template (h, w), and width and height of the turned and scaled object in it, pixels.

    Choice: a turned object has the size of the ellipse in its box, turned: right at quarter turns, and for round objects at all.

    >>> grey = np.arange(48, dtype=np.float32).reshape(6, 8)
    >>> template, size_wh = cut_template(grey, [2, 1, 5, 3])
    >>> bool((template == grey[1:3, 2:5]).all()), size_wh
    (True, (3.0, 2.0))
    """
    x1, y1, x2, y2 = box
    w, h, cos, sin = x2 - x1, y2 - y1, np.cos(angle), np.sin(angle)
    size = scale * np.hypot(w * cos, h * sin), scale * np.hypot(w * sin, h * cos)
    # an even number of pixels of margin, so that a box on whole pixels is cut out, not interpolated
    shape = [max(round(float(side)), 1) + 2 * round(float(margin * side)) for side in size[::-1]]
    centre = AffineTransform(translation=(-(shape[1] - 1) / 2, -(shape[0] - 1) / 2))
    turned = AffineTransform(rotation=-angle, scale=1 / scale)
    back = AffineTransform(translation=((x1 + x2 - 1) / 2, (y1 + y2 - 1) / 2))
    template = warp(grey, centre + turned + back, output_shape=shape, order=1, mode="edge", preserve_range=True)
    return template.astype(np.float32), (float(size[0]), float(size[1]))


def estimate_box(image: Tensor, point: Sequence[float], sides: Sequence[float] = SIDES) -> Tensor:
    """What a click alone says about the box: the square round it whose inside differs most from what surrounds it.

    Of each side the mean colour inside is compared with that of the ring out to √2 times the side, which has the same area; the
    side with the largest difference (sum over channels) times the root of the side is taken, of equal ones the smallest.

    Args:
        image: (3, H, W) uint8. point: x, y pixels.

    Returns:
        (4,) xyxy, clipped to the image.

    Choice: the centre-surround rule of blob detectors. The root, found on training images, keeps it from taking the texture
    inside an object for the object; without it, or with the side itself, fewer estimates overlap their object by half.

    >>> image = torch.zeros(3, 60, 60, dtype=torch.uint8)
    >>> image[:, 22:38, 22:38] = 255
    >>> estimate_box(image, [30, 30])
    tensor([22., 22., 38., 38.])
    """
    height, width = image.shape[-2:]
    sums = np.zeros((image.shape[0], height + 1, width + 1))
    sums[:, 1:, 1:] = image.numpy().astype(np.float64).cumsum(1).cumsum(2)
    x, y = point

    def total(side: float) -> tuple[Array, int]:
        x1, x2 = (int(round(min(max(v, 0), width))) for v in (x - side / 2, x + side / 2))
        y1, y2 = (int(round(min(max(v, 0), height))) for v in (y - side / 2, y + side / 2))
        return sums[:, y2, x2] - sums[:, y1, x2] - sums[:, y2, x1] + sums[:, y1, x1], (x2 - x1) * (y2 - y1)

    def contrast(side: float) -> float:
        (inner, area), (outer, whole) = total(side), total(side * 2**0.5)
        if not area or whole <= area:
            return 0.0
        return side**0.5 * float(np.abs(inner / area - (outer - inner) / (whole - area)).sum())

    best = max(sides, key=contrast)
    box = torch.tensor([[x - best / 2, y - best / 2, x + best / 2, y + best / 2]], dtype=torch.float32)
    return clip_boxes_to_image(box, (height, width))[0]


def to_grey(image: Tensor) -> Array:
    """(3, H, W) uint8 -> (H, W) float32 luma, 0 to 1 (ITU-R BT.601)."""
    weights = torch.tensor([0.299, 0.587, 0.114])
    return (torch.einsum("chw,c->hw", image.float(), weights) / 255).numpy()


OPEN_MODELS = {
    "owlv2": ("Owlv2ForObjectDetection", "Owlv2Processor", "google/owlv2-base-patch16-ensemble", "4.35"),
    "grounding_dino": ("GroundingDinoForObjectDetection", "GroundingDinoProcessor", "IDEA-Research/grounding-dino-tiny", "4.40"),
    "sam3": ("Sam3Model", "Sam3Processor", "facebook/sam3", "5.0"),
}
"""Model and processor class in transformers, published weights, and the first release of transformers that has them."""


def load_open_model(kind: str, name: str | None = None) -> Find:
    """An open model by others as a `find` function, from the local cache of Hugging Face or a folder; nothing is downloaded.

    Args:
        kind: `owlv2` (one call per example), `grounding_dino` or `sam3`.
        name: published name or folder of its weights and processor; by default that of `OPEN_MODELS`.

    Raises:
        ValueError: an unknown kind, a transformers without it, or weights that are not there: says which and how to get them.
    """
    if kind not in OPEN_MODELS:
        raise ValueError(f"reference: expected one of {', '.join(OPEN_MODELS)}, got {kind!r}")
    model_class, processor_class, published, since = OPEN_MODELS[kind]
    name = published if name is None else str(name)
    try:
        import transformers
    except ImportError:
        raise ValueError(f"{kind}: needs transformers {since} or newer: pip install 'transformers>={since}'") from None
    if not hasattr(transformers, model_class):
        raise ValueError(
            f"{kind}: transformers {transformers.__version__} has no {model_class}: pip install 'transformers>={since}'"
        )
    parts = []
    for part in (model_class, processor_class):
        try:
            parts.append(getattr(transformers, part).from_pretrained(name, local_files_only=True))
        except (OSError, ValueError) as error:
            cache = os.environ.get("HF_HOME", "~/.cache/huggingface")
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{kind}: {name}: no {part} in that folder or in the local cache ({cache}); once, on a machine with access: "
                f"hf download {name} ({reason})"
            ) from None
    model, processor = parts
    find = {"owlv2": find_owlv2, "grounding_dino": find_grounding_dino, "sam3": find_sam3}[kind]
    return partial(find, model=model.eval(), processor=processor)


@torch.inference_mode()
def find_owlv2(image: Tensor, boxes: Tensor, name: str, *, model: Any, processor: Any, overlap: float = OVERLAP) -> Detections:
    """Image-guided detection by OWLv2: what resembles one of the examples, each cut out as a query image; `name` is not used.

    Choice: scores and duplicates are computed here, from the logits. `post_process_image_guided_detection` of transformers sets
    the best score of every image to 1, which makes scores of different images incomparable, and AP with them.
    """
    height, width = image.shape[-2:]
    found, scores = [], []
    pixels = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
    for x1, y1, x2, y2 in boxes.tolist():
        query = image[:, int(y1) : max(int(np.ceil(y2)), int(y1) + 1), int(x1) : max(int(np.ceil(x2)), int(x1) + 1)]
        query_pixels = processor.image_processor(images=[query], return_tensors="pt")["pixel_values"]
        output = model.image_guided_detection(pixel_values=pixels, query_pixel_values=query_pixels)
        # boxes are shares of the image padded to a square at the bottom and on the right
        found.append(to_xyxy(output.target_pred_boxes[0]) * max(height, width))
        scores.append(output.logits[0].amax(-1).sigmoid())
    return _as_detections(torch.cat(found), torch.cat(scores), image, overlap)


@torch.inference_mode()
def find_grounding_dino(image: Tensor, boxes: Tensor, name: str, *, model: Any, processor: Any) -> Detections:
    """What Grounding DINO finds for the *name* of the category, in lower case with a full stop as it was trained; no click."""
    inputs = processor(images=[image], text=[name.strip().lower().rstrip(".") + "."], return_tensors="pt")
    output = model(**inputs)
    sizes = [tuple(image.shape[-2:])]
    found = processor.post_process_grounded_object_detection(
        output, inputs["input_ids"], threshold=0.0, text_threshold=0.0, target_sizes=sizes
    )[0]
    return _as_detections(found["boxes"], found["scores"], image)


@torch.inference_mode()
def find_sam3(image: Tensor, boxes: Tensor, name: str, *, model: Any, processor: Any) -> Detections:
    """What SAM 3 finds for the boxes of the examples, without a word; at most its 200 queries. `name` is not used."""
    labels = [[1] * len(boxes)]
    inputs = processor(images=[image], input_boxes=[boxes.tolist()], input_boxes_labels=labels, return_tensors="pt")
    output = model(**inputs)
    found = processor.post_process_object_detection(output, threshold=0.0, target_sizes=[tuple(image.shape[-2:])])[0]
    return _as_detections(found["boxes"], found["scores"], image)


def _as_detections(boxes: Tensor, scores: Tensor, image: Tensor, overlap: float = 1.0) -> Detections:
    """Boxes clipped to the image, those without area left out, strongest first, duplicates above `overlap` dropped."""
    boxes = clip_boxes_to_image(boxes.float().cpu(), tuple(image.shape[-2:]))
    area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    boxes, scores = boxes[area], scores.float().cpu()[area]
    keep = nms(boxes, scores, overlap)[:1500]
    return Detections(boxes=boxes[keep], scores=scores[keep], image=image)


def reference_rows(find: Find, data: CocoFolder, clicks: Json, *, given: Literal["box", "click"] = "box") -> list[Json]:
    """COCO results of a reference for a click list: records as `predict_coco` gives them.

    Args:
        given: `box`: the reference is shown the annotated box of each clicked object; `click`: only `estimate_box` of the click.
    """
    if given not in ("box", "click"):
        raise ValueError(f"given: expected box or click, got {given!r}")
    names, row = dict(data.categories), {image_id: i for i, image_id in enumerate(data.image_ids)}
    box_of = dict(zip(data.annotation_ids.tolist(), data.boxes, strict=True))
    rows = []
    for prompt in tqdm(check_clicks(clicks)["prompts"], desc=f"{data.source}: {given}", unit="prompt", mininterval=2):
        image = data[row[prompt["image_id"]]].image
        points = [xy for xy, label in zip(prompt["points"], prompt["labels"], strict=True) if label]
        if given == "box":
            boxes = torch.stack([box_of[i] for i in prompt["annotation_ids"]])
        else:
            boxes = torch.stack([estimate_box(image, xy) for xy in points])
        rows += to_rows(find(image, boxes, names[prompt["category_id"]]), prompt["image_id"], prompt["category_id"])
    return rows


def benchmark_templates(
    files: Sequence[Path], out: Path | None, *, variants: Sequence[str] = ("box", "click"), seeds: int = 1
) -> Results:
    """Template matching and open models on COCO sources, one click per category at the centre: rows by source, variant, seed.

    Same protocol, click lists and columns as `benchmark`, so the two stand side by side. What `out` already holds is not run
    again, also when variants or seeds are added.

    Args:
        files: annotation files; images lie in `images` beside each, the folder's name is the source's.
        variants: keys of `VARIANTS` or `OPEN_MODELS`. seeds: click lists of each.

    Raises:
        ValueError: an unknown variant, or an open model whose weights are not in the local cache; before anything is run.
    """
    unknown = [name for name in variants if name not in {*VARIANTS, *OPEN_MODELS}]
    if unknown:
        raise ValueError(f"variants: expected some of {'; '.join([*VARIANTS, *OPEN_MODELS])}, got {unknown[0]!r}")
    finders: dict[str, Find] = {v: load_open_model(v) for v in variants if v in OPEN_MODELS}
    finders |= {
        v: lambda image, boxes, _, options=VARIANTS[v]: match_box(image, boxes, **options) for v in variants if v in VARIANTS
    }
    request = {"method": "template matching", "setting": "1/category", "kind": "centre", "margin": MARGIN, "least": LEAST}
    request |= {"overlap": OVERLAP, "sides": list(SIDES), "scales": list(SCALES), "turns": TURNS}
    results, of_source = Results(out, request), {file.parent.name: file for file in files}
    keys = [{"source": s, "variant": v, "seed": i} for i in range(seeds) for v in variants for s in of_source]
    for key in results.todo(keys, "template matching"):
        file = of_source[key["source"]]
        truth, data = read_json(file), CocoFolder(file, file.parent / "images")
        clicks = make_clicks(truth, setting="1/category", seed=key["seed"])
        given = "click" if key["variant"] == "click" else "box"
        found = reference_rows(finders[key["variant"]], data, clicks, given=given)
        about = {"clicks": clicks_hash(clicks), "images": len(data), "objects": len(data.boxes)}
        results.add(key, about | row_of(evaluate(truth, found, clicks)))
    return results
