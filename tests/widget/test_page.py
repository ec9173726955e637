"""The click page: who may ask it for what, and what a browser shows and sends."""

import http.client
import json
import threading
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from PIL import Image
from widget_page import Page

from dealkit.boxes import to_cxcywh
from dealkit.data.photos import photo
from dealkit.predict.embedding import load_embedding
from dealkit.predict.predictor import Predictor
from dealkit.widget import page as pages
from dealkit.widget.page import make_server, serve_page
from dealkit.widget.session import Session


@pytest.fixture(scope="module")
def predictor():
    return Predictor()


@pytest.fixture
def coins(tmp_path):
    """A folder with the photograph of coins, twice, the second mirrored."""
    folder = tmp_path / "coins"
    folder.mkdir()
    pixels = photo("coins").image.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:, ::-1].copy()).save(folder / "b.png")
    return folder


@pytest.fixture
def served():
    """Serves a session; gives its address."""
    servers = []

    def serve(session):
        server, address = make_server(session)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return address

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def asked(served, tiny_model):
    """Asks a server about a small grey image: path or (path, body), with other headers; gives status and content."""
    session = Session(torch.full((3, 50, 70), 90, dtype=torch.uint8), Predictor(tiny_model, threshold=0.0))
    address = urlsplit(served(session))
    token = parse_qs(address.query)["token"][0]

    def ask(path, body=None, *, token=token, **headers):
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        mark = "&" if "?" in path else "?"
        connection.request("GET" if body is None else "POST", f"{path}{mark}token={token}", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    return ask


def test_the_page_its_script_and_the_picture_are_served(asked, tmp_path):
    status, content = asked("/")
    assert status == 200 and b"data-dealkit-page" in content and b"https://" not in content
    status, content = asked("/click.js")
    assert status == 200 and content == pages.SCRIPT.read_bytes() and b"https://" not in content, "nothing comes from elsewhere"
    (tmp_path / "picture.jpg").write_bytes(asked("/picture?index=0")[1])
    assert Image.open(tmp_path / "picture.jpg").size == (70, 50)


@pytest.mark.parametrize("path", ["/", "/view", "/click.js", "/picture", "/export?what=coco"])
def test_nothing_is_served_without_the_token_or_under_another_name(asked, path):
    for wrong in ("", "guess", "ä"):
        assert asked(path, token=wrong if wrong != "ä" else "%C3%A4")[0] == 403
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example:80", ""):
        assert asked(path, Host=host)[0] == 403
    assert asked(path, Host="localhost:8888")[0] == 200, "a forwarded port is another, the machine is the same"


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/%2e%2e/pyproject.toml", "//etc/passwd", "/session.py", "/picture/0.png"]
)
def test_no_file_is_served_by_its_path(asked, path):
    assert asked(path) == (404, b"no such page")


def test_events_are_answered_with_the_view_and_bad_ones_refused(asked):
    status, content = asked("/event", json.dumps({"do": "click", "x": 20, "y": 30, "label": 1, "id": 5}))
    view = json.loads(content)
    assert status == 200 and view["done"] == 5 and len(view["kinds"][0]["rows"]) > 5
    assert json.loads(asked("/view")[1])["kinds"] == view["kinds"]
    assert "click: x: expected" in json.loads(asked("/event", '{"do": "click"}')[1])["message"]
    assert asked("/event", "{")[0] == 400 and asked("/view", "{}")[0] == 400
    assert asked("/event", "x" * (pages.LONGEST_EVENT + 1))[0] == 400
    assert asked("/event", "{}", token="guess")[0] == 403
    assert asked("/picture?box=1,2,9")[0] == asked("/picture?box=a")[0] == 400 and asked("/picture?box=1,2,9,9")[0] == 200
    assert asked("/export?what=all") == (400, b"export: expected coco, csv or embedding, got 'all'")


def test_a_taken_port_is_named(asked, tiny_model, monkeypatch):
    server, _ = make_server(Session(torch.zeros(3, 8, 8, dtype=torch.uint8), Predictor(tiny_model)))
    for port in (server.server_port, 70_000):
        with pytest.raises(ValueError, match=f"--port: expected one that is free, or 0, got {port}"):
            make_server(None, port)
    server.server_close()


def test_serving_prints_the_address_opens_it_once_and_ends_with_ctrl_c(tiny_model, monkeypatch, capsys):
    session, opened = Session(torch.zeros(3, 8, 8, dtype=torch.uint8), Predictor(tiny_model)), []
    monkeypatch.setattr(pages.webbrowser, "open", opened.append)

    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(pages.ThreadingHTTPServer, "serve_forever", interrupt)
    serve_page(session)
    assert opened == [capsys.readouterr().out.splitlines()[0]] and opened[0].startswith("http://127.0.0.1:")
    serve_page(session, browser=False)
    assert len(opened) == 1


@pytest.fixture
def opened(browser, served, coins, predictor):
    """The page of the coins, and the session behind it."""
    session = Session(coins, predictor)
    page = browser.new_page()
    page.goto(served(session))
    return Page(page).wait(), session


def test_a_click_draws_the_boxes_of_the_predictor_where_they_should_be(opened, predictor, coins, tmp_path):
    page, session = opened
    x, y = to_cxcywh(photo("coins").boxes)[0, :2].tolist()
    page.click(x, y)
    predictor.set_image(coins / "a.png")
    ((u, v, label),) = session.marks().clicks
    found = predictor.click(u, v)
    assert label == 1 and abs(u - x) < 0.6 and abs(v - y) < 0.6, "half a screen pixel"
    assert page.boxes() == len(found) > 5
    colour = session.kinds[0].colour
    assert page.outlined(found.boxes, colour, tmp_path / "boxes.png").min() > 0.8
    assert page.outlined(found.boxes + 7, colour, tmp_path / "boxes.png").mean() < 0.5, "and not elsewhere"
    page.page.mouse.move(*page.at(x, y))
    page.page.mouse.wheel(0, -400)
    page.drag(x, y, x + 30, y + 20)
    assert page.page.locator(".dk-status").inner_text().startswith(f"{len(found)} boxes"), "zoom and pan ask nothing"
    near = found.boxes[(to_cxcywh(found.boxes)[:, :2] - torch.tensor([x, y])).abs().sum(1) < 60]
    assert len(near) and page.outlined(near, colour, tmp_path / "zoomed.png").min() > 0.8


def test_a_right_or_shift_click_says_not_this_and_undo_takes_it_back(opened):
    page, session = opened
    first, second, third = to_cxcywh(photo("coins").boxes)[[0, 1, 2], :2].tolist()
    page.click(*first)
    before = session.view()["kinds"][0]["rows"]
    page.click(*second, button="right")
    page.page.keyboard.down("Shift")
    page.click(*third)
    page.page.keyboard.up("Shift")
    assert [label for *_, label in session.marks().clicks] == [1, 0, 0]
    assert session.view()["kinds"][0]["rows"] != before
    page.press("undo")
    page.press("undo")
    assert session.view()["kinds"][0]["rows"] == before and page.boxes() == len(session.detections())
    page.press("clear")
    assert page.boxes() == 0


def test_a_mistake_is_shown_and_the_page_goes_on(opened):
    page, session = opened
    page.click(40, 50, button="right")
    assert "expected one on an object first" in page.page.locator(".dk-status").inner_text()
    page.click(*to_cxcywh(photo("coins").boxes)[0, :2].tolist())
    assert page.boxes() == len(session.detections()) > 0


def test_a_dragged_box_asks_and_review_marks_boxes_right_or_wrong(opened, tmp_path):
    page, session = opened
    box = photo("coins").boxes[0]
    page.press("box")
    page.drag(*box.tolist())
    (drawn,) = session.marks().drawn
    assert (torch.tensor(drawn) - box).abs().max() < 0.6 and page.boxes() == len(session.detections()) > 0
    page.page.locator(".dk input[type=range]").fill("0.06")
    page.press("review")
    (kind,) = session.view()["kinds"]
    unjudged = [row for row in kind["rows"] if row[5] == 0 and row[4] >= kind["threshold"] and row[3] - row[1] > 20]
    wrong, right = ([(row[0] + row[2]) / 2, (row[1] + row[3]) / 2] for row in unjudged[:2])
    before = page.boxes()
    page.click(*wrong, button="right")
    assert page.boxes() == before - 1
    page.click(*right)
    assert sorted(verdict for _, verdict in session.marks().verdicts) == [-1, 1] and page.boxes() == before - 1
    page.click(*wrong, button="right")
    assert page.boxes() == before, "the same again takes it back"


def test_the_slider_shows_more_or_fewer_boxes_and_the_kinds_have_a_colour_each(opened):
    page, session = opened
    page.click(*to_cxcywh(photo("coins").boxes)[0, :2].tolist())
    many = page.boxes()
    page.page.locator(".dk input[type=range]").fill("0.9")
    page.wait()
    assert page.boxes() == len(session.detections()) < many and session.kinds[0].threshold == 0.9
    page.press("add")
    page.page.locator(".dk-name").fill("moon")
    page.page.keyboard.press("Enter")
    page.wait()
    assert [kind.name for kind in session.kinds] == ["object", "moon"] and session.kind == 1 and page.boxes() == 0
    page.page.locator(".dk-kind").first.click()
    page.wait()
    assert session.kind == 0 and page.boxes() == len(session.detections(0))


def test_the_next_image_shows_the_same_kind_and_everything_can_be_saved(opened, tmp_path):
    page, session = opened
    page.click(*to_cxcywh(photo("coins").boxes)[0, :2].tolist())
    here = page.boxes()
    page.press("after")
    page.page.wait_for_selector(".dk:not([data-boxes='0'])")
    page.wait()
    assert session.index == 1 and "b.png" in page.page.locator(".dk-place").inner_text()
    there = page.boxes()
    assert there == len(session.detections()) > 0
    saved = page.save("coco")
    assert saved.suggested_filename == "boxes.json"
    coco = json.loads(saved.path().read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png", "b.png"]
    assert len(coco["annotations"]) == here + there and coco == json.loads(json.dumps(session.to_coco()))
    assert page.save("csv").path().read_text() == session.to_csv()
    saved = page.save("embedding")
    saved.save_as(tmp_path / saved.suggested_filename)
    assert load_embedding(tmp_path / "object.safetensors").clicks == 1
    page.press("before")
    assert session.index == 0 and page.boxes() == here


def test_a_zoomed_view_of_a_large_image_shows_its_own_pixels(browser, served, tiny_model, tmp_path):
    image = torch.zeros(3, 40, 4000, dtype=torch.uint8)
    image[:, :, 1::2] = 255
    page = browser.new_page()
    page.goto(served(Session(image, Predictor(tiny_model))))
    shown = Page(page).wait()
    page.mouse.move(*shown.at(2000, 20))
    for _ in range(4):
        page.mouse.wheel(0, -800)
    page.wait_for_selector(".dk canvas[data-detail='1']")
    page.screenshot(path=tmp_path / "zoomed.png")
    pixels, place = Image.open(tmp_path / "zoomed.png").convert("L"), shown.to_screen()
    colours = [pixels.getpixel(tuple(round(v) for v in place(x + 0.5, 20))) for x in range(1994, 2006)]
    assert max(colours[::2]) < 80 and min(colours[1::2]) > 175, "stripes of one pixel, which the small picture blurs to grey"
