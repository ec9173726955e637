"""Open models by others as baselines: OWLv2, Grounding DINO and SAM 3, from the local cache of Hugging Face, never downloaded.

`P` examples of a prompt, xyxy pixels of the original image. What each is told differs: OWLv2 and SAM 3 take the *box* of the
clicked object, Grounding DINO the *name* of its category and no click.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

from dealkit.boxes import to_xyxy
from dealkit.predict.detections import Detections

Find = Callable[[Tensor, Tensor, str], Detections]
"""(3, H, W) uint8 image, (P, 4) xyxy boxes of examples, name of their category -> detections."""

OPEN_MODELS = {
    "owlv2": ("Owlv2ForObjectDetection", "Owlv2Processor", "google/owlv2-base-patch16-ensemble", "4.35"),
    "grounding_dino": ("GroundingDinoForObjectDetection", "GroundingDinoProcessor", "IDEA-Research/grounding-dino-tiny", "4.40"),
    "sam3": ("Sam3Model", "Sam3Processor", "facebook/sam3", "5.0"),
}
"""Model and processor class in transformers, published weights, and the first release of transformers that has them."""


def load_open_model(kind: str, name: str | None = None) -> Find:
    """An open model of `OPEN_MODELS` as a `find` function, from the local cache of Hugging Face or the folder `name`.

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
    try:
        classes = (getattr(transformers, part) for part in (model_class, processor_class))
        model, processor = (part.from_pretrained(name, local_files_only=True) for part in classes)
    except (OSError, ValueError) as error:
        cache, reason = os.environ.get("HF_HOME", "~/.cache/huggingface"), " ".join(str(error).split())[:200]
        raise ValueError(
            f"{kind}: {name}: no {model_class} in that folder or in the local cache ({cache}); once, on a machine with access: "
            f"hf download {name} ({reason})"
        ) from None
    find = {"owlv2": find_owlv2, "grounding_dino": find_grounding_dino, "sam3": find_sam3}[kind]
    return partial(find, model=model.eval(), processor=processor)


@torch.inference_mode()
def find_owlv2(image: Tensor, boxes: Tensor, name: str, *, model: Any, processor: Any, overlap: float = 0.3) -> Detections:
    """Image-guided detection by OWLv2: what resembles one of the examples, each cut out as a query image; `name` is not used.

    Choice: scores are computed here, from the logits; transformers sets the best score of every image to 1, which spoils AP.
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
