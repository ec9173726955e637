"""Near-duplicate images: a perceptual hash, pairs of close hashes among hundreds of thousands, and groups of linked images.

`N` images.
"""

from collections import defaultdict

import numpy as np
import torch
from PIL import Image
from torchvision.ops import box_iou
from tqdm import tqdm

HASH_BITS = 256
"""Bits of a hash: signs of the 16 x 16 lowest frequencies of a 64 x 64 thumbnail.

Choice: over 2,694 images of 18 sources no two of different sources came within 32 of 256 bits, and 95 % of their copies, halved
in size, enlarged by 1.3 or saved as JPEG of quality 50, came within 22. A difference hash of as many bits put 69 such pairs
within 10, since sky and microscope images have little but noise to compare neighbours by. 64 bits are too few for them, too.
"""

FLAT = 1.0
"""Standard deviation of grey levels under which a thumbnail is too flat for a hash to mean anything."""


def perceptual_hash(image: np.ndarray) -> np.ndarray | None:
    """imagehash's phash, (4,) uint64, of an RGB image (H, W, 3) uint8; None for one that is nearly one colour.

    It hardly changes with size, compression and brightness. It sees nothing of tiny objects and does not recognise mirrored,
    turned or cropped copies.

    >>> board = np.indices((64, 64)).sum(axis=0) // 8 % 2 * 255
    >>> board = board[..., None].repeat(3, axis=2).astype(np.uint8)
    >>> bool(hamming(perceptual_hash(board), perceptual_hash(board // 2)) < 20)
    True
    """
    try:
        import imagehash
    except ImportError:
        raise ValueError("near-duplicates: install imagehash with `pip install -e .[tinyset]`") from None
    thumbnail = Image.fromarray(image).convert("L").resize((64, 64), Image.Resampling.LANCZOS)
    if np.asarray(thumbnail).std() < FLAT:
        return None
    bits = imagehash.phash(thumbnail, hash_size=16).hash
    return np.packbits(bits.ravel()).view(np.uint64)


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits in which hashes (..., 4) uint64 differ: (...) int64.

    >>> int(hamming(np.uint64([0, 0, 0, 7]), np.uint64([1, 0, 0, 0])))
    4
    """
    return np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int64)


def near_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    """All pairs of hashes (N, 4) uint64 that differ in at most `distance` bits: rows i < j, (P, 2) int64, sorted.

    Exact: of `distance + 1` parts of the hash, two such hashes share at least one, so only hashes that share a part are compared.
    268,000 random hashes and 20 bits take half a minute; images that resemble each other by the thousand take longer.

    >>> near_pairs(np.uint64([[0, 0, 0, 0], [0, 0, 0, 7], [5, 0, 0, 0], [0, 0, 0, 0]]), 2).tolist()
    [[0, 2], [0, 3], [2, 3]]
    """
    if not 0 <= distance < HASH_BITS:
        raise ValueError(f"near_pairs: distance: expected 0 to {HASH_BITS - 1}, got {distance}")
    count = len(hashes)
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8).reshape(count, HASH_BITS // 8), axis=1)
    found = [np.zeros(0, np.int64)]
    parts = np.array_split(np.arange(HASH_BITS), distance + 1) if count else []
    for part in tqdm(parts, desc="near-duplicates", delay=3, leave=False):
        key = np.unique(np.packbits(bits[:, part], axis=1), axis=0, return_inverse=True)[1].ravel()
        order = np.argsort(key, kind="stable")
        end = np.searchsorted(key[order], key[order], side="right")
        position = np.arange(count)
        for step in range(1, count):
            position = position[position + step < end[position]]
            if not len(position):
                break
            i, j = order[position], order[position + step]  # i < j, since the sort is stable
            near = hamming(hashes[i], hashes[j]) <= distance
            found.append(i[near] * count + j[near])
    codes = np.unique(np.concatenate(found))
    return np.stack([codes // max(count, 1), codes % max(count, 1)], axis=1)


def same_objects(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two images show the same objects: nine in ten boxes of each overlap a box of the other with IoU 0.5 or more.

    Args:
        a, b: (N, 4), (M, 4) xyxy as fractions of their images.

    >>> same_objects(np.float32([[0.1, 0.1, 0.2, 0.2]]), np.float32([[0.4, 0.1, 0.5, 0.2]]))
    False
    """
    if not (len(a) and len(b)):
        return len(a) == len(b)
    iou = box_iou(torch.from_numpy(np.float64(a)), torch.from_numpy(np.float64(b)))
    return all((iou.amax(dim=d) >= 0.5).double().mean() >= 0.9 for d in (0, 1))


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Which of the groups linked by pairs each of `count` images belongs to: (N,) int64, the smallest image of its group.

    >>> components(4, np.array([[0, 2], [2, 3]])).tolist()
    [0, 1, 0, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1] if count else np.zeros(0, np.int64)
    first = np.full(count, count, dtype=np.int64)
    np.minimum.at(first, labels, np.arange(count))
    return first[labels]


def find_copies(order: np.ndarray, pairs: np.ndarray) -> dict[int, int]:
    """Which images to leave out so that no two that remain are a pair, and the image each is a copy of.

    Args:
        order: images, those to keep rather than others first.
        pairs: (P, 2) images that are copies of each other.

    >>> find_copies(np.array([2, 0, 1]), np.array([[0, 1], [1, 2]]))  # 1 is a copy of 2; 0 is one of 1 only, and stays
    {1: 2}
    """
    copies_of: dict[int, list[int]] = defaultdict(list)
    for i, j in pairs.tolist():
        copies_of[i].append(j)
        copies_of[j].append(i)
    place = {int(image): k for k, image in enumerate(order)}
    removed: dict[int, int] = {}
    for image in sorted(copies_of, key=place.__getitem__):
        earlier = [other for other in copies_of[image] if place[other] < place[image] and other not in removed]
        if earlier:
            removed[image] = min(earlier, key=place.__getitem__)
    return removed
