"""A contact sheet to check by eye what was found: every image small with its boxes, in pages that need no other file."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw
from tqdm import tqdm

from dealkit.files import write_text
from dealkit.predict.formats import Findings

PAGE = 200
"""Most images on a page."""
SIDE = 640
"""Longer side of a thumbnail in pixels; the page shows it at half of it, a click on it at all."""
SMALLEST = 6
"""Shortest side of a drawn box in pixels of the thumbnail: smaller ones could not be seen."""

STYLE = """body{font:15px system-ui,sans-serif;margin:1.5em;background:#fafafa;color:#222}
main{display:flex;flex-wrap:wrap;gap:12px;align-items:flex-end}figure{margin:0;max-width:100%}
img{height:240px;display:block;cursor:zoom-in;max-width:100%;object-fit:contain}img.big{height:auto;cursor:zoom-out}
figcaption{max-width:320px;overflow-wrap:anywhere;font-size:13px}.none figcaption{color:#777}
.bad{color:#a00}nav a{margin-right:.7em}"""


def write_sheet(found: Sequence[Findings], folder: Path, out: Path, kind: str, failed: dict[str, str]) -> list[Path]:
    """Write `sheet.html`, `sheet-2.html`, ... into `out`, one for every `PAGE` images; gives their paths.

    Args:
        folder: that the images lie in. failed: image -> why it could not be read; listed on the first page.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("L", (8, 6)).save(folder / "a.png")
    >>> one = Findings(image="a.png", width=8, height=6, boxes=[[1.0, 2.0, 4.0, 6.0]], scores=[0.5], adaptive=1)
    >>> [path.name for path in write_sheet([one], folder, folder, "bolt", {})]
    ['sheet.html']
    """
    pages = [found[start : start + PAGE] for start in range(0, len(found), PAGE)] or [[]]
    paths = [out / ("sheet.html" if n == 0 else f"sheet-{n + 1}.html") for n in range(len(pages))]
    links = "".join(f'<a href="{path.name}">{n}</a>' for n, path in enumerate(paths, 1)) if len(paths) > 1 else ""
    total = f"{sum(len(each.boxes) for each in found)} in {len(found)} images"
    bad = "".join(f'<li class="bad">{escape(f"{name}: {why}")}</li>' for name, why in failed.items())
    with tqdm(total=len(found), desc="sheet", unit="img", delay=3) as bar:
        for n, (path, page) in enumerate(zip(paths, pages, strict=True)):
            figures = []
            for each in page:
                figures.append(_figure(each, folder))
                bar.update()
            head = f"<title>{escape(kind)}</title><style>{STYLE}</style>"
            body = f"<h1>{escape(kind)}: {total}</h1><nav>{links}</nav><ul>{bad if n == 0 else ''}</ul>"
            script = 'document.onclick=e=>e.target.tagName=="IMG"&&e.target.classList.toggle("big")'
            parts = f"{body}<main>{''.join(figures)}</main><nav>{links}</nav><script>{script}</script>"
            write_text(path, f'<!doctype html><html lang="en"><meta charset="utf-8">{head}{parts}</html>\n')
    return paths


def _figure(found: Findings, folder: Path) -> str:
    name, count = escape(found.image), len(found.boxes)
    try:
        picture = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(thumbnail(found, folder)).decode()}">'
    except (ValueError, OSError) as error:  # it was there when it was predicted
        picture = f'<p class="bad">{escape(str(error))}</p>'
    said = f"{count}, mean score {sum(found.scores) / count:.2f}" if count else "nothing found"
    return f"<figure{'' if count else ' class=none'}>{picture}<figcaption><b>{name}</b><br>{said}</figcaption></figure>\n"


def thumbnail(found: Findings, folder: Path) -> bytes:
    """The image as a JPEG of `SIDE` pixels or a little less with its boxes; those of small objects are widened to `SMALLEST`."""
    from dealkit.data.raster import Raster, open_image  # here, so that the command line starts without torch

    pixels = open_image(Path(folder, found.image))
    pixels = pixels.preview(2 * SIDE) if isinstance(pixels, Raster) else pixels
    image, longest = Image.fromarray(pixels.permute(1, 2, 0).numpy()), max(found.width, found.height)
    scale = SIDE / longest if longest > SIDE else SIDE // longest
    size = [max(1, round(side * scale)) for side in (found.width, found.height)]
    image = image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    for x1, y1, x2, y2 in found.boxes:
        x, y = scale * (x1 + x2) / 2, scale * (y1 + y2) / 2
        across, down = (max(SMALLEST, scale * side) / 2 for side in (x2 - x1, y2 - y1))
        draw.rectangle([x - across - 1, y - down - 1, x + across, y + down], outline="#ffd400", width=2)
    picture = io.BytesIO()
    image.save(picture, "JPEG", quality=85, subsampling=0)
    return picture.getvalue()
