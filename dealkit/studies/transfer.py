"""Click in one image, detect in the others: how far a saved prompt carries within a data set."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from dealkit.clicks import make_clicks
from dealkit.config import MIN_SCORE
from dealkit.data.coco import CocoFolder
from dealkit.evaluate.benchmark import mean_row
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, provenance, read_json, write_json
from dealkit.predict.detections import to_rows
from dealkit.predict.embedding import PromptEmbedding, mean_embedding
from dealkit.predict.predictor import Predictor


def draw_images(
    pairs: Sequence[tuple[int, int]], *, clicked: int, targets: int, seed: int
) -> dict[int, tuple[list[int], list[int]]]:
    """For each category id the images that are clicked, in order, and the others it is looked for in; image ids, drawn by seed.

    A category keeps at least one image to look in, so of few images fewer are clicked; of a single one none is.

    Args:
        pairs: every (image id, category id) that has an object.
        clicked: how many images to click. targets: how many others to look in, at most.

    Choice: ordered by a hash, as the clicks of an evaluation are: no other image of the file matters.

    >>> draw_images([(1, 5), (2, 5), (3, 5), (1, 9)], clicked=5, targets=5, seed=0)  # two of the three; 9 has no other image
    {5: ([3, 1], [2])}
    """
    by_category: dict[int, list[int]] = {}
    for image, category in sorted(set(pairs)):
        by_category.setdefault(category, []).append(image)
    drawn = {}
    for category, images in sorted(by_category.items()):
        order = sorted(images, key=lambda i: hashlib.sha256(f"{seed}/{category}/{i}".encode()).digest())
        n = min(clicked, len(images) - 1)
        if n:
            drawn[category] = order[:n], sorted(order[n : n + targets])
    return drawn


def transfer_source(predictor: Predictor, file: Path, *, clicked: int = 5, targets: int = 24, seed: int = 0) -> Json:
    """AP of one source's images prompted from elsewhere and by their own click.

    Returns:
        `pairs` looked in, and three rows of `ap50`, `ap75` and, with the object of the image's own click ignored,
        `ap50_ignored`, `ap75_ignored`: `own`, by a click in the image itself; `one`, by one click in another image; `mean`, by
        the mean of the clicks in up to `clicked` others.
    """
    data, truth = CocoFolder(file, file.parent / "images"), read_json(file)
    clicks = make_clicks(truth, setting="1/category", seed=seed)
    prompts = {(p["image_id"], p["category_id"]): p for p in clicks["prompts"]}
    drawn = draw_images(list(prompts), clicked=clicked, targets=targets, seed=seed)
    row = {image_id: i for i, image_id in enumerate(data.image_ids)}

    made: dict[int, dict[int, PromptEmbedding]] = {category: {} for category in drawn}  # by category, by image
    for image_id in tqdm(sorted({i for images, _ in drawn.values() for i in images}), desc=f"{data.source}: clicked", unit="img"):
        predictor.set_image(data[row[image_id]].image)
        for category in (c for c, (images, _) in drawn.items() if image_id in images):
            made[category][image_id] = predictor.embed(None, prompts[image_id, category]["points"])
    asked = {
        category: {"one": made[category][images[0]], "mean": mean_embedding([made[category][i] for i in images])}
        for category, (images, _) in drawn.items()
    }

    found: dict[str, list[Json]] = {"own": [], "one": [], "mean": []}
    for image_id in tqdm(sorted({i for _, images in drawn.values() for i in images}), desc=f"{data.source}: asked", unit="img"):
        predictor.set_image(data[row[image_id]].image)
        for category in (c for c, (_, images) in drawn.items() if image_id in images):
            found["own"] += to_rows(predictor.predict(prompts[image_id, category]["points"]), image_id, category)
            for name, embedding in asked[category].items():
                found[name] += to_rows(predictor.predict_embedding(embedding), image_id, category)

    looked = {(i, category) for category, (_, images) in drawn.items() for i in images}
    truth = {
        "images": [r for r in truth["images"] if r["id"] in {i for i, _ in looked}],
        "categories": [r for r in truth["categories"] if r["id"] in drawn],
        "annotations": [r for r in truth["annotations"] if (r["image_id"], r["category_id"]) in looked],
    }
    clicks = {**clicks, "prompts": [p for pair, p in prompts.items() if pair in looked]}
    scores: Json = {"pairs": len(looked)}
    for name, rows in found.items():
        results = evaluate(truth, rows, clicks)
        kept = {key: results["all"][key] for key in ("ap50", "ap75")}
        scores[name] = kept | {f"{key}_ignored": results["clicked_ignored"][key] for key in kept}
    return scores


def transfer(checkpoint: Path, files: list[Path], out: Path, *, clicked: int = 5, targets: int = 24, seeds: int = 1) -> Json:
    """How well a click in one image finds its kind in the other images of its source; writes and returns the results.

    Args:
        checkpoint: model weights.
        files: annotation files; images lie in `images` beside each, the folder's name is the source's.
        out: JSON to write: per source the means over seeds of `transfer_source`, and `mean` over sources.
        clicked: how many images the averaged prompt is made from.
        targets: how many other images each category is looked for in, at most.
        seeds: how many draws of clicks and images.
    """
    predictor = Predictor(checkpoint, threshold=MIN_SCORE)
    results: Json = {"checkpoint": Path(checkpoint).name, "clicked": clicked, "targets": targets, "seeds": seeds, "sources": {}}
    names = ("own", "one", "mean")
    for file in tqdm(files, desc="sources", unit="source"):
        runs = [transfer_source(predictor, file, clicked=clicked, targets=targets, seed=seed) for seed in range(seeds)]
        if runs[0]["pairs"]:
            results["sources"][file.parent.name] = {"pairs": runs[0]["pairs"]} | {
                n: mean_row([r[n] for r in runs]) for n in names
            }
    if not results["sources"]:
        raise ValueError(f"{', '.join(str(f) for f in files)}: expected a category that is in two images, found none")
    results["mean"] = {n: mean_row([source[n] for source in results["sources"].values()]) for n in names}
    write_json(out, {**results, "made_by": provenance()})
    return results
