"""A run's report: whatever the run has left, whole in one file, and with nothing of a user's taken as markup."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from tests.judged_run import HOSTILE, evaluated
from ununennium.files import write_json
from ununennium.report.facts import Facts
from ununennium.report.run import write_report
from ununennium.report.scores import difference_interval


class Page(HTMLParser):
    """Tags, with their attributes, and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_what_comes_from_a_user_is_text_and_never_markup(run):
    evaluated(run)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert HOSTILE in page.text
    assert any(f"val_IoU_{HOSTILE}" in (attributes.get("aria-label") or "") for _, attributes in page.tags)


def test_the_page_asks_for_nothing_and_its_links_lead_somewhere(run):
    evaluated(run)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    ids = {attributes.get("id") for _, attributes in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href"):
            place = attributes.get(name)
            assert place is None or place.startswith("data:") or place.removeprefix("#") in ids, place
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")


@pytest.mark.parametrize(
    ("summary", "heading"),
    [
        ({"stop_reason": "failed", "reason": "out of memory"}, "Failed"),
        ({"stop_reason": "preempted"}, "Interrupted"),
        ({"stop_reason": "completed"}, "Trained, and not judged yet"),
        ({"stop_reason": "completed", "verdict": "promoted", "reason": "better"}, "Promoted"),
        ({}, "Under way, or lost"),
    ],
)
def test_every_end_has_a_report(run, summary, heading):
    write_json(run.summary_file, summary)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert heading in page.text
    assert "Configuration" in page.text


def test_a_damaged_file_is_named_and_the_rest_is_shown(run):
    evaluated(run)
    run.gate_file.write_text("{torn")
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "gate.json cannot be read, and is left out" in text
    assert "Metrics on the holdout" in text


def test_intervals_calibration_slices_and_areas_are_shown(run):
    evaluated(run)
    text = " ".join(Page(write_report(run).read_text(encoding="utf-8")).text.split())
    for said in (
        "95% interval of the difference", "+0.0123 to +0.1876",
        "Expected calibration error 0.0100 with temperature 1.5",
        "confidence 0.80: accuracy 0.70, 100.0% of the pixels",
        f"Worst scene: {HOSTILE}.", f"of {HOSTILE}", "hectares of 110,",
        "Note: ",
    ):  # fmt: skip
        assert said in text, said


def test_what_is_missing_is_left_out_with_a_word(run):
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    assert "no epoch came to its end" in text
    assert "has not been evaluated" in text
    evaluated(run)
    evaluation = json.loads(run.evaluation_file.read_text())
    old = {key: evaluation["challenger"][key] for key in ("classes", "confusion", "metrics", "num_pixels")}
    write_json(run.evaluation_file, {"challenger": old, "champion": None, "generation": 0, "epoch": 1})
    text = Page(write_report(run).read_text(encoding="utf-8")).text
    for word in (
        "Champion: there was none",
        "Reliability: the evaluation has none",
        "Areas: ",
        "Parts of the holdout:",
    ):
        assert word in text, word
    assert "Metrics on the holdout" in text


def test_the_interval_of_an_error_has_the_sign_of_its_difference(run):
    check = {"name": "improvement of RMSE", "passed": True, "interval": [0.1, 0.3]}
    write_json(run.gate_file, {"checks": [check]})
    assert difference_interval(Facts.of(run), "RMSE") == (-0.3, -0.1)
    assert difference_interval(Facts.of(run), "MAE") is None
