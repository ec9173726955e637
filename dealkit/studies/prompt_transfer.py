"""From source to source: how far apart they are to the encoder, whose prompts they answer to, what adapting to one does to
another.

A source is a folder with `train.json`, `val.json` and `images/`. `A` is the source that a prompt or an adaptation comes from, `B`
the one that is tested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from dealkit.clicks import make_clicks
from dealkit.config import MIN_SCORE, RunConfig, portable
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import in_order, some_images
from dealkit.evaluate.coco import evaluate
from dealkit.files import Json, provenance, read_json, sha_of, write_json
from dealkit.model.encoder import STRIDES
from dealkit.predict.detections import to_rows
from dealkit.predict.embedding import PromptEmbedding, mean_embedding
from dealkit.predict.predictor import Predictor
from dealkit.studies.adaptation import adapted
from dealkit.studies.dior_dota import of_categories, of_images
from dealkit.studies.runs import scored

Matrix = dict[str, dict[str, float]]

LEVEL = 2
"""Level of the encoder that distances are measured on: stride 16. Choice: fine enough for small objects' surroundings, coarse
enough to hold what kind of picture it is."""


def image_features(predictor: Predictor, data: CocoFolder, images: int) -> NDArray[np.float64]:
    """Encoder features (cells, D) of up to `images` images, padding left out."""
    index = {image_id: i for i, image_id in enumerate(data.image_ids)}
    cells = []
    for image_id in in_order(data.image_ids, 0)[:images]:
        sample = data[index[image_id]]
        predictor.set_image(sample.image)
        height, width = (-(-side // STRIDES[LEVEL]) for side in sample.image.shape[1:])
        feature = predictor.features.maps[LEVEL][0, :, :height, :width].float().cpu()
        cells.append(feature.flatten(1).T.numpy())
    return np.concatenate(cells).astype(np.float64)


def frechet_distance(a: NDArray, b: NDArray) -> float:
    """Squared Fréchet distance between normal distributions fitted to two sets of features, (n, D) and (m, D), n and m above 1.

    |mean a - mean b|² + tr(A + B - 2 (A^½ B A^½)^½), A and B the covariances: 0 for the same set, symmetric.

    Source: Heusel et al., arXiv 1706.08500 (FID), on our encoder's features instead of Inception's.

    >>> a = np.array([[-1.0], [1.0]])  # mean 0, standard deviation √2
    >>> round(frechet_distance(a, 2 * a + 3), 6)  # 3² + (√8 - √2)²
    11.0
    """
    for name, values in (("a", a), ("b", b)):
        if values.ndim != 2 or len(values) < 2 or values.shape[1] != a.shape[1]:
            raise ValueError(f"{name}: expected features (n >= 2, D), got {values.shape}")
    one, two = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    root = _root(one)
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ two @ root), 0, None)).sum()
    return float(max(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * cross, 0.0))


def _root(matrix: NDArray) -> NDArray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def distances(predictor: Predictor, root: Path, sources: Sequence[str], *, images: int = 12) -> Matrix:
    """Fréchet distance between the encoder's features of every two sources' validation images, up to `images` of each."""
    features = {}
    for name in tqdm(sources, desc="features", unit="source"):
        folder = Path(root) / name
        features[name] = image_features(predictor, CocoFolder(folder / "val.json", folder / "images"), images)
    table: Matrix = {a: {} for a in sources}
    for i, a in enumerate(sources):
        for b in sources[i:]:
            table[a][b] = table[b][a] = frechet_distance(features[a], features[b]) if a != b else 0.0
    return table


def main_category(truth: Json) -> tuple[int, str]:
    """Id and name of the category with the most objects; of equals the one with the lower id."""
    counts = {row["id"]: 0 for row in truth["categories"]}
    for a in truth["annotations"]:
        counts[a["category_id"]] += not a.get("iscrowd")
    chosen = max(sorted(counts), key=counts.get)
    return chosen, next(row["name"] for row in truth["categories"] if row["id"] == chosen)


def prompt_of(predictor: Predictor, folder: Path, *, clicked: int, seed: int = 0) -> tuple[PromptEmbedding, str]:
    """One prompt for a source's main category: the mean of a click in each of up to `clicked` training images; and its name."""
    truth = read_json(folder / "train.json")
    category, name = main_category(truth)
    truth = of_categories(truth, {category})
    prompts = {p["image_id"]: p for p in make_clicks(truth, setting="1/category", seed=seed)["prompts"]}
    data = CocoFolder(folder / "train.json", folder / "images")
    index = {image_id: i for i, image_id in enumerate(data.image_ids)}
    chosen = in_order(prompts, seed)[:clicked]
    made = [predictor.embed(data[index[i]].image, prompts[i]["points"]) for i in chosen]
    return mean_embedding(made), name


def prompt_matrix(
    checkpoint: Path, root: Path, sources: Sequence[str], *, clicked: int = 5, images: int = 8, results: Path | None = None
) -> Json:
    """AP50 of B's main category when it is asked for with a prompt from A; no training, a prompt per source.

    Off the diagonal a high value says that two sources' kinds look alike to the model, or that B has nothing but its kind to
    answer with. `own` is one click in each of B's images itself, over the same images and with the clicked object counted, too.

    Args:
        clicked: training images of A that the prompt is the mean of. images: validation images of B, at most.

    Returns:
        `categories` and `own` by source, `ap50` by A, then B, `distance` likewise.
    """
    predictor, root = Predictor(checkpoint, threshold=MIN_SCORE), Path(root)
    made = {a: prompt_of(predictor, root / a, clicked=clicked) for a in tqdm(sources, desc="prompts", unit="source")}
    ap50: Matrix = {a: {} for a in sources}
    own: dict[str, float] = {}
    for b in tqdm(sources, desc="asked", unit="source"):
        truth = read_json(root / b / "val.json")
        category = next((row["id"] for row in truth["categories"] if row["name"] == made[b][1]), None)
        if category is None:
            raise ValueError(f"{root / b / 'val.json'}: expected the category {made[b][1]!r} of train.json")
        truth = of_categories(truth, {category})
        filled = {a["image_id"] for a in truth["annotations"] if not a.get("iscrowd")}
        truth = of_images(truth, in_order(filled, 0)[:images])
        clicks = {p["image_id"]: p["points"] for p in make_clicks(truth, setting="1/category", seed=0)["prompts"]}
        data = CocoFolder(root / b / "val.json", root / b / "images")
        found: dict[str, list[Json]] = {name: [] for name in ["", *sources]}
        for i, image_id in enumerate(data.image_ids):
            if image_id not in clicks:
                continue
            predictor.set_image(data[i].image)
            found[""] += to_rows(predictor.predict(clicks[image_id]), image_id, category)
            for a in sources:
                found[a] += to_rows(predictor.predict_embedding(made[a][0]), image_id, category)
        scores = {name: evaluate(truth, rows)["all"]["ap50"] if truth["annotations"] else None for name, rows in found.items()}
        own[b] = scores.pop("")
        for a, value in scores.items():
            ap50[a][b] = value
    summary: Json = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "clicked": clicked, "images": images}
    summary |= {"categories": {a: name for a, (_, name) in made.items()}, "own": own, "ap50": ap50}
    summary |= {"distance": distances(predictor, root, sources, images=images), "made_by": provenance()}
    if results is not None:
        write_json(results, summary)
    return summary


def adapted_matrix(
    checkpoint: Path,
    root: Path,
    out: Path,
    sources: Sequence[str],
    *,
    run: RunConfig,
    images: int | None = None,
    tested: int = 12,
    seeds: int = 1,
    metric: str = "ap50_ignored",
    results: Path | None = None,
) -> Json:
    """Adapt a checkpoint to each source A, test it on every source B by clicks in B's own images; goes on where it was stopped.

    Args:
        out: folder of the runs. run: of `adapt.adapting_run`. images: training images of A; None: all.
        tested: validation images of B, at most. seeds: click lists. metric: of the scores.

    Returns:
        `before` by B, `after` by A, then B, `distance` likewise (of the checkpoint before), `minutes` of each adaptation.
    """
    root, out = Path(root), Path(out)
    files = [some_images(root / b / "val.json", tested, out / "parts" / f"val-{tested}") for b in sources]
    summary: Json = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "run": portable(run), "metric": metric}
    summary |= {"images": images, "tested": tested, "seeds": seeds, "after": {}, "minutes": {}}

    def test(model: Path, folder: Path) -> dict[str, float]:
        scores = scored(model, files, folder / f"matrix-{tested}.json", seeds=seeds)
        return {name: scores["sources"][name]["mean"][metric] for name in sources}

    summary["before"] = test(checkpoint, out / f"init-{summary['sha256']}")
    summary["distance"] = distances(Predictor(checkpoint), root, sources, images=tested)
    for a in tqdm(sources, desc="adapted to", unit="source"):
        model, made = adapted(checkpoint, root / a / "train.json", replace(run), out, images=images, seed=0)
        summary["after"][a], summary["minutes"][a] = test(model, model.parent), made["minutes"]
        if results is not None:
            write_json(results, {**summary, "made_by": provenance()})
    return summary


def losses(results: Mapping[str, Any]) -> list[Json]:
    """Per pair A, B of different sources: distance, and what is lost on B by having adapted to A instead of B.

    Takes results of `adapted_matrix` or of `prompt_matrix` (there: asked with A's prompt instead of B's).

    >>> ap50 = {"a": {"a": 0.5, "b": 0.25}, "b": {"a": 0.25, "b": 0.5}}
    >>> losses({"ap50": ap50, "distance": {"a": {"b": 2.0}, "b": {"a": 2.0}}})[0]
    {'from': 'a', 'to': 'b', 'distance': 2.0, 'loss': 0.25}
    """
    table = results["after"] if "after" in results else results["ap50"]
    rows = []
    for a in table:
        for b in table:
            if a != b and table[a][b] is not None and table[b][b] is not None:
                rows.append({"from": a, "to": b, "distance": results["distance"][a][b], "loss": table[b][b] - table[a][b]})
    return rows


def rank_correlation(rows: Sequence[Json]) -> float | None:
    """Spearman's correlation of distance and loss; None for fewer than three pairs or where one of them does not vary.

    >>> rank_correlation([{"distance": d, "loss": d**2} for d in (1.0, 2.0, 3.0)])
    1.0
    """
    x, y = [row["distance"] for row in rows], [row["loss"] for row in rows]
    if len(set(x)) < 3 or len(set(y)) < 2:
        return None
    return round(float(spearmanr(x, y).statistic), 6)
