"""FiftyOne's App: who can reach it, its plug-ins, and a search and its acceptance in a browser."""

import json
import os
import re
import shutil
import socket
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from dealkit.browse import app
from dealkit.browse.dataset import build_dataset
from dealkit.browse.find import FOUND_COLOURS
from dealkit.config import DEFAULT_THRESHOLD
from dealkit.data.scenes.scene import EVAL_SEED, write_coco
from dealkit.files import PROJECT_ROOT
from dealkit.predict.predictor import Predictor


@pytest.fixture
def own_plugins(fo, tmp_path, monkeypatch):
    """A user's folder with one plug-in; FiftyOne's setting is put back afterwards."""
    folder = tmp_path / "own"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "fiftyone.yml").write_text("name: '@me/mine'\ntype: plugin\n")
    monkeypatch.setattr(fo.config, "plugins_dir", str(folder))
    monkeypatch.setenv("FIFTYONE_PLUGINS_DIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", "")
    return folder


def test_plugins_are_ours_and_the_users(own_plugins):
    import fiftyone.plugins as plugins

    folder = app.add_plugin.__wrapped__()
    try:
        assert {p.name for p in plugins.list_plugins()} == {"@me/mine", "@dealkit/find"}
        assert os.environ["FIFTYONE_PLUGINS_DIR"] == str(folder), "the server is another process"
        assert os.environ["PYTHONPATH"] == str(PROJECT_ROOT)
        assert sorted(p.name for p in own_plugins.iterdir()) == ["mine"], "nothing is written to the user's folder"
    finally:
        shutil.rmtree(folder)
    assert (own_plugins / "mine" / "fiftyone.yml").exists() and (app.PLUGIN / "fiftyone.yml").exists()


def test_the_plugin_lists_its_operators(own_plugins):
    from fiftyone.operators.registry import list_operators

    folder = app.add_plugin.__wrapped__()
    try:
        ours = {operator.uri: operator.config.label for operator in list_operators(builtin=False)}
    finally:
        shutil.rmtree(folder)
    assert ours == {
        "@dealkit/find/find_all_like_this": "Find all like this",
        "@dealkit/find/accept_found": "Accept what was found",
    }


@pytest.mark.parametrize(
    ("address", "origins", "expected"),
    [
        ("localhost", None, []),
        ("127.0.0.1", "", []),
        ("0.0.0.0", None, ["setting default_app_address is 0.0.0.0; this App listens at 127.0.0.1 all the same"]),
        ("localhost", "*", [r"setting allowed_origins lets pages of * use the App"]),
    ],
)
def test_settings_that_open_the_app_are_told(address, origins, expected):
    told = app.open_settings(SimpleNamespace(default_app_address=address, allowed_origins=origins))
    assert [line.removeprefix("FiftyOne's ") for line in told] == expected


def test_an_unknown_view_and_a_port_in_use_are_named(fo, tiny_coco, name):
    dataset = build_dataset([tiny_coco], name=name).dataset
    with pytest.raises(ValueError, match="view: expected one of very tiny, crowded.*; got 'huge'"):
        app.open_app(dataset, view="huge")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"port: .* a program listens at {port} already: name another, such as {port + 1}"):
            app.open_app(dataset, port=port)


@pytest.mark.slow
def test_search_and_accept_in_the_app(fo, browser, serve, listening, colour_pixels, name, tmp_path, monkeypatch):
    monkeypatch.setenv("FIFTYONE_DEFAULT_APP_ADDRESS", "0.0.0.0")
    address, log = serve(write_coco(tmp_path / "scenes", 2, seed=EVAL_SEED, progress=False), name)
    port = int(address.split(":")[2].split("/")[0])
    assert listening(port) == {"127.0.0.1"}
    assert "default_app_address is 0.0.0.0; this App listens at 127.0.0.1" in log
    assert f"ssh -N -L {port}:127.0.0.1:{port} " in log
    assert "oldest supported" not in log and "voxel51.com" not in log, "no banner, no advice"

    dataset = fo.load_dataset(name)
    dataset.reload()
    assert dataset.has_field("found") and not dataset.count("found.detections"), "declared, so that an open image shows it"
    sample = dataset.first()
    x, y, w, h = sample.objects.detections[0].bounding_box
    page = browser.new_page()
    # no names on boxes: they would hide them
    shown = json.dumps({"objects": [], "found": []})
    for key in (name, str(dataset._doc.id)):
        page.add_init_script(f"localStorage.setItem('shownLabelAttributes-{key}', '{shown}')")
    page.goto(f"{address}?id={sample.id}", timeout=120_000)
    looker = page.locator("[data-cy=modal-looker-container]")
    with suppress(pytest.importorskip("playwright.sync_api").TimeoutError):
        looker.wait_for(timeout=30_000)
    if not looker.is_visible():  # a page that comes before its data forgets which image was asked for
        if (advice := page.get_by_role("button", name="Dismiss")).is_visible():
            advice.click()
        page.locator("[data-cy=looker]").first.click(timeout=120_000)
    looker.wait_for(timeout=60_000)
    page.wait_for_timeout(8000)
    place = looker.bounding_box()
    side = min(place["width"], place["height"])  # the image is a square in the middle of it
    left, top = (place[at] + (place[size] - side) / 2 for at, size in (("x", "width"), ("y", "height")))
    page.mouse.move(left + (x + w / 2) * side, top + (y + h / 2) * side)
    page.wait_for_timeout(500)
    page.mouse.click(left + (x + w / 2) * side, top + (y + h / 2) * side)
    page.wait_for_timeout(1000)

    def operate(label):
        page.mouse.move(left, top)
        page.keyboard.press("`")
        page.get_by_placeholder("Search operations").wait_for(timeout=60_000)
        page.keyboard.type(label)
        page.wait_for_timeout(1000)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Execute").click(timeout=120_000)

    operate("Find all like this")
    page.get_by_text("1 of 1 images").first.wait_for(timeout=240_000)
    page.get_by_role("button", name="Done", exact=True).click(timeout=60_000)
    page.get_by_text("Executing").wait_for(state="hidden", timeout=60_000)
    page.wait_for_timeout(8000)  # boxes are drawn after that
    page.screenshot(path=tmp_path / "found.png", timeout=60_000)

    predictor = Predictor(threshold=DEFAULT_THRESHOLD)
    predictor.set_image(sample.filepath)
    wanted = predictor.click((x + w / 2) * 256, (y + h / 2) * 256)
    dataset.reload()
    found = dataset.first().found.detections
    boxes = box_convert(torch.tensor([label.bounding_box for label in found]) * 256, "xywh", "xyxy")
    assert len(found) == len(wanted) > 1, "the file's own model, in the server's process"
    np.testing.assert_allclose(boxes.numpy(), wanted.boxes.numpy(), atol=0.05)
    drawn = colour_pixels(tmp_path / "found.png", FOUND_COLOURS, near=12)
    assert drawn["found"] > 100 and drawn["clicked"] > 10, drawn

    sample = dataset.first()
    before = len(sample.objects.detections)
    sample.found.detections[-1].tags.append("accept")
    sample.save()
    operate("Accept what was found")
    page.get_by_text(re.compile("[01] added, [01] were annotated already")).first.wait_for(timeout=60_000)
    dataset.reload()
    sample = dataset.first()
    assert sample.found.detections[-1].state == "accepted" and sample.found.detections[-1].tags == []
    assert len(sample.objects.detections) - before in (0, 1)
