"""`dealkit.device`: bfloat16 where it is wanted and the machine is faster with it."""

import torch
from conftest import bfloat16

from dealkit.device import autocast


def test_autocast_is_on_only_where_wanted_and_faster(monkeypatch):
    cpu = torch.device("cpu")
    x = torch.ones(2, 2)
    for faster, wanted, expected in [(True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32)]:
        bfloat16(monkeypatch, faster=faster)
        with autocast(cpu, wanted):
            assert (x @ x).dtype == expected
