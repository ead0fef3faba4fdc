"""The command line: help that teaches, exit codes, errors in one line, listings for scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.contracts import make_contract
from ununennium.checkpoints.artifact import write_artifact
from ununennium.checkpoints.registry import Registry

COMMANDS = ["init", "train", "evaluate", "promote", "predict", "runs", "report", "compare", "registry", "demo"]
Cli = Callable[..., Any]


def test_help_names_every_command_and_the_exit_codes(cli: Cli) -> None:
    answer = cli("--help")
    assert answer.code == 0
    for command in COMMANDS:
        assert f" {command} " in answer.out
    assert "ununennium train run.yaml" in answer.out
    assert "3 not promoted" in " ".join(answer.out.split())


@pytest.mark.parametrize(
    "command", [*COMMANDS, "registry list", "registry show", "registry promote", "registry rollback", "registry verify"]
)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    answer = cli(*command.split(), "--help")
    assert answer.code == 0
    assert "Usage: ununennium" in answer.out


def test_help_and_listings_need_no_torch_and_no_prefect() -> None:
    code = (
        "import sys; from ununennium.cli import run; "
        "assert run(['--help']) == 0 and run(['runs', '--json']) == 0 and run(['registry', 'list', '--json']) == 0; "
        "heavy = {'torch', 'prefect', 'rasterio', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("ununennium ")


def test_wrong_usage_is_exit_code_2(cli: Cli) -> None:
    assert cli("nonsense").code == 2
    assert cli("train", "--nonsense").code == 2
    answer = cli("train")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "configuration file, or --resume" in answer.err
    assert cli("train", "run.yaml", "--resume", "latest").code == 2


def test_wrong_settings_are_one_line_and_exit_code_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "name: demo\ndata: {scenes: [{image: a.tif}], classes: [a, b], chip_sise: 64}\n", encoding="utf-8"
    )
    answer = cli("train", "run.yaml", "--dry-run")
    assert answer.code == 2
    assert answer.err == "error: data.chip_sise = 64: there is no such setting; did you mean 'chip_size'?\n"
    assert answer.out == ""
    assert not (tmp_path / ".ununennium").exists()


def test_a_traceback_is_shown_only_with_debug(cli: Cli) -> None:
    assert "Traceback" not in cli("train", "missing.yaml").err
    answer = cli("train", "missing.yaml", "--debug")
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert "ConfigError" in answer.err


def test_the_console_script_is_main() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from ununennium.cli import main; main()", "train"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


# runs ----------------------------------------------------------------------------------------------------------------


def test_no_runs_is_an_empty_list(cli: Cli) -> None:
    assert json.loads(cli("runs", "--json").out) == []
    assert "no runs in storage" in cli("runs").out


def test_runs_are_filtered_and_limited(cli: Cli, tmp_path: Path) -> None:
    for i, name in enumerate(["roads", "crops", "roads"]):
        folder = tmp_path / "elsewhere" / "runs" / f"2026010{i + 1}T000000Z-{name}-000{i}"
        folder.mkdir(parents=True)
        summary = {
            "run_id": folder.name,
            "name": name,
            "started": f"2026-01-0{i + 1}T00:00:00.000+00:00",
            "stop_reason": "completed",
            "best_epoch": 3,
            "holdout": {"IoU": {"mean": 0.5, "road": None}, "F1": {"mean": 0.6, "road": None}},
            "verdict": "promoted",
            "reason": "the first champion",
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    listed = json.loads(cli("runs", "--storage", "elsewhere", "--json").out)
    assert [run["run_id"][:8] for run in listed] == ["20260103", "20260102", "20260101"]
    assert [
        run["name"] for run in json.loads(cli("runs", "--storage", "elsewhere", "--model", "crops", "--json").out)
    ] == ["crops"]
    table = cli("runs", "--storage", "elsewhere", "--limit", "1").out
    assert "20260103T000000Z-roads-0002" in table
    assert "mean 0.5000  road -" in table
    assert "20260101" not in table


# registry ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def champions(tmp_path: Path, cli: Cli) -> Registry:
    """A model ``dots`` with two generations, in ``tmp_path/storage``."""
    registry = Registry(str(tmp_path / "storage"), "dots")
    for generation in range(2):
        torch.manual_seed(generation)
        model = nn.Conv2d(1, 2, 1)
        contract = make_contract(classes=["background", "dot"], resolution=[1.0, 1.0], crs="EPSG:32616")
        contract |= {"chip_size": 64, "run_id": f"run-{generation}"}
        write_artifact(tmp_path / f"artifact{generation}", model.state_dict(), contract)
        registry.promote(
            registry.add_version(tmp_path / f"artifact{generation}"),
            expected_generation=generation,
            gate={"verdict": "promoted", "reason": "better"},
            actor="test",
            run_id=f"run-{generation}",
        )
    return registry


def test_registry_lists_and_shows(cli: Cli, champions: Registry) -> None:
    (listed,) = json.loads(cli("registry", "list", "--json").out)
    assert (listed["model"], listed["generation"], listed["run"]) == ("dots", 2, "run-1")
    shown = json.loads(cli("registry", "show", "dots", "--json").out)
    assert [record["generation"] for record in shown["history"]] == [2, 1]
    assert shown["contract"]["classes"] == ["background", "dot"]
    assert "generation 2" in cli("registry", "show", "dots").out
    assert "dots" in cli("registry", "list").out


def test_rollback_is_a_new_generation(cli: Cli, champions: Registry) -> None:
    first = champions.history()[-1].version
    answer = cli("registry", "rollback", "dots", "--reason", "stripes")
    assert answer.code == 0, answer.err
    current = champions.current()
    assert current is not None
    assert (current.generation, current.version, current.restored_from) == (3, first, 1)
    assert current.reason == "stripes"
    assert cli("registry", "rollback", "dots", "--to", "9").code == 2


def test_verify_finds_damaged_weights(cli: Cli, champions: Registry) -> None:
    assert all(row["whole"] for row in json.loads(cli("registry", "verify", "dots", "--json").out))
    damaged = champions.history()[-1].version
    weights = Path(champions.version_url(damaged)) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    answer = cli("registry", "verify", "dots", "--json")
    assert answer.code == 1
    assert {row["version"]: row["whole"] for row in json.loads(answer.out)}[damaged] is False


@pytest.mark.parametrize("command", ["show", "rollback", "verify"])
def test_a_model_without_a_champion_is_a_clear_error(cli: Cli, command: str) -> None:
    answer = cli("registry", command, "nobody")
    assert answer.code == 2
    assert "registry list" in answer.err


def test_evaluate_and_promote_of_an_unknown_run_are_clear_errors(cli: Cli) -> None:
    for command in ("evaluate", "promote", "registry promote"):
        answer = cli(*command.split(), "latest")
        assert answer.code == 2
        assert "holds no runs" in answer.err
