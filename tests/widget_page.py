"""The click page in a browser, for the tests of page and widget."""

import numpy as np
from PIL import Image

from dealkit.studies.browser import to_screen


class Page:
    """The page in a browser: clicks at pixels of the image, and what it shows."""

    def __init__(self, page):
        self.page = page

    def wait(self):
        self.page.wait_for_selector(".dk[data-busy='0'] canvas[data-view]", timeout=60_000)
        return self

    def to_screen(self):
        return to_screen(self.page)

    def at(self, x, y):
        return self.to_screen()(x, y)

    def click(self, x, y, **options):
        self.page.mouse.click(*self.at(x, y), **options)
        self.wait()

    def drag(self, x1, y1, x2, y2):
        self.page.mouse.move(*self.at(x1, y1))
        self.page.mouse.down()
        self.page.mouse.move(*self.at((x1 + x2) / 2, (y1 + y2) / 2))
        self.page.mouse.move(*self.at(x2, y2))
        self.page.mouse.up()
        self.wait()

    def press(self, name):
        self.page.locator(f".dk [data-do={name}]").click()
        self.wait()

    def boxes(self):
        return int(self.page.get_attribute(".dk", "data-boxes"))

    def save(self, name):
        with self.page.expect_download() as download:
            self.page.locator(f".dk [data-do=save-{name}]").click()
        return download.value

    def outlined(self, boxes, colour, path):
        """Share of the sides of every box (N, 4) that has the colour, on a screenshot kept at `path`."""
        self.page.screenshot(path=path)
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        near = np.abs(pixels - [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).max(-1) < 40
        shares, place = [], self.to_screen()
        for x1, y1, x2, y2 in boxes.tolist():
            steps = np.linspace(0.1, 0.9, 30)
            sides = [(x1 + (x2 - x1) * s, y) for s in steps for y in (y1, y2)]
            sides += [(x, y1 + (y2 - y1) * s) for s in steps for x in (x1, x2)]
            spots = [tuple(round(v) for v in place(*xy)) for xy in sides]
            shares.append(np.mean([near[v - 1 : v + 2, u - 1 : u + 2].any() for u, v in spots]))
        return np.array(shares)
