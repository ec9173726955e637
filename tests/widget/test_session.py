"""The state behind widget and page, without a browser: a stand-in for the model whose answers are known."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dealkit.predict.detections import Detections
from dealkit.predict.embedding import PromptEmbedding, load_embedding
from dealkit.predict.predictor import Predictor
from dealkit.predict.tiles import predict_large
from dealkit.widget import session as sessions
from dealkit.widget.session import Session, images_of

FOUND = torch.tensor([[10.0, 10, 20, 20], [30, 10, 40, 20], [50, 10, 60, 20], [5, 40, 9, 44]])
SCORES = torch.tensor([0.9, 0.6, 0.3, 0.06])


class Oracle:
    """Finds the boxes of `FOUND`, the first and third 4 px further right for every click after the first; notes all questions.

    `clicked` is the row that stands for the click, `certain` how sure it says to be.
    """

    def __init__(self, threshold=0.25, *, together=False, clicked=0, certain=None):
        self.threshold, self.together, self.clicked, self.certain, self.asked = threshold, together, clicked, certain, []

    def set_image(self, image):
        self.asked.append(("image", tuple(image.shape)))

    def predict_categories(self, prompts):
        self.asked.append(("predict", *([list(part) for part in prompt] for prompt in prompts)))
        found = []
        for points, _, boxes in prompts:
            moved = 4.0 * (len(points) + len(boxes) - 1) * torch.tensor([[1.0, 0, 1, 0], [0] * 4, [1, 0, 1, 0], [0] * 4])
            clicked = torch.arange(4) == self.clicked
            about = {"count": 3.2, "clicked": clicked, "certain": self.certain, "image": torch.zeros(3, 2, 2)}
            found.append(Detections(boxes=FOUND + moved, scores=SCORES, **about))
        return found

    def embed(self, image, points, labels, *, boxes):
        self.asked.append(("embed", [*points], [*labels], [*boxes]))
        vectors = torch.tensor([[float(len(points)), 0.0], [0.0, 0.0]])
        return PromptEmbedding(vectors=vectors, clicks=max(len(points), 1), model="0123456789ab")

    def predict_embedding(self, embedding):
        self.asked.append(("embedding", embedding.vectors[0, 0].item()))
        return Detections(boxes=FOUND[:2], scores=SCORES[:2], count=2.0)


@pytest.fixture
def folder(tmp_path):
    """Three images of 70 x 50 and a file that is none."""
    for n in range(3):
        Image.fromarray(np.full((50, 70, 3), 60 * n, dtype=np.uint8)).save(tmp_path / f"{n}.png")
    (tmp_path / "notes.txt").write_text("none")
    return tmp_path


@pytest.fixture
def oracle():
    return Oracle()


@pytest.fixture
def session(folder, oracle):
    return Session(folder, oracle)


def test_an_image_is_read_once_however_often_it_is_clicked(session, oracle):
    assert not oracle.asked, "the page shows the image first"
    session.click(15, 15)
    session.click(35, 15)
    session.click(65, 45, label=0)
    assert [what for what, *_ in session.predictor.asked] == ["image", "predict", "predict", "predict"]
    assert session.predictor.asked[-1] == ("predict", [[(15, 15), (35, 15), (65, 45)], [1, 1, 0], []])
    assert oracle.threshold == 0.25 and session.predictor.threshold == 0, "the user's own stays as it is"


def test_boxes_above_the_threshold_count_and_all_above_the_least_are_sent(session):
    session.click(15, 15)
    assert session.detections().scores.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert session.detections().image.shape == (3, 50, 70) and session.marks().found.image is None
    kind = session.view()["kinds"][0]
    assert kind["rows"][0] == [10, 10, 20, 20, 0.9, 0, 0] and len(kind["rows"]) == 4 and kind["count"] == 3.2
    session.set_threshold(0.5)
    assert len(session.detections()) == 2
    session.set_threshold(0.05)
    assert len(session.detections()) == 4


def test_a_rejected_box_goes_and_stays_away_when_the_model_is_asked_again(session):
    session.click(15, 15)
    session.judge([30, 10, 40, 20], -1)
    assert session.detections().boxes[:, 0].tolist() == [10, 50]
    session.click(16, 16)  # the second answer has the same box in the middle
    assert session.detections().boxes[:, 0].tolist() == [14, 54]
    session.judge([30, 10, 40, 20], 0)
    assert len(session.detections()) == 3


def test_an_accepted_box_stays_whatever_its_score_and_when_it_is_found_no_more(session):
    session.click(15, 15)
    session.judge([5, 40, 9, 44], 1)
    assert session.detections().boxes[-1].tolist() == [5, 40, 9, 44], "its score is 0.06"
    session.judge([10, 10, 20, 20], 1)
    session.click(16, 16)
    # the box moves by 4 of 10 px: IoU 60 / 140 is under a half, so both stand there, the accepted one with score 1
    assert session.rows()[1].tolist() == pytest.approx([1, 0.9, 0.6, 0.3, 0.06])
    assert session.rows()[2].tolist() == [1, 0, 0, 0, 1]


def test_a_verdict_takes_the_place_of_an_earlier_one_on_the_same_box(session):
    session.click(15, 15)
    session.judge([10, 10, 20, 20], 1)
    session.judge([10, 11, 20, 20], -1)
    assert session.marks().verdicts == (((10, 11, 20, 20), -1),)
    assert len(session.detections()) == 2


def test_a_drawn_box_asks_counts_as_right_and_can_be_taken_back(session):
    session.draw_box([48, 8, 62, 22])
    assert session.predictor.asked[-1] == ("predict", [[], [], [(48, 8, 62, 22)]])
    # the detection 50..60 lies in it: IoU 100 / 196 is above a half, so the drawn box stands for it, with its score
    assert session.rows()[0].tolist() == [[10, 10, 20, 20], [30, 10, 40, 20], [48, 8, 62, 22], [5, 40, 9, 44]]
    assert session.rows()[2].tolist() == [0, 0, 1, 0]
    session.judge([48, 8, 62, 22], -1)
    assert session.detections().boxes[:, 0].tolist() == [10, 30, 50], "the detection is back, which nobody called wrong"


def test_a_wrong_duplicate_leaves_the_right_box_beside_it(session):
    session.click(15, 15)
    session.judge([10, 10, 20, 20], 1)
    session.judge([10, 10, 20, 16], -1)  # IoU 0.6 with the right one
    assert session.detections().boxes[:, 0].tolist() == [10, 30, 50]
    session.judge([12, 10, 22, 20], -1)  # IoU 80 / 120 with the right one
    session.judge([10, 10, 20, 20], 0)
    assert session.detections().boxes[:, 0].tolist() == [10, 30, 50], "nobody called this one wrong"


def test_a_drawn_box_joins_the_clicks_and_goes_on_to_the_next_image(session):
    session.draw_box([48, 8, 62, 22])
    session.click(15, 15)
    prompt = [(15, 15)], [1], [(48, 8, 62, 22)]
    assert session.predictor.asked[-1] == ("predict", list(prompt))
    session.open(1)
    assert session.predictor.asked[-1] == ("embed", *prompt)


def test_rival_kinds_are_asked_in_one_call_undone_together_and_rivals_in_the_next_image(folder):
    session = Session(folder, Oracle(together=True))
    session.click(15, 15)
    session.add_kind("nut")
    session.judge([1, 1, 9, 7], 1)
    session.add_kind("bolt")
    session.click(35, 15)
    session.click(36, 15)
    assert [len(prompts) for what, *prompts in session.predictor.asked if what == "predict"] == [1, 2, 2], (
        "not the one in between"
    )
    session.undo()
    session.undo()
    assert len(session.marks(0).clicks) == 1 and not session.marks(2).clicks and len(session.detections(0)) == 3
    session.click(35, 15)
    session.open(1)
    session.read()
    # both kinds find the same boxes: every score times a half
    assert [session.rows(kind)[1].tolist() for kind in (0, 2)] == [pytest.approx([0.45, 0.3])] * 2


def test_a_box_added_in_review_is_right_and_asks_nothing(session):
    session.judge([1, 1, 9, 7], 1)
    assert session.detections().boxes.tolist() == [[1, 1, 9, 7]] and session.detections().scores.tolist() == [1]
    assert not session.predictor.asked


def test_undo_takes_back_one_change_at_a_time_without_asking_the_model(session):
    session.click(15, 15)
    session.click(16, 16)
    session.judge([30, 10, 40, 20], -1)
    session.clear()
    assert len(session.detections()) == 0
    asked = len(session.predictor.asked)
    counts = []
    while session.view()["undo"]:
        session.undo()
        counts.append((len(session.detections()), len(session.marks().clicks)))
    assert counts == [(2, 2), (3, 2), (3, 1), (0, 0)] and len(session.predictor.asked) == asked
    with pytest.raises(ValueError, match="undo: nothing was done"):
        session.undo()


def test_every_kind_has_its_clicks_its_colour_and_its_threshold(session):
    session.rename_kind("bolt")
    session.click(15, 15)
    session.add_kind("nut")
    session.click(35, 15)
    session.set_threshold(0.7)
    bolt, nut = session.view()["kinds"]
    assert (bolt["name"], bolt["threshold"], nut["name"], nut["threshold"]) == ("bolt", 0.25, "nut", 0.7)
    assert bolt["colour"] != nut["colour"] and bolt["clicks"] == ((15.0, 15.0, 1),)
    assert (len(session.detections(0)), len(session.detections(1)), session.kind) == (3, 1, 1)
    session.choose_kind(0)
    session.clear()
    assert (len(session.detections(0)), len(session.detections(1))) == (0, 1)
    for name in ("", "  ", "nut", "x" * 61):
        with pytest.raises(ValueError, match="kind: name: expected 1 to 60 letters"):
            session.rename_kind(name)


def test_the_next_image_is_asked_for_what_was_clicked_in_those_before(session):
    session.click(15, 15)
    session.open(1)
    assert not session.is_read and session.view()["image"]["name"] == "1.png"
    session.read()
    session.read()
    assert [row[0] for row in session.predictor.asked[2:]] == ["embed", "image", "embedding"]
    assert len(session.detections()) == 2 and session.prompts() == [
        {"image": "0.png", "kind": "object", "points": [[15.0, 15.0]], "labels": [1], "boxes": []}
    ]
    session.click(15, 15)
    session.click(17, 15)
    session.click(19, 15)
    session.open(2)
    session.read()
    assert session.predictor.asked[-1] == ("embedding", 2.0), "the mean of one click here and three there"
    session.open(0)
    assert len(session.detections()) == 3, "what was found before is still there"
    session.clear()
    session.open(2)
    session.read()
    assert session.predictor.asked[-1] == ("embedding", 3.0), "what was cleared means nothing any more"


def test_a_click_on_nothing_says_so_shows_nothing_and_the_next_one_counts(folder, monkeypatch):
    monkeypatch.setattr("dealkit.predict.detections.CERTAIN", 0.2)
    session = Session(folder, Oracle(certain=0.01))
    session.click(15, 15)
    kind = session.view()["kinds"][0]
    assert kind["nothing_certain"] and kind["rows"] == [] and kind["count"] == 3.2 and kind["threshold"] == 0.25
    session.predictor.certain = 0.9
    session.click(16, 16)
    assert len(session.detections()) == 3 and not session.view()["kinds"][0]["nothing_certain"]
    session = Session(folder, Oracle(threshold=0.0, certain=0.01))
    session.click(15, 15)
    assert len(session.detections()) == 4, "who asks for all gets all"


def test_the_boxes_become_coco_and_csv(session):
    session.rename_kind("bolt, long")
    session.click(15, 15)
    session.judge([10, 10, 20, 20], 1)
    session.judge([30, 10, 40, 20], -1)
    session.open(2)
    session.judge([0, 0, 3, 4.5], 1)
    coco = session.to_coco()
    assert coco["images"] == [
        {"id": 1, "file_name": "0.png", "width": 70, "height": 50},
        {"id": 3, "file_name": "2.png", "width": 70, "height": 50},
    ]
    assert coco["categories"] == [{"id": 1, "name": "bolt, long"}]
    rows = [(row["image_id"], row["bbox"], row["area"], row["score"], row["checked"]) for row in coco["annotations"]]
    assert rows == [
        (1, [10, 10, 10, 10], 100, 0.9, True),
        (1, [50, 10, 10, 10], 100, 0.3, False),
        (3, [0, 0, 3, 4.5], 13.5, 1.0, True),
    ]
    lines = session.to_csv().splitlines()
    assert lines[0] == "image,kind,x1,y1,x2,y2,score,checked"
    assert lines[1] == '0.png,"bolt, long",10.0,10.0,20.0,20.0,0.9,1' and len(lines) == 4
    assert json.loads(session.export("coco")[1]) == json.loads(json.dumps(coco))
    assert session.export("csv") == ("boxes.csv", session.to_csv().encode())
    with pytest.raises(ValueError, match="export: expected coco, csv or embedding, got 'all'"):
        session.export("all")


def test_the_meaning_of_a_kind_is_saved_and_nothing_is_without_a_click(session, tmp_path):
    with pytest.raises(ValueError, match="'object' was clicked in no image"):
        session.save_embedding(tmp_path / "kind.safetensors")
    session.rename_kind("ø/../bolt")
    session.click(15, 15)
    session.save_embedding(tmp_path / "kind.safetensors")
    assert load_embedding(tmp_path / "kind.safetensors").clicks == 1
    name, content = session.export("embedding")
    (tmp_path / name).write_bytes(content)
    assert name == "bolt.safetensors" and load_embedding(tmp_path / name).vectors.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"do": "shut_down"}, "event: expected one of open, read, click"),
        ({"do": "_commit"}, "event: expected one of open"),
        ([], "event: expected one of open"),
        ({"do": "click", "x": 1}, "click: y: expected"),
        ({"do": "click", "x": "1", "y": 2, "label": 1}, "click: x: expected"),
        ({"do": "click", "x": 1, "y": 2, "label": True}, "click: label: expected"),
        ({"do": "click", "x": 1, "y": 2, "label": 2}, r"click: label: expected 1 \(this\) or 0"),
        ({"do": "click", "x": 1, "y": 2, "label": 0}, "click: expected one on an object first"),
        ({"do": "open", "index": 3}, "open: index: expected 0 to 2, got 3"),
        ({"do": "choose_kind", "index": -1}, "choose_kind: index: expected 0 to 0, got -1"),
        ({"do": "set_threshold", "value": 1.5}, "set_threshold: value: expected 0 to 1"),
        ({"do": "judge", "box": [1, 1, 9, 9], "verdict": 3}, "judge: verdict: expected 1, -1 or 0"),
        ({"do": "judge", "box": [80, 1, 90, 9], "verdict": 1}, "box: expected at least 1 x 1 pixels in the image of 70 x 50"),
        ({"do": "draw_box", "box": [1, 1, 9]}, "box: expected four numbers"),
        ({"do": "draw_box", "box": [1, 1, 9, float("nan")]}, "box: expected four numbers"),
        ({"do": "undo"}, "undo: nothing was done"),
    ],
)
def test_a_bad_event_changes_nothing_and_is_explained(session, event, message):
    before = {**session.view(), "message": None}
    view = session.apply(event)
    with pytest.raises(ValueError, match=message):
        raise ValueError(view["message"])
    assert view.pop("done") is None and {**view, "message": None, "read": False} == {**before, "read": False}


def test_an_event_is_answered_with_its_id_and_an_unexpected_failure_with_its_kind(session, monkeypatch):
    view = session.apply({"do": "click", "x": 15, "y": 15, "label": 1, "id": "a7"})
    assert view["done"] == "a7" and view["message"] == "" and len(view["kinds"][0]["rows"]) == 4
    monkeypatch.setattr(session.predictor, "predict_categories", lambda *_: 1 / 0)
    view = session.apply({"do": "click", "x": 15, "y": 15, "label": 1})
    assert view["message"] == "ZeroDivisionError: division by zero" and len(view["kinds"][0]["clicks"]) == 1


def test_an_adaptive_predictor_cuts_every_answer_by_its_own_scores_until_the_user_chooses(folder, monkeypatch):
    cuts = iter([0.7, 0.4, 0.9, 0.02, 0.5])  # the third is that of the second image, before it is clicked
    monkeypatch.setattr("dealkit.predict.detections.adaptive_threshold", lambda *_: next(cuts))

    session = Session(folder, Oracle("adaptive", clicked=3))
    session.click(7, 42)
    assert session.detections().scores.tolist() == pytest.approx([0.9, 0.06]), "what was clicked stays"
    assert [row[6] for row in session.view()["kinds"][0]["rows"]] == [0, 0, 0, 1]
    session.click(8, 42)
    assert session.view()["kinds"][0]["threshold"] == 0.4 and len(session.detections()) == 3
    session.undo()
    assert session.view()["kinds"][0]["threshold"] == 0.7
    session.open(1)
    session.click(7, 42)
    assert [len(session.detections(0, index)) for index in (0, 1)] == [2, 4], "every image has its own cut"
    assert len(session.to_coco()["annotations"]) == 6
    session.set_threshold(0.8)
    session.click(8, 42)
    assert [len(session.detections(0, index)) for index in (0, 1)] == [1, 1], "what a user chose holds everywhere"


def test_a_large_image_is_shown_smaller_and_its_boxes_are_in_its_own_pixels(tmp_path):
    Image.new("RGB", (3000, 90)).save(tmp_path / "wide.png")
    session = Session(tmp_path / "wide.png", Oracle())
    assert session.view()["image"] == {"name": "wide.png", "index": 0, "of": 1, "width": 3000, "height": 90}
    (tmp_path / "shown.jpg").write_bytes(session.picture())
    assert Image.open(tmp_path / "shown.jpg").size == (2048, 61)
    session.judge([2900, 10, 2950, 60], 1)
    assert session.to_coco()["annotations"][0]["bbox"] == [2900, 10, 50, 50]


def test_a_part_of_the_picture_comes_in_full_resolution(tmp_path):
    pixels = np.zeros((30, 4000, 3), dtype=np.uint8)
    pixels[:, 1::2] = 255
    Image.fromarray(pixels).save(tmp_path / "stripes.png")
    session = Session(tmp_path / "stripes.png", Oracle())
    (tmp_path / "part.jpg").write_bytes(session.picture([3000, 5, 3016, 21]))
    part = np.asarray(Image.open(tmp_path / "part.jpg")).astype(int)
    assert part.shape == (16, 16, 3) and part[:, ::2].max() < 60 and part[:, 1::2].min() > 200
    with pytest.raises(ValueError, match="box: expected at least 1 x 1 pixels"):
        session.picture([5000, 5, 5010, 9])


def test_a_large_image_is_asked_in_tiles_and_what_was_clicked_goes_on_to_the_next(tiny_model, folder, monkeypatch):
    monkeypatch.setattr(sessions, "LARGE", 3000)
    predictor = Predictor(tiny_model, threshold=0.0)
    session = Session(folder, predictor)
    session.click(20, 30)
    session.click(60, 40, label=0)
    found = predict_large(predictor, folder / "0.png", [([[20, 30], [60, 40]], [1, 0])])[0]
    assert session.predictor.features is None, "it is never read in one piece"
    assert len(found) and torch.equal(session.detections().boxes, found.boxes)
    session.open(1)
    session.read()
    embedding = predictor.embed(folder / "0.png", [[20, 30], [60, 40]], [1, 0])
    found = predict_large(predictor, folder / "1.png", embedding=embedding)[0]
    assert len(found) and torch.equal(session.detections().boxes, found.boxes)


def test_images_come_from_a_folder_files_or_memory_and_a_wrong_one_is_named(folder, tmp_path):
    assert [name for name, _ in images_of(folder)] == ["0.png", "1.png", "2.png"]
    assert [name for name, _ in images_of(str(folder / "1.png"))] == ["1.png"]
    (folder / "more").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "more" / "0.png")
    assert [name for name, _ in images_of([folder / "0.png", folder / "more" / "0.png"])] == ["0.png", "more/0.png"]
    made = [np.zeros((4, 4), dtype=np.uint8), Image.new("RGB", (4, 4))]
    assert [name for name, _ in images_of(made)] == ["image_1.png", "image_2.png"]
    (tmp_path / "empty").mkdir()
    for wrong, error, message in (
        (tmp_path / "empty", ValueError, "empty: no image in it; expected files that end in"),
        (tmp_path / "none.png", FileNotFoundError, r"none\.png: no such image or folder"),
        ([], ValueError, "images: expected at least one"),
    ):
        with pytest.raises(error, match=message):
            images_of(wrong)


def test_images_that_cannot_be_read_are_passed_over_and_told(folder):
    for name in ("1.png", "3.png"):
        (folder / name).write_text("no image")
    session = Session(folder, Oracle())
    view = session.apply({"do": "open", "index": 1})
    assert view["image"]["name"] == "2.png" and "passed over: " in view["message"] and "1.png: not an image" in view["message"]
    assert session.apply({"do": "read"})["message"] == view["message"], "the browser sends this by itself"
    assert "3.png: not an image" in session.apply({"do": "open", "index": 3})["message"]
    assert session.index == 2, "there is none after it"
    assert session.apply({"do": "open", "index": 1})["image"]["name"] == "0.png"
    assert session.apply({"do": "click", "x": 15, "y": 15, "label": 1})["message"] == ""
    (folder / "0.png").write_text("no image")
    assert Session(folder, Oracle()).view()["image"]["name"] == "2.png", "the first that can be read"
    with pytest.raises(ValueError, match="3.png: not an image"):
        Session(folder / "3.png", Oracle())


def test_a_session_goes_on_from_the_file_that_it_kept(folder, tmp_path):
    out = tmp_path / "boxes.json"
    session = Session(folder, Oracle(), out)
    session.rename_kind("bolt")
    session.click(15, 15)
    session.judge([30, 10, 40, 20], -1)
    session.judge([5, 40, 9, 44], 1)
    session.add_kind("nut")
    session.open(1)
    kept = json.loads(out.read_text())
    assert kept == json.loads(json.dumps(session.to_coco())) and len(kept["annotations"]) == 3
    session.draw_box([50, 30, 60, 40])
    session.keep()
    again = Session(folder, Oracle(), out)
    assert again.to_coco() == json.loads(out.read_text()) and again.index == 0
    assert [kind.name for kind in again.kinds] == ["bolt", "nut"] and [row[5] for row in again.view()["kinds"][0]["rows"]] == [
        0,
        0,
        1,
    ]
    again.judge([10, 10, 20, 20], -1)
    assert len(again.detections()) == 2
    elsewhere = {"images": kept["images"], "categories": [{"id": 4, "name": "bolt"}]}
    elsewhere |= {"annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [1, 2, 3, 4]}]}
    out.write_text(json.dumps(elsewhere))
    (row,) = Session(folder, Oracle(), out).to_coco()["annotations"]
    assert (row["bbox"], row["checked"], row["score"]) == ([1, 2, 3, 4], True, 1)
    elsewhere["images"][0]["file_name"] = "moon.png"
    out.write_text(json.dumps(elsewhere | {"annotations": []}))
    with pytest.raises(
        ValueError, match=r"boxes\.json: expected images that are here, with width and height; the first is .*moon\.png"
    ):
        Session(folder, Oracle(), out)


def test_the_session_draws_itself(session):
    session.click(15, 15)
    figure = session.draw()
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "3 object"


def test_boxes_are_those_of_the_predictor(tiny_model, folder):
    predictor = Predictor(tiny_model, threshold=0.0)
    session = Session(folder, predictor)
    session.click(20, 30)
    predictor.set_image(folder / "0.png")
    found = predictor.click(20, 30)
    shown = session.detections()
    assert len(found) and torch.equal(shown.boxes, found.boxes) and torch.equal(shown.scores, found.scores)
