"""Pictures of failures: what each kind of mistake costs, recall against each factor, confusions, and the images themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from dealkit.config import DEFAULT_THRESHOLD
from dealkit.data.images import read_image
from dealkit.evaluate.errors import FOUND, IGNORED, LOCALISATION, MISSED, OTHER, Errors
from dealkit.evaluate.factors import FACTORS
from dealkit.evaluate.matching import Array
from dealkit.figures import BLUE, GREEN, ORANGE, PINK, RED, SKY, YELLOW, draw_boxes, show_image
from dealkit.files import Json

STATE_COLOURS = {
    "found": BLUE,
    "found, score too low": SKY,
    LOCALISATION: GREEN,
    OTHER: PINK,
    MISSED: RED,
}
"""What has become of an object, and its colour in every picture."""

SHORT = {
    "size": "size, px",
    "contrast": "contrast to the ring",
    "nearest": "nearest of its kind, sizes",
    "blur": "edge width, px",
    "clutter": "clutter around",
    "truncated": "touches the border",
    "instances": "objects of its kind",
    "kinds": "kinds in the image",
    "click_offset": "click off centre, half sides",
    "click_distance": "distance to the click, px",
    "size_step": "size unlike the click's, octaves",
    "colour_step": "colour unlike the click's",
}
"""Factor -> a label that fits a small panel."""


def gain_bars(made: Json, title: str = "") -> Figure:
    """AP50 that each kind of mistake costs, in points, largest first; `made` has `gain` (kind -> share) and `ap50`."""
    kinds = [kind for kind in made["gain"] if not kind.startswith("all ")]
    kinds.sort(key=lambda kind: made["gain"][kind] or 0.0)
    figure, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
    bars = ax.barh(kinds, [100 * (made["gain"][kind] or 0.0) for kind in kinds], color=BLUE)
    ax.bar_label(bars, fmt="%+.1f", padding=3)
    ax.set_xlabel("points of AP50 gained if this kind were mended")
    ax.margins(x=0.12)
    ax.set_title(title, loc="left")
    return figure


def object_states(errors: Errors, threshold: float = DEFAULT_THRESHOLD) -> dict[str, int]:
    """Objects in each state of `STATE_COLOURS`, those that count; a found one under the threshold is not seen by a user."""
    state, score = errors.objects["state"], errors.objects["score"]
    found = state == FOUND
    counts = {
        "found": int((found & (score >= threshold)).sum()),
        "found, score too low": int((found & (score < threshold)).sum()),
    }
    return counts | {name: int((state == name).sum()) for name in (LOCALISATION, OTHER, MISSED)}


def state_bars(states: Mapping[str, Mapping[str, int]]) -> Figure:
    """What became of the objects of each source, as shares of one bar; `states` is source -> state -> objects."""
    names = list(states)[::-1]
    figure, ax = plt.subplots(figsize=(8.5, 0.34 * len(names) + 1.1), layout="constrained")
    left = np.zeros(len(names))
    totals = np.array([max(sum(states[name].values()), 1) for name in names])
    for state, colour in STATE_COLOURS.items():
        share = np.array([states[name].get(state, 0) for name in names]) / totals * 100
        ax.barh(names, share, left=left, color=colour, label=state, height=0.75)
        left += share
    ax.set(xlim=(0, 100), xlabel="per cent of the objects that were not clicked")
    ax.tick_params(left=False)
    for name, total in zip(names, totals, strict=True):
        ax.text(101, name, f"{total:,}", va="center", fontsize=9)
    figure.legend(loc="outside upper center", ncols=5, frameon=False, handlelength=1.2, columnspacing=1.2)
    return figure


def factor_curves(
    observed: Mapping[str, Json], controlled: Mapping[str, Json] | None = None, *, names: Sequence[str] | None = None
) -> Figure:
    """Recall against each factor in a panel of its own: observed bins with their 95 % interval (dots), and controlled scenes
    (squares) where the level moves the same measurement.

    Args:
        observed: `factors` of `observed`. controlled: `factors` of `controlled`.
        names: factors, in order; None: all with two bins or levels.
    """
    controlled = controlled or {}
    if names is None:
        names = [n for n in FACTORS if len(observed.get(n, {"bins": []})["bins"]) > 1 or n in controlled]
    columns = min(4, max(len(names), 1))
    rows = max(-(-len(names) // columns), 1)
    figure, axes = plt.subplots(rows, columns, figsize=(2.1 * columns, 1.75 * rows + 0.4), layout="constrained", squeeze=False)
    for ax, name in zip(axes.flat, names, strict=False):
        _factor_panel(ax, name, observed.get(name, {"bins": []})["bins"], controlled.get(name, {"levels": []})["levels"])
    for ax in axes[:, 0]:
        ax.set_ylabel("recall, %")
    for ax in axes.flat[len(names) :]:
        ax.axis("off")
    handles = {h.get_label(): h for ax in axes.flat for h in ax.get_legend_handles_labels()[0]}
    figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=2, frameon=False)
    return figure


def _factor_panel(ax: Axes, name: str, bins: Sequence[Json], levels: Sequence[Json]) -> None:
    label = "observed"
    if len(bins) > 1:
        x, y = np.array([row["middle"] for row in bins]), np.array([100 * row["shown"] for row in bins])
        ends = np.array([row["interval"] or [row["shown"]] * 2 for row in bins]) * 100
        error = np.maximum(np.stack([y - ends[:, 0], ends[:, 1] - y]), 0)
        ax.errorbar(x, y, error, color=BLUE, marker="o", markersize=5, linewidth=1.5, capsize=2, label=label)
    set_ = [row for row in levels if row["shown"] is not None]
    if len(set_) > 1:
        own = name in ("truncated", "click_offset") or len({row["measured"] for row in set_}) < len(set_)
        x = [row["level" if own else "measured"] for row in set_]
        if name == "truncated":
            x = [float(row["level"] >= 0) for row in set_]
        order = np.argsort(x, kind="stable")
        y = np.array([100 * row["shown"] for row in set_])[order]
        ax.plot(np.array(x)[order], y, color=ORANGE, marker="s", markersize=5, linewidth=1.5, label="controlled scenes")
    if name in ("size", "instances", "nearest", "click_distance"):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        low, high = ax.get_xlim()
        ticks = [t for t in (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if low <= t <= high]
        ax.set_xticks(ticks[:: max(1, -(-len(ticks) // 5))])
    if name == "truncated":
        ax.set_xticks([0, 1], ["inside", "at it"])
        ax.set_xlim(-0.3, 1.3)
    ax.set_ylim(0, 102)
    ax.set_xlabel(SHORT[name], fontsize=9)
    ax.grid(alpha=0.3)


def importance_bars(model: Json) -> Figure:
    """What predicts a miss: the loss of held-out AUC when a factor is shuffled, with its spread over folds."""
    names = list(model["importance"])[::-1]
    values = [model["importance"][name]["mean"] for name in names]
    figure, ax = plt.subplots(figsize=(7, 0.3 * len(names) + 1.1), layout="constrained")
    ax.barh([SHORT[n] for n in names], values, xerr=[model["importance"][n]["spread"] for n in names], color=BLUE, ecolor="grey")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel("AUC lost when the factor is shuffled")
    ax.set_title(f"what predicts a miss: AUC {model['auc']:.2f} on images not seen", loc="left")
    return figure


def step_curves(fine: Mapping[str, Json], units: Mapping[str, str]) -> Figure:
    """Two kinds that differ in one attribute: share of detections on the wrong kind, and AP50, against the step."""
    columns = min(3, len(fine))
    rows = -(-len(fine) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.7 * columns, 1.9 * rows + 0.4), layout="constrained", squeeze=False)
    for ax, (name, made) in zip(axes.flat, fine.items(), strict=False):
        levels = sorted(made["levels"], key=lambda row: row["step"])
        x = [row["step"] for row in levels]
        confused = [100 * row["confused"] if row["confused"] is not None else np.nan for row in levels]
        ax.plot(x, confused, color=RED, marker="s", linestyle="--", label="detections on the other kind, %")
        ax.plot(x, [100 * (row["ap50"] or 0) for row in levels], color=BLUE, marker="o", label="AP50, %")
        ax.axhline(50, color="grey", linewidth=0.8, linestyle=":")
        ax.set(title=name, xlabel=units[name].split(";")[0], ylim=(0, 102))
        ax.xaxis.label.set_fontsize(9)
        ax.grid(alpha=0.3)
    for ax in axes.flat[len(fine) :]:
        ax.axis("off")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def scale_bars(scales: Json) -> Figure:
    """AP50 of the sizes of `dealkit.evaluate.benchmark.evaluate_across_scales`."""
    names = [name for name in scales if name[0].isdigit()]
    figure, ax = plt.subplots(figsize=(7, 2.4), layout="constrained")
    bars = ax.bar([f"{name} px" for name in names], [100 * (scales[name] or 0) for name in names], color=BLUE)
    ax.bar_label(bars, ["–" if scales[n] is None else f"{100 * scales[n]:.0f}" for n in names], padding=2)
    ax.set(ylabel="AP50, %", ylim=(0, 108))
    return figure


def examples(
    errors: Errors, coco: Json, clicks: Json, kind: str, *, most: int = 6, each: int = 1, rank: Mapping[int, float] | None = None
) -> list[Json]:
    """The worst cases of a kind of mistake, to be drawn by `draw_examples`.

    Args:
        errors: of `find_errors`. coco: its ground truth; clicks: its click list.
        kind: `missed` for objects that are not shown, or a type of detections, of which the strongest come first.
        most: cases. each: at most so many of one image and category.
        rank: annotation id -> how bad it is to miss it; without it the largest first.

    Returns:
        per case `file_name`, `box` (the object or detection, xywh), `truth` (objects of its category), `point` (the click),
        `size_wh` of the image, `score`, `wanted` and, where the detection lies on another category, `got` (names).
    """
    boxes = {row["id"]: row["bbox"] for row in coco["annotations"]}
    images = {row["id"]: row for row in coco["images"]}
    names = {row["id"]: row["name"] for row in errors.categories}
    prompts = {(p["image_id"], p["category_id"]): p for p in clicks["prompts"]}
    objects, detections = errors.objects, errors.detections
    if kind == MISSED:
        ids = objects["annotation_id"]
        shown = (objects["state"] == FOUND) & (objects["score"] >= DEFAULT_THRESHOLD)
        bad = np.array([rank.get(i, 0.0) if rank else boxes[i][2] * boxes[i][3] for i in ids.tolist()])
        rows = np.flatnonzero(~shown & (objects["state"] != IGNORED))
        rows, of = rows[np.argsort(-bad[rows], kind="stable")], objects
    else:
        rows = np.flatnonzero(detections["type"] == kind)
        rows, of = rows[np.argsort(-detections["score"][rows], kind="stable")], detections
    cases: list[Json] = []
    used: dict[tuple[int, int], int] = {}
    for row in rows.tolist():
        pair = (of["image_id"][row].item(), of["category_id"][row].item())
        if pair not in prompts or used.get(pair, 0) >= each or len(cases) == most:
            continue
        used[pair] = used.get(pair, 0) + 1
        case = {
            "file_name": images[pair[0]]["file_name"],
            "wanted": names[pair[1]],
            "score": float(of["score"][row]),
            "got": None,
        }
        case |= {"row": row, "kind": kind, "pair": pair, "point": prompts[pair]["points"][0]}
        case["truth"] = [boxes[a["id"]] for a in coco["annotations"] if (a["image_id"], a["category_id"]) == pair]
        if kind == MISSED:
            case["box"] = boxes[objects["annotation_id"][row].item()]
        elif detections["object"][row] >= 0:
            case["got"] = names[objects["category_id"][detections["object"][row]].item()]
        cases.append(case)
    return cases


def with_boxes(cases: Sequence[Json], predictions: Sequence[Json]) -> list[Json]:
    """The cases with `box` of their detection, and `shown`: boxes of all detections of the prompt that a user sees."""
    made = []
    for case in cases:
        shown = [
            row["bbox"]
            for row in predictions
            if (row["image_id"], row["category_id"]) == case["pair"] and row["score"] >= DEFAULT_THRESHOLD
        ]
        box = case["box"] if case["kind"] == MISSED else predictions[case["row"]]["bbox"]
        made.append(case | {"box": box, "shown": shown})
    return made


def draw_examples(cases: Sequence[tuple[Json, Path]], *, columns: int = 6) -> Figure | None:
    """A window around each case, with what was clicked in a corner; None without cases.

    Yellow dotted: objects of the clicked kind; blue: shown detections; red, thick: the case itself.

    Args:
        cases: of `with_boxes`, each with the folder of its image.
    """
    if not cases:
        return None
    rows = -(-len(cases) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.5 * columns, 1.9 * rows), layout="constrained", squeeze=False)
    for ax, (case, folder) in zip(axes.flat, cases, strict=False):
        image = read_image(Path(folder) / case["file_name"])
        height, width = image.shape[1:]
        x, y, w, h = case["box"]
        side = int(min(height, width, max(48, 5 * max(w, h))))
        left, top = int(np.clip(x + w / 2 - side / 2, 0, width - side)), int(np.clip(y + h / 2 - side / 2, 0, height - side))
        show_image(ax, image[:, top : top + side, left : left + side])
        for boxes, colour, line, thick in (
            (case["shown"], SKY, "-", 1.0),
            (case["truth"], YELLOW, ":", 1.2),
            ([case["box"]], RED, "-", 2.0),
        ):
            draw_boxes(ax, _xyxy(boxes) - torch.tensor([left, top, left, top]), colour, line=line, width=thick)
        _draw_clicked(ax, image, case)
        score = f" {case['score']:.2f}" if case["kind"] != MISSED else ""
        title = f"{_short(case['wanted'])}{score}" + (f"\non {_short(case['got'])}" if case["kind"] == OTHER else "")
        ax.set_title(title, fontsize=8)
    for ax in axes.flat[len(cases) :]:
        ax.axis("off")
    return figure


def _draw_clicked(ax: Axes, image: torch.Tensor, case: Json) -> None:
    """The clicked object in the lower left corner."""
    x, y = case["point"]
    holding = [b for b in case["truth"] if b[0] <= x <= b[0] + b[2] and b[1] <= y <= b[1] + b[3]]
    reach = max(6.0, 0.75 * max((max(b[2], b[3]) for b in holding), default=12.0))
    height, width = image.shape[1:]
    x1, y1 = int(max(x - reach, 0)), int(max(y - reach, 0))
    patch = image[:, y1 : int(min(y + reach, height)), x1 : int(min(x + reach, width))]
    inset = ax.inset_axes((0.0, 0.0, 0.3, 0.3))
    inset.imshow(patch.permute(1, 2, 0).numpy(), interpolation="nearest")
    inset.set(xticks=[], yticks=[])
    inset.spines[:].set(visible=True, edgecolor="white", linewidth=1.5)


def _xyxy(boxes: Sequence[Sequence[float]]) -> torch.Tensor:
    made = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return torch.cat([made[:, :2], made[:, :2] + made[:, 2:]], dim=1)


def _short(name: str, most: int = 18) -> str:
    """The last part of a category's name, cut to a title's length.

    >>> _short("scene12/red speckled two-lobed thing")
    'red speckled two-…'
    """
    name = name.rsplit("/", 1)[-1]
    return name if len(name) <= most else name[: most - 1] + "…"


def most_confused(errors: Errors, matrix: Array, most: int = 6) -> list[tuple[str, str, int, int]]:
    """Pairs of kinds that are taken for each other: clicked, what the detections lie on, how many of these, of how many shown."""
    wrong = matrix[:, :-1].copy()
    np.fill_diagonal(wrong, 0)
    order = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None, kind="stable")[:most]]
    names = [row["name"] for row in errors.categories]
    return [(names[i], names[j], int(wrong[i, j]), int(matrix[i].sum())) for i, j in order if wrong[i, j]]
