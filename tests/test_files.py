"""`dealkit.files`: JSON that names its file, writes that leave the old file, hashes of parts, rows that resume."""

import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from dealkit.files import (
    PROJECT_ROOT,
    Results,
    files_and_folder,
    files_of,
    find_files,
    read_json,
    sha_of,
    tidy,
    write_atomically,
    write_json,
)
from dealkit.jobs import journal

KEYS = [{"source": "cells", "seed": 0}, {"source": "cells", "seed": 1}, {"source": "pools", "seed": 0}]


def test_json_is_read_from_a_path_only_and_a_bad_file_is_named(tmp_path):
    write_json(tmp_path / "deep" / "good.json", {"a": [1, None]})
    assert read_json(tmp_path / "deep" / "good.json") == read_json({"a": [1, None]}) == {"a": [1, None]}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="bad.json: not a JSON file"):
        read_json(tmp_path / "bad.json")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})

    def half(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a.json", half)
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_every_file_has_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
        write_atomically(tmp_path / "b.safetensors", lambda file: save_file({"a": torch.zeros(1)}, file))
    finally:
        os.umask(before)
    assert [stat.S_IMODE(file.stat().st_mode) for file in sorted(tmp_path.iterdir())] == [0o640, 0o640]


WRITES = """
import resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from safetensors.numpy import save_file
from dealkit.files import write_atomically, write_json
from dealkit.jobs import journal

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # as on a full disk, a write ends in the middle
noise = np.random.default_rng(0).integers(0, 255, (90, 90), dtype=np.uint8)
out = Path(sys.argv[1])

def rows(path):
    with journal(path, {}) as (_, add):
        for n in range(1000):
            add({"n": n})

for name, write in {
    "a.json": lambda path: write_json(path, list(range(9000))),
    "a.png": lambda path: write_atomically(path, lambda to: Image.fromarray(noise).save(to, "PNG")),
    "a.safetensors": lambda path: write_atomically(path, lambda to: save_file({"a": noise}, to)),
    "a.jsonl": rows,
}.items():
    try:
        write(out / name)
    except OSError as error:
        print(error.filename, error.strerror, sep=": ")
"""


def test_a_full_disk_leaves_no_part_of_a_file_and_names_it(tmp_path):
    options = {"env": os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", WRITES, str(tmp_path)], **options)
    names = ["a.json", "a.png", "a.safetensors", "a.jsonl"]
    assert done.stdout.splitlines() == [f"{tmp_path / name}: cannot be written: File too large" for name in names], done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    with journal(tmp_path / "a.jsonl", {}) as (rows, add):  # goes on where the whole lines end
        done = len(rows)
        add({"n": done})
    assert [row["n"] for row in rows] == list(range(done + 1)) and done > 100


def test_a_path_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written: Not a directory: '.*file/a.json'"):
        write_json(tmp_path / "file" / "a.json", {})
    with pytest.raises(OSError, match="cannot be written: File name too long"):
        write_json(tmp_path / ("x" * 300), {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="cannot be written: Is a directory"):
        write_json(tmp_path / "folder", {})
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
    write_json(tmp_path / ("y" * 250 + ".json"), {})  # as long as a name may be


def test_files_are_found_by_patterns_in_order_and_none_is_an_error(tmp_path):
    for name in ("b.json", "a.json", "c.txt"):
        (tmp_path / name).touch()
    found = find_files([f"{tmp_path}/*.txt", f"{tmp_path}/*.json"])
    assert [file.name for file in found] == ["c.txt", "a.json", "b.json"]
    with pytest.raises(ValueError, match=r"--val: .*/none-\*"):
        find_files([f"{tmp_path}/none-*"], "--val")


def test_parts_have_the_hash_of_the_file_they_stand_for(tmp_path):
    (tmp_path / "whole.safetensors").write_bytes(b"one two")
    for i, part in enumerate((b"one ", b"two"), 1):
        (tmp_path / f"parts-{i:05d}-of-00002.safetensors").write_bytes(part)
    assert sha_of(tmp_path / "parts.safetensors") == sha_of(tmp_path / "whole.safetensors")
    with pytest.raises(FileNotFoundError, match="none"):
        sha_of(tmp_path / "none")


def test_rows_resume_after_a_kill_and_begin_anew_for_another_request(tmp_path):
    request = {"images": 12, "sizes": (4, 8)}  # a tuple is a list in the file, and the request is the same
    for key in Results(tmp_path / "made.json", request).todo(KEYS):
        again = Results(tmp_path / "made.json", request)
        again.add(key, {"ap50": 0.5}, {"ap50": 0.25})
        if key["seed"] == 1:
            break  # killed
    resumed = Results(tmp_path / "made.json", request)
    assert list(resumed.todo(KEYS)) == KEYS[2:] and len(resumed.rows) == 4
    assert set(read_json(tmp_path / "made.json")) == {"request", "rows", "made_by"}
    other = Results(tmp_path / "made.json", request | {"images": 13})
    assert list(other.todo(KEYS)) == KEYS and other.rows == []


def test_rows_of_sources_belong_to_their_folders(tmp_path):
    results = Results(None, {})
    for key, file in results.sources([tmp_path / name / "val.json" for name in ("cells", "pools")]):
        results.add(key, {"file": file.parent.name}) if key["source"] == "cells" else results.add(key)
    assert results.rows == [{"source": "cells", "file": "cells"}]  # an empty row says nothing: pools is asked for again
    assert [key for key, _ in results.sources([tmp_path / "pools" / "val.json"])] == [{"source": "pools"}]


def test_numbers_that_are_not_there_are_nan_in_a_table(tmp_path):
    results = Results(tmp_path / "made.json", {})
    results.add({"source": "cells"}, {"ap50": None, "hit": 0.5})
    results.add({"source": "pools"}, {"ap50": None, "hit": None})
    frame = results.frame()
    assert frame["ap50"].dtype == frame["hit"].dtype == float
    assert frame["ap50"].isna().all() and frame["hit"].isna().tolist() == [False, True]
    for rows in (results.rows, results.as_json(), tmp_path / "made.json"):
        assert tidy(rows).equals(frame)


def test_a_link_is_followed_and_a_device_is_written_to(tmp_path):
    file, link = tmp_path / "far" / "a.json", tmp_path / "link.json"
    file.parent.mkdir()
    link.symlink_to(file)
    for value in (1, 2):  # first it leads to nothing
        write_json(link, value)
        assert link.is_symlink() and read_json(file) == value
    before = os.stat(os.devnull).st_mode
    write_json(os.devnull, 1)
    assert os.stat(os.devnull).st_mode == before and stat.S_ISCHR(before)


@pytest.mark.parametrize("name", ["a[1].json", "a*.json", "a:b.json", "a?.json"])
def test_a_path_that_exists_is_a_file_whatever_characters_it_has(tmp_path, name):
    for file in (tmp_path / name, tmp_path / "a1.json", tmp_path / "ab.json"):
        file.touch()
    assert find_files([str(tmp_path / name)]) == [tmp_path / name]
    assert files_and_folder(str(tmp_path / name)) == ([tmp_path / name], None)
    for folder in (tmp_path, tmp_path / "c:d"):
        assert files_and_folder(f"{tmp_path / name}:{folder}") == ([tmp_path / name], folder)
    part = tmp_path / f"{name.removesuffix('.json')}-00001-of-00001.json"
    part.touch()
    (tmp_path / name).unlink()
    assert files_of(tmp_path / name) == [part]
