"""Click in a notebook or on a page of one's own: one `Session`, one JavaScript file, two ways to show them.

>>> import dealkit.widget
>>> "ClickWidget" in dir(dealkit.widget)
True
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "ClickWidget":  # read on first use: the page needs no Jupyter
        from dealkit.widget.notebook import ClickWidget

        return ClickWidget
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "ClickWidget"]
