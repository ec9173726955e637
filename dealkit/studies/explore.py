"""Pictures and tables of what is in a data set, for notebook 01: by domain, in numbers, in examples, and as the model sees it.

`N` objects, `M` images. Every domain has one colour throughout.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from dealkit.data.images import read_image
from dealkit.data.objects import ObjectTable
from dealkit.figures import BLUE, GREEN, ORANGE, PINK, RED, SKY, YELLOW, draw_boxes, show_image

PAPER_MEAN_SIZE = 20.4
"""Mean object size of TinySet-9M in pixels. Source: arXiv 2604.02773."""

COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY, "#8C6D31", "#555555", YELLOW, "#9467BD")
BINS = {"very tiny": 8.0, "tiny": 16.0, "small": 32.0}
"""Upper ends of the size bins, pixels."""


def domain_colours(domains: Sequence[str]) -> dict[str, str]:
    """One colour for each domain, by order of name; beyond ten they repeat.

    >>> list(domain_colours(["infrared", "astronomy"]))
    ['astronomy', 'infrared']
    """
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(sorted(set(domains)))}


def domain_table(summary: Mapping[str, Any]) -> str:
    """Markdown table of `dealkit.data.objects.summary`: a row per domain and one for all."""
    columns = ["sources", "images", "objects", "mean size", "< 8 px", "8–16", "16–32", "> 32"]
    columns += ["others within 32 px", "median contrast"]
    lines = [f"| domain | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    total = {"sources": list(summary["sources"])} | dict(summary["total"])
    for name, part in [*summary["domains"].items(), ("**all**", total)]:
        if not part["objects"]:
            lines.append(f"| {name} | {len(part['sources'])} | {part['images']:,} | 0 |" + " – |" * 7)
            continue
        shares = " | ".join(f"{100 * share:.0f} %" for share in part["size_bins"].values())
        counts = f"{len(part['sources'])} | {part['images']:,} | {part['objects']:,} | {part['size_mean']:.1f} px"
        lines.append(f"| {name} | {counts} | {shares} | {part['density_mean']:.1f} | {part['contrast_quantiles'][2]:.2f} |")
    return "\n".join(lines)


def count_bars(summary: Mapping[str, Any], colours: Mapping[str, str]) -> Figure:
    """Images and objects of every domain, on logarithmic axes with their numbers."""
    names = list(summary["domains"])[::-1]
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 0.36 * len(names) + 0.9), sharey=True, layout="constrained")
    for ax, key in zip(axes, ("images", "objects"), strict=True):
        values = [summary["domains"][name][key] for name in names]
        bars = ax.barh(names, values, color=[colours[name] for name in names])
        ax.bar_label(bars, [f"{v:,}" for v in values], padding=3, fontsize=9)
        ax.set_xscale("log")
        ax.set_xlim(0.8, 8 * max(values))
        ax.set_title(f"{key}: {summary['total'][key]:,}", loc="left")
        ax.set_xticks([])
        ax.minorticks_off()
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(left=False)
    return figure


def domain_histograms(
    values: NDArray,
    domains: NDArray,
    colours: Mapping[str, str],
    *,
    edges: NDArray,
    label: str,
    marks: Mapping[str, float] | None = None,
    log: bool = False,
) -> Figure:
    """One histogram per domain, one below the other on one axis; a dot is the median, and each is as high as its own largest bar.

    Args:
        values: (N,) of every object; those beyond the edges count in the outermost bars.
        domains: (N,) names.
        edges: of the bars.
        label: of the axis, with its unit.
        marks: text -> place of a vertical line.
    """
    names = [name for name in colours if (domains == name).any()]
    figure, ax = plt.subplots(figsize=(8.5, 0.5 * len(names) + 1.2), layout="constrained")
    for row, name in enumerate(reversed(names)):
        shown = np.clip(values[domains == name], edges[0], np.nextafter(edges[-1], edges[0]))
        counts = np.histogram(shown, edges)[0]
        ax.stairs(row + 0.85 * counts / max(counts.max(), 1), edges, baseline=row, fill=True, color=colours[name], alpha=0.85)
        ax.plot(np.median(shown), row, "o", color="black", markersize=5, markeredgecolor="white", zorder=4, clip_on=False)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(-0.05, len(names) + 0.1), xlabel=label, xscale="log" if log else "linear")
    ax.set_yticks(np.arange(len(names)) + 0.3, reversed(names))
    ax.tick_params(left=False)
    ax.spines["left"].set_visible(False)
    for text, place in (marks or {}).items():
        ax.axvline(place, color="black", linewidth=0.9, linestyle=":")
        ax.text(place, len(names) + 0.12, text, ha="center", va="bottom", fontsize=9)
    if log:
        ax.set_xticks([t for t in (2, 4, 8, 16, 32, 64, 128, 256) if edges[0] <= t <= edges[-1]])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.minorticks_off()
    return figure


def long_tail(table: ObjectTable, colours: Mapping[str, str], *, most: int = 60) -> Figure:
    """Objects of every category, largest first, on a logarithmic axis; of more than `most` categories the largest and smallest.

    A name's last part counts, so that `scene12/red ring` and `scene30/red ring` are one; the same name in two domains is two.
    """
    clear = ~table.objects["crowd"]
    names = [str(name).rsplit("/", 1)[-1] for name in table.objects["category"][clear]]
    kinds, counts = np.unique(
        [f"{d}\t{n}" for d, n in zip(table.of_image("domain")[clear], names, strict=True)], return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    shown = order if len(order) <= most else np.concatenate([order[: most // 2], order[-(most // 2) :]])
    figure, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
    parts = [kinds[i].split("\t") for i in shown]
    ax.bar(range(len(shown)), counts[shown], color=[colours[domain] for domain, _ in parts], width=0.85)
    ax.set_xticks(range(len(shown)), [name for _, name in parts], rotation=90, fontsize=8)
    ax.set(yscale="log", ylabel="objects", xlim=(-0.6, len(shown) - 0.4), ylim=(0.8, None))
    if len(shown) < len(order):
        ax.axvline(most // 2 - 0.5, color="black", linestyle=":", linewidth=1)
        ax.text(most // 2 - 0.2, counts.max(), f"{len(order) - len(shown)} categories left out", va="top", fontsize=9)
    half = np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2) + 1
    ax.set_title(f"{len(order)} categories; the {half} largest hold half of the objects", loc="left")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    return figure


def example_windows(table: ObjectTable, images: Sequence[int], *, across: float = 9.0) -> list[tuple[int, int, int, int]]:
    """For each image a square (x1, y1, x2, y2) around the object with most others near it, about `across` objects wide."""
    windows = []
    for i in images:
        rows, sides = table.rows(i), (int(table.images["width"][i]), int(table.images["height"][i]))
        boxes = table.objects["box"][rows]
        side = int(min(*sides, max(48.0, across * np.median(table.objects["size"][rows])))) if len(boxes) else min(sides)
        centre = boxes[table.objects["density"][rows].argmax()].reshape(2, 2).mean(0) if len(boxes) else np.array(sides) / 2
        x, y = (int(np.clip(c - side / 2, 0, s - side)) for c, s in zip(centre, sides, strict=True))
        windows.append((x, y, x + side, y + side))
    return windows


def show_window(ax: Axes, table: ObjectTable, image: int, window: tuple[int, int, int, int], title: str = "") -> None:
    """Part of an image with its boxes; crowd regions in grey."""
    x1, y1, x2, y2 = window
    show_image(ax, read_image(table.images["path"][image])[:, y1:y2, x1:x2], title)
    rows = table.rows(image)
    boxes = torch.from_numpy(table.objects["box"][rows] - np.float32([x1, y1, x1, y1]))
    crowd = torch.from_numpy(table.objects["crowd"][rows])
    draw_boxes(ax, boxes[crowd], "#BBBBBB", width=0.8)
    draw_boxes(ax, boxes[~crowd], YELLOW, width=1.1)


def draw_examples(
    table: ObjectTable, domains: Sequence[str], *, prefer: Sequence[str] = (), each: int = 5, columns: int = 5
) -> Figure:
    """Windows of up to `each` images of every domain, one source after the other, those of `prefer` first; row by row."""
    chosen = [(domain, i) for domain in domains for i in pick_images(table, domain, each, prefer=prefer)]
    rows = -(-len(chosen) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.75 * columns, 2.15 * rows), layout="constrained", squeeze=False)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.06, rect=(0, 0, 1, 1 - 0.09 / rows))  # room for the first heading
    windows = example_windows(table, [i for _, i in chosen])
    for n, (ax, (domain, i), window) in enumerate(zip(axes.flat, chosen, windows, strict=False)):
        show_window(ax, table, i, window)
        ax.set_title(f" \n{table.images['source'][i]}, {window[2] - window[0]} px", loc="left", fontsize=9)
        if n == 0 or chosen[n - 1][0] != domain:
            name = ax.text(0, 1.16, domain, transform=ax.transAxes, fontweight="bold", fontsize=8.5)
            name.set_in_layout(False)
    for ax in axes.flat[len(chosen) :]:
        ax.axis("off")
    return figure


def pick_images(table: ObjectTable, domain: str, count: int, *, prefer: Sequence[str] = ()) -> list[int]:
    """Rows of up to `count` images of a domain, of its sources in turn, those first that have as many objects as most."""
    of_image = np.bincount(table.objects["image"], minlength=len(table.images["path"]))
    queues = []
    here = (table.images["domain"] == domain) & (of_image > 0)
    for source in sorted(set(table.images["source"][here]), key=lambda s: (s not in prefer, s)):
        rows = np.flatnonzero(here & (table.images["source"] == source))
        ranked = rows[np.argsort(of_image[rows], kind="stable")]
        queues.append(ranked[np.argsort(abs(np.arange(len(ranked)) - len(ranked) // 2), kind="stable")].tolist())
    turns = [queue[k] for k in range(count) for queue in queues if k < len(queue)]
    return turns[:count]


def domain_wheel(
    summary: Mapping[str, Any], table: ObjectTable, colours: Mapping[str, str], *, prefer: Sequence[str] = ()
) -> Figure:
    """All domains round a wheel: a picture of each, its sources as spokes as long as the logarithm of their objects, and sums.

    Our own design of what the paper's Figure 1 shows: which domains a data set has, and what they look like.
    """
    domains, reach = list(summary["domains"]), 2.2
    figure = plt.figure(figsize=(9, 9))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(-reach, reach), ylim=(-reach, reach))
    polar = figure.add_axes((0, 0, 1, 1), projection="polar", theta_direction=-1, theta_offset=np.pi / 2)
    ax.axis("off")
    polar.axis("off")
    most = np.log10(max(part["objects"] for part in summary["sources"].values()) + 1)
    width = 2 * np.pi / len(domains)
    for d, name in enumerate(domains):
        middle, sources = (d + 0.5) * width, summary["domains"][name]["sources"]
        polar.bar(middle, 0.08, 0.96 * width, bottom=0.5, color=colours[name])
        step = 0.96 * width / len(sources)
        for s, source in enumerate(sources):
            angle, objects = (d + 0.02) * width + (s + 0.5) * step, summary["sources"][source]["objects"]
            polar.bar(angle, 0.7 * np.log10(objects + 1) / most, 0.94 * step, bottom=0.6, color=colours[name], alpha=0.35)
            left = np.sin(angle) < -1e-9
            turn = {"rotation": 90 - np.degrees(angle) + 180 * left, "rotation_mode": "anchor"}
            text, size = f"{source}  {objects:,}", 9 if len(source) < 12 else 7.5
            polar.text(angle, 0.63, text, ha="right" if left else "left", va="center", fontsize=size, **turn)
        x, y = 1.68 * np.sin(middle), 1.68 * np.cos(middle)
        for chosen in pick_images(table, name, 1, prefer=prefer):
            picture = ax.inset_axes((x - 0.38, y - 0.38, 0.76, 0.76), transform=ax.transData)
            show_window(picture, table, chosen, example_windows(table, [chosen], across=7.0)[0])
            clip_round(picture, colours[name])
        above = y > 0
        name_y = y + (0.41 if above else -0.41)
        ax.text(
            x, name_y, name, ha="center", va="bottom" if above else "top", fontsize=11, fontweight="bold", color=colours[name]
        )
    polar.set_ylim(0, reach)
    total = summary["total"]
    sums = [f"{total[key]:,} {key}" for key in ("images", "objects", "categories")]
    ax.text(0, 0, "\n".join([*sums, f"mean {total['size_mean']:.1f} px"]), ha="center", va="center", fontsize=12, linespacing=1.5)
    return figure


def clip_round(ax: Axes, colour: str) -> None:
    """Show only the largest disc of square axes, with a coloured rim."""
    disc = Circle((0.5, 0.5), 0.5, transform=ax.transAxes)
    for artist in (*ax.images, *ax.collections):
        artist.set_clip_path(disc)
    rim = Circle((0.5, 0.5), 0.5, transform=ax.transAxes, fill=False, edgecolor=colour, linewidth=3, clip_on=False)
    ax.add_patch(rim)


def draw_pairs(table: ObjectTable, pairs: NDArray, *, most: int = 3) -> Figure:
    """Pairs of images that look alike, one pair of every source in turn, side by side."""
    by_source: dict[str, list[tuple[int, int]]] = {}
    for i, j in pairs.tolist():
        by_source.setdefault(str(table.images["source"][i]), []).append((i, j))
    chosen = [queue[k] for k in range(most) for queue in by_source.values() if k < len(queue)][:most]
    figure, axes = plt.subplots(1, 2 * len(chosen), figsize=(9, 2.1), layout="constrained", squeeze=False)
    for ax, i in zip(axes[0], (i for pair in chosen for i in pair), strict=True):
        show_image(ax, read_image(table.images["path"][i]))
        ax.set_title(f"{table.images['source'][i]} {table.images['image_id'][i]}", loc="left", fontsize=9)
    return figure


def draw_suspicious(table: ObjectTable, *, most: int = 6) -> Figure | None:
    """Suspicious boxes (yellow) of each reason in turn, among the others (blue); None if there are none."""
    reasons = table.objects["suspicious"]
    by_reason: dict[str, list[int]] = {}
    for row in np.flatnonzero((reasons != "") & ~table.objects["crowd"]).tolist():
        by_reason.setdefault(reasons[row].split(", ")[0], []).append(row)
    for queue in by_reason.values():  # one of every source first
        seen: dict[str, int] = {}
        turn = [seen.setdefault(s, 0) or seen.update({s: seen[s] + 1}) or seen[s] for s in table.of_image("source")[queue]]
        queue[:] = [row for _, row in sorted(zip(turn, queue, strict=True))]
    chosen = [queue[k] for k in range(most) for queue in by_reason.values() if k < len(queue)][:most]
    if not chosen:
        return None
    figure, axes = plt.subplots(1, most, figsize=(9, 9 / most + 0.5), layout="constrained", squeeze=False)
    for ax, row in zip(axes[0], chosen, strict=False):
        i, box = int(table.objects["image"][row]), table.objects["box"][row]
        width, height = int(table.images["width"][i]), int(table.images["height"][i])
        side = int(min(width, height, max(40, 2.5 * (box[2:] - box[:2]).max())))
        x, y = (int(np.clip((box[k] + box[k + 2]) / 2 - side / 2, 0, (width, height)[k] - side)) for k in (0, 1))
        show_image(ax, read_image(table.images["path"][i])[:, y : y + side, x : x + side])
        ax.set_title(f"{reasons[row]}\n{table.images['source'][i]}", fontsize=9, loc="left")
        boxes = torch.from_numpy(table.objects["box"][table.rows(i)] - np.float32([x, y, x, y]))
        draw_boxes(ax, boxes, SKY, width=0.8)
        draw_boxes(ax, torch.from_numpy(box - np.float32([x, y, x, y]))[None], YELLOW, width=1.6)
    for ax in axes[0, len(chosen) :]:
        ax.axis("off")
    return figure


def neighbour_shares(vectors: NDArray, values: Mapping[str, NDArray], image: NDArray) -> dict[str, dict[str, float | None]]:
    """How often the object most like each one (largest cosine) is of the same domain, source or kind.

    Args:
        vectors: (K, D), not zero.
        values: name -> what each object is, (K,).
        image: (K,) which image each is in.

    Returns:
        name -> `same` (share of objects whose most similar other one has the same value), `elsewhere` (the same in other images
        only, of the values that are in several; None if none is) and `chance` (two objects drawn at random), all 0..1.

    >>> vectors = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> neighbour_shares(vectors, {"kind": np.array(["a", "a", "b", "b"])}, np.array([0, 0, 1, 2]))
    {'kind': {'same': 1.0, 'elsewhere': 1.0, 'chance': 0.5}}
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -2)
    nearest = likeness.argmax(1)
    nearest_elsewhere = np.where(image[:, None] == image, -2, likeness).argmax(1)
    shares = {}
    for name, value in values.items():
        kinds, code, counts = np.unique(value.astype(str), return_inverse=True, return_counts=True)
        several = np.array([len(set(image[code == k])) > 1 for k in range(len(kinds))])[code]
        matches = (code[nearest_elsewhere] == code)[several]
        shares[name] = {
            "same": round(float((code[nearest] == code).mean()), 3),
            "elsewhere": round(float(matches.mean()), 3) if several.any() else None,
            "chance": round(float(((counts / counts.sum()) ** 2).sum()), 3),
        }
    return shares


def draw_map(xy: NDArray, domains: NDArray, sources: NDArray, colours: Mapping[str, str]) -> Figure:
    """Points (K, 2) in the colours of their domains, with the name of each source at its middle point."""
    figure, ax = plt.subplots(figsize=(8.5, 5.6), layout="constrained")
    for name, colour in colours.items():
        here = domains == name
        if here.any():
            ax.scatter(*xy[here].T, s=14, color=colour, alpha=0.75, linewidths=0, label=name)
    spans, placed = np.ptp(xy, axis=0), []
    for source in sorted(set(sources), key=lambda s: np.median(xy[sources == s, 1])):
        x, y = np.median(xy[sources == source], axis=0)
        while any(abs(x - a) < 0.15 * spans[0] and abs(y - b) < 0.035 * spans[1] for a, b in placed):
            y += 0.01 * spans[1]
        placed.append((x, y))
        edge = [withStroke(linewidth=3, foreground="white")]
        ax.text(x, y, source, fontsize=9, ha="center", va="center", path_effects=edge)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2)
    return figure
