"""Figures of what carries over from one source to another; shares are shown in per cent."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from dealkit.data.coco import Sample
from dealkit.figures import BLUE, FALSE, FOUND, GREEN, ORANGE, band_plot, draw_verdicts, image_axes, verdicts_of
from dealkit.files import Json
from dealkit.predict.detections import Detections
from dealkit.predict.predictor import Predictor
from dealkit.report.tables import shot_rows
from dealkit.studies.adaptation import CLICKS
from dealkit.studies.prompt_transfer import losses, rank_correlation


def matrix_figure(
    table: Mapping[str, Mapping[str, float | None]],
    *,
    title: str = "",
    label: str = "AP50, per cent",
    groups: Mapping[str, str] | None = None,
    signed: bool = False,
    scale: float = 100.0,
    row_label: str = "prompt from",
    column_label: str = "asked in",
) -> Figure:
    """Heat map of a value per source (row) and source (column), with the numbers in it.

    Args:
        table: by row, then column; None is left blank.
        groups: of each source, such as its domain: they stand together, a line between.
        signed: values around zero: purple above, orange below. scale: 100 shows shares in per cent.
    """
    names = sorted(table, key=lambda name: ((groups or {}).get(name, ""), name))
    values = np.array([[np.nan if table[a].get(b) is None else scale * table[a][b] for b in names] for a in names])
    many = len(names) > 10
    side = (0.31 if many else 0.46) * len(names) + 2.2
    figure, ax = plt.subplots(figsize=(side + 0.9, side), layout="constrained")
    largest = max(float(np.nanmax(np.abs(values))), 1e-9) if np.isfinite(values).any() else 1.0
    norm = TwoSlopeNorm(0, -largest, largest) if signed else None
    shown = ax.imshow(values, cmap="PuOr" if signed else "viridis", norm=norm, vmin=None if signed else 0)
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            level = shown.norm(value)
            dark = abs(level - 0.5) > 0.3 if signed else level < 0.6
            text = f"{round(value) or 0:{'+' if signed and round(value) else ''}d}"
            ax.text(x, y, text, ha="center", va="center", fontsize=7 if many else 8, color="white" if dark else "black")
    ax.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(names)), names)
    of = [(groups or {}).get(name, "") for name in names]
    for i in range(1, len(names)):
        if of[i] != of[i - 1]:
            ax.axhline(i - 0.5, color="white", linewidth=2)
            ax.axvline(i - 0.5, color="white", linewidth=2)
    ax.set(xlabel=column_label, ylabel=row_label)
    ax.set_title(title, loc="left")
    ax.spines[:].set_visible(False)
    figure.colorbar(shown, ax=ax, label=label, shrink=0.8)
    return figure


def distance_figure(results: Mapping[str, Any], *, title: str = "", named: int = 3) -> Figure:
    """Loss of AP50 against the distance of two sources, a dot per pair; the `named` smallest losses and the largest say which.

    Args:
        results: of `cross.prompt_matrix` or `cross.adapted_matrix`.
    """
    rows = losses(results)
    figure, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    x, y = [row["distance"] for row in rows], [100 * row["loss"] for row in rows]
    ax.scatter(x, y, s=24, color=BLUE, alpha=0.6, edgecolors="none")
    ax.axhline(0, color="grey", linewidth=1)
    order = sorted(range(len(rows)), key=lambda i: y[i])
    chosen = sorted(dict.fromkeys([*order[:named], *(order[-1:] if named else [])]), key=lambda i: x[i])
    high, wide = 0.06 * (max(y) - min(y)), 0.2 * (max(x) - min(x))
    # a label stands on the inner side of its dot, a line below those near on its right
    lines: dict[int, int] = {}
    for k, i in reversed(list(enumerate(chosen))):
        near = [lines[j] for j in chosen[k + 1 :] if abs(y[j] - y[i]) < high and x[j] - x[i] < wide]
        lines[i] = max(near, default=-1) + 1
        right = x[i] > (min(x) + max(x)) / 2
        ax.annotate(
            f"{rows[i]['from']} → {rows[i]['to']}",
            (x[i], y[i]),
            xytext=(-6 if right else 6, -12 * lines[i]),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=8,
        )
    ax.set(xlabel="distance of the sources: Fréchet, encoder features", ylabel="loss of AP50, points")
    ax.set_ylim(min(y) - 3 * high, max(y) + high)
    correlation = rank_correlation(rows)
    ax.set_title(f"{title}{'' if correlation is None else f' rank correlation {correlation:.2f}'}", loc="left")
    ax.grid(alpha=0.3)
    return figure


def gap_figure(gaps: Sequence[Json], *, title: str = "", label: str = "AP50, clicked ignored, per cent") -> Figure:
    """Score of each source where it was left out of training and where it was not; rows of `cross_tables.source_gaps`."""
    figure, ax = plt.subplots(figsize=(7.5, 1.4 + 0.32 * max(len(gaps), 1)), layout="constrained")
    for y, row in enumerate(gaps):
        ax.plot((100 * row["unseen"], 100 * row["seen"]), (y, y), color="#BBBBBB", linewidth=3, zorder=1)
    marks = {"before": (GREEN, "s", "before training on real images"), "unseen": (ORANGE, "o", "left out")}
    marks["seen"] = (BLUE, "D", "trained on")
    for key, (colour, marker, name) in marks.items():
        points = [(100 * row[key], y) for y, row in enumerate(gaps) if row[key] is not None]
        if points:
            ax.scatter(*zip(*points, strict=True), color=colour, marker=marker, s=42, label=name, zorder=2)
    ax.set_yticks(range(len(gaps)), [row["source"] for row in gaps])
    ax.set(xlabel=label, xlim=(0, 100), ylim=(max(len(gaps), 1) - 0.5, -0.5))
    if gaps:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16 - 0.6 / len(gaps)), ncols=3, frameon=False)
    ax.grid(axis="x", alpha=0.3)
    ax.set_title(title, loc="left")
    return figure


def shot_figure(results: Mapping[str, Any], *, metric: str = "ap50", title: str = "") -> Figure:
    """AP50 against the number of labelled images of a new source, a line per method, clicks alone as a level; results of
    `adapt.adapt`."""
    figure, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    rows = shot_rows(results, metric)
    level = [100 * row[metric] for row in rows if row["method"] == CLICKS]
    tuned = [{**row, "method": row["method"]} for row in rows if row["method"] != CLICKS]
    band_plot(ax, tuned, "shots", metric, "method", title=title)
    for value in level:
        ax.axhline(value, color="#555555", linestyle="--", linewidth=1.4, label=f"{CLICKS}, no labelled image")
    counts = sorted({row["shots"] for row in tuned})
    if counts:
        ax.set_xscale("log")
        ax.set_xticks(counts, [str(k) for k in counts])
        ax.minorticks_off()
    ax.set(xlabel="labelled images of the new source", ylabel="AP50, per cent", ylim=(0, 100))
    if level or tuned:
        ax.legend(frameon=False)
    return figure


def public_figure(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """AP50 by group of categories on the public data sets, the paper's as a line; results of `public.evaluate_public` by name."""
    figure, axes = plt.subplots(
        1, max(len(results), 1), figsize=(4.2 * max(len(results), 1), 3.4), layout="constrained", squeeze=False
    )
    for ax, (name, result) in zip(axes[0], results.items(), strict=False):
        groups = result["groups"]
        values = [100 * (groups[g]["mean"]["ap50"] or 0) for g in groups]
        spreads = [100 * (groups[g]["spread"]["ap50"] or 0) for g in groups]
        ax.bar(range(len(groups)), values, yerr=spreads, color=[BLUE, GREEN, ORANGE, "#777777"][: len(groups)], capsize=3)
        ax.set_xticks(range(len(groups)), [g.replace("class-agnostic", "class-\nagnostic") for g in groups])
        if result["paper"]:
            ax.axhline(result["paper"]["ap50"], color="black", linestyle="--", linewidth=1, label="paper, class-agnostic")
            ax.legend(frameon=False)
        ax.set(ylabel="AP50, per cent", ylim=(0, 100))
        ax.set_title(f"{name}, {result['images']} images", loc="left")
    return figure


def largest_kind(sample: Sample) -> Sample:
    """The sample with the objects of its most frequent kind only.

    >>> import torch
    >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [3.0, 3.0, 5.0, 5.0], [6.0, 6.0, 8.0, 8.0]])
    >>> sample = Sample(image=torch.zeros(3, 8, 8, dtype=torch.uint8), boxes=boxes, labels=torch.tensor([0, 1, 1]), image_id=1,
    ...     crowd=torch.zeros(3, dtype=torch.bool), annotation_ids=torch.tensor([1, 2, 3]), source="made")
    >>> largest_kind(sample).annotation_ids.tolist()
    [2, 3]

    Raises:
        ValueError: no object; names source and image.
    """
    clear = sample.labels[~sample.crowd]
    if not len(clear):
        raise ValueError(f"{sample.source}: image {sample.image_id}: no object")
    kept = sample.labels == clear.mode().values
    return replace(sample, **{name: getattr(sample, name)[kept] for name in ("boxes", "labels", "crowd", "annotation_ids")})


def answers(sample: Sample, models: Mapping[str, Predictor]) -> dict[str, Detections]:
    """What each model makes of a click on the centre of the sample's first object, by name."""
    x, y = ((sample.boxes[~sample.crowd][0, :2] + sample.boxes[~sample.crowd][0, 2:]) / 2).tolist()
    found = {}
    for name, predictor in models.items():
        predictor.set_image(sample.image)
        found[name] = predictor.click(x, y)
    return found


def most_changed(samples: Sequence[Sample], models: Mapping[str, Path]) -> tuple[Sample, dict[str, Detections]]:
    """The sample on which two checkpoints differ most in what is found and what is false, by one click on its largest kind, and
    their answers; samples without objects are passed over.

    Raises:
        ValueError: no sample with an object, or not two checkpoints.
    """
    predictors = {name: Predictor(checkpoint) for name, checkpoint in models.items()}
    made = [(kind, answers(kind, predictors)) for kind in (largest_kind(s) for s in samples if (~s.crowd).any())]
    if not made or len(models) != 2:
        raise ValueError(f"most_changed: expected samples with objects and two checkpoints, got {len(made)} and {len(models)}")

    def difference(sample: Sample, found: Mapping[str, Detections]) -> int:
        one, two = ([verdicts_of(f, sample)[0].count(verdict) for verdict in (FOUND, FALSE)] for f in found.values())
        return sum(abs(a - b) for a, b in zip(one, two, strict=True))

    return max(made, key=lambda pair: difference(*pair))


def draw_transfer(sample: Sample, answers: Mapping[str, Detections]) -> Figure:
    """The same image answered in several ways side by side: found, false, missed; results of one prompt each, clicks drawn."""
    size_hw = tuple(sample.image.shape[1:])
    axes = image_axes(*[size_hw] * len(answers), width=3.1 * len(answers))
    for ax, (name, found) in zip(axes, answers.items(), strict=True):
        draw_verdicts(ax, found, sample, name, width=1.2)
    return axes[0].figure
