"""How far apart are two sources to the encoder, and what does adapting to one do to the other?

A source is a folder with `train.json`, `val.json` and `images/`. `from` is the source adapted to, `to` the one tested.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dealkit.config import RunConfig, portable
from dealkit.data.coco import CocoFolder
from dealkit.data.subsets import in_order, some_images
from dealkit.evaluate.benchmark import benchmark
from dealkit.files import Results, sha_of
from dealkit.model.encoder import STRIDES
from dealkit.predict.predictor import Predictor
from dealkit.studies.adaptation import adapted

LEVEL = 2
"""Level of the encoder that distances are measured on: stride 16. Choice: fine enough for small objects' surroundings, coarse
enough to hold what kind of picture it is."""

METRIC = "ap50_ignored"
"""What adapting changes: AP50 of a click in each image, the clicked object ignored."""


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
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ two @ root), 0, None)).sum()
    return float(max(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * cross, 0.0))


def source_distances(
    predictor: Predictor, root: Path, sources: Sequence[str], *, images: int = 12
) -> dict[tuple[str, str], float]:
    """Fréchet distance, to three decimals, between the encoder's features of every two sources' validation images, up to `images`
    of each."""
    features = {}
    for name in tqdm(sources, desc="features", unit="source"):
        folder = Path(root) / name
        features[name] = image_features(predictor, CocoFolder(folder / "val.json"), images)
    table = {(a, a): 0.0 for a in sources}
    for i, a in enumerate(sources):
        for b in sources[i + 1 :]:
            table[a, b] = table[b, a] = round(frechet_distance(features[a], features[b]), 3)
    return table


def adapted_matrix(
    checkpoint: Path,
    root: Path,
    out: Path,
    sources: Sequence[str],
    *,
    run: RunConfig,
    images: int | None = None,
    tested: int = 12,
    results: Path | None = None,
) -> Results:
    """Adapt a checkpoint to each source, test it on every source by clicks in the tested images: a row per `from` and `to`.

    A row holds the `METRIC` and the `distance` of the two sources; rows `from` None are of the checkpoint before, without one.

    Args:
        out: folder of the runs. run: of `adaptation.adapting_run`. images: training images of a source; None: all.
        tested: validation images of a source, at most. results: JSON to go on with; default: `matrix.json` in `out`.
    """
    root, out = Path(root), Path(out)
    request = {"checkpoint": Path(checkpoint).name, "sha256": sha_of(checkpoint), "run": portable(run), "images": images}
    made = Results(results or out / "matrix.json", request | {"tested": tested, "sources": sorted(sources)})
    files = [some_images(root / b / "val.json", tested, out / "parts" / f"val-{tested}") for b in sources]
    distance: dict[tuple[str, str], float] = {}
    for key in made.todo([{"from": a} for a in (None, *sources)], "adapted to"):
        model, a = Path(checkpoint), key["from"]
        if a is not None:
            distance = distance or source_distances(Predictor(checkpoint), root, sources, images=tested)
            model, _ = adapted(checkpoint, root / a / "train.json", run, out, images=images, seed=0)
        of_source = {row["source"]: row[METRIC] for row in benchmark(model, files, None, prompts=("alone",), seeds=1).rows}
        made.add(key, *({"to": b, METRIC: of_source[b], "distance": distance.get((a, b))} for b in sources))
    return made
