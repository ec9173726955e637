"""Real photographs that come with scikit-image, with our own boxes: what a machine without data can look at and test on.

The pixels lie in the installed scikit-image package and are read from there, so nothing is downloaded; the boxes lie in
`data/photos/<name>.json` of this project (COCO), whose `info` says how they were made, by which rule an object counts as
clear, and the licence of the photograph. They are for demonstration and tests, never for training.
"""

from pathlib import Path

import skimage

from dealkit.data.coco import CocoFolder, Sample
from dealkit.files import PROJECT_ROOT

PHOTOS: dict[str, str] = {
    "coins": "24 Greek coins, 35 to 65 px, on an uneven background",
    "hubble_deep_field": "242 galaxies, 5 to 47 px, among 729 fainter ones that count neither way",
    "moon": "41 craters, 5 to 53 px, on a low-contrast surface, among 98 unclear spots that count neither way",
    "microaneurysms": "2 dark spots of 3 to 6 px beside blood vessels of the same darkness",
}
"""Name -> what it shows; sizes are sides of the boxes."""

IMAGE_FOLDER = Path(skimage.__file__).parent / "data"
"""Folder of the installed scikit-image that holds the image files."""


def coco_path(name: str) -> Path:
    """COCO JSON with the boxes of one photograph; its image lies in `IMAGE_FOLDER`.

    Raises:
        ValueError: `name` is not in `PHOTOS`.
        FileNotFoundError: dealkit was installed without its `data` folder.

    >>> coco_path("coins").name
    'coins.json'
    """
    if name not in PHOTOS:
        raise ValueError(f"photo: expected one of {', '.join(PHOTOS)}; got {name!r}")
    path = PROJECT_ROOT / "data" / "photos" / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the boxes come with a clone of the project; install it with `pip install -e .`")
    return path


def photo(name: str) -> Sample:
    """One photograph with its boxes, a fresh copy at every call.

    Grey photographs come as three equal channels. All objects have label 0; `crowd` marks objects too faint or too unclear
    to count, which are neither found nor missed.

    Raises:
        ValueError: `name` is not in `PHOTOS`, or the installed scikit-image has no such image or one of another size.

    >>> sample = photo("coins")
    >>> sample.image.shape, sample.boxes.shape, sample.boxes[0]
    (torch.Size([3, 303, 384]), torch.Size([24, 4]), tensor([22., 35., 67., 74.]))
    """
    return CocoFolder(coco_path(name), IMAGE_FOLDER, source=name)[0]
