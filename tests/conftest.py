"""Shared by the tests: a tiny model, a tiny COCO folder, the folder of real data, and one device and precision for all."""

import atexit
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dealkit.files
import dealkit.train.loop
from dealkit.__main__ import main
from dealkit.browse import dataset as browse
from dealkit.browse.mongod import ensure_mongod, server_folder
from dealkit.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from dealkit.data.coco import Sample
from dealkit.files import PROJECT_ROOT
from dealkit.model.checkpoint import save_model
from dealkit.model.deal import build_model
from dealkit.model.loss import Target
from dealkit.predict.predictor import Predictor
from dealkit.studies.browser import FLAGS, find_browser

REAL = Path(os.environ.get("DEALKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data():
    """Folder of real data; the test is skipped where it is missing."""
    if not REAL.is_dir():
        pytest.skip("needs real data: set DEALKIT_DATA to its folder")
    return REAL


@pytest.fixture(scope="session")
def tiny_config():
    return ModelConfig(backbone="pico", hidden_dim=32, fine_dim=16, num_heads=2, context_layers=1, decoder_layers=2)


@pytest.fixture(scope="session")
def make_tiny(tiny_config):
    """Builds a tiny model; every weight is moved a little, so that no layer that starts at zero hides what comes before it."""

    def make(seed=0, config=tiny_config):
        torch.manual_seed(seed)
        model = build_model(config)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.02 * torch.randn_like(p))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def tiny_model(make_tiny):
    """One tiny model in evaluation mode for all tests: read it, never change it."""
    return make_tiny().requires_grad_(False)


@pytest.fixture(scope="session")
def wide_model(make_tiny, tiny_config):
    """The same with the backbone `nano`, whose features tell images apart: read it, never change it."""
    return make_tiny(config=replace(tiny_config, backbone="nano")).requires_grad_(False)


@pytest.fixture(scope="session")
def make_constant(tiny_config):
    """Builds a tiny model whose weights are all one number."""

    def make(value):
        model = build_model(tiny_config)
        for weight in model.parameters():
            torch.nn.init.constant_(weight, value)
        return model.eval()

    return make


def seeded(seed=0):
    """A random source of its own."""
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    """Normal numbers, for instance (B, 3, H, W) as the network's input."""
    return torch.randn(*shape, generator=seeded(seed))


def noise(height, width, seed=0):
    """A (3, height, width) uint8 image."""
    return torch.randint(0, 256, (3, height, width), generator=seeded(seed), dtype=torch.uint8)


ONE_CLICK = (torch.tensor([[20.0, 30.0]]), torch.tensor([1]))
"""Points and labels of a prompt set."""


ALIKE = {name: 0.0 for name in ("partners", "mosaic", "distractors", "absent", "background", "not_this", "drawn", "temperature")}
"""Settings of data in which every prompt clicks objects of its own image, and all sources are drawn alike."""


def target_of(boxes, *, clicked=(), crowd=()):
    """What a prompt set should find: rows of cxcywh."""
    boxes, crowd = (torch.as_tensor(rows, dtype=torch.float32).reshape(-1, 4) for rows in (boxes, crowd))
    return Target(boxes=boxes, crowd=crowd, clicked=torch.tensor(clicked, dtype=torch.int64))


def sample_of(boxes, *, labels=None, crowd=None, image=None, size_hw=(100, 100)):
    """A sample of rows of xyxy; where none is given, one kind, no crowd and a grey image."""
    n = len(boxes)
    return Sample(
        image=torch.full((3, *size_hw), 50, dtype=torch.uint8) if image is None else image,
        boxes=torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels or [0] * n, dtype=torch.int64),
        image_id=7,
        crowd=torch.tensor(crowd or [False] * n, dtype=torch.bool),
        annotation_ids=torch.arange(1, n + 1),
        source="made",
    )


@pytest.fixture(autouse=True)
def every_click_is_on_something(monkeypatch):
    """Models with random weights are sure of nothing, and would show nothing."""
    monkeypatch.setattr("dealkit.predict.detections.CERTAIN", 0.0)


@pytest.fixture(scope="session", autouse=True)
def no_tensorboard():
    """Runs write their log only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealkit.train.loop, "tensorboard", lambda out: None)
        yield


@pytest.fixture(scope="session")
def run(tiny_config):
    """A short run on scenes of 64 px."""
    train = TrainConfig(steps=6, batch_size=2, warmup=3, log_every=1, seed=1)
    return RunConfig(model=tiny_config, data=DataConfig(size=64, workers=0), train=train)


def changed(run, **train):
    """The run with other settings of its training."""
    return replace(run, train=replace(run.train, **train))


def losses(history):
    """Loss of every line of a log that has one."""
    return [line["loss"] for line in history if "loss" in line]


def same(a, b):
    """Two sets of detections hold the same boxes and scores, in whatever order nearly equal scores are."""
    assert len(a.boxes) == len(b.boxes) > 0
    torch.testing.assert_close(a.scores.sort().values, b.scores.sort().values, rtol=1e-3, atol=1e-4)
    assert (torch.cdist(a.boxes, b.boxes, compute_mode="donot_use_mm_for_euclid_dist").amin(1) < 0.05).all()


@pytest.fixture
def told(caplog, monkeypatch):
    """What readers have said, as one text."""
    monkeypatch.setattr(dealkit.files, "_told", set())
    return lambda: "\n".join(caplog.messages)


@pytest.fixture
def predictor(tiny_model):
    """A predictor that returns every query, with an image of noise set."""
    made = Predictor(tiny_model, threshold=0.0)
    made.set_image(noise(70, 90))
    return made


def bfloat16(monkeypatch, *, faster):
    """A machine whose bfloat16 is faster than its float32, or is not."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": faster}, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: faster)


@pytest.fixture
def float32_cpu(monkeypatch):
    """Training and prediction on the CPU in float32, whatever the machine has."""
    bfloat16(monkeypatch, faster=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def make_coco(tmp_path):
    """Writes a COCO folder of noise images with bright boxes and gives its JSON file; the images lie in `images` beside it.

    `objects[k]` lists (category id 5 or 9, xywh, iscrowd) of the image with id k + 1.
    """

    def make(name, objects, *, size_wh=(90, 70)):
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        rows, images = [], []
        for k, of_image in enumerate(objects):
            generator = torch.Generator().manual_seed(k)
            pixels = torch.randint(60, 100, (size_wh[1], size_wh[0], 3), generator=generator, dtype=torch.uint8)
            for category, (x, y, w, h), crowd in of_image:
                pixels[int(y) : int(y + h), int(x) : int(x + w), category % 3] = 255
                row = {"id": len(rows) + 1, "image_id": k + 1, "category_id": category, "bbox": [x, y, w, h]}
                rows.append(row | {"area": w * h, "iscrowd": crowd})
            Image.fromarray(pixels.numpy()).save(folder / "images" / f"{k}.png")
            images.append({"id": k + 1, "file_name": f"{k}.png", "width": size_wh[0], "height": size_wh[1]})
        categories = [{"id": 5, "name": "bolt"}, {"id": 9, "name": "nut"}]
        file = folder / "annotations.json"
        file.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
        return file

    return make


@pytest.fixture
def make_sources(make_coco):
    """Writes sources by name, each with the same `train.json` and `val.json`; gives their folder."""

    def make(**objects):
        for name, of_source in objects.items():
            file = make_coco(f"root/{name}", of_source)
            (file.parent / "val.json").write_text(file.read_text())
            file.rename(file.parent / "train.json")
        return file.parents[1]

    return make


@pytest.fixture
def tiny_run(tiny_config):
    """Two steps of a tiny model."""
    train = TrainConfig(steps=2, batch_size=2, warmup=1, log_every=1)
    return RunConfig(model=tiny_config, data=DataConfig(size=64, workers=0), train=train)


@pytest.fixture
def tiny_coco(make_coco):
    """Two images: the first with two bolts and a nut, the second without objects."""
    return make_coco("tiny", [[(5, [10, 12, 6, 8], 0), (5, [50, 40, 6, 6], 0), (9, [70, 10, 10, 10], 0)], []])


def free_port():
    """A port at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session")
def fo(tmp_path_factory):
    """FiftyOne with a database server of its own, which other processes of the tests use, too.

    FiftyOne itself would take any server that runs, be it of other tests or with the user's own data sets.
    """
    if importlib.util.find_spec("fiftyone") is None:
        pytest.skip("FiftyOne is not installed")
    try:
        ensure_mongod()
    except RuntimeError as error:
        pytest.skip(str(error))
    folder, port = tmp_path_factory.mktemp("fiftyone"), free_port()
    options = ["--dbpath", str(folder), "--logpath", str(folder / "log"), "--port", str(port), "--nounixsocket"]  # as FiftyOne's
    os.environ["FIFTYONE_DATABASE_URI"] = f"mongodb://127.0.0.1:{port}"
    os.environ["FIFTYONE_DATABASE_DIR"] = str(folder)
    server = subprocess.Popen([server_folder() / "mongod", *options], stdout=subprocess.DEVNULL)
    atexit.register(server.terminate)  # after FiftyOne's own last words to it
    return browse.import_fiftyone()


@pytest.fixture
def name(fo, request):
    """Name of a data set that is deleted afterwards."""
    name = f"dealkit-test-{request.node.name[:40]}"
    yield name
    if fo.dataset_exists(name):
        fo.delete_dataset(name)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium with a fresh profile, one for the tests of a file."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed: `pip install -e .[dev]`")
    if find_browser() is None:
        pytest.skip("no Chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        options = {"executable_path": find_browser(), "headless": True, "args": FLAGS}
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), viewport={"width": 1400, "height": 900}, **options
        )
        yield context
        context.close()


@pytest.fixture
def serve(fo, tmp_path):
    """Starts the App on a COCO file by the command line; gives its address and what the command has printed."""
    started = []

    def start(file, name, *options):
        port = free_port()
        command = [sys.executable, "-m", "dealkit", "browse", str(file), *options]
        command += ["--name", name, "--port", str(port), "--remote"]
        log = tmp_path / f"{port}.log"
        with open(log, "w") as target:
            started.append(subprocess.Popen(command, stdout=target, stderr=target, cwd=PROJECT_ROOT))
        deadline = time.monotonic() + 480
        while f"\nhttp://localhost:{port}; Ctrl-C" not in log.read_text():
            assert started[-1].poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        return f"http://localhost:{port}/datasets/{name}", log.read_text()

    yield start
    for process in started:
        process.terminate()
        process.wait(60)


@pytest.fixture
def listening(fo):
    """Addresses at which this machine listens to a port."""
    import psutil

    def hosts(port):
        try:
            return {c.laddr.ip for c in psutil.net_connections("tcp") if (c.status, c.laddr.port) == (psutil.CONN_LISTEN, port)}
        except psutil.AccessDenied:
            pytest.skip("this system shows sockets to its administrator only")

    return hosts


@pytest.fixture
def app_images(browser):
    """Opens the App on a saved view and waits until it shows so many images with their boxes; gives the page."""

    page = browser.new_page()

    def show(address, view, images):
        page.goto(f"{address}?view={view.replace(': ', '-').replace(' ', '-')}" if view else address, timeout=120_000)
        counted = "n => document.querySelector('[data-cy=entry-counts]')?.innerText.startsWith(n)"
        page.wait_for_function(counted, arg=str(images), timeout=120_000)
        drawn = "n => document.querySelectorAll('[data-cy=looker]').length >= n"
        page.wait_for_function(drawn, arg=min(images, 8), timeout=120_000)
        page.wait_for_timeout(5000)  # boxes are drawn after their images
        return page

    return show


@pytest.fixture(scope="session")
def colour_pixels():
    """Counts the pixels of a picture that have about each of some colours: {name: "#RRGGBB"}."""

    def count(path, colours, *, near):
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        wanted = {name: [int(colour[i : i + 2], 16) for i in (1, 3, 5)] for name, colour in colours.items()}
        return {name: int((np.abs(pixels - rgb).max(-1) < near).sum()) for name, rgb in wanted.items()}

    return count


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """File of the tiny model."""
    save_model(tiny_model, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def source(make_coco, checkpoint):
    """The annotation file of a tiny source with two images, and a checkpoint."""
    return make_coco("source", [[(5, (10, 10, 12, 8), 0), (5, (40, 30, 12, 8), 0)], [(9, (20, 20, 6, 6), 0)]]), checkpoint


@pytest.fixture
def cli(capsys):
    """Runs a command line; gives the exit code, what it printed and its errors."""

    def call(*args):
        try:
            main([str(arg) for arg in args])
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call
