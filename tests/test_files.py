"""`dealkit.files`: JSON that names its file, writes that leave the old file, hashes of parts, rows that resume."""

import json
import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from dealkit.files import Results, find_files, read_json, sha_of, tidy, write_atomically, write_json

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
