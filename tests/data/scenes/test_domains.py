"""`dealkit.data.scenes.domains`: six looks that differ, written once."""

import json

import pytest

from dealkit.data.coco import CocoFolder
from dealkit.data.scenes.domains import DOMAINS, write_domains
from dealkit.data.scenes.scene import scene_factors

SMALL = {"train": 2, "val": 1, "size": 64}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_domains(tmp_path_factory.mktemp("domains"), **SMALL)


def test_the_six_domains_are_those_of_the_paper():
    titles = ["remote sensing", "unmanned aerial vehicle", "daily-life scenarios", "autonomous driving"]
    titles += ["microscopic observation", "agriculture monitor"]
    assert [domain.title for domain in DOMAINS.values()] == titles


def test_a_domain_draws_from_its_own_grounds_and_shapes():
    for domain in DOMAINS.values():
        seen = [scene_factors(i, size_hw=(64, 64), **domain.controls()) for i in range(8)]
        assert {scene["background"] for scene in seen} <= set(domain.grounds)
        assert {c["family"] for scene in seen for c in scene["categories"]} <= set(domain.shapes)
        if domain.grey is False:
            assert not any(scene["grey"] for scene in seen)


def test_each_domain_is_a_source_that_can_be_read(written):
    assert [file.parent.name for file in written] == list(DOMAINS)
    for file in written:
        train, val = (CocoFolder(file.with_name(f"{split}.json"), file.parent / "images") for split in ("train", "val"))
        assert (len(train), len(val)) == (2, 1) and train.source == file.parent.name
        assert train[0].image.shape == (3, 64, 64) and not (set(train.file_names) & set(val.file_names))
    assert not list(written[0].parent.glob("*.part"))


def test_what_is_there_is_kept_and_other_settings_are_refused(written):
    root, before = written[0].parents[1], written[0].stat().st_mtime_ns
    assert write_domains(root, **SMALL) == written and written[0].stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="train.json: made with other settings"):
        write_domains(root, **SMALL | {"train": 3})
    assert json.loads(written[0].read_text())["info"]["domain"] == "remote sensing"
