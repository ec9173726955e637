"""`dealkit.device`: bfloat16 where it is wanted and the machine is faster with it."""

import sys

import pytest
import torch
from conftest import bfloat16

from dealkit.device import autocast
from dealkit.studies.memory import peak_gib


def test_autocast_is_on_only_where_wanted_and_faster(monkeypatch):
    cpu = torch.device("cpu")
    x = torch.ones(2, 2)
    for faster, wanted, expected in [(True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32)]:
        bfloat16(monkeypatch, faster=faster)
        with autocast(cpu, wanted):
            assert (x @ x).dtype == expected


def test_the_most_memory_is_that_of_the_system_and_told_where_there_is_one(monkeypatch):
    assert 2**-4 < peak_gib() < 2**6, "PyTorch alone has 64 MiB"
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(ValueError, match="told by Linux and macOS only"):
        peak_gib()
