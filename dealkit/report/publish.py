"""From a checkpoint to results in JSON and figures. Published numbers come from `data/results/*.json`, nothing is typed."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import box_iou
from tqdm import tqdm

from dealkit.boxes import to_cxcywh
from dealkit.data.photos import photo
from dealkit.data.scenes.scene import CHOICE_SEED
from dealkit.data.transforms import pad_to, to_input
from dealkit.evaluate.benchmark import click_every_object, evaluate_on_scenes, recall_precision, row_of
from dealkit.files import Json, provenance, read_json, sha_of, short_path, write_json, write_text
from dealkit.model.checkpoint import load_model, save_model
from dealkit.model.deal import DEAL
from dealkit.predict.predictor import Predictor, to_detections
from dealkit.prompts import stack_prompts
from dealkit.train.average import average_weights, mean_weights
from dealkit.train.loop import read_log


def demo(out: Path, checkpoint: Path) -> Json:
    """Click a coin, get all coins: prints what was found, writes pictures to `out`; returns the figures of every coin's click."""
    predictor = Predictor(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    coins = photo("coins")
    x, y = ((coins.boxes[0, :2] + coins.boxes[0, 2:]) / 2).tolist()
    predictor.set_image(coins.image)
    predictor.click(x, y)  # the first calls are slower, and not those of use
    started = time.perf_counter()
    predictor.set_image(coins.image)
    encoded = time.perf_counter()
    found = predictor.click(x, y)
    clicked = time.perf_counter()
    recall, precision = recall_precision(found, coins.boxes)
    height, width = coins.image.shape[1:]
    print(f"photograph `coins`, {width} x {height} px, {len(coins.boxes)} coins; one click at ({x:.0f}, {y:.0f})")
    print(f"found {len(found)}: {recall * len(coins.boxes):.0f} of the {len(coins.boxes)} coins, precision {precision:.2f}")
    print(f"encode {1000 * (encoded - started):.0f} ms, click {1000 * (clicked - encoded):.0f} ms on {provenance()['device']}")
    found.save_figure(out / "coins.png", title=f"one click, {len(found)} coins found")
    every = click_every_object(predictor, coins)
    scores = f"mean recall {every['recall']:.3f}, mean precision {every['precision']:.3f} at IoU 0.5"
    print(f"a click on each of the coins in turn: {scores}")

    galaxies = photo("hubble_deep_field")
    clear = galaxies.boxes[~galaxies.crowd]
    target = clear[((clear[:, 2] - clear[:, 0]) - 20).abs().argmin()]
    predictor.set_image(galaxies.image)
    found = predictor.click(*((target[:2] + target[2:]) / 2).tolist())
    found.save_figure(out / "galaxies.png", title=f"one click, {len(found)} galaxies found")
    print(f"photograph `hubble_deep_field`: one click, {len(found)} galaxies")
    print(f"pictures: {out / 'coins.png'}, {out / 'galaxies.png'}")
    return every


def publish(
    run: Path, out: Path, *, after: Sequence[Path] = (), training: Path | None = None, weights: Path | None = None
) -> None:
    """A run's averaged weights as a float16 checkpoint, its config and its log beside it.

    Of data paths the last three parts are kept. `after` are the earlier parts of the training, in order: their configs stand
    under `started_from`, their logs come first. `training` is where a summary of all parts goes, for the README; `weights` are
    published instead of those in `run`.
    """
    run, out = Path(run), Path(out)
    model = load_model(weights or run / "model.safetensors")
    save_model(model, out, half=True)
    configs, logs, parts = [], [], []
    for folder in [*map(Path, after), run]:
        config = read_json(folder / "config.json")
        config["data"]["coco"] = [short_path(entry) for entry in config["data"]["coco"]]
        configs.append(config)
        logs.append((folder / "log.jsonl").read_text(encoding="utf-8"))
        made = {"batch_size": config["train"]["batch_size"], "device": config.get("made_by", {}).get("device", "unknown")}
        parts.append(size_of_part(read_log(folder)) | made)
    write_json(out.with_suffix(".config.json"), {**configs[-1], "started_from": configs[:-1]})
    write_text(out.with_suffix(".log.jsonl"), "".join(logs))
    if training is not None:
        parameters = sum(p.numel() for p in model.parameters())
        write_json(training, {"checkpoint": out.name, "sha256": sha_of(out), "parameters": parameters, "parts": parts})


def size_of_part(log: list[dict[str, float]]) -> dict[str, float]:
    """Steps and minutes that a log covers, the interval before its first line included.

    >>> size_of_part([{"step": 220, "minutes": 3.3}, {"step": 240, "minutes": 3.6}, {"step": 260, "minutes": 3.9}])
    {'steps': 60, 'minutes': 0.9}
    """
    first, second, last = log[0], log[1], log[-1]
    steps = last["step"] - first["step"] + second["step"] - first["step"]
    return {"steps": steps, "minutes": round((last["minutes"] - first["minutes"]) * steps / (last["step"] - first["step"]), 1)}


LARGEST_SHIFT = 0.5
"""Pixels that the box of an object may move with the image round it, see `box_shift`."""


SHAPES = (("disc", 8, 8), ("disc", 12, 12), ("rectangle", 16, 8), ("disc", 20, 20))
"""Kind, width and height of the objects of `box_shift`."""


PLACES = {
    "crop": ((256, 256), (96, 96)),
    "large": ((1024, 1024), (512, 384)),
    "strip": ((1000, 380), (160, 736)),
    "padded": ((270, 300), (96, 96)),  # to 288 x 320
}
"""Height and width of an image, and where in it, xy, the objects of `plain_shapes` stand: 96 px or more from any border."""


def plain_shapes(
    kind: str, width: int, height: int, size_hw: tuple[int, int], offset_xy: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Four equal discs or rectangles on a plain image (3, H, W) uint8, and their boxes (4, 4) xyxy.

    >>> plain_shapes("disc", 8, 8, (64, 64), (0, 0))[1][0].tolist()
    [10.0, 12.0, 18.0, 20.0]
    """
    dx, dy = offset_xy
    y, x = torch.meshgrid(torch.arange(size_hw[0]) + 0.5, torch.arange(size_hw[1]) + 0.5, indexing="ij")
    image, boxes = torch.full((3, *size_hw), 90, dtype=torch.uint8), []
    for cx, cy in ((14 + dx, 16 + dy), (46 + dx, 12 + dy), (20 + dx, 48 + dy), (50 + dx, 44 + dy)):
        u, v = (x - cx) / (width / 2), (y - cy) / (height / 2)
        inside = u**2 + v**2 <= 1 if kind == "disc" else torch.maximum(u.abs(), v.abs()) < 1
        image[:, inside] = torch.tensor([210, 190, 120], dtype=torch.uint8)[:, None]
        boxes.append([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
    return image, torch.tensor(boxes)


@torch.inference_mode()
def box_shift(model: DEAL, shape: tuple[str, int, int]) -> float | None:
    """Pixels that a side of the same object's box moves, at most, from a 256 px crop to a large image, a strip and a padded one.

    One of four equal objects is clicked; of each its best box of score 0.1 or more is compared, in float32. None: one of them is
    not found in one of the images, at IoU 0.5.
    """
    found = []
    for size_hw, (dx, dy) in PLACES.values():
        image, truth = plain_shapes(*shape, size_hw, (dx, dy))
        batch, sizes = pad_to([to_input(image)])
        prompts = stack_prompts([(to_cxcywh(truth)[:1, :2], torch.ones(1, dtype=torch.int64))], [0])
        boxes = to_detections(model(batch, prompts, sizes), 0, size_hw).above(0.1).boxes
        overlap = box_iou(truth, boxes)
        if not len(boxes) or overlap.amax(1).min() <= 0.5:
            return None
        found.append(boxes[overlap.argmax(1)] - torch.tensor([dx, dy, dx, dy]))
    return max(float((boxes - found[0]).abs().max()) for boxes in found)


def choose_average(
    earlier: Path, later: Sequence[Path], out: Path, *, shares: Sequence[float] = (0.0, 0.3, 0.5, 0.7, 1.0), scenes: int = 100
) -> Json:
    """Score averages on held-out procedural scenes (of `CHOICE_SEED`, neither trained on nor published) and save the best.

    The later weights are the mean of those in `later`.

    Choice: the best AP50 over all objects among those whose boxes move by `LARGEST_SHIFT` at most with the image round them
    (`box_shift`); of equal ones the earlier in `shares`. If all move farther, the best AP50.

    Returns:
        `shares`: a row of scores and `box_shift` for each; `best`: the share that was written to `out`.
    """
    ends, rows = (load_model(earlier), mean_weights([load_model(path) for path in later])), []
    for share in tqdm(shares, desc="averages", unit="share"):
        mixed = average_weights(*ends, share)
        shifts = [box_shift(mixed, shape) for shape in SHAPES]
        scores = row_of(evaluate_on_scenes(mixed, scenes, 256, CHOICE_SEED))
        rows.append({"share": share, **scores, "box_shift": None if None in shifts else max(shifts)})
    steady = [row for row in rows if row["box_shift"] is not None and row["box_shift"] <= LARGEST_SHIFT]
    best = max(steady or rows, key=lambda row: row["ap50"])["share"]
    save_model(average_weights(*ends, best), out)
    made = {"earlier": sha_of(earlier), "later": [sha_of(path) for path in later], "scenes": scenes, "seed": CHOICE_SEED}
    return {**made, "shares": rows, "best": best, "made_by": provenance()}
