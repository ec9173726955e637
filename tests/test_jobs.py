"""`dealkit.jobs`: folders of one process, rows that outlive a kill, a stop after the step."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dealkit.files import (
    PROJECT_ROOT,
)
from dealkit.jobs import journal, locked, stop_request


def test_a_journal_is_of_one_request_and_one_process_and_no_foreign_file(tmp_path):
    file = tmp_path / "found.jsonl"
    with journal(file, {"threshold": 0.5}) as (_, add):
        add({"image": "a"})
        with pytest.raises(ValueError, match=r"found\.jsonl: another process is writing it"), journal(file, {"threshold": 0.5}):
            pass
    with pytest.raises(ValueError, match=r"threshold 0\.5, now None; expected the same"), journal(file, {}):
        pass
    with journal(file, {"threshold": 0.5, "tile": 4}, overwrite=True) as (rows, add):
        assert rows == []
        add({"image": "b"})
    assert file.read_text() == '{"request": {"threshold": 0.5, "tile": 4}}\n{"image": "b"}\n'
    for foreign in ("my notes", "my\nnotes\n", '{"image": "a"}\n'):
        file.write_text(foreign)
        with pytest.raises(ValueError, match="made for another request"), journal(file, {"threshold": 0.5}):
            pass
        assert file.read_text() == foreign


KEEPS = """
import sys, time
from dealkit.jobs import locked

with locked(sys.argv[1]):
    print("kept", flush=True)
    time.sleep(60)
"""


def test_a_kill_gives_a_folder_back(tmp_path):
    options = {"env": os.environ | {"PYTHONPATH": str(PROJECT_ROOT)}, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", KEEPS, str(tmp_path / "run")], **options) as other:
        assert other.stdout.readline() == b"kept\n"
        with pytest.raises(ValueError, match=f"run: process {other.pid} works in it"), locked(tmp_path / "run"):
            pass
        other.kill()
    assert (tmp_path / "run" / "lock").read_text() == str(other.pid)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / "lock").read_text() == str(os.getpid())
    assert list(tmp_path.rglob("*")) == [tmp_path / "run"]


def test_files_are_kept_where_there_is_no_fcntl(tmp_path, monkeypatch):
    kept = set()

    def locking(number, mode, count):
        place = (os.fstat(number).st_ino, os.lseek(number, 0, os.SEEK_CUR), mode, count)
        if place in kept:
            raise PermissionError(13, "Permission denied")
        kept.add(place)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with journal(tmp_path / "a.jsonl", {}) as (_, add):
        add({"n": 1})
        with pytest.raises(ValueError, match="another process is writing it"), journal(tmp_path / "a.jsonl", {}):
            pass
    assert (tmp_path / "a.jsonl").read_text() == '{"request": {}}\n{"n": 1}\n'
    assert [place[1:] for place in kept] == [(2**30, 2, 1)], "far from what is read"


def test_a_journal_that_was_cut_anywhere_goes_on_with_whole_lines(tmp_path):
    file, every = tmp_path / "found.jsonl", [{"image": name} for name in ("a", "\u00e9", "c\n")]

    def run():
        with journal(file, {"sizes": (4, 8)}) as (rows, add):
            for row in every[len(rows) :]:
                add(row)
            return list(rows)

    assert run() == every
    whole = file.read_bytes()
    for cut in range(len(whole)):
        file.write_bytes(whole[:cut])
        assert run() == every and file.read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_is_an_event_and_the_second_one_ends_the_program(number):
    before = signal.getsignal(number)
    with stop_request() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set() and signal.getsignal(number) == before
    with stop_request() as stop:
        assert not stop.is_set() and signal.getsignal(number) != before
    assert signal.getsignal(number) == before


def test_a_journal_without_rows_leaves_nothing_and_is_no_obstacle(tmp_path):
    file = tmp_path / "found.jsonl"
    with pytest.raises(ValueError, match="wrong"), journal(file, {"checkpoint": "a"}):
        raise ValueError("wrong")
    assert not file.exists()
    file.write_text('{"request": {"checkpoint": "a"}}\n')  # a kill before the first row
    with journal(file, {"checkpoint": "b"}) as (rows, add):
        add({"image": 1})
    with pytest.raises(ValueError, match="made for another request: checkpoint 'b', now 'c'"), journal(file, {"checkpoint": "c"}):
        pass
    assert len(file.read_text().splitlines()) == 2
