"""Which images may be shown: the licences that sources state, in `sources.json` beside them."""

from pathlib import Path

from dealkit.files import Json, read_json

FREE = ("CC BY 4.0", "MIT", "Apache-2.0", "CC0", "Public Domain", "no known copyright restrictions")
"""Licences, as their statements begin, under which an image may be shown with a credit."""


def free_sources(*files: str | Path) -> dict[str, Json]:
    """Entries of `sources.json` files, by name, whose images may be shown.

    Args:
        files: lists of objects with `name`, `repository` and `licence`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "sources.json")
    ...     _ = file.write_text('[{"name": "nuts", "licence": "MIT (repository)"}, {"name": "bolts", "licence": "none stated"}]')
    ...     list(free_sources(file))
    ['nuts']
    """
    entries = [entry for file in files for entry in read_json(Path(file))]
    return {entry["name"]: entry for entry in entries if entry["licence"].startswith(FREE)}


def credit(entry: Json) -> str:
    """Who an image is by, and its licence, in one line.

    >>> credit({"name": "nuts", "repository": "smith/nuts", "licence": "MIT (repository)"})
    'nuts: smith/nuts, MIT'
    """
    return f"{entry['name']}: {entry['repository']}, {entry['licence'].split(' (')[0]}"
