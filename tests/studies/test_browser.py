"""`studies.browser`: a click in the page takes as long as it says."""

import pytest

from dealkit.studies.browser import find_browser, run_browser


@pytest.mark.slow
def test_clicks_in_the_page_are_timed_beside_those_in_python(checkpoint):
    if find_browser() is None:
        pytest.skip("no Chromium on the PATH")
    made = run_browser(checkpoint, clicks=4, sizes_wh=[(96, 80), (384, 303)])
    assert [row["size_wh"] for row in made["rows"]] == [[96, 80], [384, 303]] and made["clicks"] == 2
    assert all(row["page_ms"] > 0 and row["python_ms"] > 0 for row in made["rows"])


def test_what_is_missing_is_said(checkpoint, monkeypatch):
    monkeypatch.setattr("dealkit.studies.browser.shutil.which", lambda name: None)
    with pytest.raises(ValueError, match="needs Chromium on the PATH, and playwright"):
        run_browser(checkpoint)
