"""Drawings on images: boxes, clicks, maps, verdicts, queries, numbers.

`N`, `T` boxes, `h, w` cells of a map. Boxes are xyxy pixels of the image they are drawn on. Colours are those of Okabe and
Ito, which readers with any colour vision tell apart; on images each kind of box also has a line style of its own.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
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
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from dealkit.boxes import claim
from dealkit.data.coco import Sample
from dealkit.data.images import read_image
from dealkit.data.objects import ObjectTable
from dealkit.files import Json
from dealkit.predict.detections import Detections

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


def draw_cases(cases: Sequence[tuple[Mapping[str, Any], Tensor]], *, columns: int = 6) -> Figure | None:
    """A window around each case, with what was clicked in a corner; None without cases.

    Yellow dotted: objects of the clicked kind; blue: shown detections; red, thick: the case itself.

    Args:
        cases: of `dealkit.studies.failures.worst_cases`, each with its (3, H, W) uint8 image.

    >>> case = {"wanted": "cell", "got": None, "score": 0.5, "point": [9, 9], "box": [6, 6, 6, 6], "objects": [], "shown": []}
    >>> len(draw_cases([(case, torch.zeros(3, 60, 60, dtype=torch.uint8))]).axes), plt.close()
    (6, None)
    """
    if not cases:
        return None
    rows = -(-len(cases) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.9 * rows), layout="constrained", squeeze=False)
    for ax in axes.flat[len(cases) :]:
        ax.axis("off")
    for ax, (case, image) in zip(axes.flat, cases, strict=False):
        x, y, w, h = case["box"]
        side = int(min(*image.shape[1:], max(48, 5 * max(w, h))))
        left, top = (
            int(min(max(m - side / 2, 0), n - side)) for m, n in ((x + w / 2, image.shape[2]), (y + h / 2, image.shape[1]))
        )
        kind, on = (textwrap.shorten((case[key] or "").rsplit("/", 1)[-1], 18, placeholder="…") for key in ("wanted", "got"))
        score = "" if case["score"] is None else f" {case['score']:.2f}"
        show_image(ax, image[:, top : top + side, left : left + side])
        ax.set_title(kind + score + (f"\non {on}" if on else ""), fontsize=8)
        for boxes, colour, line, width in (
            (case["shown"], SKY, "-", 1.0),
            (case["objects"], YELLOW, ":", 1.2),
            ([case["box"]], RED, "-", 2.0),
        ):
            corners = box_convert(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4), "xywh", "xyxy")
            draw_boxes(ax, corners - torch.tensor([left, top, left, top]), colour, line=line, width=width)
        (x, y), reach = case["point"], 12.0
        for u, v, w, h in case["objects"]:
            if u <= x <= u + w and v <= y <= v + h:
                reach = max(reach, 0.75 * max(w, h))
        corner = ax.inset_axes((0.0, 0.0, 0.3, 0.3))
        show_image(corner, image[:, max(int(y - reach), 0) : int(y + reach), max(int(x - reach), 0) : int(x + reach)])
        corner.spines[:].set(visible=True, edgecolor="white", linewidth=1.5)
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

    A spoke is as long as the logarithm of the number of objects of its source; a domain is as wide as its number of sources, but
    has room for a picture.

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
    share = np.array([max(len(part["sources"]), 8) for part in domains.values()])
    widths = 2 * np.pi * share / share.sum()
    for width, end, (name, part) in zip(widths, widths.cumsum(), domains.items(), strict=True):
        middle, step = end - width / 2, 0.96 * width / len(part["sources"])
        polar.bar(middle, 0.08, 0.96 * width, bottom=0.5, color=colours[name])
        for s, source in enumerate(part["sources"]):
            angle, objects = end - 0.98 * width + (s + 0.5) * step, summary["sources"][source]["objects"]
            polar.bar(angle, 0.7 * np.log10(objects + 1) / most, 0.94 * step, bottom=0.6, color=colours[name], alpha=0.35)
            left = np.sin(angle) < -1e-9
            turn = {"rotation": 90 - np.degrees(angle) + 180 * left, "rotation_mode": "anchor", "ha": "right" if left else "left"}
            points = min(9 if len(source) < 12 else 7.5, 90 * step)
            polar.text(angle, 0.63, f"{source}  {objects:,}", va="center", fontsize=points, **turn)
        away, beside = (1.68, 0.38) if name in pictures else (1.45, 0)
        x, y = away * np.sin(middle), away * np.cos(middle)
        if name in pictures:
            picture = ax.inset_axes((x - 0.35, y - 0.35, 0.7, 0.7), transform=ax.transData)
            draw_window(picture, table, pictures[name], across=7.0)
            rim = Circle(
                (0.5, 0.5), 0.5, transform=picture.transAxes, fill=False, edgecolor=colours[name], linewidth=3, clip_on=False
            )
            for artist in (*picture.images, *picture.collections):
                artist.set_clip_path(rim)
            picture.add_patch(rim)
        place = {"va": "bottom" if y > 0 else "top", "ha": "center", "fontsize": 10, "fontweight": "bold"}
        ax.text(x, y + (beside if y > 0 else -beside), name, **place)
    polar.set_ylim(0, reach)
    for axes in (ax, polar):
        axes.axis("off")
    total = summary["total"]
    sums = [f"{total[key]:,} {key}" for key in ("images", "objects", "categories")] + [f"mean {total['size_mean']:.1f} px"]
    ax.text(0, 0, "\n".join(sums), ha="center", va="center", fontsize=12, linespacing=1.5)
    return figure
