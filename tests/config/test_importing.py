"""User code by import path: what is found, what is offered to it, and what is said when it does not fit."""

from __future__ import annotations

import collections
from typing import Any

import pytest

from ununennium.errors import ConfigError
from ununennium.importing import ALLOWED_IMPORTS, check_allowed, import_object, instantiate

HERE = "test_importing_targets"


class Model:
    """A user's model."""

    def __init__(self, in_channels: int, *, width: int = 8) -> None:
        self.in_channels, self.width = in_channels, width

    class Nested:
        """Reached by a second name after the colon."""


def anything(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return args, kwargs


@pytest.fixture(autouse=True)
def targets(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType(HERE)
    module.Model, module.anything, module.NUMBER = Model, anything, 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, HERE, module)


def test_colon_and_dot_both_name_an_attribute() -> None:
    assert import_object("collections:OrderedDict", field="model") is collections.OrderedDict
    assert import_object("collections.OrderedDict", field="model") is collections.OrderedDict
    assert import_object(f"{HERE}:Model.Nested", field="model") is Model.Nested


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("OrderedDict", "give an import path"),
        (":OrderedDict", "give an import path"),
        ("no_such_package:Thing", "'no_such_package' cannot be imported"),
        ("collections:NoSuchThing", "has no attribute 'NoSuchThing'"),
    ],
)
def test_paths_that_lead_nowhere_are_refused(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        import_object(path, field="model.target")
    assert str(caught.value).startswith(f"model.target = {path!r}")


def test_runtime_values_are_offered_only_where_taken() -> None:
    model = instantiate(f"{HERE}:Model", {}, field="model", in_channels=4, num_classes=2)
    assert (model.in_channels, model.width) == (4, 8)


def test_configuration_wins_over_runtime() -> None:
    assert instantiate(f"{HERE}:Model", {"in_channels": 7}, field="model", in_channels=4).in_channels == 7


def test_positional_arguments_come_first() -> None:
    assert instantiate(f"{HERE}:anything", {"lr": 1}, "parameters", field="optimizer") == (("parameters",), {"lr": 1})


def test_arguments_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match="'depth'") as caught:
        instantiate(f"{HERE}:Model", {"depth": 3}, field="model", in_channels=4)
    assert "width" in str(caught.value)


def test_something_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match="it is a int"):
        instantiate(f"{HERE}:NUMBER", {}, field="loss")


STANDARD = "ununennium.models,ununennium.losses,torch.nn,torch.optim"


@pytest.mark.parametrize(
    "path",
    [
        *("ununennium.models:UNet", "ununennium.losses:CrossEntropyDiceLoss", "torch.nn:CrossEntropyLoss"),
        *("torch.optim:AdamW", "torch.optim.AdamW", "torch.optim.lr_scheduler:OneCycleLR"),
    ],
)
def test_what_is_listed_may_be_named(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    free = import_object(path, field="model")
    monkeypatch.setenv(ALLOWED_IMPORTS, STANDARD)
    assert import_object(path, field="model") is free


@pytest.mark.parametrize(
    "path",
    [
        *("os:system", "os.system", "subprocess:run", "builtins:eval", "torch.hub:load", "torch:load"),
        *("ununennium.modelsevil:Model", "torch.nnx:Linear"),  # begins alike, and is another
        *("ununennium.models:torch.hub.load", "torch.nn.functional:torch.load"),  # by way of what a module imports
        *("ununennium.models:torch", "ununennium.losses:Sequence"),
        *("torch.nn:Module.__init__.__globals__", "torch.nn:Module.__class__.mro"),
    ],
)
def test_what_is_not_listed_is_refused_by_every_way_to_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED_IMPORTS, STANDARD)
    with pytest.raises(ConfigError, match=ALLOWED_IMPORTS) as caught:
        import_object(path, field="model.target")
    assert str(caught.value).startswith(f"model.target = {path!r}: ")


def test_a_package_is_trusted_once_it_is_listed_and_nothing_is_imported_before(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "team_networks").mkdir()
    (tmp_path / "team_networks" / "__init__.py").write_text("def width():\n    return 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(ALLOWED_IMPORTS, "")
    with pytest.raises(ConfigError, match="only that of no package at all"):
        instantiate("team_networks:width", {}, field="model")
    import sys

    assert "team_networks" not in sys.modules
    monkeypatch.setenv(ALLOWED_IMPORTS, f"{STANDARD}, team_networks")
    assert instantiate("team_networks:width", {}, field="model") == 7
    monkeypatch.delitem(sys.modules, "team_networks")


def test_a_run_with_foreign_code_is_refused_before_anything_is_read(
    atlanta: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ununennium import pipeline
    from ununennium.config import RunConfig
    from ununennium.runs.directory import RunDirectory

    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path))
    monkeypatch.setenv(ALLOWED_IMPORTS, STANDARD)
    config = RunConfig.load(atlanta.parent / "run.yaml", [f"storage={tmp_path}", "scheduler={target: 'os:system'}"])
    run = RunDirectory.create(config)
    with pytest.raises(ConfigError, match="code of os does not run here"):
        pipeline.prepare(run)
    assert not run.plan_file.exists()
    check_allowed("torch.optim:AdamW", field="optimizer.target")
