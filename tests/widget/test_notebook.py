"""The click widget: without a front end, and in JupyterLab in a browser."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from widget_page import Page

from dealkit.boxes import to_cxcywh
from dealkit.cli.notebooks import METADATA
from dealkit.data.photos import photo
from dealkit.files import PROJECT_ROOT, read_json
from dealkit.predict.embedding import load_embedding
from dealkit.predict.predictor import Predictor

pytest.importorskip("anywidget", reason="anywidget is not installed: `pip install -e .[notebooks]`")
from dealkit.widget import ClickWidget, notebook

IMAGE = torch.full((3, 50, 70), 90, dtype=torch.uint8)


@pytest.fixture
def model(tiny_model):
    """A predictor that returns every query."""
    return Predictor(tiny_model, threshold=0.0)


@pytest.fixture
def alone(monkeypatch):
    """No front end, wherever the tests run."""
    for name in notebook.FRONT_ENDS:
        monkeypatch.delenv(name, raising=False)


def test_points_are_asked_at_once_and_everything_has_its_result(model, tmp_path):
    widget = ClickWidget(IMAGE, model, points=[[20, 30], [60, 10, 0]])
    model.set_image(IMAGE)
    assert torch.equal(widget.detections.boxes, model.predict([[20, 30], [60, 10]], [1, 0]).boxes)
    assert widget.prompts[0]["labels"] == [1, 0] and len(widget.to_coco()["annotations"]) == len(widget.detections) > 0
    widget.save_embedding(tmp_path / "kind.safetensors")
    assert load_embedding(tmp_path / "kind.safetensors").clicks == 2


def test_points_of_several_kinds_are_given_by_name(model):
    widget = ClickWidget(IMAGE, model, points={"bolt": [[20, 30]], "nut": [[50, 10]]})
    assert [(row["kind"], row["points"]) for row in widget.prompts] == [("bolt", [[20, 30]]), ("nut", [[50, 10]])]
    with pytest.raises(ValueError, match=r"point \[71\.0, 3\.0\] is outside the image"):
        widget.ask("click", x=71, y=3, label=1)
    with pytest.raises(ValueError, match="outside the image"):
        ClickWidget(IMAGE, model, points=[[20, 51]])


def test_the_model_works_beside_the_thread_of_the_notebook_and_in_order(model, monkeypatch):
    widget = ClickWidget(IMAGE, model)
    ran, going, predict = [], threading.Event(), widget.session.predictor.predict_categories

    def slow(*args):
        ran.append(threading.current_thread())
        assert going.wait(30)
        return predict(*args)

    monkeypatch.setattr(widget.session.predictor, "predict_categories", slow)
    for x in (20, 30):  # as a front end sends them
        widget._handle_custom_msg({"do": "click", "x": x, "y": 30, "label": 1, "id": x}, [])
    assert widget.view["kinds"][0]["clicks"] == (), "the notebook goes on meanwhile"
    going.set()
    assert len(widget.detections.points) == 2, "it waits for what was asked before"
    assert widget.view["done"] == 30 and set(ran) != {threading.current_thread()}


def test_a_front_end_gets_the_picture_before_the_view_and_files_to_save(model, tmp_path, monkeypatch):
    for n in range(2):
        Image.new("RGB", (70, 50), (90 * n, 0, 0)).save(tmp_path / f"{n}.png")
    widget, sent = ClickWidget(tmp_path, model, points=[[20, 30]]), []
    widget.observe(lambda change: sent.append(change["name"]), ["picture", "view"])
    widget.ask("open", index=1)
    assert sent == ["picture", "view"] and Image.open(io.BytesIO(widget.picture)).getpixel((5, 5))[0] > 80
    monkeypatch.setattr(widget, "send", lambda content, buffers: sent.append((content, buffers)))
    widget._handle_custom_msg({"do": "export", "what": "coco"}, [])
    widget._handle_custom_msg({"do": "export", "what": "all"}, [])
    made = widget.to_coco()
    assert "export: expected coco, csv or embedding" in widget.view["message"]
    widget._handle_custom_msg({"do": "picture", "box": [10, 5, 40, 25], "id": "p1"}, [])
    widget._after(int)
    assert sent[-1][0] == {"picture": "p1"} and Image.open(io.BytesIO(sent[-1][1][0])).size == (30, 20)
    content, (buffer,) = sent[2]
    assert content == {"save": "boxes.json"} and json.loads(buffer) == json.loads(json.dumps(made))


def test_without_a_front_end_it_is_a_picture_and_with_one_a_widget(model, alone, monkeypatch):
    widget = ClickWidget(IMAGE, model, points=[[20, 30]])
    made = widget._repr_mimebundle_()
    assert set(made) == {"image/jpeg", "text/plain"} and f"{len(widget.detections)} boxes" in made["text/plain"]
    assert Image.open(io.BytesIO(base64.b64decode(made["image/jpeg"]))).width > 300
    monkeypatch.setenv("JPY_SESSION_NAME", "some.ipynb")
    assert "application/vnd.jupyter.widget-view+json" in str(widget._repr_mimebundle_())


@pytest.fixture
def lab(tmp_path):
    """JupyterLab in a folder of its own; gives its address and the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    paths = os.pathsep.join([str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | folders | {"PYTHONPATH": paths, "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ServerApp.port_retries=0",
    ]
    command += [f"--ServerApp.root_dir={tmp_path}", "--IdentityProvider.token=secret"]
    notices = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    notices.parent.mkdir(parents=True)
    notices.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with open(tmp_path / "lab.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(f"{address}/api?token=secret", timeout=5).close()
            break
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "lab.log").read_text()
            time.sleep(0.5)
    yield address, tmp_path
    process.terminate()
    process.wait(60)


@pytest.mark.slow
def test_in_jupyterlab_a_click_draws_boxes_and_the_next_cell_has_them(lab, browser):
    address, folder = lab
    show = "from dealkit.data.photos import photo\nfrom dealkit.widget import ClickWidget\n"
    show += "widget = ClickWidget(photo('coins').image)\nwidget"
    keep = "import json, pathlib\npathlib.Path('made.json').write_text(json.dumps([widget.to_coco(), widget.prompts]))"
    cells = [new_code_cell(show), new_code_cell(keep)]
    nbformat.write(new_notebook(cells=cells, metadata=METADATA), folder / "click.ipynb")
    page = browser.new_page()
    page.goto(f"{address}/lab/tree/click.ipynb?token=secret", timeout=120_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    widget = Page(page).wait()
    coins = to_cxcywh(photo("coins").boxes)[:, :2].tolist()
    page.locator(".dk canvas").scroll_into_view_if_needed()
    widget.click(*coins[0])
    predictor = Predictor()
    predictor.set_image(photo("coins").image)
    found = predictor.click(*coins[0])
    assert widget.boxes() == len(found) > 5
    colour = "#56B4E9"
    assert widget.outlined(found.boxes, colour, folder / "lab.png").min() > 0.8
    assert widget.outlined(found.boxes + 7, colour, folder / "lab.png").mean() < 0.5
    widget.click(*coins[3], button="right")
    assert page.locator(".lm-Menu").count() == 0, "JupyterLab's own menu stays closed"
    assert json.loads(widget.save("coco").path().read_text())["annotations"]
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(1).click()
    page.keyboard.press("Shift+Enter")
    deadline = time.monotonic() + 60
    while not (folder / "made.json").is_file():
        assert time.monotonic() < deadline
        page.wait_for_timeout(200)
    coco, prompts = read_json(folder / "made.json")
    assert prompts[0]["labels"] == [1, 0] and len(coco["annotations"]) == widget.boxes() > 0
