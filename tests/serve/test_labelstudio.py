"""`dealkit.serve.labelstudio`: what Label Studio asks, over its HTTP protocol, on a socket of this machine."""

import base64
import inspect
import io
import json
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from dealkit.predict.detections import Detections
from dealkit.serve.labelstudio import LABEL_CONFIG, Backend, locate_image, make_server, read_interface, read_regions

SIZE = (100, 200)  # height, width


def point(x, y, label="object", **more):
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [label]}
    return {"type": "keypointlabels", "from_name": "point", "to_name": "image", "value": value, **more}


def rectangle(x, y, width, height, label="object", rotation=0):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation, "rectanglelabels": [label]}
    return {"type": "rectanglelabels", "from_name": "box", "to_name": "image", "value": value}


class Found:
    """Stands for a `Predictor`: keeps what it is asked, and finds one box for each prompt."""

    model_hash = "0123456789ab"

    def __init__(self):
        self.images, self.prompts, self.image = [], [], None

    def set_image(self, image):
        self.images.append(image)
        self.image = torch.zeros(3, *SIZE, dtype=torch.uint8)

    def predict_categories(self, prompts):
        self.prompts.append(prompts)
        return [Detections(boxes=torch.tensor([[20.0, 10.0, 60.0, 30.0]]), scores=torch.tensor([0.5])) for _ in prompts]


@pytest.fixture
def task(tmp_path):
    """A task with an image in Local Storage; its folder is `tmp_path`."""
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a b.png")
    return {"id": 1, "data": {"image": "/data/local-files/?d=a%20b.png"}}


@pytest.fixture
def serve():
    """Starts servers of back ends; gives a function of path and body that asks the last one: status and JSON."""
    servers = []

    def start(backend):
        servers.append(made := make_server(backend, port=0))
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

        def ask(path, body=None):
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{made.server_port}{path}", data) as reply:
                    return reply.status, json.load(reply)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        return SimpleNamespace(ask=ask, server=made)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def ask_predict(serve, backend, task, regions, config=LABEL_CONFIG):
    body = {"tasks": [task], "project": "1.2", "label_config": config, "params": {"context": {"result": regions}}}
    return serve(backend).ask("/predict", body)


# LabelPrompts


def test_percent_become_pixels_and_each_label_a_prompt_of_its_own():
    regions = [point(10, 50), point(50, 100, "other"), rectangle(10, 20, 30, 40), {"type": "choices", "value": {}}]
    assert read_regions(regions, SIZE) == {  # 10 % of 200 is 20, 50 % of 100 is 50
        "object": ([[20.0, 50.0]], [1], [[20.0, 20.0, 80.0, 60.0]]),
        "other": ([[100.0, 100.0]], [1], []),
    }


def test_negative_points_are_of_their_label_and_background_of_all():
    regions = [point(10, 10), point(20, 20, is_positive=False), point(5, 5, "Other"), point(30, 30, "Background")]
    prompts = read_regions(regions, SIZE)
    assert prompts["object"][:2] == ([[20.0, 10.0], [40.0, 20.0], [60.0, 30.0]], [1, 0, 0])
    assert prompts["Other"][:2] == ([[10.0, 5.0], [60.0, 30.0]], [1, 0]) and len(prompts) == 2
    assert read_regions([point(1, 1, "background"), point(2, 2, is_positive=False)], SIZE) == {}
    assert read_regions([], SIZE) == {}


def test_a_turned_rectangle_is_the_box_round_its_corners_within_the_image():
    # 40 wide and 20 high from (100, 50), turned by a quarter about that corner: 20 to its left, 40 down.
    box = read_regions([rectangle(50, 50, 20, 20, rotation=90)], SIZE)["object"][2][0]
    assert box == pytest.approx([80, 50, 100, 90])
    assert read_regions([rectangle(50, 50, 90, 90)], SIZE)["object"][2] == [[100, 50, 200, 100]]


def test_points_out_of_the_image_are_moved_to_its_edge():
    assert read_regions([point(100.01, -0.2)], SIZE)["object"][0] == [[200, 0]]


@pytest.mark.parametrize(
    "region",
    [{}, {"type": "keypointlabels"}, point("a", 1), point(1, 1) | {"value": {"x": 1, "y": 1}}, rectangle(1, 1, None, 1), None],
    ids=str,
)
def test_a_region_of_another_form_is_named(region):
    with pytest.raises(ValueError, match=r"^context.result\[1\]: expected a key point or rectangle of Label Studio"):
        read_regions([point(1, 1), region], SIZE)


def test_the_interface_tells_names_field_and_labels():
    config = '<View><Image name="i" value="$p"/><RectangleLabels name="r" toName="i"><Label value="a"/></RectangleLabels></View>'
    assert read_interface(config) == ("r", "i", "p", ["a"])
    for bad, said in (("<View/>", "expected <RectangleLabels"), ("<View", "expected the XML"), (None, "expected the XML")):
        with pytest.raises(ValueError, match=f"label_config: {said}"):
            read_interface(bad)


# Images


def test_images_come_from_data_uris_local_storage_and_uploads(tmp_path):
    Image.new("RGB", (8, 6), (9, 8, 7)).save(png := io.BytesIO(), "PNG")
    uri = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    image = locate_image(uri, None, tmp_path)
    assert image.shape == (3, 6, 8) and image[:, 0, 0].tolist() == [9, 8, 7]
    assert locate_image("/data/local-files/?d=a/b%20c.png", tmp_path, tmp_path / "m") == tmp_path / "a/b c.png"
    assert locate_image("/data/upload/3/x%20y.png", None, tmp_path) == tmp_path / "upload/3/x y.png"
    assert locate_image("http://localhost:8080/data/upload/3/x.png", None, tmp_path) == tmp_path / "upload/3/x.png"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("data:image/png;base64,AAAA", "expected an image in base64"),
        ("data:text/plain,hello", "expected an image in base64"),
        ("https://example.org/a.png", "expected a data URI, /data/local-files/"),
        ("/etc/passwd", "expected a data URI"),
        ("/data/local-files/?d=../secret.png", "leads out of"),
        ("/data/local-files/?d=/etc/passwd", "leads out of"),
        ("/data/upload/../../secret.png", "leads out of"),
    ],
)
def test_no_other_file_or_address_is_read(tmp_path, value, said):
    with pytest.raises(ValueError, match=f"^task: .*{said}"):
        locate_image(value, tmp_path / "root", tmp_path / "media")
    with pytest.raises(ValueError, match="expected --root"):
        locate_image("/data/local-files/?d=a.png", None, tmp_path)


# Over HTTP


def test_the_server_listens_to_this_machine_alone(serve):
    assert serve(Backend(Found())).server.socket.getsockname()[0] == "127.0.0.1"


def test_label_studio_finds_it_well_and_learns_the_model(serve):
    ask = serve(Backend(Found())).ask
    assert ask("/health") == ask("/") == (200, {"status": "UP", "model_class": "DEAL"})
    setup = {"project": "1.2", "schema": LABEL_CONFIG, "hostname": "http://localhost:8080", "access_token": "x"}
    assert ask("/setup", setup) == (200, {"model_version": "0123456789ab"})
    assert ask("/versions", {"project": "1.2"}) == (200, {"versions": ["0123456789ab"]})
    assert ask("/webhook", {"action": "ANNOTATION_CREATED"})[0] == 200
    status, said = ask("/train", {})
    assert status == 404 and "expected /health" in said["detail"]


def test_rectangles_come_back_in_percent_with_label_and_score(serve, task, tmp_path):
    regions = [point(10, 10, image_rotation=90), rectangle(5, 5, 10, 10), point(50, 50, "unknown")]
    found = Found()
    status, reply = ask_predict(serve, Backend(found, root=tmp_path), task, regions)
    assert status == 200 and reply["model_version"] == "0123456789ab" and len(reply["results"]) == 1
    assert found.images == [tmp_path / "a b.png"]
    assert found.prompts == [[([[20.0, 10.0]], [1], [[10.0, 5.0, 30.0, 15.0]]), ([[100.0, 50.0]], [1], [])]]
    first, second = reply["results"][0]["result"]
    place = {"x": 10.0, "y": 10.0, "width": 20.0, "height": 20.0, "rotation": 0, "rectanglelabels": ["object"]}
    names = {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "readonly": False, "score": 0.5}
    size = {"original_width": 200, "original_height": 100, "image_rotation": 90}
    assert {**first, "id": ""} == {**names, **size, "value": place, "id": ""} and first["id"] != second["id"]
    assert second["value"]["rectanglelabels"] == ["object"], "a label that rectangles do not have is their first"
    assert reply["results"][0]["score"] == 0.5


def test_an_image_is_encoded_once_for_all_clicks_and_again_after_another(task, tmp_path):
    found = Found()
    backend = Backend(found, root=tmp_path)
    other = {"data": {"image": "/data/local-files/?d=other.png"}}
    for asked in (task, task, other, task):
        backend.predict([asked], {"result": [point(1, 1)]}, LABEL_CONFIG)
    assert [image.name for image in found.images] == ["a b.png", "other.png", "a b.png"]


def test_without_prompts_nothing_is_found_and_no_image_is_read(task):
    found = Found()
    for context in (None, {}, {"result": []}):
        empty = {"result": [], "score": 0.0, "model_version": "0123456789ab"}
        assert Backend(found).predict([task, task], context, LABEL_CONFIG) == [empty, empty]
    assert not found.images and not found.prompts


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "expected JSON"),
        (b"[1]", 400, "expected tasks, label_config"),
        ({"tasks": []}, 400, "label_config"),
        (
            {"tasks": [{"data": {}}], "label_config": LABEL_CONFIG},
            400,
            "task: expected data.image, the address",
        ),
        ({"tasks": [], "label_config": "<View/>"}, 400, "label_config: expected <RectangleLabels"),
    ],
    ids=str,
)
def test_a_request_of_another_form_is_answered_by_one_line(serve, body, status, said):
    got, reply = serve(Backend(Found())).ask("/predict", body)
    assert got == status and said in reply["detail"] and "\n" not in reply["detail"]


def test_a_file_that_is_not_there_or_a_failure_ends_no_server(serve, task, predictor, tmp_path):
    missing = {"data": {"image": "/data/local-files/?d=none.png"}}
    status, reply = ask_predict(serve, Backend(predictor, root=tmp_path), missing, [point(1, 1)])
    assert status == 400 and reply["detail"].endswith("none.png: no such image")
    found = Found()
    found.predict_categories = lambda prompts: 1 / 0
    made = serve(Backend(found, root=tmp_path))
    made.server.handle_error = lambda *_: None
    body = {"tasks": [task], "label_config": LABEL_CONFIG, "params": {"context": {"result": [point(1, 1)]}}}
    assert made.ask("/predict", body) == (500, {"detail": "ZeroDivisionError: division by zero"})
    assert made.ask("/health")[0] == 200


def test_a_model_answers_clicks_and_its_boxes_lie_in_the_image(serve, task, predictor, tmp_path):
    status, reply = ask_predict(serve, Backend(predictor, root=tmp_path), task, [point(50, 50), point(1, 1, "background")])
    values = [region["value"] for region in reply["results"][0]["result"]]
    assert status == 200 and len(values) > 0
    assert all(v["x"] >= 0 and v["x"] + v["width"] <= 100.001 and v["y"] + v["height"] <= 100.001 for v in values)


def test_the_answer_is_a_prediction_of_the_sdk(task, tmp_path):
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="needs label-studio-sdk").LabelInterface
    made = Backend(Found(), root=tmp_path).predict([task], {"result": [point(10, 10)]}, LABEL_CONFIG)
    assert interface(LABEL_CONFIG).validate_prediction(made[0])


def test_the_server_of_label_studio_ml_gives_the_same_answer(serve, task, tmp_path):
    base = pytest.importorskip("label_studio_ml.model", reason="needs label-studio-ml, redis and rq").LabelStudioMLBase
    from label_studio_ml.api import init_app

    backend = Backend(Found(), root=tmp_path)

    class Model(base):
        def predict(self, tasks, context=None, **_):
            return backend.predict(tasks, context, LABEL_CONFIG)

    body = {"tasks": [task], "project": "1.2", "label_config": LABEL_CONFIG, "params": {"context": {"result": [point(10, 10)]}}}
    folder = {"model_dir": str(tmp_path)} if "kwargs" in inspect.signature(init_app).parameters else {}  # version 1 alone
    client = init_app(Model, **folder).test_client()
    assert client.get("/health").json["status"] == "UP"
    assert client.post("/setup", json={"project": "1.2", "schema": LABEL_CONFIG}).status_code == 200
    theirs, ours = client.post("/predict", json=body).json["results"], serve(backend).ask("/predict", body)[1]["results"]
    for result in (*theirs[0]["result"], *ours[0]["result"]):
        result["id"] = ""
    assert theirs == ours and len(ours[0]["result"]) == 1
