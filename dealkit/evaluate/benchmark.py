"""Scores of a checkpoint: on COCO sources under the click protocol, on procedural scenes, across sizes, on photographs."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
import torch
from torchvision.ops import box_iou
from torchvision.transforms.v2.functional import resize

from dealkit.boxes import SIZE_BINS, claim
from dealkit.clicks import clicks_hash, make_clicks, save_clicks
from dealkit.config import DEFAULT_THRESHOLD
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder, Sample
from dealkit.data.photos import photo
from dealkit.data.scenes.scene import EVAL_SEED, write_coco
from dealkit.evaluate.coco import evaluate
from dealkit.evaluate.matching import per_cent
from dealkit.files import Json, Results, provenance, sha_of, tidy, write_json
from dealkit.model.checkpoint import load_model
from dealkit.model.deal import DEAL
from dealkit.predict.detections import Detections, compete, to_rows
from dealkit.predict.predictor import Predictor, predict_coco, predict_prompts

METRICS = ("ap25", "ap50", "ap75", "ap", "ap50_vt", "ap50_t", "ap50_s", "ap50_m", "recall50")
"""What a row of results holds of `all` and, with `_ignored` behind it, of `clicked_ignored`."""


PROMPTS = ("alone", "together")
"""How the prompts of one image are scored: each by itself, or as rivals."""


def row_of(results: Json) -> dict[str, float | None]:
    """The flat numbers of one evaluation that are averaged over seeds and sources; shares, 0 to 1."""
    row = {name: results["all"][name] for name in METRICS}
    row |= {f"{name}_ignored": (results["clicked_ignored"] or {}).get(name) for name in METRICS}
    return row | {"hit": results["hit"], "hit_shown": results["hit_shown"], "count_mae": results["count"]["mae"]}


def with_spread(value: float | None, spread: float | None) -> str:
    """A share in per cent, with its standard deviation if it has one.

    >>> with_spread(0.5, 0.012), with_spread(0.5, None)
    ('50.0 ± 1.2', '50.0')
    """
    return per_cent(value) + ("" if spread is None or pd.isna(spread) else f" ± {per_cent(spread)}")


def benchmark(
    checkpoint: Path,
    files: Sequence[Path],
    out: Path | None,
    *,
    settings: Sequence[str] = ("1/category",),
    kinds: Sequence[str] = ("centre",),
    prompts: Sequence[str] = PROMPTS,
    rounds: Sequence[int] = (1,),
    rescale: bool = False,
    seeds: int = 5,
    clicks_folder: Path | None = None,
) -> Results:
    """Evaluate a checkpoint on COCO sources under every setting and kind of click: a row per source, rounds, setting, kind, seed
    and `prompts`: those of an image `alone`, or `together`, as rivals (`compete`).

    A row holds `images`, `objects`, `clicks` (hash of the list), `predict_s` and the numbers of `row_of`, means over categories.

    Args:
        files: annotation files; images lie in `images` beside each, the folder's name is the source's.
        out: JSON to write. Sources that it already holds for the same checkpoint and clicks are not run again.
        rounds: how often the surest detections of a prompt become prompts, see `surest`; 1 is the click alone.
        rescale: images are read again where what was clicked is tiny or large, see `next_scale`.
        clicks_folder: where to write the click lists, as `<source>-<setting>-<kind>-<seed>.json`.
    """
    request = {
        "checkpoint": Path(checkpoint).name,
        "sha256": sha_of(checkpoint),
        "settings": settings,
        "kinds": kinds,
        "prompts": prompts,
        "rounds": rounds,
    }
    request |= {"rescale": True} if rescale else {}
    results = Results(out, request | {"seeds": seeds, "score_threshold": DEFAULT_THRESHOLD})  # of `hit_shown` and `count_mae`
    model = load_model(checkpoint)
    wanted = [(s, k, i) for s in settings for k in kinds for i in range(seeds)]
    for key, file in results.sources(files):
        data, truth = CocoFolder(file), read_coco(file)
        lists = [make_clicks(truth, setting=s, seed=i, kind=k) for s, k, i in wanted]
        rows = []
        for n_rounds in rounds:
            started, ways = time.monotonic(), {use: [[] for _ in lists] for use in PROMPTS}
            found = predict_prompts(model, data, lists, rounds=n_rounds, rescale=rescale)
            for image_id, group in groupby(found, key=lambda of_prompt: of_prompt[1]["image_id"]):
                of_image = list(group)
                for k in {k for k, *_ in of_image}:
                    asked, every = zip(*((p, f) for of_list, p, f in of_image if of_list == k), strict=True)
                    for use, answers in (("alone", every), ("together", compete(every))):
                        of_use = zip(asked, answers, strict=True)
                        ways[use][k] += [r for p, f in of_use for r in to_rows(f, image_id, p["category_id"])]
            about = {"images": len(data), "objects": len(data.boxes), "predict_s": round(time.monotonic() - started, 1)}
            for n, ((setting, kind, seed), clicks) in enumerate(zip(wanted, lists, strict=True)):
                which = {"rounds": n_rounds, "setting": setting, "kind": kind, "seed": seed, "clicks": clicks_hash(clicks)}
                rows += [about | which | {"prompts": u} | row_of(evaluate(truth, ways[u][n], clicks)) for u in prompts]
        for (setting, kind, seed), clicks in zip(wanted, lists, strict=True):
            if clicks_folder is not None:
                save_clicks(clicks, clicks_folder / f"{key['source']}-{setting.replace('/', '-per-')}-{kind}-{seed}.json")
        results.add(key, *rows)
    return results


def over_seeds(rows: Any, by: Sequence[str] = (), metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Means over sources for each seed, then mean (`ap50`) and deviation (`ap50_std`) over seeds; a row per value of `by`.

    Args:
        rows: tidy rows, see `tidy`. by: columns that stay apart. metrics: columns to average; None: all that hold numbers.

    >>> rows = [{"seed": i, "source": s, "ap50": v} for i, s, v in ((0, "a", 0.2), (0, "b", 0.4), (1, "a", 0.4), (1, "b", 0.6))]
    >>> over_seeds(rows)[["ap50", "ap50_std"]].round(3).values.tolist()  # 0.3 and 0.5
    [[0.4, 0.141]]
    """
    frame = tidy(rows)
    numbers = [name for name in frame.select_dtypes("number") if name not in (*by, "seed")]
    of_seeds = frame.groupby([*by, "seed"], sort=False)[list(metrics or numbers)].mean()
    groups = of_seeds.groupby(list(by), sort=False) if by else of_seeds.groupby(lambda _: "")
    return groups.mean().join(groups.std().add_suffix("_std")).reset_index(drop=not by)


def evaluate_on_scenes(
    model: DEAL,
    count: int = 500,
    size: int = 256,
    seed: int = EVAL_SEED,
    *,
    size_bins: Mapping[str, tuple[float, float]] = SIZE_BINS,
    rescale: bool = False,
    **controls: Any,
) -> Json:
    """Results on procedural scenes of a seed never trained on, 1/category, centre clicks; `controls` as in `SceneControls`."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_coco(Path(folder), count, size=size, seed=seed, **controls)
        clicks = make_clicks(file, setting="1/category", seed=0)
        found = predict_coco(model, CocoFolder(file, source="scenes"), [clicks], rescale=rescale)[0]
        return evaluate(file, found, clicks, size_bins=size_bins)


SCALE_BINS = {f"{low}-{high}": (float(low**2), float(high**2)) for low, high in pairwise((4, 8, 16, 32, 64, 96, 256))}
SCALE_BINS |= {"4-8": (0.0, 64.0), "96-256": (96.0**2, 1e10)}  # what the border of the image cuts off belongs to them, too
"""Sizes in pixels of an evaluation across scales; the last bin is COCO's large objects."""


READINGS = ("read once", "read again")
"""Whether an image is read at its own scale only, or again where `next_scale` says so."""


def evaluate_across_scales(model: DEAL, count: int = 200, seed: int = EVAL_SEED, *, rescale: bool = False) -> Json:
    """Results on 512 px scenes in which every category has a size of its own, from 4 to 256 px: AP50 by size."""
    results = evaluate_on_scenes(model, count, 512, seed, size_bins=SCALE_BINS, sizes=(4.0, 256.0), rescale=rescale)
    about = {"scenes": count, "seed": seed, "ap50": results["all"]["ap50"], "hit": results["hit"]}
    return about | {name: results["all"][f"ap50_{name}"] for name in SCALE_BINS}


def validate_on_scenes(model: DEAL) -> dict[str, float]:
    """Scores of a model in training, on 60 scenes it is never trained on."""
    row = row_of(evaluate_on_scenes(model, 60))
    return {f"val_{name}": row[name] for name in ("ap50", "ap75", "ap50_ignored", "hit") if row[name] is not None}


def recall_precision(found: Detections, boxes: torch.Tensor, iou: float = 0.5) -> tuple[float, float]:
    """Recall and precision at one IoU: strongest detections first, each box found once.

    >>> found = Detections(boxes=torch.tensor([[0.0, 0.0, 4.0, 4.0], [9.0, 9.0, 12.0, 12.0]]), scores=torch.tensor([0.9, 0.8]))
    >>> recall_precision(found, torch.tensor([[0.0, 0.0, 4.0, 4.0]]))
    (1.0, 0.5)
    """
    hits = int((claim(box_iou(found.boxes, boxes), iou) >= 0).sum())
    return hits / max(len(boxes), 1), hits / max(len(found), 1)


def click_every_object(predictor: Predictor, sample: Sample) -> Json:
    """One click on each object of a photograph in turn: recall and precision of every click at the default threshold."""
    predictor.set_image(sample.image)
    boxes = sample.boxes[~sample.crowd]
    rows = []
    for x, y in ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist():
        recall, precision = recall_precision(predictor.click(x, y), boxes)
        rows.append({"point": [x, y], "recall": recall, "precision": precision})
    means = {name: mean(row[name] for row in rows) for name in ("recall", "precision")}
    return {"objects": len(boxes), "threshold": predictor.threshold, **means, "clicks": rows}


ENLARGED = (2, 3, 4, 6)
"""How many times larger the coins are shown, too: objects of 80 to 250 px, as a telephone takes them."""

LOWER_THRESHOLDS = (0.2, 0.15, 0.1, 0.05)
"""At which the coins are looked at besides the default: whether what is missing was only scored low."""


def enlarged_clicks(checkpoint: Path, sample: Sample, *, rescale: bool) -> list[Json]:
    """`click_every_object` of a photograph at every one of `ENLARGED`: its `factor`, `recall` and `precision`."""
    predictor, rows = Predictor(checkpoint, rescale=rescale), []
    for factor in ENLARGED:
        image = resize(sample.image, [factor * side for side in sample.image.shape[1:]], antialias=True)
        made = click_every_object(predictor, replace(sample, image=image, boxes=factor * sample.boxes))
        rows.append({"factor": factor, "recall": made["recall"], "precision": made["precision"]})
    return rows


def photo_results(checkpoint: Path, out: Path) -> Json:
    """Results of clicking every coin, also of the enlarged photograph, of 500 procedural scenes and of scenes across scales, read
    once and again (`next_scale`); written to `out`."""
    predictor, coins = Predictor(checkpoint), photo("coins")
    scenes = evaluate_on_scenes(predictor.model)
    lower = [click_every_object(Predictor(checkpoint, threshold=t), coins) for t in LOWER_THRESHOLDS]
    results = {
        "checkpoint": Path(checkpoint).name,
        "sha256": sha_of(checkpoint),
        "coins": click_every_object(predictor, coins),
        "coins_lower": [{key: value for key, value in row.items() if key != "clicks"} for row in lower],
        "coins_enlarged": {name: enlarged_clicks(checkpoint, coins, rescale=name == "read again") for name in READINGS},
        "scenes": {"protocol": scenes["protocol"], "counts": scenes["counts"], **row_of(scenes)},
        "scales": {name: evaluate_across_scales(predictor.model, rescale=name == "read again") for name in READINGS},
        "made_by": provenance(),
    }
    write_json(out, results)
    return results
