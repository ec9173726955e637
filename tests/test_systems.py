"""macOS and Windows, which no test runs on: nothing that they lack is used."""

import ast
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchgen
from conftest import noise, normal
from torch.utils._python_dispatch import TorchDispatchMode

from dealkit.files import PROJECT_ROOT, link_folder
from dealkit.model import decoder
from dealkit.predict.predictor import Predictor
from dealkit.predict.tiles import predict_large

FILES = {file: file.read_text(encoding="utf-8") for file in sorted((PROJECT_ROOT / "dealkit").rglob("*.py"))}
TREES = {file: list(ast.walk(ast.parse(text))) for file, text in FILES.items()}

MPS_LACKS = [r'padding_mode="(border|reflection)"', "antialias=True", r"\.(index_copy|cummax|cummin|histc|mode|angle)_?\("]
MPS_LACKS += [r"\b(embedding_bag|deform_conv2d|max_pool3d)\(", r"\bfloat64\b", r"\.double\("]
"""What some supported PyTorch lacks on the GPU of a Mac; `embedding_bag` came with 2.10, borders of `grid_sample` with 2.13."""
ROOMS = [PROJECT_ROOT / "dealkit" / part for part in ("model", "train", "predict/predictor.py", "predict/tiles.py")]
"""What computes on the device."""


def test_no_operator_is_called_by_name_that_mps_lacks():
    there = [text for file, text in FILES.items() if any(file.is_relative_to(room) for room in ROOMS)]
    found = [match[0] for text in there for name in MPS_LACKS for match in re.finditer(name, text)]
    assert len(there) > 12 and found == ["embedding_bag("], "in `sum_rows`, which does without it there"


def test_every_operator_of_a_prediction_has_an_mps_kernel_in_this_pytorch(tiny_model, monkeypatch):
    text = (Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml").read_text(encoding="utf-8")
    known = {part.split("(")[0]: part for part in re.split(r"^- func: ", text, flags=re.MULTILINE)[1:]}

    def has_kernel(name):
        part = known[name]
        if delegate := re.search(r"structured_delegate: (\S+)", part):
            return has_kernel(delegate[1])
        return "dispatch:" not in part or bool(re.search(r"\b(MPS|Composite\w+)\b.*:", part))

    used = set()

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            used.add(func.name())
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # what is fused for a CPU has no part in it
    predictor = Predictor(tiny_model, device="cpu", threshold=0.0)
    with Record():
        predict_large(predictor, noise(64, 96), [([[20, 30], [70, 30]], [1, 0], [[10, 10, 20, 20]])], tile=64, overlap=32)
    assert len(used) > 100 and not has_kernel("_mkldnn_transpose") and has_kernel("add.Tensor")
    assert used - {"aten::" + name for name in known} <= {"torchvision::nms"}, "which torchvision has on MPS"
    assert not [name for name in used if name.startswith("aten::") and not has_kernel(name.removeprefix("aten::"))]


def test_sums_of_rows_without_embedding_bag_are_the_same(monkeypatch):
    rows, table = torch.tensor([[0, 2, 1], [3, 3, 0]]), normal(4, 5).requires_grad_()
    shares = normal(2, 3, seed=1).requires_grad_()
    made = decoder.sum_rows(rows, table, shares)
    slopes = torch.autograd.grad(made.square().sum(), (table, shares))
    monkeypatch.setattr(decoder, "EMBEDDING_BAG", {"cuda"})
    gathered = decoder.sum_rows(rows, table, shares)
    torch.testing.assert_close(gathered, made)
    torch.testing.assert_close(torch.autograd.grad(gathered.square().sum(), (table, shares)), slopes)


def test_text_is_utf_8_wherever_it_is_opened():
    others, unsaid = {"Image", "rasterio", "tarfile", "webbrowser", "archive", "self"}, []
    for file, nodes in TREES.items():
        for call in (node for node in nodes if isinstance(node, ast.Call)):
            owner, _, name = ast.unparse(call.func).rpartition(".")
            binary = any(isinstance(given, ast.Constant) and "b" in str(given.value) for given in call.args)
            text = name in ("read_text", "write_text") and owner or name == "open" and owner not in others and not binary
            if text and "encoding" not in {option.arg for option in call.keywords}:
                unsaid.append(f"{file.name}:{call.lineno}")
    assert not unsaid


def test_nothing_is_used_that_windows_lacks():
    lacks = r"os\.(fork|getuid|geteuid|killpg|mkfifo|uname)\b|signal\.(alarm|pause|SIG(?!INT|TERM|_))"
    assert not [f"{file.name}: {match[0]}" for file, text in FILES.items() for match in re.finditer(lacks, text)]
    top = [
        (file.name, ast.unparse(node)) for file, nodes in TREES.items() for node in nodes if getattr(node, "col_offset", 1) == 0
    ]
    posix = r"(import|from) (fcntl|grp|pwd|resource|termios|tty|pty)\b"
    assert not [each for each in top if re.search(posix, each[1].split("\n")[0])], "imported where it is asked for"


def test_where_no_links_are_allowed_a_folder_gets_a_junction(tmp_path, monkeypatch):
    def refused(*args, **options):
        raise OSError(1314, "A required privilege is not held by the client")

    made = []
    monkeypatch.setattr(Path, "symlink_to", refused)
    monkeypatch.setitem(sys.modules, "_winapi", None)
    with pytest.raises(OSError, match="privilege"):
        link_folder(tmp_path / "link", tmp_path)
    monkeypatch.setitem(sys.modules, "_winapi", SimpleNamespace(CreateJunction=lambda *names: made.append(names)))
    link_folder(tmp_path / "link", tmp_path)
    assert made == [(str(tmp_path.resolve()), str(tmp_path / "link"))]
