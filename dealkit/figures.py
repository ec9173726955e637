"""Drawings for the notebooks: boxes, clicks, maps, queries, bars, and curves of trainings, clicks and ablations.

`N`, `T` boxes, `h, w` cells of a map. Boxes are xyxy pixels of the image they are drawn on. Colours are those of Okabe and
Ito, which readers with any colour vision tell apart; on images each kind of box also has a line style of its own.
"""

import io
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from dealkit.boxes import claim
from dealkit.data.coco import Sample
from dealkit.data.images import read_image
from dealkit.data.objects import ObjectTable
from dealkit.files import Json
from dealkit.predict.detections import Detections
from dealkit.report.tables import interval

BLUE, ORANGE, GREEN, SKY, YELLOW, RED, PINK = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#F0E442", "#D55E00", "#CC79A7"
CATEGORY_COLOURS = (SKY, ORANGE, GREEN, PINK, YELLOW, RED, BLUE)
FOUND, FALSE, MISSED, UNCLEAR = "found", "false", "missed", "unclear"
STYLES: dict[str, tuple[str, str]] = {FOUND: (SKY, "-"), FALSE: (RED, "--"), MISSED: (YELLOW, ":"), UNCLEAR: ("#BBBBBB", "-")}
"""Colour and line of each verdict of `verdicts_of`."""


def use_notebook_style() -> None:
    """Readable sizes, and JPEG pictures in notebooks: a photograph as PNG would be five times larger."""
    plt.rcParams |= {
        "figure.dpi": 80,
        "savefig.dpi": 80,
        "font.size": 10,
        "axes.titlesize": 11,
        "legend.fontsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    try:
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    set_matplotlib_formats("jpeg", pil_kwargs={"quality": 62, "subsampling": 0})


def flat_picture(figure: Figure, colours: int = 160) -> bytes:
    """A figure without photographs as a PNG of few colours: a third of a JPEG, and letters stay sharp.

    >>> flat_picture(plt.figure())[1:4]
    b'PNG'
    """
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png")
    plt.close(figure)
    Image.open(whole).convert("RGB").quantize(colours).save(small, "png", optimize=True)
    return small.getvalue()


def image_axes(*size_hw: tuple[int, int], width: float = 6.5) -> list[Axes]:
    """Axes side by side for images of these heights and widths, all equally high, `width` inches together.

    >>> [len(image_axes((50, 50), (50, 100))), plt.close()]
    [2, None]
    """
    shares = [w / h for h, w in size_hw]
    figure, axes = plt.subplots(
        1,
        len(shares),
        figsize=(width, width / sum(shares) + 0.7),
        width_ratios=shares,
        layout="constrained",
        squeeze=False,
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    return list(axes[0])


def show_image(ax: Axes, image: Tensor, title: str = "", *, dim: float = 1.0) -> None:
    """Draw a (3, H, W) uint8 image, pixel (0, 0) from 0 to 1; `dim` below 1 darkens it behind what is drawn on it."""
    height, width = image.shape[-2:]
    ax.imshow((image.permute(1, 2, 0).float() * dim).byte().numpy(), extent=(0, width, height, 0), interpolation="nearest")
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.set_title(title, loc="left")
    ax.spines[:].set_visible(False)


def draw_boxes(
    ax: Axes, boxes: Tensor, colour: str = SKY, *, line: str = "-", width: float = 1.4, label: str | None = None
) -> None:
    """Draw (N, 4) boxes over a thin dark edge, so that they show on any ground; `label` enters the legend."""
    corners = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.tolist()]
    ax.add_collection(PatchCollection(corners, facecolor="none", edgecolor=(0, 0, 0, 0.45), linewidth=width + 1.2))
    ax.add_collection(PatchCollection(corners, facecolor="none", edgecolor=colour, linewidth=width, linestyle=line))
    if label is not None:
        edge = [withStroke(linewidth=width + 1.6, foreground=(0, 0, 0, 0.45))]
        ax.add_line(Line2D([], [], color=colour, linestyle=line, linewidth=width + 0.4, label=label, path_effects=edge))


def draw_clicks(ax: Axes, points: Tensor, labels: Tensor | None = None, *, size: float = 90) -> None:
    """Mark clicks (P, 2): a plus on what is meant, a cross on what is not."""
    wanted = torch.ones(len(points), dtype=torch.bool) if labels is None else labels == 1
    for chosen, marker in ((wanted, "P"), (~wanted, "X")):
        ax.scatter(*points[chosen].T.numpy(), marker=marker, s=size, c="white", edgecolors="black", linewidths=1.2, zorder=5)


def legend_below(ax: Axes, columns: int = 4) -> None:
    """The legend under the axes, where it covers nothing."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=columns, frameon=False, handlelength=2.2, columnspacing=1.2)


def verdicts_of(found: Detections, sample: Sample, iou: float = 0.5) -> tuple[list[str], list[str]]:
    """What a picture calls each detection and each object: strongest detection first, every object found once.

    Args:
        found: N detections, strongest first.
        sample: T boxes; those marked `crowd` are neither found nor missed.
        iou: overlap from which a detection has found an object.

    Returns:
        of every detection `found`, `false` or (on a crowd box) `unclear`; of every object `found`, `missed` or `unclear`.

    >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    >>> sample = Sample(image=torch.zeros(3, 8, 8, dtype=torch.uint8), boxes=box, labels=torch.zeros(1).long(), image_id=1,
    ...     crowd=torch.tensor([False]), annotation_ids=torch.tensor([1]), source="made")
    >>> verdicts_of(Detections(boxes=torch.cat([box, box + 4]), scores=torch.tensor([0.9, 0.8])), sample)
    (['found', 'false'], ['found'])
    """
    overlap, crowd = box_iou(found.boxes, sample.boxes), sample.crowd  # (N, T), (T,)
    owner = claim(overlap.masked_fill(crowd, -1.0), iou).tolist()
    on_crowd = (overlap[:, crowd] >= iou).any(1).tolist()
    of_object = [UNCLEAR if c else FOUND if t in owner else MISSED for t, c in enumerate(crowd.tolist())]
    of_detection = [FOUND if t >= 0 else UNCLEAR if c else FALSE for t, c in zip(owner, on_crowd, strict=True)]
    return of_detection, of_object


def draw_verdicts(ax: Axes, found: Detections, sample: Sample, title: str = "", *, width: float = 1.4) -> None:
    """Image with detections that are right and wrong, objects that are missed, the clicks, and how many there are of each."""
    of_detection, of_object = verdicts_of(found, sample)
    show_image(ax, sample.image, title)
    for verdict, boxes, verdicts in (
        (UNCLEAR, found.boxes, of_detection),
        (FOUND, found.boxes, of_detection),
        (FALSE, found.boxes, of_detection),
        (MISSED, sample.boxes, of_object),
    ):
        chosen = boxes[torch.tensor([v == verdict for v in verdicts], dtype=torch.bool)]
        if len(chosen) or verdict != UNCLEAR:
            draw_boxes(ax, chosen, STYLES[verdict][0], line=STYLES[verdict][1], width=width, label=f"{len(chosen)} {verdict}")
    if found.points is not None:
        draw_clicks(ax, found.points, found.labels)
    legend_below(ax)


def draw_map(
    ax: Axes, image: Tensor, cells: Tensor, title: str = "", *, label: str = "", top: float | None = None, stride: int = 4
) -> None:
    """A map (h, w) of cells of `stride` pixels over its darkened image, with a colour bar; `top` is the value of the brightest
    colour; what is 0 or less lets the image through."""
    height, width = image.shape[-2:]
    show_image(ax, image, title, dim=0.5)
    values = cells[: -(-height // stride), : -(-width // stride)].float()
    extent = (0, values.shape[1] * stride, values.shape[0] * stride, 0)
    top = top or max(float(values.max()), 1e-6)
    colours = ScalarMappable(Normalize(0, top), "inferno")
    shown = colours.to_rgba(values.numpy())
    shown[..., 3] = (values / top).clamp(0, 1).sqrt().numpy()  # what is zero lets the image through
    ax.imshow(shown, extent=extent, interpolation="nearest")
    ax.set(xlim=(0, width), ylim=(height, 0))
    bar = ax.figure.colorbar(colours, ax=ax, location="bottom", shrink=0.7, aspect=40, pad=0.02)
    bar.set_label(label)


def draw_queries(ax: Axes, image: Tensor, start: Tensor, end: Tensor, shown: Tensor, title: str = "") -> None:
    """Where queries start (dashed) and where they end (solid); of those that are not shown only the centre where they start.

    Args:
        start, end: (N, 4) xyxy, row by row the same query.
        shown: (N,) bool: queries that end as a box above the threshold.
    """
    show_image(ax, image, title, dim=0.75)
    unused = ((start[:, :2] + start[:, 2:]) / 2)[~shown]
    ax.scatter(*unused.T.numpy(), marker="o", s=16, c=YELLOW, edgecolors="black", linewidths=0.6, label="ends as nothing")
    draw_boxes(ax, start[shown], ORANGE, line="--", width=1.0, label="starts")
    draw_boxes(ax, end[shown], SKY, width=1.4, label="ends")
    legend_below(ax)


def draw_values(ax: Axes, image: Tensor, boxes: Tensor, values: Sequence[float], title: str = "") -> None:
    """Write one number of two decimals into each of the (N, 4) boxes."""
    show_image(ax, image, title, dim=0.45)
    draw_boxes(ax, boxes, SKY, width=1.0)
    for (x1, y1, x2, y2), value in zip(boxes.tolist(), values, strict=True):
        ax.text((x1 + x2) / 2, (y1 + y2) / 2, f"{value:.2f}", color="white", ha="center", va="center", fontweight="bold")


def loss_curves(log: Sequence[Mapping[str, float]], *, columns: int = 4) -> Figure:
    """One panel per loss term and one for their sum, over steps; lines of the log without losses are passed over."""
    log = [line for line in log if "loss" in line]
    names = ["loss", *(name for name in log[0] if name.startswith("loss_"))]
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9, 2.2 * rows), layout="constrained", squeeze=False, sharex=True)
    for ax, name in zip(axes.flat, names, strict=False):
        ax.plot([line["step"] for line in log], [line[name] for line in log], color=RED if name == "loss" else BLUE, marker=".")
        ax.set_title("sum of all terms" if name == "loss" else name.removeprefix("loss_").replace("_", " "))
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    for ax in axes.flat[max(len(names) - columns, 0) : len(names)]:
        ax.set_xlabel("step")
        ax.tick_params(labelbottom=True)
    return figure


def score_bars(scores: Mapping[str, Mapping[str, float | None]], *, title: str = "") -> Figure:
    """Grouped bars in per cent with their numbers: `scores` is series -> metric -> share from 0 to 1, None drawn as a dash."""
    metrics = list(next(iter(scores.values())))
    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    width = 0.8 / len(scores)
    for s, (series, values) in enumerate(scores.items()):
        at = [m + (s - (len(scores) - 1) / 2) * width for m in range(len(metrics))]
        bars = ax.bar(
            at, [100 * (values[m] or 0.0) for m in metrics], width, label=series, color=(BLUE, ORANGE, GREEN, PINK)[s % 4]
        )
        ax.bar_label(bars, ["–" if values[m] is None else f"{100 * values[m]:.1f}" for m in metrics], padding=2, fontsize=9)
    ax.set_xticks(range(len(metrics)), metrics)
    ax.set_ylabel("per cent")
    ax.margins(y=0.15)
    ax.set_title(title, loc="left")
    ax.legend(frameon=False)
    return figure


def count_plot(true: Sequence[float], series: Mapping[str, Sequence[float]], *, title: str = "") -> Figure:
    """Estimated counts against true ones, a marker for every prompt, logarithmic from 1; on the line an estimate is right."""
    figure, ax = plt.subplots(figsize=(5, 4.4), layout="constrained")
    top = 1.3 * max([*true, *(v for values in series.values() for v in values), 8.0])
    ax.plot([1, top], [1, top], color="grey", linewidth=1, label="right")
    for (name, values), colour, marker in zip(series.items(), (ORANGE, BLUE, GREEN), "so^", strict=False):
        shown = [max(value, 1.0) for value in values]  # what is less than one object lies on the axis
        ax.scatter(
            true,
            shown,
            s=28,
            color=colour,
            marker=marker,
            edgecolors="white",
            linewidths=0.5,
            label=name,
            zorder=3,
            clip_on=False,
        )
    ax.set(xlabel="objects in the scene", ylabel="objects that the density sums to", xscale="log", yscale="log")
    ax.set(xlim=(0.9, top), ylim=(1, top))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:.0f}")
        axis.set_minor_locator(NullLocator())
    ax.set_title(title, loc="left")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return figure


def draw_quality(ax: Axes, image: Tensor, boxes: Tensor, quality: Tensor, worst: int | None, title: str = "") -> None:
    """Objects (T, 4) in the colour of how well each is handled, (T,) 0 to 1; a ring around the worst."""
    show_image(ax, image, title, dim=0.6)
    colours = ScalarMappable(Normalize(0, 1), "viridis")
    corners = [Rectangle((x1, y1), x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes.tolist()]
    edges = colours.to_rgba(quality.clamp(0, 1).numpy())
    ax.add_collection(PatchCollection(corners, facecolor="none", edgecolor=edges, linewidth=1.8))
    if worst is not None:
        x1, y1, x2, y2 = boxes[worst].tolist()
        for width, colour in ((4.2, "black"), (2.0, "white")):
            ring = Circle(((x1 + x2) / 2, (y1 + y2) / 2), max(x2 - x1, y2 - y1, 8.0), fill=False)
            ring.set(edgecolor=colour, linewidth=width)
            ax.add_patch(ring)
    ax.figure.colorbar(colours, ax=ax, location="bottom", shrink=0.7, aspect=40, pad=0.02).set_label("score x IoU of each object")


def cosine_figure(image: Tensor, points: Tensor, maps: Mapping[str, Tensor], *, width: float = 9) -> Figure:
    """An image with its clicks (P, 2), and beside it the cosine maps of a click, name -> (h, w): colours from 0 to 1.

    The stride of each map is found from its size.
    """
    axes = image_axes(*[tuple(image.shape[-2:])] * (1 + len(maps)), width=width)
    show_image(axes[0], image, "click")
    draw_clicks(axes[0], points, size=70)
    for ax, (name, cells) in zip(axes[1:], maps.items(), strict=True):
        stride = next(s for s in (4, 8, 16, 32) if -(-image.shape[-1] // s) == cells.shape[-1])
        draw_map(ax, image, cells.clamp(min=0), name, label="cosine", top=1.0, stride=stride)
        draw_clicks(ax, points, size=30)
    return axes[0].figure


def band_plot(ax: Axes, rows: Sequence[Mapping[str, Any]], x: str, y: str, by: str, *, title: str = "") -> None:
    """Mean and standard deviation over seeds of `y`, a share shown in per cent, against `x`; a line for each value of `by`.

    Rows without a value (None) are left out; of a single seed there is no band.
    """
    import seaborn

    rows = [row for row in rows if row[y] is not None]
    names = list(dict.fromkeys(row[by] for row in rows))
    columns = {name: [row[name] for row in rows] for name in (x, by)} | {y: [100 * row[y] for row in rows]}
    colours = dict(zip(names, (BLUE, ORANGE, GREEN, PINK, SKY, RED, "#777777"), strict=False))
    style = {"hue": by, "style": by, "hue_order": names, "style_order": names, "markers": True, "dashes": False}
    if rows:
        seaborn.lineplot(columns, x=x, y=y, palette=colours, errorbar="sd", ax=ax, **style)
        ax.legend(frameon=False)
    ax.set_title(title, loc="left")
    ax.grid(alpha=0.3)


def learning_curves(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """AP50 over the steps of a sweep's trainings, rows as in its JSON: a line per cell, mean and spread over seeds."""
    figure, ax = plt.subplots(figsize=(7.0, 2.6), layout="constrained")
    points = [{"cell": row["cell"], **point} for row in rows for point in row["curve"]]
    band_plot(ax, points, "step", "ap50", "cell", title=title)
    ax.set(xlabel="step", ylabel="AP50, per cent", ylim=(0, None))
    if points:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def gain_plot(gains: Sequence[Mapping[str, Any]], *, title: str = "") -> Figure:
    """Differences of the cells of a sweep to its first, paired by seed: a small dot per seed, a large one for the mean, a line
    for Student's 95 % interval; rows of `tables.paired_gains`.

    The interval of two or three seeds is wide, as it should be; one that reaches far beyond all dots is cut at the frame.
    """
    first, *others = gains
    figure, ax = plt.subplots(figsize=(6.5, 0.9 + 0.36 * max(len(others), 1)), layout="constrained")
    ax.axvline(0, color="grey", linewidth=1)
    dots = [100 * value for row in others for value in row["gains"]] or [0.0]
    low, high = min(0.0, *dots), max(0.0, *dots)
    beyond = max(0.4 * (high - low), 0.5)
    for y, row in enumerate(others):
        values = [100 * value for value in row["gains"]]
        bounds = interval(values)
        if bounds is not None:
            ax.plot(bounds, (y, y), color=BLUE, linewidth=2, solid_capstyle="butt")
        ax.scatter(mean(values), y, s=80, color=BLUE, edgecolors="white", zorder=3)
        ax.scatter(values, [y] * len(values), s=26, color=ORANGE, edgecolors="white", linewidths=0.5, zorder=4)
    ax.set_yticks(range(len(others)), [row["cell"] for row in others])
    ax.set(xlim=(low - beyond, high + beyond), ylim=(max(len(others), 1) - 0.5, -0.5))
    ax.set_xlabel(f"AP50 minus that of “{first['cell']}”, points")
    ax.grid(axis="x", alpha=0.3)
    ax.set_title(title, loc="left")
    return figure


def click_plot(results: Mapping[str, Any]) -> Figure:
    """AP50 against the number of clicks, positive beside negative further ones; results of `rounds.click_curves`.

    Left over all objects; in the middle with those clicked so far ignored; right over those that are never clicked, the same at
    every number of clicks (after negative clicks all but the first). Bands: standard deviation over seeds.
    """
    panels = {"ap50": "all objects", "ap50_ignored": "clicked so far ignored", "ap50_unclicked": "never clicked"}
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained", sharex=True, sharey=True)
    rows = [
        {"further clicks": kind, **point} for kind, seeds in results["of_seeds"].items() for curve in seeds for point in curve
    ]
    for ax, (metric, name) in zip(axes, panels.items(), strict=True):
        sources = results["sources_in_mean"][metric]
        band_plot(ax, rows, "clicks", metric, "further clicks", title=f"{name}, {sources} sources")
        ax.set(xlabel="clicks", ylabel="AP50, per cent")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if ax is not axes[0] and ax.get_legend() is not None:
            ax.get_legend().remove()
    return figure


def position_plot(results: Mapping[str, Any]) -> Figure:
    """AP50 and hit against the distance of the click from the centre of its object; results of `positions.position_curves`.

    Bands: standard deviation over seeds.
    """
    names = {"ap50": "AP50, all objects", "ap50_ignored": "AP50, clicked ignored", "hit": "hit: the clicked object"}
    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    rows = [
        {"of": name, "offset": point["offset"], "share": point[metric]}
        for curve in results["of_seeds"]
        for point in curve
        for metric, name in names.items()
    ]
    band_plot(ax, rows, "offset", "share", "of")
    ax.set(xlabel="click: 0 the centre of the object, 1 its border", ylabel="per cent", ylim=(0, 100))
    return figure


def draw_window(ax: Axes, table: ObjectTable, image: int, row: int | None = None, *, across: float = 9.0) -> int:
    """Draw a square part of an image with its boxes: yellow ones count, crowd regions are grey.

    Args:
        table: of `dealkit.data.objects.read_table`.
        image: row of `table.images`.
        row: of `table.objects`: the window lies around this object, the others are blue. None: around the most crowded one.
        across: without `row`, how many median objects wide the window is.

    Returns:
        side of the window in pixels of the image.
    """
    rows, sides_wh = table.rows(image), np.array([table.images["width"][image], table.images["height"][image]])
    boxes, crowd = table.objects["box"][rows], table.objects["crowd"][rows]
    middle, wide = sides_wh / 2, float(sides_wh.min())
    if row is not None or len(boxes):
        chosen = table.objects["density"][rows].argmax() if row is None else row - rows.start
        middle = boxes[chosen].reshape(2, 2).mean(0)
        wide = (
            across * np.median(table.objects["size"][rows]) if row is None else 2.5 * np.ptp(boxes[chosen].reshape(2, 2), 0).max()
        )
    side = int(min(*sides_wh, max(48.0, wide)))
    x, y = np.clip(middle - side / 2, 0, sides_wh - side).astype(int).tolist()
    show_image(ax, read_image(table.images["path"][image])[:, y : y + side, x : x + side])
    shifted = torch.from_numpy(boxes - np.float32([x, y, x, y]))
    draw_boxes(ax, shifted[crowd], "#BBBBBB", width=0.8)
    draw_boxes(ax, shifted[~crowd], YELLOW if row is None else SKY, width=1.1)
    if row is not None:
        draw_boxes(ax, shifted[[row - rows.start]], YELLOW, width=1.6)
    return side


def domain_wheel(summary: Json, table: ObjectTable, pictures: Mapping[str, int], colours: Mapping[str, str]) -> Figure:
    """Domains round a wheel, our design of the paper's Figure 1: a picture of each, and a spoke for each source.

    A spoke is as long as the logarithm of the number of objects of its source.

    Args:
        summary: of `dealkit.data.objects.summary`, of `table`.
        pictures: domain -> row of `table.images`; a domain without one has no picture.
        colours: domain -> colour.
    """
    domains, reach = summary["domains"], 2.2
    figure = plt.figure(figsize=(9, 9))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(-reach, reach), ylim=(-reach, reach))
    polar = figure.add_axes((0, 0, 1, 1), projection="polar", theta_direction=-1, theta_offset=np.pi / 2)
    most = np.log10(max(part["objects"] for part in summary["sources"].values()) + 1)
    width = 2 * np.pi / len(domains)
    for d, (name, part) in enumerate(domains.items()):
        middle, step = (d + 0.5) * width, 0.96 * width / len(part["sources"])
        polar.bar(middle, 0.08, 0.96 * width, bottom=0.5, color=colours[name])
        for s, source in enumerate(part["sources"]):
            angle, objects = (d + 0.02) * width + (s + 0.5) * step, summary["sources"][source]["objects"]
            polar.bar(angle, 0.7 * np.log10(objects + 1) / most, 0.94 * step, bottom=0.6, color=colours[name], alpha=0.35)
            left = np.sin(angle) < -1e-9
            turn = {"rotation": 90 - np.degrees(angle) + 180 * left, "rotation_mode": "anchor", "ha": "right" if left else "left"}
            polar.text(angle, 0.63, f"{source}  {objects:,}", va="center", fontsize=9 if len(source) < 12 else 7.5, **turn)
        x, y = 1.68 * np.sin(middle), 1.68 * np.cos(middle)
        if name in pictures:
            picture = ax.inset_axes((x - 0.38, y - 0.38, 0.76, 0.76), transform=ax.transData)
            draw_window(picture, table, pictures[name], across=7.0)
            rim = Circle(
                (0.5, 0.5), 0.5, transform=picture.transAxes, fill=False, edgecolor=colours[name], linewidth=3, clip_on=False
            )
            for artist in (*picture.images, *picture.collections):
                artist.set_clip_path(rim)
            picture.add_patch(rim)
        place = {"va": "bottom" if y > 0 else "top", "ha": "center", "fontsize": 11, "fontweight": "bold"}
        ax.text(x, y + (0.41 if y > 0 else -0.41), name, **place)
    polar.set_ylim(0, reach)
    for axes in (ax, polar):
        axes.axis("off")
    total = summary["total"]
    sums = [f"{total[key]:,} {key}" for key in ("images", "objects", "categories")] + [f"mean {total['size_mean']:.1f} px"]
    ax.text(0, 0, "\n".join(sums), ha="center", va="center", fontsize=12, linespacing=1.5)
    return figure
