"""RunConfig: what is refused and how it says so, overrides, files, and the JSON schema that Prefect's form shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ununennium.config import DataConfig, RunConfig, apply_overrides
from ununennium.errors import ConfigError, UnunenniumError


def settings(**changes: Any) -> dict[str, Any]:
    """A smallest configuration, with dotted ``changes`` such as ``data__chip_size=64``."""
    result: dict[str, Any] = {
        "name": "demo",
        "data": {"scenes": [{"image": "a.tif", "label": "b.tif"}], "classes": ["background", "building"]},
    }
    for path, value in changes.items():
        node = result
        *parents, last = path.split("__")
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return result


def refusal(**changes: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        RunConfig.parse(settings(**changes))
    return caught.value


def test_smallest_configuration_has_the_documented_defaults() -> None:
    config = RunConfig.parse(settings())
    assert (config.trainer.epochs, config.trainer.device, config.trainer.mixed_precision) == (100, "cuda", True)
    assert (config.trainer.accumulation_steps, config.trainer.gradient_clip) == (1, 1.0)
    assert (config.checkpoints.monitor, config.checkpoints.mode, config.checkpoints.save_top_k) == (
        "val_loss",
        "min",
        1,
    )
    assert config.early_stopping is None
    assert config.storage == "storage"


@pytest.mark.parametrize(
    ("changes", "field", "hint"),
    [
        ({"data__chip_sise": 64}, "data.chip_sise", "did you mean 'chip_size'"),
        ({"trainer__lr": 0.1}, "trainer.lr", "known here:"),
        ({"gates": {}}, "gates", "did you mean 'gate'"),
        ({"data__split__buffers": 3}, "data.split.buffers", "did you mean 'buffer'"),
        ({"data__chip_size": "big"}, "data.chip_size", "give a whole number"),
        ({"data__chip_size": 8}, "data.chip_size", "at least 16"),
        ({"data__classes": ["only"]}, "data.classes", "at least 2"),
        ({"data__classes": ["a", "a"]}, "data.classes", "given twice: a"),
        ({"data__bands": [0, 1]}, "data.bands", "count from 1"),
        ({"data__bands": []}, "data.bands", "count from 1"),
        ({"data__scenes": []}, "data.scenes", "at least 1"),
        ({"data__class_balance": 1.5}, "data.class_balance", "at most 1"),
        ({"data__augment__contrast": 1.0}, "data.augment.contrast", "less than 1"),
        (
            {"data__split__validation_regions": [{"rows": [5, 5]}]},
            "data.split.validation_regions.0.rows",
            "first < last",
        ),
        ({"trainer__mixed_precision": "fp8"}, "trainer.mixed_precision", "'fp16', 'bf16' or 'no'"),
        ({"trainer__gradient_clip": 0}, "trainer.gradient_clip", "more than 0"),
        ({"trainer__epochs": 0}, "trainer.epochs", "at least 1"),
        ({"trainer__ema_decay": 1.0}, "trainer.ema_decay", "less than 1"),
        ({"checkpoints__mode": "maximum"}, "checkpoints.mode", "'min' or 'max'"),
        ({"checkpoints__save_top_k": -2}, "checkpoints.save_top_k", "at least -1"),
        ({"early_stopping": {"patience": 0}}, "early_stopping.patience", "at least 1"),
        ({"name": "My Model"}, "name", "pattern"),
        ({"seed": -1}, "seed", "at least 0"),
        ({"model": {"kwargs": {}}}, "model.target", "is required"),
        ({"launcher__nproc_per_node": 0}, "launcher.nproc_per_node", "at least 1"),
    ],
)
def test_refusal_names_the_field_and_what_is_right(changes: dict[str, Any], field: str, hint: str) -> None:
    error = refusal(**changes)
    assert error.field == field
    assert hint in str(error)
    assert field in str(error)
    assert "\n" not in str(error)


def test_refusal_shows_the_value_that_was_given() -> None:
    assert refusal(data__chip_size="big").value == "big"
    assert "'big'" in str(refusal(data__chip_size="big"))


def test_missing_section_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^data = None: is required"):
        RunConfig.parse({"name": "demo"})


def test_something_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match="mapping of sections"):
        RunConfig.parse(["name"])  # type: ignore[arg-type]


@pytest.mark.parametrize("section", ["checkpoints", "early_stopping"])
def test_val_monitor_without_validation_is_refused(section: str) -> None:
    error = refusal(data__split__validation=0.0, **{f"{section}__monitor": "val_IoU"})
    assert f"{section}.monitor" in str(error) or "checkpoints.monitor" in str(error)
    assert "data.split.validation" in str(error)


def test_train_loss_may_be_monitored_without_validation() -> None:
    config = RunConfig.parse(settings(data__split__validation=0.0, checkpoints__monitor="train_loss"))
    assert config.checkpoints.monitor == "train_loss"


def test_validation_by_regions_counts_as_validation() -> None:
    RunConfig.parse(settings(data__split__validation=0.0, data__split__validation_regions=[{"columns": [0, 64]}]))


def test_ignore_index_must_not_be_a_class() -> None:
    error = refusal(data__ignore_index=1)
    assert "building" in str(error)
    assert "255" in str(error)


def test_compile_and_deterministic_exclude_each_other() -> None:
    assert "trainer.compile" in str(refusal(trainer={"compile": True, "deterministic": True}))


def test_values_are_immutable() -> None:
    config = RunConfig.parse(settings())
    with pytest.raises(ValueError):
        config.seed = 5  # type: ignore[misc]


def test_errors_survive_pickling() -> None:
    import pickle

    error = refusal(seed=-1)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.field, copy.value) == (str(error), error.field, error.value)
    assert isinstance(copy, UnunenniumError)
    assert isinstance(copy, ValueError)


# Files ---------------------------------------------------------------------------------------------------------------


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = RunConfig.parse(
        settings(
            early_stopping={"patience": 3},
            scheduler={"target": "torch.optim.lr_scheduler:OneCycleLR", "kwargs": {"max_lr": 1e-2}},
            data__split__holdout_regions=[{"columns": [592, None]}],
        )
    ).with_scenes_relative_to(tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert RunConfig.load(file) == config


def test_json_round_trip() -> None:
    config = RunConfig.parse(settings(data__split__holdout_regions=[{"columns": [592, None]}]))
    assert RunConfig.parse(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_scene_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    scenes = [
        {"image": "images/a.tif", "label": "../b.geojson"},
        {"image": "s3://bucket/a.tif"},
        {"image": "/vsicurl/https://host/a.tif", "label": "/data/b.tif"},
    ]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(data__scenes=scenes)), encoding="utf-8")
    loaded = RunConfig.load(tmp_path / "run.yaml").data.scenes
    assert loaded[0].image == str(tmp_path / "images" / "a.tif")
    assert Path(str(loaded[0].label)).resolve() == (tmp_path.parent / "b.geojson").resolve()
    assert (loaded[1].image, loaded[1].label) == ("s3://bucket/a.tif", None)
    assert (loaded[2].image, loaded[2].label) == ("/vsicurl/https://host/a.tif", "/data/b.tif")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("a: [", "not valid YAML"), ("- 1", "not a mapping"), ("", "not a mapping")],
)
def test_unreadable_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        RunConfig.load(file)
    assert str(file) in str(caught.value)


# Overrides -----------------------------------------------------------------------------------------------------------


def test_overrides_reach_sections_lists_and_components(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings()), encoding="utf-8")
    config = RunConfig.load(
        file,
        [
            "trainer.epochs=5",
            "data.scenes.0.name=north",
            "optimizer.target=torch.optim:SGD",
            "optimizer.kwargs={lr: 0.1}",
            "early_stopping.patience=2",
            "trainer.gradient_clip=null",
            "trainer.mixed_precision=no",
        ],
    )
    assert config.trainer.epochs == 5
    assert config.data.scenes[0].name == "north"
    assert (config.optimizer.target, config.optimizer.kwargs) == ("torch.optim:SGD", {"lr": 0.1})
    assert config.early_stopping is not None
    assert config.early_stopping.patience == 2
    assert config.trainer.gradient_clip is None
    assert config.trainer.mixed_precision is False  # YAML's 'no' is false: the same meaning here


def test_override_in_scientific_notation_is_a_number() -> None:
    assert apply_overrides({}, ["optimizer.kwargs.lr=1e-3"]) == {"optimizer": {"kwargs": {"lr": 1e-3}}}


def test_overrides_leave_their_input_alone() -> None:
    before = settings()
    apply_overrides(before, ["data.classes.0=other"])
    assert before == settings()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.epochs", "write path=value"),
        ("=3", "write path=value"),
        ("data..chip_size=3", "write path=value"),
        ("data.scenes.7.name=x", "has items 0..0"),
        ("data.scenes.first.name=x", "has items 0..0"),
        ("name.first=x", "name is not a section"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_bad_overrides_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        apply_overrides(settings(), [override])
    assert "\n" not in str(caught.value)


def test_unknown_override_is_named_by_validation(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings()), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"trainer\.epoch = 5: there is no such setting; did you mean 'epochs'"):
        RunConfig.load(file, ["trainer.epoch=5"])


@given(
    path=st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=4),
    value=st.one_of(st.integers(), st.booleans(), st.none(), st.text("xyz ", max_size=6)),
)
def test_an_override_is_what_the_same_yaml_would_say(path: list[str], value: Any) -> None:
    result = apply_overrides(
        {}, [f"{'.'.join(path)}={yaml.safe_dump(value).removesuffix(chr(10)).removesuffix('...')}"]
    )
    for key in path:
        result = result[key]
    assert result == value


# Schema --------------------------------------------------------------------------------------------------------------


def _properties(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    sections = {"RunConfig": schema, **schema.get("$defs", {})}
    return [(f"{section}.{name}", body) for section, s in sections.items() for name, body in s["properties"].items()]


def test_schema_documents_every_field() -> None:
    schema = RunConfig.model_json_schema()

    def description(body: dict[str, Any]) -> str | None:
        section = body.get("$ref", "").rpartition("/")[2]  # a text that is also the section's stands there alone
        return body.get("description") or schema["$defs"].get(section, {}).get("description")

    undocumented = [name for name, body in _properties(schema) if not description(body)]
    assert undocumented == []


def test_schema_refuses_unknown_keys_in_every_section() -> None:
    schema = RunConfig.model_json_schema()
    assert all(s["additionalProperties"] is False for s in [schema, *schema["$defs"].values()])


def test_schema_accepts_what_is_accepted_and_refuses_what_is_refused() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    validator = jsonschema.Draft202012Validator(RunConfig.model_json_schema())
    validator.validate(settings())
    validator.validate(RunConfig.parse(settings(early_stopping={})).model_dump(mode="json"))
    for wrong in ({"data__chip_size": 8}, {"nonsense": 1}, {"name": "My Model"}, {"trainer__mixed_precision": "fp8"}):
        assert not validator.is_valid(settings(**wrong)), wrong


def test_sections_can_be_used_alone() -> None:
    data = DataConfig(scenes=[{"image": "a.tif"}], classes=["a", "b"])  # type: ignore[list-item]
    assert data.scenes[0].image == "a.tif"
