"""Secrets do not get into what people read, whichever way the text came about."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from ununennium.config import RunConfig
from ununennium.config.maps import MapsConfig
from ununennium.errors import ConfigError, StorageError
from ununennium.redaction import redact, redact_logs
from ununennium.training.supervise import supervise

SECRET = "aB3/xY9+planted=secret"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no https://me:pass@host/a.tif", "no https://***@host/a.tif"),
        ("postgresql+asyncpg://prefect:pw@db:5432/prefect", "postgresql+asyncpg://***@db:5432/prefect"),
        ("redis://:pw@cache:6379/0", "redis://***@cache:6379/0"),
        ("https://token@host/a and http://u:p@b/", "https://***@host/a and http://***@b/"),
        ("'s3://KEY:SE@CRET@bucket/x'", "'s3://***@bucket/x'"),
        ("https://h/a.tif?sig=abc%2Fd&sv=1", "https://h/a.tif?sig=***&sv=1"),
        ("https://h/a?X-Amz-Credential=A&X-Amz-Signature=0f", "https://h/a?X-Amz-Credential=A&X-Amz-Signature=***"),
    ],
)
def test_credentials_of_a_url_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("s3://bucket/a@b:c", "abfs://container@account.dfs.core.windows.net/x", "http://127.0.0.1:4200/api"),
        *("mail me@example.org: a://", "https://h/?signed=no&keys=3", "git@host:team/project.git"),
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.usefixtures("planted")
def test_errors_hold_no_secret() -> None:
    assert str(StorageError(f"refused {SECRET}, https://me:pass@host")) == "refused ***, https://***@host"
    assert SECRET not in str(ConfigError("storage", {"key": SECRET}, "no"))


@pytest.mark.usefixtures("planted")
def test_log_records_hold_no_secret_whoever_handles_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    stream = io.StringIO()
    logger, handler = logging.getLogger("some.other.library"), logging.StreamHandler(stream)
    before = logging.getLogRecordFactory()
    redact_logs()
    redact_logs()
    logger.addHandler(handler)
    try:
        logger.warning("connecting with %s to %s", SECRET, "https://me:pass@host")
        try:
            raise ValueError(f"no luck with {SECRET}")
        except ValueError:
            logger.exception("it failed")
        logger.warning("%d", "no number")
    finally:
        logger.removeHandler(handler)
        logging.setLogRecordFactory(before)
    said = stream.getvalue()
    assert SECRET not in said
    assert "connecting with *** to https://***@host" in said
    assert "ValueError: no luck with ***" in said


@pytest.mark.usefixtures("planted")
def test_what_a_training_process_prints_is_handed_on_without_secrets() -> None:
    lines: list[str] = []
    command = [sys.executable, "-c", "import os; print('key', os.environ['AWS_SECRET_ACCESS_KEY'], 'http://u:p@h/')"]
    outcome = supervise(command, on_line=lines.append)
    assert lines == ["key *** http://***@h/"]
    assert outcome.tail == lines


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("storage=https://me:secret@host/runs", "storage"),
        ("data.scenes.0.image=https://me:secret@host/a.tif", "data.scenes.0.image"),
        ("data.scenes.0.image=[a.tif, https://me:secret@host/a.tif]", "data.scenes.0.image"),
        ("model.kwargs={weights: ['https://me:secret@host/w.pt']}", "model.kwargs"),
    ],
)
def test_a_configuration_with_credentials_in_a_url_is_refused_and_not_repeated(
    setting: str, field: str, atlanta: Path
) -> None:
    with pytest.raises(ConfigError, match="GDAL_HTTP_USERPWD") as caught:
        RunConfig.load(atlanta.parent / "run.yaml", [setting])
    assert str(caught.value).startswith(f"{field} = ")
    assert "me:secret" not in str(caught.value)


def test_the_server_refuses_such_a_parameter_by_the_schema_before_it_keeps_it(atlanta: Path) -> None:
    from prefect.utilities.schema_tools.validation import validate

    config = RunConfig.load(atlanta.parent / "run.yaml").model_dump(mode="json")
    assert validate(config, RunConfig.model_json_schema()) == []
    config["storage"] = "https://me:secret@host/runs"
    assert validate(config, RunConfig.model_json_schema()) != []
    maps = {"model": "m", "images": ["https://me:secret@host/*.tif"]}
    assert validate(maps, MapsConfig.model_json_schema()) != []
    assert validate({**maps, "images": ["https://host/*.tif"]}, MapsConfig.model_json_schema()) == []
