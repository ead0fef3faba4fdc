"""A thousand random configurations: each is accepted, or refused with a setting, its value and a remedy."""

from __future__ import annotations

import copy
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from ununennium.config import RunConfig
from ununennium.config.yaml_text import write_yaml
from ununennium.errors import ConfigError

JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 255, 2**31, 2**63, 2**64, -(2**70), 10**90, 0.5, -0.0, 1e300, 1e-300),
    *(
        "",
        " ",
        "x",
        "yes",
        "nan",
        "inf",
        "1:20",
        "010",
        "1e3",
        "2026-05-18",
        "$(touch pwned)",
        "\u0000x",
        "é\u2028",
        "a" * 5000,
    ),
    *(
        "s3://",
        "s3://b",
        "https://u:p@h/x",
        "https://h/x?sig=1",
        "github://b/x",
        "cuda:99",
        "../../etc/passwd",
        "val_IoU",
    ),
    *([], {}, [[]], [None], {"a": None}, [1, "x", None], {"target": "os:system"}, {"target": 5, "kwargs": []}),
    *([[[[[[1]]]]]], {"rows": [5, 1]}, [{"image": 1}], {"image": {"red": ["a.tif", 0]}}, {"a": {"b": {"c": [1, 2]}}}),
]
RAW = [
    *(
        "!!int x",
        "!!timestamp 1",
        "*nothing",
        "&a [*a]",
        "[" * 200,
        "{" * 70,
        "9" * 5000,
        ".nan",
        "-.inf",
        "1.5e999",
        "'",
    ),
    *(
        '"\\xZ"',
        "a: b",
        "@x",
        "%x",
        "`x",
        "|",
        "> \n x",
        "? x",
        "- ",
        "!!python/name:os.system",
        "0x" + "f" * 40,
        "!",
        "\t",
    ),
]
PYTHON_WORDS = re.compile(
    r"Traceback|object has no attribute|NoneType|unhashable type|not subscriptable|takes \d+ positional|Input should"
    r"|validation error|<unicode string>|\b(Type|Value|Key|Index|Attribute|Recursion|Overflow)Error\b"
)


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every mapping or list in ``node``, with every key of it."""
    found = []
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            found += [(node, key), *places(value)]
    return found


def spoilt(draw: random.Random, example: dict[str, Any]) -> str:
    """The text of ``example`` after one to four random changes."""
    whole = RunConfig.parse(example).model_dump(mode="json")
    settings = copy.deepcopy(example) | {section: whole[section] for section in draw.sample(sorted(whole), 2)}
    raw: dict[str, str] = {}
    for _ in range(draw.randint(1, 3)):
        holder, key = draw.choice(places(settings))
        kind = draw.random()
        if kind < 0.55:
            holder[key] = copy.deepcopy(draw.choice(JUNK))
        elif kind < 0.7:
            marker = f"RAW{len(raw)}"
            raw[marker] = draw.choice(RAW)
            holder[key] = marker
        elif kind < 0.8 and isinstance(holder, dict):
            holder[draw.choice(["epoch", "lr", 5, None, True, "x" * 300, "model"])] = holder.pop(key)
        elif kind < 0.9 and isinstance(holder, dict):
            del holder[key]
        else:
            other, name = draw.choice(places(settings))
            holder[key] = other[name] if not isinstance(other[name], dict | list) else copy.deepcopy(draw.choice(JUNK))
    text = write_yaml(settings)
    for marker, value in raw.items():
        text = text.replace(marker, value)
    if draw.random() < 0.1:
        cut = draw.randrange(len(text))
        text = (
            text[:cut] + draw.choice(["", "\n", "\t", "{", "]", ":", "\x00", "&a "]) + text[cut + draw.randint(0, 20) :]
        )
    return text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_random_configurations_are_accepted_or_refused_clearly(tmp_path: Path) -> None:
    """correctness 94"""
    draw = random.Random(20261130)
    example: dict[str, Any] = {
        "name": "demo",
        "data": {
            "scenes": [{"image": "a.tif", "label": "b.tif", "date": "2026-05-18"}, {"image": {"red": "r.tif"}}],
            "classes": ["background", "building"],
            "split": {"holdout_regions": [{"rows": [0, 64]}]},
        },
        "scheduler": {"target": "torch.optim.lr_scheduler:OneCycleLR", "kwargs": {"max_lr": 0.01}},
        "early_stopping": {"patience": 3},
        "gate": {"floors": {"IoU": 0.3}},
    }
    file = tmp_path / "run.yaml"
    outcomes = {"accepted": 0, "refused": 0}
    for _ in range(1000):
        text = spoilt(draw, example)
        file.write_text(text, encoding="utf-8")
        started = time.perf_counter()
        refusal: ConfigError | None = None
        config: RunConfig | None = None
        try:
            config = RunConfig.load(file)
        except ConfigError as error:
            refusal = error
        if refusal is not None:
            message = str(refusal)
            assert not PYTHON_WORDS.search(message.replace(repr(refusal.value), "")), (message, text)
            assert "\n" not in message
            assert len(message) < 1500, (message, text)
            outcomes["refused"] += 1
        elif config is not None:
            outcomes["accepted"] += 1
            if outcomes["accepted"] < 30:
                file.write_text(config.to_yaml(), encoding="utf-8")
                assert RunConfig.load(file) == config
        assert time.perf_counter() - started < 5.0, text
    assert min(outcomes.values()) > 50, outcomes
