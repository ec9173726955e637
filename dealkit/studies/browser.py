"""How long does a click take in the browser, beside the same click in Python?"""

import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from dealkit.boxes import to_cxcywh
from dealkit.data.photos import photo
from dealkit.files import Json, provenance
from dealkit.predict.predictor import Predictor
from dealkit.widget.page import make_server
from dealkit.widget.session import Session

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


def find_browser() -> str | None:
    """The path of Chromium, None if there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def run_browser(checkpoint: Path, *, clicks: int = 12, sizes_wh: Sequence[tuple[int, int]] = ((384, 303), (4000, 3000))) -> Json:
    """Medians of single clicks on different coins of the photograph, enlarged to each size: `page_ms` in the click page, from the
    pointer to the boxes drawn, `python_ms` of `Predictor.click`, one after the other, and what the page adds, `added_ms`.

    Raises:
        ValueError: no Chromium, or no playwright; says what to install.
    """
    found = find_browser()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found = None
    if found is None:
        raise ValueError("bench --browser: needs Chromium on the PATH, and playwright: `pip install -e .[dev]`")
    coins, rows, predictor = photo("coins"), [], Predictor(checkpoint)
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as profile:
        options = {"executable_path": found, "headless": True, "args": FLAGS, "viewport": {"width": 1400, "height": 900}}
        context = driver.chromium.launch_persistent_context(profile, **options)
        page = context.new_page()
        for width, height in sizes_wh:
            image = F.resize(coins.image, [height, width], antialias=True)
            scale = torch.tensor([width / coins.image.shape[2], height / coins.image.shape[1]])
            centres = (to_cxcywh(coins.boxes)[:, :2] * scale)[:clicks].tolist()
            server, address = make_server(Session(image, Predictor(checkpoint)))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            predictor.set_image(image)
            page.goto(address)
            page.wait_for_selector(".dk[data-busy='0'] canvas[data-view]", timeout=120_000)
            times: dict[str, list[float]] = {"page_ms": [], "python_ms": []}
            for x, y in tqdm(centres, desc=f"{width} x {height}", unit="click"):
                times["page_ms"].append(_click(page, x, y))
                start = time.perf_counter()
                predictor.click(x, y)
                times["python_ms"].append(1000 * (time.perf_counter() - start))
            server.shutdown()
            medians = {name: round(statistics.median(values[2:]), 1) for name, values in times.items()}  # the first two warm up
            added = round(statistics.median(a - b for a, b in zip(*(v[2:] for v in times.values()), strict=True)), 1)
            rows.append({"size_wh": [width, height], **medians, "added_ms": added})
        context.close()
    return {"checkpoint": checkpoint.name, "clicks": clicks - 2, "rows": rows, "made_by": provenance()}


def to_screen(page) -> Callable[[float, float], tuple[float, float]]:  # noqa: ANN001
    """What maps a pixel of the image in the click page to the screen."""
    view = json.loads(page.get_attribute(".dk canvas", "data-view"))
    frame = page.locator(".dk canvas").bounding_box()
    return lambda x, y: (frame["x"] + view["x"] + x * view["scale"], frame["y"] + view["y"] + y * view["scale"])


def _click(page, x: float, y: float) -> float:  # noqa: ANN001
    """Milliseconds that the page took for one click at a pixel of the image; the click is taken back."""
    page.mouse.click(*to_screen(page)(x, y))
    page.wait_for_selector(".dk[data-busy='0']", timeout=60_000)
    took = float(page.get_attribute(".dk", "data-took"))
    page.locator(".dk [data-do=undo]").click()
    page.wait_for_selector(".dk[data-busy='0']", timeout=60_000)
    return took
