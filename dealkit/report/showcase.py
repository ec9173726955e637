"""The picture that shows what a click finds of kinds that were never trained on, and what it misses: median images, not the best.

Choice: of the sources whose licence lets anyone show their images, the `SHOWN` with the smallest objects; of each, the prompt
whose F1 is the median of all its prompts.
"""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

from dealkit import figures
from dealkit.clicks import make_clicks
from dealkit.data.annotations import read_coco
from dealkit.data.coco import CocoFolder, Sample
from dealkit.data.licences import FREE, free_sources
from dealkit.files import Json, provenance, read_json, sha_of, tidy, write_json
from dealkit.predict.detections import Detections
from dealkit.predict.predictor import Predictor, prompted_images

SHOWN = 6


def shown_sources(folder: Path) -> list[Json]:
    """The entries of `sources.json` in `folder` whose images may be shown: `SHOWN` at most, smallest objects first."""
    return sorted(free_sources(folder / "sources.json").values(), key=lambda entry: entry["median_side_px"])[:SHOWN]


def f1_of(found: Detections, sample: Sample) -> float | None:
    """F1 at IoU 0.5 without what was clicked: the clicked object and the detection that stands for it; None if nothing is left.

    >>> import torch
    >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 12.0, 12.0]])
    >>> sample = Sample(image=torch.zeros(3, 16, 16, dtype=torch.uint8), boxes=box, labels=torch.zeros(2).long(), image_id=1,
    ...     crowd=torch.tensor([False, False]), annotation_ids=torch.tensor([1, 2]), source="made")
    >>> found = Detections(boxes=torch.cat([box, box[:1] + 30]), scores=torch.tensor([0.9, 0.8, 0.7]),
    ...     clicked=torch.tensor([True, False, False]))
    >>> round(f1_of(found, sample), 3)  # one of one object found, one of two detections right
    0.667
    """
    of_detection, of_object = figures.verdicts_of(found, sample)
    clicked = found.clicked.tolist() if found.clicked is not None else [False] * len(found)
    right = sum(v == figures.FOUND for v, c in zip(of_detection, clicked, strict=True) if not c)
    wrong = sum(v == figures.FALSE for v, c in zip(of_detection, clicked, strict=True) if not c)
    missed = max(sum(v != figures.UNCLEAR for v in of_object) - 1 - right, 0)
    return right / (right + (wrong + missed) / 2) if right + missed else None


def median_prompt(predictor: Predictor, data: CocoFolder, clicks: Json) -> Json:
    """`category`, `image`, `sample`, `found` and `f1` of the prompt whose F1 is the median, the lower of two; and of how many."""
    label = {category: i for i, (category, _) in enumerate(data.categories)}
    answers = []
    for index, prompts in prompted_images(data, [clicks]):
        whole = data[index]
        predictor.set_image(whole.image)
        for _, prompt in prompts:
            kind = whole.labels == label[prompt["category_id"]]
            of_kind = {name: getattr(whole, name)[kind] for name in ("boxes", "labels", "crowd", "annotation_ids")}
            sample, found = replace(whole, **of_kind), predictor.predict(prompt["points"])
            if (f1 := f1_of(found, sample)) is not None:
                category = dict(data.categories)[prompt["category_id"]]
                answers.append({"category": category, "image": whole.image_id, "sample": sample, "found": found, "f1": f1})
    return sorted(answers, key=lambda answer: answer["f1"])[(len(answers) - 1) // 2] | {"prompts": len(answers)}


def showcase(folder: Path, checkpoint: Path, scores: Path, picture: Path, out: Path) -> Json:
    """Draw `picture`, two rows of median prompts with the AP50 of their whole source, and write what was chosen to `out`.

    Args:
        folder: of sources that the checkpoint was not trained on: `sources.json`, and `test.json` with `images` for each.
        scores: results of `benchmark` on them, whose AP50 of a click is named.

    Raises:
        ValueError: scores of another checkpoint, or no source that may be shown.
    """
    results = read_json(scores)
    if results["request"]["sha256"] != sha_of(checkpoint):
        raise ValueError(f"{scores}: scores of another checkpoint than {checkpoint}; expected those of the same")
    entries = shown_sources(folder)
    if not entries:
        raise ValueError(f"{folder / 'sources.json'}: expected a source whose licence begins with {', '.join(FREE)}")
    ap50 = tidy(results).query("kind == 'centre' and prompts == 'alone'").groupby("source")["ap50_ignored"].mean()
    predictor, chosen = Predictor(checkpoint), []
    for entry in entries:
        file = folder / entry["name"] / "test.json"
        clicks = make_clicks(read_coco(file), setting="1/category", seed=0)
        found = median_prompt(predictor, CocoFolder(file), clicks)
        chosen.append(entry | found | {"ap50": float(ap50[entry["name"]])})
    figure, axes = plt.subplots(2, -(-len(chosen) // 2), figsize=(14, 9), squeeze=False, gridspec_kw={"wspace": 0.35})
    for ax in axes.flat[len(chosen) :]:
        ax.axis("off")
    for ax, of in zip(axes.flat, chosen, strict=False):
        figures.draw_verdicts(ax, of["found"], of["sample"])
        title = f"{of['category']}: F1 {100 * of['f1']:.0f}, AP50 of the source {100 * of['ap50']:.0f}"
        ax.set_title(f"{title}\n{of['repository']}, {of['licence'].split(' (')[0]}", loc="left", fontsize=9)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110, bbox_inches="tight", pil_kwargs={"quality": 85})
    plt.close(figure)
    kept = ("name", "category", "image", "f1", "prompts", "ap50", "repository", "licence")
    rows = [{key: of[key] for key in kept} for of in chosen]
    made = {"sha256": sha_of(checkpoint), "rows": rows, "made_by": provenance()}
    write_json(out, made)
    return made
