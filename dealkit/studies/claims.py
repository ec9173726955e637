"""What the label-efficient benchmark says: its rows, what they are called, and the paper's claims, checked against ours.

Pure functions of results of `label_efficiency` and of `data/paper.json`. A row that has not been run is said to be missing.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from dealkit.evaluate.matching import per_cent
from dealkit.files import Json, tidy

COLUMNS = {"ap25": "AP25", "ap50": "AP50", "ap75": "AP75", "ap50_vt": "vt", "ap50_t": "t", "ap50_s": "s", "ap50_m": "m"}
"""Columns of the paper's main table; sizes at IoU 0.5. Choice: the overlap at which they agree with its AP50."""

REGIME_NAMES = {
    "full": "all labels",
    **{f"noise{n}": f"box noise {n} %" for n in (20, 40)},
    **{f"semi{n}": f"{n} % of images" for n in (1, 5, 10)},
    **{"sparse1": "1 box per category and image", "sparse3": "3 boxes", "sparse5": "5 boxes"},
    **{"point": "centre points", "zero": "none"},
}

MODEL_NAMES = {
    "fcos": "FCOS",
    "retinanet": "RetinaNet",
    "faster_rcnn": "Faster R-CNN",
    "rtdetr": "RT-DETRv2",
    "deal": "DEAL, one click per category",
    "deal published": "DEAL `nano`, published, one click per category",
    "template box": "template matching, box of one object",
    "template click": "template matching, one click",
}

PAPER_ROWS = {
    "full retinanet": ("full", "RetinaNet"),
    "full faster_rcnn": ("full", "Faster R-CNN"),
    "full fcos": ("full", "FCOS"),
    "full rtdetr": ("full", "RT-DETR"),
    **{f"noise{n} fcos": (f"noise{n}", "FCOS") for n in (20, 40)},
    **{f"noise{n} fcos label_correction": (f"noise{n}", "DN-TOD (FCOS)") for n in (20, 40)},
    **{f"semi{n} fcos": (f"semi{n}", "Faster R-CNN") for n in (1, 5, 10)},
    **{f"semi{n} fcos mean_teacher": (f"semi{n}", "Soft Teacher") for n in (1, 5, 10)},
    **{f"semi{n} fcos scale_teacher": (f"semi{n}", "PseCo") for n in (1, 5, 10)},
    **{f"sparse{n} fcos": (f"sparse{n}", "Faster R-CNN") for n in (1, 3, 5)},
    **{f"sparse{n} fcos mining": (f"sparse{n}", "Co-mining") for n in (1, 3, 5)},
    "point fcos point_teacher": ("point", "Point Teacher"),
    "point fcos point_patterns": ("point", "Point2RBox-v3"),
    "full deal": ("click", "DEAL, one point per category"),
}
"""Our rows and those of the paper they stand beside: the same labels, the same or the nearest method."""


def row_means(results: Any) -> pd.DataFrame:
    """The numbers of every row of the table, means over its seeds; the index is its name.

    >>> row_means([{"row": "full fcos", "seed": seed, "ap50": ap50} for seed, ap50 in enumerate((0.25, 0.75))])["ap50"].to_dict()
    {'full fcos': 0.5}
    """
    frame = tidy(results)
    return frame.groupby("row", sort=False).mean(numeric_only=True) if len(frame) else frame


def method_name(row: Mapping[str, Any]) -> str:
    """What is trained in a row, in words.

    >>> method_name({"regime": "semi5", "model": "fcos", "method": "mean_teacher", "oracle": False})
    'FCOS, mean teacher'
    """
    name = MODEL_NAMES[row["model"]] + ("" if row["method"] == "plain" else f", {row['method'].replace('_', ' ')}")
    return name + ", told which categories an image has" * bool(row["oracle"])


CLAIMS = (
    "One click per category beats RT-DETR with all labels, AP50 (same images and budget)",
    "One click per category beats RT-DETR with all labels, AP75 (same images and budget)",
    "Box noise of 40 % hurts AP75 most (what is left of AP25, AP50, AP75 of FCOS falls in this order)",
    "Semi-supervised methods gain little on small objects (mean gain in AP50, tiny less than medium or than 2 points)",
    "Sparse annotation collapses (share of the AP50 with all labels at 1, 3, 5 boxes; the first under half)",
    "Points alone give AP25 but not AP75 (share of FCOS with all labels: at least half, under a fifth)",
)
"""The paper's, and in brackets what each is read off."""
HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"


def check_claims(results: Any, paper: Json) -> pd.DataFrame:
    """The paper's relative claims, each read off the same difference or ratio in both tables.

    Choice: a relative claim can be compared where absolute numbers cannot, since both of its sides share data and budget. Only
    its direction and the stated limit are judged, for each seed that all rows of the claim have: it holds with all of them, does
    not with none, and is undecided otherwise. One seed may be chance.

    Returns:
        A row per claim: `claim` and in brackets its measure, `paper` and `ours` (the numbers of the means over those seeds, or
        what is missing), `seeds`, `verdict`.
    """
    theirs = pd.DataFrame(paper["rows"]).set_index(["regime", "method"])[list(COLUMNS)].astype(float) / 100
    like, frame = {name: theirs.loc[key] for name, key in PAPER_ROWS.items()}, tidy(results)
    seeds_of = {name: set(of_row["seed"]) for name, of_row in frame.groupby("row")} if len(frame) else {}
    click, noise, points = ["full deal", "full rtdetr"], ["full fcos", "noise40 fcos"], ["full fcos", "point fcos point_teacher"]
    few = [f"sparse{k} fcos" for k in (1, 3, 5)]
    semi = [f"semi{n} fcos{method}" for n in (1, 5, 10) for method in ("", " mean_teacher")]
    claims = {  # how it is judged, from which rows; the paper's numbers, or the rows that give them
        CLAIMS[0]: (partial(_one_click, "ap50"), click, click),
        CLAIMS[1]: (partial(_one_click, "ap75"), click, "1.314 times as high"),
        CLAIMS[2]: (_noise, noise, noise),
        CLAIMS[3]: (_few_images, semi, f"AP50 {100 * _gain([like[name] for name in semi], 'ap50'):+.1f} points over all sizes"),
        CLAIMS[4]: (_few_boxes, ["full fcos", *few], ["full faster_rcnn", *few]),
        CLAIMS[5]: (_points, points, points),
    }
    rows = []
    for claim, (judge, names, of_paper) in claims.items():
        stated = of_paper if isinstance(of_paper, str) else judge(*(like[name] for name in of_paper))[0]
        missing, found, verdict = [name for name in names if name not in seeds_of], "", NOT_RUN
        seeds = set.intersection(*(seeds_of[name] for name in names)) if not missing else set()
        if missing:
            found = f"no row {', '.join(missing)}"
        else:
            parts = [row_means(frame[frame["seed"].isin(of)]) for of in (seeds, *({seed} for seed in sorted(seeds)))]
            (found, _), *each = (judge(*(part.loc[name] for name in names)) for part in parts)
            verdict = HOLDS if all(holds for _, holds in each) else UNDECIDED if any(holds for _, holds in each) else FAILS
        rows.append({"claim": claim, "paper": stated, "ours": found, "seeds": str(len(seeds)), "verdict": verdict})
    return pd.DataFrame(rows)


def _one_click(metric: str, deal: pd.Series, rtdetr: pd.Series) -> tuple[str, bool]:
    return f"{per_cent(deal[metric])} against {per_cent(rtdetr[metric])}", deal[metric] > rtdetr[metric]


def _shares(row: pd.Series, of: pd.Series, *metrics: str) -> list[float]:
    return [row[metric] / max(of[metric], 1e-9) for metric in metrics]


def _noise(clean: pd.Series, noisy: pd.Series) -> tuple[str, bool]:
    a, b, c = _shares(noisy, clean, "ap25", "ap50", "ap75")
    return f"{100 * a:.0f} %, {100 * b:.0f} %, {100 * c:.0f} %", a > b > c


def _gain(rows: Sequence[pd.Series], metric: str) -> float:
    """Mean difference of the second of each pair of rows to the first; NaN where none has objects of this size."""
    return float(pd.Series([b[metric] - a[metric] for a, b in zip(rows[::2], rows[1::2], strict=True)]).mean())


def _few_images(*rows: pd.Series) -> tuple[str, bool]:
    tiny, medium = _gain(rows, "ap50_t"), _gain(rows, "ap50_m")
    shown = ["–" if pd.isna(gain) else f"{100 * gain:+.1f} points" for gain in (tiny, medium)]
    return f"{shown[0]} on tiny, {shown[1]} on medium objects", tiny < medium or (tiny < 0.02 and not pd.isna(medium))


def _few_boxes(clean: pd.Series, *sparse: pd.Series) -> tuple[str, bool]:
    shares = [_shares(row, clean, "ap50")[0] for row in sparse]
    return ", ".join(f"{100 * share:.0f} %" for share in shares), shares[0] < 0.5


def _points(full: pd.Series, point: pd.Series) -> tuple[str, bool]:
    loose, tight = _shares(point, full, "ap25", "ap75")
    return f"{100 * loose:.0f} % and {100 * tight:.0f} %", loose >= 0.5 and tight < 0.2
