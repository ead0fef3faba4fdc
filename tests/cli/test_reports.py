"""A run's report: whatever the run has left, whole in one file, and with nothing of a user's taken as markup."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from ununennium.config import RunConfig
from ununennium.report.run import write_report
from ununennium.runs import RunDirectory, write_json

HOSTILE = "<script>alert(1)</script>\"'&"


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


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    settings = {
        "name": "roads",
        "storage": str(tmp_path / "storage"),
        "data": {"scenes": [{"image": "a.tif", "name": HOSTILE}], "classes": ["ground", HOSTILE]},
    }
    return RunDirectory.create(RunConfig.parse(settings))


def evaluated(run):
    per_class = {"mean": 0.5, "ground": 0.9, HOSTILE: 0.1}
    side = {
        "classes": ["ground", HOSTILE], "confusion": [[90, 10], [5, 5]], "metrics": {"IoU": per_class, "kappa": 0.4},
        "num_pixels": 110, "split_sha256": "s", "data_sha256": "d",
    }  # fmt: skip
    write_json(run.evaluation_file, {"challenger": side, "champion": None, "generation": 0, "epoch": 1})
    check = {"name": f"floor IoU.{HOSTILE}", "value": 0.1, "threshold": 0.3, "baseline": None, "passed": False}
    write_json(run.gate_file, {"verdict": "not_promoted", "reason": HOSTILE, "checks": [{**check, "reason": HOSTILE}]})
    write_json(run.summary_file, {"verdict": "not_promoted", "reason": HOSTILE, "stop_reason": "completed"})
    rows = [{"epoch": n, "train_loss": 1 / n, "val_loss": None, f"val_IoU_{HOSTILE}": 0.1} for n in (1, 2)]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 3, "torn')


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
