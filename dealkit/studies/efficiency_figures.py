"""Drawings of the label-efficient benchmark: the radar by domain, one image under every regime, equal minutes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.ops import box_convert

from dealkit.data.coco import Sample
from dealkit.figures import BLUE, GREEN, ORANGE, PINK, RED, SKY, draw_boxes, show_image
from dealkit.studies.claims import MODEL_NAMES


def radar(series: Mapping[str, Mapping[str, float | None]], *, title: str = "", top: float | None = None) -> Figure:
    """AP50 by domain: an axis for each, from 0 in the middle; a line with markers of its own for each method.

    Args:
        series: method -> domain -> share, 0 to 1; None leaves a gap. All have the same domains.
        top: share at the rim; by default the next tenth above the largest.
    """
    domains = list(next(iter(series.values())))
    angles = np.linspace(0, 2 * np.pi, len(domains), endpoint=False)
    largest = max((v for values in series.values() for v in values.values() if v is not None), default=0.0)
    top = top or (np.floor(10 * largest + 1e-9) + 1) / 10
    figure, ax = plt.subplots(figsize=(7.6, 4.8), subplot_kw={"projection": "polar"}, layout="constrained")
    looks = zip((RED, BLUE, ORANGE, GREEN, PINK, SKY), "osD^vP", strict=True)
    for (name, values), (colour, marker) in zip(series.items(), looks, strict=False):
        shares = [np.nan if values[d] is None else 100 * values[d] for d in domains]
        ax.plot([*angles, angles[0]], [*shares, shares[0]], color=colour, marker=marker, markersize=5, linewidth=1.8, label=name)
        if name == next(iter(series)):
            ax.fill(angles, np.nan_to_num(shares), color=colour, alpha=0.12)
    ax.set_theta_offset(np.pi / 2)
    ax.set_theta_direction(-1)
    ax.set_xticks(angles, [d.replace(" ", "\n", 1) for d in domains])
    ax.tick_params(axis="x", pad=16)
    step = 10 if top <= 0.5 else 20
    ax.set_yticks(range(step, int(round(100 * top)) + 1, step))
    ax.set(ylim=(0, 100 * top))
    ax.set_rlabel_position(180 / len(domains))
    ax.grid(alpha=0.4)
    ax.set_title(title, loc="left", pad=18)
    ax.legend(loc="center left", bbox_to_anchor=(1.22, 0.5), frameon=False)
    return figure


def race_figure(results: Mapping[str, Any]) -> Figure:
    """AP50 (left) and AP75 (right) over the minutes of training, a line per model; results of `race.race`.

    Dashed: DEAL without the objects that it was given by a click.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained", sharex=True)
    looks = zip((RED, BLUE, ORANGE, GREEN, PINK), "osD^v", strict=True)
    for (model, of_model), (colour, marker) in zip(results["models"].items(), looks, strict=False):
        name, minutes = MODEL_NAMES[model], [point["minutes"] for point in of_model["curve"]]
        for ax, metric in zip(axes, ("ap50", "ap75"), strict=True):
            lines = {metric: (name, "-"), f"{metric}_ignored": (f"{name}, clicked ignored", "--")}
            for key, (label, style) in lines.items():
                if key in of_model["curve"][0]:
                    shares = [100 * point[key] for point in of_model["curve"]]
                    ax.plot(minutes, shares, style, color=colour, marker=marker, markersize=5, linewidth=1.8, label=label)
    for ax, title in zip(axes, ("AP50", "AP75"), strict=True):
        ax.set(xlabel="minutes of training", ylabel=f"{title}, per cent", xlim=(0, None), ylim=(0, None))
        ax.set_title(title, loc="left")
        ax.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def labelled_view(sample: Sample, reduced: Mapping[str, Any], image_id: int) -> Sample | None:
    """The sample with the boxes that a regime leaves to its image; None if it is not labelled there.

    Args:
        reduced: what `regimes.apply_regime` gives.
    """
    if image_id not in {row["id"] for row in reduced["images"]}:
        return None
    left = [row["bbox"] for row in reduced["annotations"] if row["image_id"] == image_id and "bbox" in row]
    return replace(sample, boxes=box_convert(torch.tensor(left, dtype=torch.float32).reshape(-1, 4), "xywh", "xyxy"))


def regime_panel(
    views: Mapping[str, Sample | None], *, points: Mapping[str, Tensor] | None = None, columns: int = 4, width: float = 9
) -> Figure:
    """The same image under each regime: the boxes or points that are left, darkened where nothing is known.

    Args:
        views: title -> sample with the boxes of that regime; None: the image has no labels there.
        points: title -> (P, 2) xy, drawn in place of boxes.
    """
    image = next(sample.image for sample in views.values() if sample is not None)
    height, wide = image.shape[-2:]
    rows = -(-len(views) // columns)
    size = width, rows * (width / columns * height / wide + 0.35)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat[len(views) :]:
        ax.axis("off")
    for ax, (name, sample) in zip(axes.flat, views.items(), strict=False):
        show_image(ax, image, name, dim=0.35 if sample is None else 1.0)
        if points and name in points:
            ax.scatter(*points[name].T.numpy(), s=14, c=ORANGE, edgecolors="black", linewidths=0.6, zorder=3)
        elif sample is not None:
            draw_boxes(ax, sample.boxes, SKY, width=1.1)
    return figure
