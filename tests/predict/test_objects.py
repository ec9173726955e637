"""Embeddings of the objects of a table."""

import numpy as np

from dealkit.data.objects import read_table
from dealkit.model.queries import EXTENT
from dealkit.predict.objects import embed_objects


def test_embedded_objects_are_those_drawn_by_the_seed(make_coco, predictor):
    bolts = [(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [5, 30, 40, 6], 0)]
    table = read_table([make_coco("a", [bolts, [], bolts[:1]]), make_coco("b", [bolts[1:]]), make_coco("empty", [[]])])
    rows, vectors = embed_objects(predictor, table, images=5, objects=2, seed=0)
    assert rows.tolist() == sorted(set(rows.tolist())) and vectors.shape == (len(rows), predictor.model.embedding_dim - EXTENT)
    assert np.bincount(table.objects["image"][rows], minlength=5).tolist() == [2, 0, 1, 2, 0]
    again = embed_objects(predictor, table, images=5, objects=2, seed=0)
    assert np.array_equal(again[0], rows) and np.array_equal(again[1], vectors)
