"""What was tried: every published checkpoint of a name with its scores, and what each part of its training changed.

Read from the repository's own history, so that no figure is copied by hand: a commit that brought a checkpoint brought its
results, its configs and its log.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

from dealkit.files import PROJECT_ROOT, Json, read_json
from dealkit.tables import SCORES


def git(*arguments: str, root: Path) -> str | None:
    """Output of a git command in `root`; None if it fails, as for a file that a commit does not have."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def json_at(commit: str, file: str, root: Path) -> Json | None:
    """A JSON file as it was at a commit; None if it was not there."""
    text = git("show", f"{commit}:{file}", root=root)
    return None if text is None else json.loads(text)


def changed_fields(before: Json, after: Json) -> dict[str, list[Any]]:
    """Fields of two configs that differ: `part.field` -> [before, after]; None for a field that did not exist.

    Where data lie, the seed and how often a checkpoint is written are left out: they say nothing of the recipe.

    >>> changed_fields({"loss": {"score": 1.0, "giou": 2.0}}, {"loss": {"score": 2.0, "giou": 2.0}})
    {'loss.score': [1.0, 2.0]}
    """
    skipped = {"data.coco", "data.weights", "train.seed", "train.checkpoint_every", "train.max_minutes", "train.steps"}
    found = {}
    for part, fields in after.items():
        if part == "made_by" or not isinstance(fields, dict):
            continue
        for field, value in fields.items():
            old = before.get(part, {}).get(field)
            if old != value and f"{part}.{field}" not in skipped:
                found[f"{part}.{field}"] = [old, value]
    return found


def parts_of(config: Json, training: Json) -> list[Json]:
    """Parts of a training: steps, minutes and batch size of each, and under `changed` the fields of the config that it changed.

    Args:
        config: a published `NAME.config.json`, the earlier parts under `started_from`.
        training: `training_NAME.json`, as `publish` writes it.

    Raises:
        ValueError: the two tell of different numbers of parts.
    """
    configs, parts = [*config.get("started_from", []), config], training["parts"]
    if len(parts) != len(configs):
        raise ValueError(f"training of {training['checkpoint']}: {len(parts)} parts, but {len(configs)} configs")
    changes = [{}, *(changed_fields(a, b) for a, b in zip(configs, configs[1:], strict=False))]
    return [part | {"changed": changed} for part, changed in zip(parts, changes, strict=True)]


def minutes_of(log: str) -> float:
    """Minutes of all runs in a log, one after the other: a step that does not grow begins a new run.

    >>> minutes_of('{"step": 20, "minutes": 1.0}\\n{"step": 40, "minutes": 2.0}\\n{"step": 20, "minutes": 0.5}')
    2.5
    """
    lines = [json.loads(line) for line in log.splitlines()]
    last = [a["minutes"] for a, b in zip(lines, lines[1:], strict=False) if b["step"] <= a["step"]]
    return sum(last) + (lines[-1]["minutes"] if lines else 0.0)


def checkpoint_history(name: str = "nano", root: Path = PROJECT_ROOT) -> Json:
    """All published checkpoints of `name`, oldest first, and the parts of the last one's training.

    Returns:
        `checkpoints`: sha256, commit and date of its results, minutes of training, the `SCORES` on the validation splits (mean
        over sources and click lists), recall on the coins and AP50 on procedural scenes; `parts`: see `parts_of`.

    Raises:
        ValueError: no git history holds results of this checkpoint.
    """
    results, photos = f"data/results/realsmall_{name}.json", f"data/results/photos_{name}.json"
    log = git("log", "--reverse", "--format=%h %cs", "--", results, photos, root=root)
    rows: dict[str, Json] = {}
    for line in (log or "").splitlines():
        commit, date = line.split()
        real, photo = json_at(commit, results, root), json_at(commit, photos, root)
        if real is not None:
            sha, mean = real["request"]["sha256"], real["mean"]["1/category centre"]
            text = git("show", f"{commit}:data/checkpoints/{name}.log.jsonl", root=root) or ""
            rows.setdefault(sha, {"sha256": sha, "commit": commit, "date": date, "minutes": minutes_of(text)})
            rows[sha] |= {score: mean[score] for score in SCORES}
        if photo is not None and photo["sha256"] in rows:
            scene = photo["scenes"]
            rows[photo["sha256"]] |= {"coins_recall": photo["coins"]["recall"], "scenes_ap50": scene["ap50"]}
    if not rows:
        raise ValueError(f"{root}: its git history holds no {results}")
    config = read_json(root / "data" / "checkpoints" / f"{name}.config.json")
    training = read_json(root / "data" / "results" / f"training_{name}.json")
    return {"checkpoint": name, "checkpoints": list(rows.values()), "parts": parts_of(config, training)}
