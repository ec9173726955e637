"""Averages of two checkpoints of one training: `share` of the later weights, the rest of the earlier ones.

Source: weight averaging after fine-tuning, arXiv 2109.01903 (WiSE-FT): between two checkpoints of one training the loss is flat,
and in the middle a model keeps more of what it knew on images unlike the last ones.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dealkit.ablate import CHOICE_SEED
from dealkit.model.deal import DEAL
from dealkit.prompts import Json
from dealkit.report import evaluate_on_scenes, row_of, sha_of
from dealkit.train import load_model, provenance, save_model


def average(earlier: DEAL, later: DEAL, share: float) -> DEAL:
    """A new model with weights (1 - share) x earlier + share x later; `share` 0 to 1.

    Raises:
        ValueError: `share` is outside 0 to 1, or the two models are of different configs.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected 0 to 1, got {share}")
    if earlier.config != later.config:
        raise ValueError(f"averaging needs two models of one config, got {earlier.config} and {later.config}")
    mixed, ends = DEAL(later.config), (earlier.state_dict(), later.state_dict())
    weights = {k: a.lerp(ends[1][k], share) if a.is_floating_point() else ends[1][k] for k, a in ends[0].items()}
    mixed.load_state_dict(weights)
    return mixed.to(memory_format=torch.channels_last).eval()


def choose_average(
    earlier: Path, later: Path, out: Path, *, shares: Sequence[float] = (0.0, 0.3, 0.5, 0.7, 1.0), scenes: int = 100
) -> Json:
    """Score averages on held-out procedural scenes (of `CHOICE_SEED`, neither trained on nor published) and save the best.

    Choice: the best AP50 over all objects; of equal ones the earlier in `shares`.

    Returns:
        `shares`: a row of scores for each; `best`: the share that was written to `out`.
    """
    ends, rows = [load_model(path) for path in (earlier, later)], []
    for share in tqdm(shares, desc="averages", unit="share"):
        rows.append({"share": share, **row_of(evaluate_on_scenes(average(*ends, share), scenes, 256, CHOICE_SEED))})
    best = max(rows, key=lambda row: row["ap50"])["share"]
    save_model(average(*ends, best), out)
    made = {"earlier": sha_of(earlier), "later": sha_of(later), "scenes": scenes, "seed": CHOICE_SEED}
    return {**made, "shares": rows, "best": best, "made_by": provenance()}
