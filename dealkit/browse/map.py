"""A map of missed objects for FiftyOne's embeddings panel: objects that look alike to the model lie close together."""

from pathlib import Path
from typing import Any

import numpy as np

from dealkit.browse.dataset import OBJECTS, labels_by_path
from dealkit.data.objects import ObjectTable
from dealkit.evaluate.errors import FOUND, IGNORED
from dealkit.predict.objects import embed_rows
from dealkit.predict.predictor import Predictor

FEWEST = 5
"""Objects under which there is no map."""


def add_map(dataset: Any, table: ObjectTable, name: str, checkpoint: str | Path, *, objects: int = 1000, seed: int = 0) -> int:
    """Lay out missed objects, and as many found ones to compare, in two dimensions; the number of objects on the map.

    Each is clicked at its centre; its prompt embedding is what the click means to the model. t-SNE puts them on a plane. In the
    App: panel *Embeddings*, key `<name>_map`, coloured by `objects.detections.<name>_error`; a lasso selects objects.

    Choice: t-SNE on cosine distances, started from PCA, as the map of notebook 01: neighbours stay neighbours, and the same
    seed gives the same map.

    Args:
        dataset: of `dealkit.browse.mistakes.add_predictions`, made from `table`.
        name: of the predictions whose missed objects are meant.
        checkpoint: model that clicks.
        objects: most missed objects, drawn at random, and most found ones.
        seed: of the draw and of t-SNE.

    Raises:
        ValueError: no such predictions, or fewer than `FEWEST` objects to show; says which.
    """
    import fiftyone.brain as fob
    from sklearn.manifold import TSNE

    if name not in dataset.info.get("predictions", []):
        raise ValueError(f"{name}: expected predictions of {dataset.name}: {', '.join(dataset.info.get('predictions', []))}")
    labels = _label_ids(dataset, name, table)
    rng = np.random.default_rng(seed)
    missed = np.array([row for row, (_, error) in labels.items() if error not in (FOUND, IGNORED, None)], dtype=np.int64)
    found = np.array([row for row, (_, error) in labels.items() if error == FOUND], dtype=np.int64)
    missed = rng.choice(missed, min(objects, len(missed)), replace=False)
    rows = np.sort(np.concatenate([missed, rng.choice(found, min(len(missed), len(found)), replace=False)]))
    if len(rows) < FEWEST:
        raise ValueError(f"{name}: expected at least {FEWEST} missed and found objects for a map, got {len(rows)}")
    vectors = embed_rows(Predictor(checkpoint), table, rows)
    layout = TSNE(metric="cosine", init="pca", perplexity=min(30.0, (len(rows) - 1) / 3), random_state=seed)
    points = dict(zip((labels[row][0] for row in rows.tolist()), layout.fit_transform(vectors), strict=True))
    shown = dataset.select_labels(ids=list(points), fields=OBJECTS)
    fob.compute_visualization(shown, patches_field=OBJECTS, points=points, brain_key=f"{name}_map")
    return len(rows)


def _label_ids(dataset: Any, name: str, table: ObjectTable) -> dict[int, tuple[str, str | None]]:
    """Row of `table.objects` -> id in FiftyOne and state; without objects that are new there."""
    known = labels_by_path(dataset, OBJECTS, ("annotation_id", "id", f"{name}_error"))
    labels = {}
    for i, path in enumerate(table.images["path"].tolist()):
        of_image = {annotation_id: (label_id, error) for annotation_id, label_id, error in known[path]}
        here = table.rows(i)
        for row, annotation_id in enumerate(table.objects["annotation_id"][here].tolist(), start=here.start):
            if annotation_id in of_image:
                labels[row] = of_image[annotation_id]
    return labels
