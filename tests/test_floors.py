"""The floors of the library: imports go downwards only, and some packages are imported in one room only."""

import ast

from dealkit.files import PROJECT_ROOT

FLOORS = [
    {"files", "config", "boxes", "device", "jobs"},
    {"prompts", "clicks", "data"},
    {"model"},
    {"train", "predict"},
    {"evaluate", "figures"},
    {"baselines", "browse", "serve", "widget"},
    {"studies"},
    {"report"},
    {"cli"},
    {"__main__"},
]
"""From the ground up; a room of `dealkit` knows those below its floor."""
DATA = {"coco": 0, "scenes": 1, "sources": 1, "tinyset": 2}
"""Floors inside `dealkit/data`."""
BESIDE = {("config", "files"), ("jobs", "files"), ("clicks", "data")}
NOT = {("model", "data")}
ONLY_IN = {"fiftyone": {"browse"}, "anywidget": {"widget"}, "tyro": {"cli", "__main__"}}
ONLY_IN |= {"papermill": {"cli"}, "nbconvert": {"cli"}}


def imports():
    """Every file of the library with each module that it imports, anywhere in it; both as parts."""
    for file in sorted((PROJECT_ROOT / "dealkit").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names or [alias.name for alias in getattr(node, "names", []) if isinstance(node, ast.Import)]:
                yield file.relative_to(PROJECT_ROOT / "dealkit").with_suffix("").parts, name.split(".")


def test_imports_go_downwards():
    level = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for file, (package, *rest) in imports():
        if package == "dealkit" and rest and rest[0] != file[0] and (file[0], rest[0]) not in BESIDE:
            if level[rest[0]] >= level[file[0]] or (file[0], rest[0]) in NOT:
                wrong.append((*file, "->", *rest))
        elif package == "dealkit" and rest and file[0] == rest[0] == "data" and len(rest) > 1 and file[1] != rest[1]:
            if DATA.get(rest[1], -1) >= DATA.get(file[1], 0) and rest[1] in DATA and file[1] in DATA:
                wrong.append((*file, "->", *rest))
        elif file[0] not in ONLY_IN.get(package, {file[0]}):
            wrong.append((*file, "->", package))
    assert not wrong


def test_a_click_starts_without_what_takes_longer_to_load_than_to_answer():
    modules = {".".join(("dealkit", *file)): [] for file, _ in imports()}
    for name, loaded in modules.items():
        body = ast.parse((PROJECT_ROOT / name.replace(".", "/")).with_suffix(".py").read_text()).body
        loaded += [node.module for node in body if isinstance(node, ast.ImportFrom)]
        loaded += [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    reached, left = set(), ["dealkit.predict.predictor"]
    while left:
        reached.add(name := left.pop())
        left += [each for each in modules.get(name, ()) if each not in reached]
    assert "torch" in reached
    assert not {name.split(".")[0] for name in reached} & {"torchvision", "scipy", "pandas", "matplotlib", "skimage", "hotcoco"}
