"""YAML is data: limits, duplicate keys, what is a number, and where an error is."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ununennium.cli import run as cli
from ununennium.config import RunConfig
from ununennium.config.maps import MapsConfig
from ununennium.config.yaml_text import read_yaml, write_yaml
from ununennium.errors import ConfigError

BASE = "name: demo\ndata: {scenes: [{image: a.tif}], classes: [a, b]}\n"
BOMB = "x0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"x{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)
MERGE_BOMB = "x0: &a0 {k0: 1}\n" + "".join(
    f"x{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}], k{level}: 1}}\n" for level in range(1, 10)
)


def read(text: str) -> Any:
    return read_yaml(text, field="config", value="/somewhere/run.yaml", name="run.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "line 6, column 10: aliases repeat more than 100,000 values"),
        (MERGE_BOMB, "aliases repeat more than 100,000 values"),
        ("kwargs: &k {w: *k}", "line 1, column 16: an alias stands inside of what it stands for"),
        ("- &l\n- [*l, &m [*m]]", "line 2, column 12: an alias stands inside"),
        ("[" * 3000 + "]" * 3000, "line 1, column 65: it is nested more than 64 deep"),
        ("{a: " * 3000, "nested more than 64 deep"),
        ("- " * 3000 + "1", "nested more than 64 deep"),
        ("seed: " + "9" * 5000, "line 1, column 7: a number of 5,000 digits"),
        ("seed: 1." + "9" * 5000, "a number of 5,002 digits"),
        ("seed: 0x" + "f" * 5000, "a number of 5,002 digits"),
        ("seed: 1\nname: b\nseed: 2", "line 3, column 1: the key 'seed' is there twice"),
        ("a: {b: 1, 'b': 2}", "line 1, column 11: the key 'b' is there twice"),
        ("a: [1,\nb: 2", "line 2, column 5:"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("a: \x07", "line 1, column 4: a character that YAML does not allow (#x0007)"),
        ("a: !!int twelve", "line 1, column 4: 'twelve' is no int"),
        ("a: !!float x", "'x' is no float"),
        ("a: !!bool maybe", "'maybe' is no bool"),
        ("a: !!timestamp x", "could not determine a constructor"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ('a: "\\U00110000"', "line 1, column 7: an escape sequence of no character"),
        ("a: {<<: {b: 1}, <<: {c: 2}}", "the key '<<' is there twice"),
        ("a: *missing", "found undefined alias"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("? [a]\n: 1", "unhashable key"),
    ],
)
def test_what_is_no_plain_data_is_refused_at_once_with_file_line_and_column(text: str, message: str) -> None:
    """correctness 94"""
    started = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert time.perf_counter() - started < 1.0
    assert str(caught.value).startswith("config = '/somewhere/run.yaml': is not valid YAML: run.yaml, line ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_beyond_any_configuration_is_refused_unread() -> None:
    with pytest.raises(ConfigError, match="more than 4,000,000; list many scenes in a table"):
        read("a: " + "b" * 4_000_000)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:20", "1:20"),
        ("190:20:30.15", "190:20:30.15"),
        ("010", "010"),
        ("2026-05-18", "2026-05-18"),
        ("2026-05-18 10:00:00", "2026-05-18 10:00:00"),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0b11", 3),
        ("-5", -5),
        ("0", 0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("yes", True),
        ("off", False),
        ("~", None),
        ("null", None),
        ("'5'", "5"),
        ("=", "="),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: Any) -> None:
    """correctness 94"""
    found = read(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))


def test_anchors_and_merge_keys_work() -> None:
    text = "a: &base {x: 1, y: 2}\nb: {<<: *base, y: 3}\nc: [*base, *base]\nd: {<<: [*base, {z: 4}]}"
    base = {"x": 1, "y": 2}
    assert read(text) == {"a": base, "b": {"x": 1, "y": 3}, "c": [base, base], "d": {**base, "z": 4}}


TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.sampled_from(
        ["1e3", "1e-3", "010", "1:20", "2026-05-18", "yes", "No", "~", "0x1F", "1_000", ".5", "<<", "=", "-"]
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)))
def test_what_is_written_is_read_back_equal(value: Any) -> None:
    for options in ({}, {"default_flow_style": True, "width": 10**6}):
        assert read(write_yaml({"value": value}, **options)) == {"value": value}


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.integers() | st.text("abc ", max_size=4), lambda inner: st.lists(inner, max_size=3)))
def test_ordinary_documents_are_read_as_pyyaml_reads_them(value: Any) -> None:
    text = yaml.safe_dump(value)
    assert read(text) == yaml.safe_load(text)


def load(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return RunConfig.load(file, overrides)


@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("trainer.epochs", "yes", "trainer.epochs = True: give a number; true (yes, no, on, off) is none"),
        ("trainer.accumulation_steps", "true", "trainer.accumulation_steps = True: give a number"),
        ("trainer.gradient_clip", "on", "trainer.gradient_clip = True: give a number"),
        ("trainer.epochs", "1:20", "trainer.epochs = '1:20': give a whole number"),
        ("trainer.epochs", "010", "trainer.epochs = '010': give a number without zeros in front"),
        ("trainer.epochs", "2.5", "trainer.epochs = 2.5: give a whole number"),
        ("trainer.gradient_clip", ".inf", "trainer.gradient_clip = inf: give a finite number"),
        ("data.nodata", ".nan", "data.nodata = nan: give a finite number"),
        ("gate.floors", "{IoU: .nan}", "gate.floors"),
        ("gate.floors", "{IoU: true}", "gate.floors = {'IoU': True}: give a number"),
        ("data.split.validation_regions", "[{rows: [no, 5]}]", "data.split.validation_regions.0.rows = "),
        (
            "optimizer",
            "{target: 'torch.optim:SGD', kwargs: {lr: .nan}}",
            "optimizer.kwargs = {'lr': nan}: give a finite",
        ),
        ("model", "{target: 'a:B', kwargs: {sizes: [1, .inf]}}", "model.kwargs = "),
        ("data.batch_size", str(2**64), "data.batch_size = 18446744073709551616: give at most 65536"),
        ("data.num_workers", "1000000", "data.num_workers = 1000000: give at most 1024"),
        ("data.split.seed", str(2**64), "data.split.seed = 18446744073709551616: give a number of at most"),
        ("name", "5", "name = 5: give text, in quotes: '5'"),
        ("trainer.compile", "maybe", "trainer.compile = 'maybe': give true or false"),
        ("trainer", "[1]", "trainer = [1]: give a mapping of settings"),
        ("data.classes", "buildings", "data.classes = 'buildings': give a list"),
        ("data.classes", "[no, yes]", "data.classes.0 = False: give text, in quotes: 'False'"),
        ("data.split.holdout_from", "18.05.2026", "write a day as 2026-05-18"),
        ("storage", "'s3://'", "storage = 's3://': the URL names no bucket or host"),
        ("storage", '"runs\\0"', "leave out NUL and lone surrogates"),
        ("model", '{target: "a:B", kwargs: {sizes: ["\\ud800"]}}', "leave out NUL and lone surrogates"),
    ],
)
def test_a_wrong_number_or_kind_is_refused_in_plain_words(
    setting: str, value: str, message: str, override: bool, tmp_path: Path
) -> None:
    """correctness 94"""
    document = read(BASE)
    *parents, last = setting.split(".")
    node = document
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = "PLACEHOLDER"
    text, changes = write_yaml(document).replace("PLACEHOLDER", value), []
    if override:
        text, changes = BASE, [f"{setting}={value}"]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *changes)
    assert message in str(caught.value)
    assert "Input should" not in str(caught.value)


@pytest.mark.parametrize(
    "date", ["2026-05-18", "'2026-05-18'", "2026-05", "[2026-05-18, 2026-05-19]", "2026-05-18T10:00:00Z"]
)
def test_a_date_works_with_and_without_quotes(date: str, tmp_path: Path) -> None:
    """correctness 94"""
    config = load(tmp_path, BASE, f"data.scenes.0.date={date}")
    assert config.data.scenes[0].date == yaml.load(date, yaml.BaseLoader)


@pytest.mark.parametrize("date", ["cpu:0", "2026-13-01", "tomorrow", "''"])
def test_what_is_no_date_is_refused(date: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.scenes\.0\.date = .*: write a day as 2026-05-18"):
        load(tmp_path, BASE, f"data.scenes.0.date={date}")


def test_maps_configurations_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "maps.yaml").write_text("model: m\nmodel: n\nimages: [a.tif]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"maps\.yaml, line 2, column 1: the key 'model' is there twice"):
        MapsConfig.load(tmp_path / "maps.yaml")


@pytest.mark.parametrize(
    "text", [BASE + "model: &m {target: 'a:B', kwargs: *m}\n", BASE + BOMB, BASE + "name: again\n"]
)
def test_the_command_line_says_so_with_exit_code_2(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """correctness 94"""
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    assert cli(["train", str(file), "--dry-run"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "is not valid YAML: bad.yaml, line " in captured.err
    assert "<unicode string>" not in captured.err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \xe9\n"])
def test_other_encodings_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is not valid YAML: byte . is no UTF-8"):
        RunConfig.load(tmp_path / "run.yaml")


def test_a_folder_or_a_fifo_is_no_configuration(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "pipe.yaml"):
        with pytest.raises(ConfigError, match="cannot be read: it is no file"):
            RunConfig.load(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.kwargs." + "a." * 20_000 + "b=1", "goes through more than 64 sections"),
        ("data.classes.²=water", "data.classes has items 0..1"),
        ("data.classes." + "9" * 5000 + "=water", "data.classes has items 0..1"),
        ("data.classes.-1=water", "data.classes has items 0..1"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(override: str, message: str, tmp_path: Path) -> None:
    """correctness 94: whatever stands before the equals sign."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(tmp_path, BASE, override)


@pytest.mark.parametrize("kind", ["mapping", "list", "cycle"])
def test_settings_without_an_end_are_refused_without_yaml_too(kind: str) -> None:
    """correctness 94: they come from programs and parameters of flows as well."""
    value: Any = 1
    for _ in range(3000):
        value = {"a": value} if kind == "mapping" else [value]
    if kind == "cycle":
        value = {}
        value |= {"one": value, "two": [value, value]}
    settings = {**read(BASE), "model": {"target": "a:B", "kwargs": {"x": value}}}
    with pytest.raises(ConfigError, match="nested more than 64 deep"):
        RunConfig.parse(settings)


def test_a_name_holds_no_credentials_either() -> None:
    """correctness 93"""
    settings = {**read(BASE), "model": {"target": "a:B", "kwargs": {"https://u:p@host/x": 1}}}
    with pytest.raises(ConfigError, match=r"model\.kwargs"):
        RunConfig.parse(settings)
