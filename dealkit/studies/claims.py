"""What the label-efficient benchmark says: its table, ours beside the paper's, and the paper's claims one by one.

Pure functions of results as `label_efficiency.run_rows` writes them, and of `data/paper.json`. A row that has not been run is
said to be missing, never filled in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from dealkit.evaluate.benchmark import per_cent
from dealkit.files import Json

COLUMNS = {
    "ap25": "AP25",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap50_vt": "vt",
    "ap50_t": "t",
    "ap50_s": "s",
    "ap50_m": "m",
}
"""Columns of the paper's main table; sizes at IoU 0.5. Choice: the overlap at which they agree with its AP50."""

REGIME_NAMES = {
    "full": "all labels",
    "noise20": "box noise 20 %",
    "noise40": "box noise 40 %",
    "semi1": "1 % of images",
    "semi5": "5 % of images",
    "semi10": "10 % of images",
    "sparse1": "1 box per category and image",
    "sparse3": "3 boxes",
    "sparse5": "5 boxes",
    "point": "centre points",
    "zero": "none",
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
    "noise20 fcos": ("noise20", "FCOS"),
    "noise20 fcos label_correction": ("noise20", "DN-TOD (FCOS)"),
    "noise40 fcos": ("noise40", "FCOS"),
    "noise40 fcos label_correction": ("noise40", "DN-TOD (FCOS)"),
    **{f"semi{n} fcos": (f"semi{n}", "Faster R-CNN") for n in (1, 5, 10)},
    **{f"semi{n} fcos mean_teacher": (f"semi{n}", "Soft Teacher") for n in (1, 5, 10)},
    **{f"sparse{n} fcos": (f"sparse{n}", "Faster R-CNN") for n in (1, 3, 5)},
    **{f"sparse{n} fcos mining": (f"sparse{n}", "Co-mining") for n in (1, 3, 5)},
    "point fcos point_teacher": ("point", "Point Teacher"),
    "full deal": ("click", "DEAL, one point per category"),
}
"""Our rows and those of the paper they stand beside: the same labels, the same or the nearest method."""


def metrics_of(results: Json, row: str) -> dict[str, float | None] | None:
    """Metrics of a row, means over its seeds; None if it has not been run.

    >>> results = {"rows": [{"row": "full fcos", "metrics": {"ap50": v}} for v in (0.25, 0.75)]}
    >>> metrics_of(results, "full fcos"), over_seeds(results, "full rtdetr")
    ({'ap50': 0.5}, None)
    """
    rows = [r["metrics"] for r in results["rows"] if r["row"] == row]
    if not rows:
        return None
    values = {key: [r[key] for r in rows if r[key] is not None] for key in rows[0]}
    return {key: mean(of) if of else None for key, of in values.items()}


def method_name(row: Json) -> str:
    """
    >>> method_name({"model": "fcos", "method": "mean_teacher", "oracle": False})
    'FCOS, mean teacher'
    """
    name = MODEL_NAMES[row["model"]] + ("" if row["method"] == "plain" else f", {row['method'].replace('_', ' ')}")
    if row.get("regime") == "zero" and not row["model"].startswith("template"):
        name += ", as all rows start"
    return name + (", told which categories an image has" if row["oracle"] else "")


def _spread(values: Sequence[float | None]) -> float | None:
    values = [value for value in values if value is not None]
    return stdev(values) if len(values) > 1 else None


REPRODUCED, NOT_REPRODUCED, NOT_RUN = "reproduced", "not reproduced", "not run"


@dataclass(frozen=True)
class Claim:
    """A relative statement of the paper and what our rows say to it."""

    text: str
    """The statement, and in brackets the measure it is read off."""
    paper: str
    """The paper's numbers."""
    ours: str
    """Ours, or what is missing."""
    verdict: str
    """`reproduced`, `not reproduced` or `not run`."""


def check_claims(results: Json, paper: Json) -> list[Claim]:
    """The paper's relative claims, each read off the same difference or ratio in both tables.

    Choice: a relative claim can be compared where absolute numbers cannot, since both of its sides share data and budget. Only
    its direction and the stated limit are judged; with few seeds a small difference may be chance.
    """
    theirs = {(row["regime"], row["method"]): row for row in paper["rows"]}
    return [
        _one_click(results, "ap50", f"{theirs['click', 'DEAL, one point per category']['ap50']} against 43.1"),
        _one_click(results, "ap75", "1.314 times as high"),
        _noise(results, theirs),
        _semi(results, theirs),
        _sparse(results, theirs),
        _points(results, theirs),
    ]


def _missing(results: Json, *names: str) -> str:
    return ", ".join(name for name in names if metrics_of(results, name) is None)


def _claim(results: Json, text: str, paper: str, needed: Sequence[str], judge: Any) -> Claim:
    """The claim judged, or which rows it lacks; `judge` gives our numbers as text and whether the claim holds."""
    missing = _missing(results, *needed)
    if missing:
        return Claim(text, paper, f"no row {missing}", NOT_RUN)
    ours, holds = judge(*(metrics_of(results, name) for name in needed))
    return Claim(text, paper, ours, REPRODUCED if holds else NOT_REPRODUCED)


def _one_click(results: Json, metric: str, paper: str) -> Claim:
    def judge(deal: Json, rtdetr: Json) -> tuple[str, bool]:
        return f"{per_cent(deal[metric])} against {per_cent(rtdetr[metric])}", deal[metric] > rtdetr[metric]

    name = metric.upper()
    text = f"One click per category beats RT-DETR with all labels, {name} (same images and budget)"
    return _claim(results, text, paper, ["full deal", "full rtdetr"], judge)


def _noise(results: Json, theirs: Mapping[Any, Json]) -> Claim:
    keys = ("ap25", "ap50", "ap75")

    def left(clean: Json, noisy: Json) -> list[float]:
        return [noisy[key] / max(clean[key], 1e-9) for key in keys]

    def judge(clean: Json, noisy: Json) -> tuple[str, bool]:
        a, b, c = left(clean, noisy)
        return ", ".join(f"{100 * v:.0f} %" for v in (a, b, c)), a > b > c

    stated = ", ".join(f"{100 * v:.0f} %" for v in left(theirs["full", "FCOS"], theirs["noise40", "FCOS"]))
    text = "Box noise of 40 % hurts AP75 most (what is left of AP25, AP50, AP75 of FCOS falls in this order)"
    return _claim(results, text, stated, ["full fcos", "noise40 fcos"], judge)


def _semi(results: Json, theirs: Mapping[Any, Json]) -> Claim:
    names = [f"semi{n} fcos{method}" for n in (1, 5, 10) for method in ("", " mean_teacher")]

    def judge(*rows: Json) -> tuple[str, bool]:
        gains = {key: _gain(rows, key) for key in ("ap50_t", "ap50_m")}
        text = f"{_points_of(gains['ap50_t'])} on tiny, {_points_of(gains['ap50_m'])} on medium objects"
        return text, None not in gains.values() and gains["ap50_t"] < max(gains["ap50_m"], 0.02)

    stated = [theirs[f"semi{n}", "Soft Teacher"]["ap50"] - theirs[f"semi{n}", "Faster R-CNN"]["ap50"] for n in (1, 5, 10)]
    text = "Semi-supervised methods gain little on small objects (mean gain in AP50, tiny less than medium or than 2 points)"
    return _claim(results, text, f"AP50 {mean(stated):+.1f} points over all sizes", names, judge)


def _gain(rows: Sequence[Json], key: str) -> float | None:
    """Mean difference of the second of each pair of rows to the first; None where none has objects of this size."""
    pairs = [(a[key], b[key]) for a, b in zip(rows[::2], rows[1::2], strict=True) if None not in (a[key], b[key])]
    return mean(b - a for a, b in pairs) if pairs else None


def _points_of(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f} points"


def _sparse(results: Json, theirs: Mapping[Any, Json]) -> Claim:
    def judge(clean: Json, *sparse: Json) -> tuple[str, bool]:
        shares = [row["ap50"] / max(clean["ap50"], 1e-9) for row in sparse]
        return ", ".join(f"{100 * v:.0f} %" for v in shares), shares[0] < 0.5

    full = theirs["full", "Faster R-CNN"]["ap50"]
    stated = ", ".join(f"{100 * theirs[f'sparse{k}', 'Faster R-CNN']['ap50'] / full:.0f} %" for k in (1, 3, 5))
    text = "Sparse annotation collapses (share of the AP50 with all labels at 1, 3, 5 boxes; the first under half)"
    return _claim(results, text, stated, ["full fcos", *(f"sparse{k} fcos" for k in (1, 3, 5))], judge)


def _points(results: Json, theirs: Mapping[Any, Json]) -> Claim:
    def shares(full: Json, point: Json) -> tuple[float, float]:
        return point["ap25"] / max(full["ap25"], 1e-9), point["ap75"] / max(full["ap75"], 1e-9)

    def judge(full: Json, point: Json) -> tuple[str, bool]:
        loose, tight = shares(full, point)
        return f"{100 * loose:.0f} % and {100 * tight:.0f} %", loose >= 0.5 and tight < 0.2

    stated = "{:.0%} and {:.0%}".format(*shares(theirs["full", "FCOS"], theirs["point", "Point Teacher"])).replace("%", " %")
    text = "Points alone give AP25 but not AP75 (share of FCOS with all labels: at least half, under a fifth)"
    return _claim(results, text, stated, ["full fcos", "point fcos point_teacher"], judge)


def radar_series(results: Json, rows: Mapping[str, str]) -> dict[str, dict[str, float | None]]:
    """What `radar` draws of a sweep: name in the legend -> domain -> mean AP50 over seeds; rows that are not there are left out.

    Args:
        rows: name in the legend -> row of the sweep.
    """
    series: dict[str, dict[str, float | None]] = {}
    for label, name in rows.items():
        found = [row["domains"] for row in results["rows"] if row["row"] == name]
        if found:
            values = {d: [of[d] for of in found if of.get(d) is not None] for d in found[0]}
            series[label] = {d: mean(v) if v else None for d, v in values.items()}
    return series
