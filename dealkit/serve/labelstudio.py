"""A back end for Label Studio: key points and rectangles of one object in, rectangles round all of its kind out.

It speaks the HTTP protocol of https://labelstud.io/guide/ml: `/health`, `/setup`, `/versions`, `/predict`, `/webhook`.

Choice: Python's own server and no further package. The `label-studio-ml` of PyPI pins Flask 1.1 and Jinja2 3.0, long left behind
by notebooks and FiftyOne. `Backend.predict` takes and gives what the `predict` of its models does, so it can be used there.
"""

import base64
import io
import json
import math
import os
import sys
import threading
import uuid
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse
from xml.etree import ElementTree

from PIL import Image

from dealkit.data.images import AnyImage, as_image
from dealkit.files import Json
from dealkit.predict.predictor import Predictor

BACKGROUND = "background"
"""Key points of this label, in any case, show what is not meant, for all labels; so do those that Label Studio calls negative."""

LONGEST_REQUEST = 2**28
"""Bytes of a request, at most: an image of 190 MB in it."""

LABEL_CONFIG = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <KeyPointLabels name="point" toName="image" smart="true" smartOnly="true">
    <Label value="object" smart="true" showInline="true"/>
    <Label value="background" smart="true" showInline="true"/>
  </KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true">
    <Label value="object"/>
  </RectangleLabels>
</View>"""
"""Labelling interface to start from."""

LabelPrompts = dict[str, tuple[list[list[float]], list[int], list[list[float]]]]
"""Label -> points, their labels (1 object, 0 not this) and boxes xyxy, pixels."""


def read_interface(label_config: str) -> tuple[str, str, str, list[str]]:
    """Of a labelling interface: name of the rectangles, name of their image, its field in a task, and the rectangles' labels.

    Raises:
        ValueError: not XML, or no `RectangleLabels` on an `Image`.

    >>> read_interface(LABEL_CONFIG)
    ('box', 'image', 'image', ['object'])
    """
    try:
        tags = list(ElementTree.fromstring(label_config).iter())
    except (ElementTree.ParseError, TypeError) as error:
        raise ValueError(f"label_config: expected the XML of a labelling interface: {error}") from None
    images = {tag.get("name"): tag.get("value", "").lstrip("$") for tag in tags if tag.tag.lower() == "image"}
    for tag in tags:
        if tag.tag.lower() == "rectanglelabels" and tag.get("toName") in images:
            image = tag.get("toName")
            return tag.get("name", ""), image, images[image], [label.get("value", "") for label in tag]
    raise ValueError("label_config: expected <RectangleLabels name=... toName=...> on an <Image>")


def read_regions(regions: Sequence[Json], size_hw: tuple[int, int]) -> LabelPrompts:
    """Key points and rectangles, percent of the image, as one prompt per label; labels without a positive are left out.

    Coordinates are those of the upright image, also while Label Studio shows it turned (`image_rotation`). A turned rectangle is
    the box round its corners.

    Raises:
        ValueError: a region is not of Label Studio's form; names it.

    >>> point = {"type": "keypointlabels", "value": {"x": 50, "y": 10, "width": 1, "keypointlabels": ["cell"]}}
    >>> read_regions([point, {**point, "is_positive": False}], (100, 200))
    {'cell': ([[100.0, 10.0], [100.0, 10.0]], [1, 0], [])}
    """
    height, width = size_hw
    prompts: LabelPrompts = {}
    against = []
    for i, region in enumerate(regions):
        try:
            kind, value = region["type"], region["value"]
            if kind not in ("keypointlabels", "rectanglelabels"):
                continue
            label = str((value.get(kind) or value.get("labels"))[0])
            x, y = (min(max(float(value[k]), 0), 100) * side / 100 for k, side in (("x", width), ("y", height)))
            points, labels, boxes = prompts.setdefault(label, ([], [], []))
            if kind == "rectanglelabels":
                right, down = float(value["width"]) * width / 100, float(value["height"]) * height / 100
                boxes.append(_box(x, y, right, down, float(value.get("rotation") or 0), size_hw))
            elif label.lower() == BACKGROUND:
                against.append([x, y])
            else:
                points.append([x, y])
                labels.append(int(region.get("is_positive", True)))
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            said = f"expected a key point or rectangle of Label Studio, {type(error).__name__}: {error}"
            raise ValueError(f"context.result[{i}]: {said}") from None
    return {
        label: (points + against, labels + [0] * len(against), boxes)
        for label, (points, labels, boxes) in prompts.items()
        if label.lower() != BACKGROUND and (1 in labels or boxes)
    }


def _box(x: float, y: float, right: float, down: float, degrees: float, size_hw: tuple[int, int]) -> list[float]:
    """A rectangle turned about its first corner as the box round it within the image: xyxy."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    xs = [x, x + right * c, x - down * s, x + right * c - down * s]
    ys = [y, y + right * s, y + down * c, y + right * s + down * c]
    return [max(min(xs), 0), max(min(ys), 0), min(max(xs), size_hw[1]), min(max(ys), size_hw[0])]


def default_media() -> Path:
    """Folder where this user's Label Studio keeps uploads: under LABEL_STUDIO_BASE_DATA_DIR, or where it is by default."""
    data = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/share"
    return Path(os.environ.get("LABEL_STUDIO_BASE_DATA_DIR", f"{data}/label-studio")).expanduser() / "media"


def locate_image(value: str, root: Path | None, media: Path) -> AnyImage:
    """The image that a task names: a data URI, a file under `root` (Local Storage), or an upload under `media`.

    Raises:
        ValueError: any other address, a path that leads out of its folder, or a data URI that is no image.

    >>> locate_image("/data/local-files/?d=a/b.png", Path("/photos"), default_media()).as_posix()
    '/photos/a/b.png'
    """
    if value.startswith("data:"):
        try:
            return as_image(Image.open(io.BytesIO(base64.b64decode(value.partition(";base64,")[2], validate=True))))
        except (ValueError, OSError):
            raise ValueError(f"task: expected an image in base64, got {value[:40]}...") from None
    url = urlparse(value)
    if url.path.startswith("/data/local-files"):
        folder, name = root, parse_qs(url.query).get("d", [""])[-1]
    elif url.path.startswith("/data/upload/"):
        folder, name = media, unquote(url.path.removeprefix("/data/"))
    else:
        raise ValueError(f"task: expected a data URI, /data/local-files/?d=... or /data/upload/..., got {value[:200]}")
    if folder is None:
        raise ValueError(f"task: {value[:200]}: expected --root, the folder that Label Studio's Local Storage starts from")
    file = (folder / name).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ValueError(f"task: {value[:200]}: leads out of {folder}")
    return file


class Backend:
    """Answers Label Studio's requests with a predictor; an image is encoded once for all clicks on it.

    >>> from dealkit.config import ModelConfig
    >>> from dealkit.model.deal import DEAL
    >>> Backend(Predictor(DEAL(ModelConfig(hidden_dim=32, fine_dim=16)))).answer("/health")[1]["status"]
    'UP'
    """

    def __init__(self, predictor: Predictor, *, root: Path | None = None, media: Path | None = None):
        """`root`: folder that Local Storage starts from. `media`: folder of uploads, by default `default_media`."""
        self.predictor, self.root, self.media = predictor, root, media or default_media()
        self.lock, self.image = threading.Lock(), None

    def predict(self, tasks: Sequence[Json], context: Json | None, label_config: str) -> list[Json]:
        """One prediction for each task: `{"result": rectangles, "score": their mean, "model_version": ...}`.

        Args:
            tasks: each with `data`. context: `{"result": regions}`, the prompts; without them nothing is found.
            label_config: XML of the labelling interface. A rectangle gets the label of its prompt, or the first one there is.

        Raises:
            ValueError: one of these is not of Label Studio's form, or an image that cannot be read; names the part.
        """
        from_name, to_name, field, names = read_interface(label_config)
        with self.lock:
            return [self._predict_task(task, context or {}, from_name, to_name, field, names) for task in tasks]

    def _predict_task(self, task: Json, context: Json, from_name: str, to_name: str, field: str, names: list[str]) -> Json:
        value = task.get("data", {}).get(field)
        if not isinstance(value, str):
            raise ValueError(f"task: expected data.{field}, the address of an image, got {value!r}")
        result: list[Json] = []
        if regions := context.get("result"):
            if value != self.image:
                self.image = None  # until the next one is read
                self.predictor.set_image(locate_image(value, self.root, self.media))
                self.image = value
            height, width = self.predictor.image.shape[1:]
            prompts = read_regions(regions, (height, width))
            asked = list(prompts.values())
            about = {"from_name": from_name, "to_name": to_name, "type": "rectanglelabels", "readonly": False}
            about |= {"original_width": width, "original_height": height}
            about["image_rotation"] = regions[0].get("image_rotation", 0)
            for label, found in zip(prompts, self.predictor.predict_categories(asked) if asked else [], strict=True):
                label = label if label in names or not names else names[0]
                for (x1, y1, x2, y2), score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True):
                    place = {"x": 100 * x1 / width, "y": 100 * y1 / height, "rotation": 0, "rectanglelabels": [label]}
                    place |= {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
                    result.append(about | {"id": uuid.uuid4().hex[:10], "value": place, "score": score})
        score = sum(region["score"] for region in result) / max(len(result), 1)
        return {"result": result, "score": score, "model_version": self.predictor.model_hash}

    def answer(self, path: str, body: Json | None = None) -> tuple[int, Json]:
        """HTTP status and JSON that answer a request; `body` is the JSON of a POST."""
        version = self.predictor.model_hash
        if path in ("/", "/health"):
            return 200, {"status": "UP", "model_class": "DEAL"}
        if path == "/setup":
            return 200, {"model_version": version}
        if path == "/versions":
            return 200, {"versions": [version]}
        if path == "/webhook":
            return 200, {"status": "nothing is trained here"}
        if path != "/predict":
            return 404, {"detail": f"{path}: expected /health, /setup, /versions, /predict or /webhook"}
        try:
            tasks, params = body["tasks"], body.get("params") or {}
            return 200, {"results": self.predict(tasks, params.get("context"), body["label_config"]), "model_version": version}
        except (KeyError, TypeError, AttributeError) as error:
            return 400, {"detail": f"/predict: expected tasks, label_config and params.context, {type(error).__name__}: {error}"}
        except (ValueError, FileNotFoundError) as error:
            return 400, {"detail": str(error)}


def make_server(backend: Backend, *, host: str = "127.0.0.1", port: int = 9090) -> ThreadingHTTPServer:
    """A server of the back end, for `serve_forever`; by default this machine alone reaches it. Port 0: any that is free."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(*backend.answer(urlparse(self.path).path))

        def do_POST(self) -> None:
            try:
                length = int(self.headers.get("Content-Length") or 0)
                if not 0 <= length <= LONGEST_REQUEST:
                    self.reply(413, {"detail": f"expected at most {LONGEST_REQUEST} bytes, got {length}"})
                    return
                body = json.loads(self.rfile.read(length) or "{}")
            except ValueError as error:
                self.reply(400, {"detail": f"expected JSON: {error}"})
                return
            try:
                self.reply(*backend.answer(urlparse(self.path).path, body))
            except Exception as error:  # the next request may be better
                self.reply(500, {"detail": f"{type(error).__name__}: {error}"})
                raise

        def reply(self, status: int, answer: Json) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(content)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            if status >= 400:
                print(f"{self.path}: {answer['detail']}", file=sys.stderr)

        def log_message(self, *_: Any) -> None:
            pass

    return ThreadingHTTPServer((host, port), Handler)
