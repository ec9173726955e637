"""`dealkit.history`: what a git history tells of checkpoints and parts of a training."""

import json
import subprocess

import pytest

from dealkit.history import changed_fields, checkpoint_history, minutes_of, parts_of
from dealkit.tables import SCORES, history_table


def commit(root, **files):
    """Write files by their name in the repository, `__` for `/` and `_json` for `.json`, and commit them."""
    for name, value in files.items():
        folder, _, file = name.rpartition("__")
        path = root / "data" / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    subprocess.run(["git", "-C", str(root), "add", "-A"], check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(root), *who, "commit", "-qm", "x", "--no-verify"], check=True)


def results(sha, score):
    return {"request": {"sha256": sha}, "mean": {"1/category centre": dict.fromkeys(SCORES, score) | {"ap": 0.1}}}


def config(**loss):
    return {"data": {"coco": ["a"]}, "loss": loss, "made_by": {"commit": "x"}}


@pytest.fixture
def root(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def test_a_history_has_a_row_per_checkpoint_and_a_part_per_config(root):
    photos = {"sha256": "one", "coins": {"recall": 0.5}, "scenes": {"ap50": 0.25}}
    names = {"real": "results__realsmall_nano.json", "photos": "results__photos_nano.json"}
    log, kept = "checkpoints__nano.log.jsonl", "checkpoints__nano.config.json"
    commit(root, **{names["real"]: results("one", 0.5), log: '{"step": 1, "minutes": 3.0}', kept: config(giou=1.0)})
    commit(root, **{names["photos"]: photos})  # of the same checkpoint, a commit later
    training = {"checkpoint": "nano", "parts": [{"steps": 1, "minutes": 3.0}, {"steps": 2, "minutes": 4.0}]}
    both = '{"step": 1, "minutes": 3.0}\n{"step": 1, "minutes": 2.0}\n{"step": 2, "minutes": 4.0}'
    last = config(giou=2.0) | {"started_from": [config(giou=1.0)]}
    commit(root, **{names["real"]: results("two", 0.75), log: both, kept: last, "results__training_nano.json": training})

    history = checkpoint_history(root=root)
    first, second = history["checkpoints"]
    assert (first["sha256"], first["minutes"], first["ap50"], first["coins_recall"]) == ("one", 3.0, 0.5, 0.5)
    assert (second["sha256"], second["minutes"], second["hit"]) == ("two", 7.0, 0.75) and "ap" not in second
    assert [part["changed"] for part in history["parts"]] == [{}, {"loss.giou": [1.0, 2.0]}]
    rows = history_table(history).splitlines()[2:]
    assert rows[0].endswith("| 3 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 25.0 |")
    assert rows[1].endswith("| 7 | 75.0 | 75.0 | 75.0 | 75.0 | 75.0 | – | – |")


def test_without_results_there_is_no_history(root):
    with pytest.raises(ValueError, match=r"git history holds no data/results/realsmall_nano.json"):
        checkpoint_history(root=root)
    with pytest.raises(ValueError, match="holds no data/results/realsmall_small.json"):
        checkpoint_history("small", root=root)


def test_parts_and_configs_must_agree_in_number():
    with pytest.raises(ValueError, match="training of nano: 2 parts, but 1 configs"):
        parts_of(config(), {"checkpoint": "nano", "parts": [{}, {}]})


def test_what_says_nothing_of_the_recipe_is_no_change():
    before = {"data": {"coco": ["a"]}, "train": {"seed": 0, "lr": 1.0}, "made_by": {"commit": "x"}}
    after = {"data": {"coco": ["b"], "variety": 0.5}, "train": {"seed": 1, "lr": 2.0}, "made_by": {"commit": "y"}}
    assert changed_fields(before, after) == {"data.variety": [None, 0.5], "train.lr": [1.0, 2.0]}


def test_minutes_of_an_empty_log():
    assert minutes_of("") == 0.0
