"""How far does a prompt carry: a click in one image, asked of the others of its source, and of every other source?

A source is a folder with `train.json`, `val.json` and `images/`. The prompt `own` is a click in the asked image itself.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from dealkit.clicks import make_clicks
from dealkit.config import MIN_SCORE
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import in_order, part_of
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, Results, sha_of
from dealkit.predict.detections import to_rows
from dealkit.predict.embedding import PromptEmbedding, mean_embedding
from dealkit.predict.predictor import Predictor
from dealkit.studies.source_pairs import source_distances

OWN = "own"
"""The prompt that is a click in the asked image itself."""


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


def ask_prompts(
    predictor: Predictor, data: CocoFolder, truth: Json, clicks: Json, prompts: Mapping[int, Mapping[str, PromptEmbedding]]
) -> dict[str, Json]:
    """Results of `evaluate` by prompt: `own`, the clicks, and the embeddings by name, asked where the click list asks.

    Args:
        truth, clicks: what is scored, of `data`. prompts: by category id, then name.
    """
    found: dict[str, list[Json]] = {name: [] for name in (OWN, *next(iter(prompts.values())))}
    asked = sorted(clicks["prompts"], key=lambda p: (p["image_id"], p["category_id"]))
    for image_id, of_image in groupby(tqdm(asked, desc=f"{data.source}: asked", unit="prompt"), lambda p: p["image_id"]):
        predictor.set_image(data[data.image_ids.index(image_id)].image)
        for prompt in of_image:
            category = prompt["category_id"]
            found[OWN] += to_rows(predictor.predict(prompt["points"]), image_id, category)
            for name, embedding in prompts[category].items():
                found[name] += to_rows(predictor.predict_embedding(embedding), image_id, category)
    return {name: evaluate(truth, rows, clicks) for name, rows in found.items()}


def within_source(predictor: Predictor, file: Path, *, clicked: int = 5, targets: int = 24, seed: int = 0) -> list[Json]:
    """A row per prompt: `own`, `one`, a click in another image, and `mean`, the mean of clicks in up to `clicked` others.

    A row holds `pairs`, the image-category pairs looked in, `ap50`, `ap75` and, with the object of the image's own click ignored,
    `ap50_ignored`, `ap75_ignored`. Empty where no category is in two images.
    """
    data, truth = CocoFolder(file), read_coco(file)
    clicks = make_clicks(truth, setting="1/category", seed=seed)
    points = {(p["image_id"], p["category_id"]): p["points"] for p in clicks["prompts"]}
    drawn = draw_images(list(points), clicked=clicked, targets=targets, seed=seed)
    if not drawn:
        return []
    made: dict[int, dict[int, PromptEmbedding]] = {category: {} for category in drawn}  # by category, by image
    for image_id in tqdm(sorted({i for images, _ in drawn.values() for i in images}), desc=f"{data.source}: clicked", unit="img"):
        predictor.set_image(data[data.image_ids.index(image_id)].image)
        for category in (c for c, (images, _) in drawn.items() if image_id in images):
            made[category][image_id] = predictor.embed(None, points[image_id, category])
    prompts = {
        category: {"one": made[category][images[0]], "mean": mean_embedding([made[category][i] for i in images])}
        for category, (images, _) in drawn.items()
    }
    looked = {(i, category) for category, (_, images) in drawn.items() for i in images}
    truth = part_of(truth, images=[i for i, _ in looked], categories=drawn)
    parts = [
        part | {name: [row for row in part[name] if (row["image_id"], row["category_id"]) in looked]}
        for part, name in ((truth, "annotations"), (clicks, "prompts"))
    ]
    rows = []
    for name, scores in ask_prompts(predictor, data, *parts, prompts).items():
        row = {"prompt": name, "seed": seed, "pairs": len(looked)} | {key: scores["all"][key] for key in ("ap50", "ap75")}
        rows.append(row | {f"{key}_ignored": scores["clicked_ignored"][key] for key in ("ap50", "ap75")})
    return rows


def transfer_scores(
    checkpoint: Path, files: Sequence[Path], out: Path | None, *, clicked: int = 5, targets: int = 24, seeds: int = 1
) -> Results:
    """How well a click in one image finds its kind in the other images of its source: rows of `within_source` by `source`.

    Args:
        files: annotation files; images lie in `images` beside each, the folder's name is the source's.
        out: JSON to go on with. clicked: images that the mean prompt is made from.
        targets: other images that each category is looked for in, at most. seeds: draws of clicks and images.

    Raises:
        ValueError: no file has a category that is in two images; names them.
    """
    request = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "clicked": clicked, "targets": targets}
    made, predictor = Results(out, request | {"seeds": seeds}), Predictor(checkpoint, threshold=MIN_SCORE)
    for key, file in made.sources(files):
        draws = [within_source(predictor, file, clicked=clicked, targets=targets, seed=seed) for seed in range(seeds)]
        made.add(key, *(row for rows in draws for row in rows))
    if not made.rows:
        raise ValueError(f"{', '.join(map(str, files))}: expected a category that is in two images, found none")
    return made


def main_category(truth: Json) -> tuple[int, str]:
    """Id and name of the category with the most objects; of equals the one with the lower id."""
    counts = {row["id"]: 0 for row in truth["categories"]}
    for a in truth["annotations"]:
        counts[a["category_id"]] += not a.get("iscrowd")
    chosen = max(sorted(counts), key=counts.get)
    return chosen, next(row["name"] for row in truth["categories"] if row["id"] == chosen)


def prompt_of(predictor: Predictor, folder: Path, *, clicked: int, seed: int = 0) -> tuple[PromptEmbedding, str]:
    """One prompt for a source's main category: the mean of a click in each of up to `clicked` training images; and its name."""
    truth = read_coco(folder / "train.json")
    category, name = main_category(truth)
    clicks = make_clicks(part_of(truth, categories=[category]), setting="1/category", seed=seed)
    points = {p["image_id"]: p["points"] for p in clicks["prompts"]}
    data = CocoFolder(folder / "train.json")
    chosen = in_order(points, seed)[:clicked]
    return mean_embedding([predictor.embed(data[data.image_ids.index(i)].image, points[i]) for i in chosen]), name


def prompt_matrix(
    checkpoint: Path, root: Path, sources: Sequence[str], *, clicked: int = 5, images: int = 8, results: Path | None = None
) -> Results:
    """AP50 of a source's main category when it is asked for with a prompt from another: a row per `from` and `to`.

    A high value says that two sources' kinds look alike to the model, or that `to` has nothing else to answer with. A row holds
    the `distance` of the sources, too. Rows `from` own, a click in each image itself, hold the `category` instead.

    Args:
        clicked: training images of `from` that the prompt is the mean of. images: validation images of `to`, at most.
    """
    predictor, root = Predictor(checkpoint, threshold=MIN_SCORE), Path(root)
    request = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "clicked": clicked, "images": images}
    table = Results(results, request | {"sources": sorted(sources)})
    if {row["to"] for row in table.rows} == set(sources):
        return table
    made = {a: prompt_of(predictor, root / a, clicked=clicked) for a in tqdm(sources, desc="prompts", unit="source")}
    distance = source_distances(predictor, root, sources, images=images)
    for key in table.todo([{"to": b} for b in sources], "asked"):
        b = key["to"]
        truth, name = read_coco(root / b / "val.json"), made[b][1]
        category = next((row["id"] for row in truth["categories"] if row["name"] == name), None)
        if category is None:
            raise ValueError(f"{root / b / 'val.json'}: expected the category {name!r} of train.json")
        truth = part_of(truth, categories=[category])
        filled = {a["image_id"] for a in truth["annotations"] if not a.get("iscrowd")}
        truth = part_of(truth, images=in_order(filled, 0)[:images])
        clicks = make_clicks(truth, setting="1/category", seed=0)
        data = CocoFolder(root / b / "val.json")
        scores = ask_prompts(predictor, data, truth, clicks, {category: {a: prompt for a, (prompt, _) in made.items()}})
        ap50 = {a: of["all"]["ap50"] for a, of in scores.items()}
        table.add(key, {"from": OWN, "category": name, "ap50": ap50.pop(OWN)})
        table.add(key, *({"from": a, "ap50": value, "distance": distance[a, b]} for a, value in ap50.items()))
    return table
