"""User code by import path: what is found, what is offered to it, and what is said when it does not fit."""

from __future__ import annotations

import collections
from typing import Any

import pytest

from ununennium.errors import ConfigError
from ununennium.importing import import_object, instantiate

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
