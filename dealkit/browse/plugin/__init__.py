"""Operators of FiftyOne's App; `dealkit.browse.find` does the work.

FiftyOne's server reads this file at every request. It is no module of the library: nothing imports it.
"""

import fiftyone.operators as foo
import fiftyone.operators.types as types

from dealkit.browse import find
from dealkit.browse.dataset import OBJECTS
from dealkit.config import DEFAULT_CHECKPOINT, DEFAULT_THRESHOLD


class FindAllLikeThis(foo.Operator):
    """Look for all objects like the selected ones."""

    @property
    def config(self):
        return foo.OperatorConfig(
            name="find_all_like_this",
            label="Find all like this",
            description="Look for all objects like the selected ones, in this image, the view or the data set",
            icon="search",
            execute_as_generator=True,
            dynamic=True,
        )

    def resolve_placement(self, ctx):
        button = types.Button(label="Find all like this", icon="search", prompt=True)
        return types.Placement(types.Places.SAMPLES_VIEWER_ACTIONS, button)

    def resolve_input(self, ctx):
        inputs = types.Object()
        try:
            example = find.read_example(ctx.dataset, ctx.selected_labels)
        except ValueError as error:
            inputs.view("example", types.Warning(label=str(error))).invalid = True
            return types.Property(inputs)
        clicks = sum(len(points) for points in example.points.values())
        inputs.view("example", types.Notice(label=f"{example.label}, {clicks} selected"))
        scopes = types.RadioGroup(orientation="vertical")
        for scope, words in find.SCOPES.items():
            scopes.add_choice(scope, label=words)
        inputs.enum("scope", scopes.values(), default="sample", required=True, label="Where", view=scopes)
        inputs.str("field", default=find.FOUND_IN, required=True, label="Field for what is found")
        inputs.float("threshold", default=DEFAULT_THRESHOLD, min=0, max=1, required=True, label="Lowest score")
        inputs.str("checkpoint", default=str(DEFAULT_CHECKPOINT), required=True, label="Model")
        return types.Property(inputs, view=types.View(label="Find all like this"))

    def execute(self, ctx):
        asked = ctx.params
        new = not ctx.dataset.has_field(asked["field"])
        try:
            example = find.read_example(ctx.dataset, ctx.selected_labels)
            predictor = find.load_predictor(asked["checkpoint"], asked["threshold"])
            ids = find.scope_ids(asked["scope"], example, ctx.dataset if asked["scope"] == "dataset" else ctx.view)
            for state in find.find_alike(ctx.dataset, example, ids, predictor, into=asked["field"]):
                yield ctx.ops.set_progress(f"{state}, {state.pace}", state.done / max(state.total, 1))
        except Exception as error:  # whatever it is: without a word the App would wait for ever
            yield ctx.ops.notify(str(error) or type(error).__name__, variant="error")
            return
        yield ctx.ops.reload_dataset()
        yield ctx.ops.set_active_fields([asked["field"]])
        if new:  # the image that is open would not show it
            yield ctx.ops.close_sample()
        # the App reads images that it has shown again only for another view
        yield ctx.ops.set_view(ctx.dataset.match({f"{asked['field']}_run": state.run}))
        yield ctx.ops.notify(f"{asked['field']}: {state}", variant="success")


class AcceptFound(foo.Operator):
    """Make ground truth of found objects."""

    @property
    def config(self):
        return foo.OperatorConfig(
            name="accept_found",
            label="Accept what was found",
            description=f"Make ground truth of the selected detections, or of those tagged {find.ACCEPT!r}",
            icon="playlist_add_check",
        )

    def resolve_input(self, ctx):
        inputs = types.Object()
        inputs.str("field", default=OBJECTS, required=True, label="Field of annotated objects")
        return types.Property(inputs, view=types.View(label="Accept what was found"))

    def execute(self, ctx):
        try:
            accepted = find.accept_found(ctx.dataset, ctx.selected_labels, into=ctx.params["field"])
        except ValueError as error:
            ctx.ops.notify(str(error), variant="error")
            return
        ctx.ops.reload_dataset()
        ctx.ops.set_view(ctx.dataset.match({f"{ctx.params['field']}.detections.found_by": {"$ne": None}}))
        ctx.ops.notify(f"{ctx.params['field']}: {accepted}", variant="success")


def register(plugin):
    """Tell FiftyOne of the operators."""
    plugin.register(FindAllLikeThis)
    plugin.register(AcceptFound)
