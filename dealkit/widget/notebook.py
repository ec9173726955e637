"""The click page as a Jupyter widget; without a front end, as in papermill, a picture of it."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anywidget
import matplotlib.pyplot as plt
import traitlets

from dealkit.files import Json
from dealkit.predict.detections import Detections
from dealkit.predict.predictor import Predictor
from dealkit.widget.session import Session

FRONT_ENDS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")
"""Of these a kernel that someone looks at has one in its environment: of JupyterLab, of VS Code, of Colab."""


class ClickWidget(anywidget.AnyWidget):
    """Click in images in a notebook: everything of the clicked kind gets a box at once.

    Click: this; right or shift click: not this; alt and drag: a box round an example. Review marks boxes as right or wrong.
    The model runs beside the notebook's own thread. `session` holds the state; what the methods here do, a browser can do, too.

    >>> import torch
    >>> from dealkit.config import ModelConfig
    >>> from dealkit.model.deal import DEAL
    >>> predictor = Predictor(DEAL(ModelConfig(hidden_dim=32, fine_dim=16)))
    >>> widget = ClickWidget(torch.zeros(3, 50, 70, dtype=torch.uint8), predictor, points=[[20, 30]])
    >>> isinstance(widget.detections, Detections), widget.prompts[0]["labels"]
    (True, [1])
    """

    _esm = Path(__file__).parent / "click.js"
    view = traitlets.Dict().tag(sync=True)
    picture = traitlets.Bytes().tag(sync=True)

    def __init__(
        self,
        images: Any,
        predictor: Predictor | None = None,
        points: Sequence[Sequence[float]] | Mapping[str, Sequence[Sequence[float]]] = (),
    ):
        """`images`: one of any form that `Predictor.set_image` takes, a list of them, or a folder. `predictor`: of the default
        checkpoint if None. `points`: clicks to start with, rows of x, y or x, y, label (1 this, 0 not this), or
        `{kind: rows}`."""
        self.session = Session(images, predictor)
        self._shown = 0
        super().__init__(view=self.session.view(), picture=self.session.picture())
        self._worker = ThreadPoolExecutor(1, "dealkit-click")
        self.on_msg(lambda _, event, __: self._worker.submit(self._do, event))
        kinds = points if isinstance(points, Mapping) else {"": points}
        for n, (name, rows) in enumerate(kinds.items()):
            if name:
                self.ask("rename_kind" if n == 0 else "add_kind", name=name)
            for row in rows:
                x, y, label = (*row, 1)[:3]
                self.ask("click", x=float(x), y=float(y), label=int(label))

    def ask(self, do: str, **arguments: Any) -> None:
        """What a browser may ask for: a method of the session by name, in its turn; see `dealkit.widget.session.EVENTS`.

        Raises:
            ValueError: what the session says against it.
        """
        view = self._worker.submit(self._do, {"do": do, **arguments}).result()
        if view["message"]:
            raise ValueError(view["message"])

    @property
    def detections(self) -> Detections:
        """What holds of the kind in the image shown: boxes not rejected, from the slider's score on, and drawn ones."""
        return self._after(self.session.detections)

    @property
    def prompts(self) -> list[Json]:
        """All prompts given, see `Session.prompts`."""
        return self._after(self.session.prompts)

    def to_coco(self) -> Json:
        """The boxes of all images as COCO JSON, see `Session.to_coco`."""
        return self._after(self.session.to_coco)

    def save_embedding(self, path: str | Path) -> None:
        """Keep what the kind means, for `Predictor.predict_embedding`; see `Session.save_embedding`."""
        self._after(self.session.save_embedding, path)

    def _after(self, function: Any, *args: Any) -> Any:
        """Result of a function in its turn, after all that was asked for before."""
        return self._worker.submit(function, *args).result()

    def _do(self, event: Json) -> Json:
        """On the worker's thread: let the session do it and show what came of it."""
        do = event.get("do") if isinstance(event, dict) else None
        if do in ("export", "picture"):
            try:
                if do == "export":
                    name, content = self.session.export(str(event.get("what")))
                    self.send({"save": name}, [content])
                else:
                    self.send({"picture": event.get("id")}, [self.session.picture(event.get("box"))])
            except ValueError as error:
                self.view = self.session.view() | {"message": str(error)}
            return self.view
        view = self.session.apply(event)
        if self.session.index != self._shown:
            self._shown, self.picture = self.session.index, self.session.picture()
        self.view = view
        return view

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget where someone can use it, else its picture."""
        if any(name in os.environ for name in FRONT_ENDS):
            return super()._repr_mimebundle_(**options)
        self._after(int)  # all is answered; drawing is for the notebook's own thread
        figure, picture = self.session.draw(), io.BytesIO()
        figure.savefig(picture, format="jpeg", pil_kwargs={"quality": 75, "subsampling": 0})
        plt.close(figure)
        return {"image/jpeg": base64.b64encode(picture.getvalue()).decode(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"ClickWidget({self.session.images[self.session.index][0]}, {len(self.detections)} boxes)"
