"""What a click on each object of a data set means to the model: one embedding an object."""

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dealkit.boxes import to_cxcywh
from dealkit.data.images import read_image
from dealkit.data.objects import ObjectTable
from dealkit.model.queries import EXTENT
from dealkit.predict.predictor import Predictor, embed, encode_images
from dealkit.prompts import stack_prompts


def embed_objects(
    predictor: Predictor, table: ObjectTable, *, images: int, objects: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows (K,) of `table.objects`, ascending, and their prompt vectors (K, E - 3), for a sample of every source.

    Args:
        images: of each source, at most. objects: of each image, at most. seed: which are drawn.
    """
    rng = np.random.default_rng(seed)
    clear = ~table.objects["crowd"]
    filled = np.unique(table.objects["image"][clear])
    chosen: list[int] = []
    for source in sorted(set(table.images["source"])):
        here = filled[table.images["source"][filled] == source]
        chosen += rng.choice(here, min(images, len(here)), replace=False).tolist()
    rows = []
    for i in sorted(chosen):
        of_image = np.arange(*table.rows(i).indices(len(clear)))[clear[table.rows(i)]]
        rows.append(np.sort(rng.choice(of_image, min(objects, len(of_image)), replace=False)))
    drawn = np.concatenate(rows)
    return drawn, embed_rows(predictor, table, drawn)


def embed_rows(predictor: Predictor, table: ObjectTable, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Prompt vectors (K, E - 3) of a click on the centre of each of the `rows` (K,) of `table.objects`, ascending: of what is
    meant, without the extent, for a click has none."""
    images, starts = np.unique(table.objects["image"][rows], return_index=True)
    parts = list(zip(images, np.split(rows, starts[1:]), strict=True))
    vectors = []
    for i, of_image in tqdm(parts, desc="embed", unit="image", delay=3, leave=False):
        points = to_cxcywh(torch.from_numpy(table.objects["box"][of_image]))[:, :2]
        prompts = stack_prompts([(point[None], torch.ones(1, dtype=torch.int64)) for point in points], [0] * len(points))
        features = encode_images(predictor.model, [read_image(table.images["path"][i])])
        vectors.append(embed(predictor.model, features, prompts.to(predictor.device))[:, 0, :-EXTENT].cpu().numpy())
    return np.concatenate(vectors)
