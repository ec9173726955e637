"""Super-categories: a common word above the names that sources give their categories.

Names stay as the source gives them; the super-category only groups them, so that `small-vehicle`, `Car` and `van` can be
counted and drawn together.
"""

import re

SUPERCATEGORIES = {
    "person": "person people pedestrian rider cyclist swimmer face sitting player goalkeeper referee crew human head",
    "vehicle": "vehicle car van truck bus tricycle motor motorbike motorcycle bicycle bike train trailer tractor camping camper "
    "pickup taxi ambulance excavator bulldozer crane forklift locomotive railway wagon cargo loader grader scooter hauler mixer",
    "aircraft": "airplane plane aeroplane aircraft helicopter drone balloon",
    "ship": "ship boat jetski vessel ferry yacht barge sailboat motorboat tugboat maritime buoy appliances",
    "traffic": "sign light camera cone signal arrow",
    "structure": "bridge tank pool swimming harbor harbour court field stadium windmill mill airport helipad chimney dam "
    "overpass roundabout station area toll container building pylon tower hut shed hangar facility diamond track pad pier lot",
    "plant": "plant grape berry apple fruit mushroom tree flower wheat spike leaf seed tomato olive weed cotton boll",
    "animal": "animal bird ibis egret gull cow sheep insect fish whale seal fly moth bee",
    "cell": "cell nucleus nuclei wbc rbc platelet bacterium colony",
    "particle": "particle crater bubble grain star galaxy",
    "defect": "mousebite open short spur hole copper joint solder scratch defect crack",
    "part": "bolt nut screw foosball chip resistor capacitor component",
    "ball": "ball",
    "target": "target",
}
"""Super-category -> words of category names; the last word of a name that is listed decides (`traffic light`, `tennis ball`,
`grape berry`)."""

OF_SOURCE = {"tt100k": "traffic", "sirst": "target", "sirst-v2": "target"}
"""Sources whose names are codes, or which show one kind of thing only. TT100K's are the codes of Chinese traffic signs."""

_WORDS = {word: name for name, words in SUPERCATEGORIES.items() for word in words.split()}


def supercategory(name: str, source: str = "") -> str:
    """The super-category of a category; `other` where no word of its name is listed.

    Choice: by words instead of a table of all names, since mirrors of one data set spell a name in several ways.

    Args:
        name: as the source gives it; case, hyphens, underscores, CamelCase and a plural s make no difference.
        source: key of the source.

    >>> supercategory("small-vehicle"), supercategory("StorageTank"), supercategory("pl60", "tt100k"), supercategory("zebu")
    ('vehicle', 'structure', 'traffic', 'other')
    """
    if source in OF_SOURCE:
        return OF_SOURCE[source]
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    for word in reversed(words):
        for form in (word, word.removesuffix("s"), word.removesuffix("es")):
            if form in _WORDS:
                return _WORDS[form]
    return "other"
