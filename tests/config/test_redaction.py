"""Secrets do not get into what people read, whichever way the text came about."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from ununennium.config import RunConfig
from ununennium.config.maps import MapsConfig
from ununennium.errors import ConfigError, StorageError
from ununennium.processes.supervise import supervise
from ununennium.redaction import HIDDEN, redact, redact_logs
from ununennium.storage.open import resolve_storage

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


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AZURE_STORAGE_ACCOUNT_KEY": "b64Key+/of/64chars==",
    "AZURE_STORAGE_SAS_TOKEN": "sv=2024-01-01&sig=Q2hpbGxl",
    "GDAL_HTTP_BEARER": "eyJhbGciOi.J9.x-Y_z",
    "DB_PASS": "hunter2 & <co>",
    "MY_CREDENTIAL": "it's/quoted\"once",
    "HOST_SSH_KEY": "ssh-private-material",
    "SMTP_PASSPHRASE": "grüße/an\\alle",
}
"""Variables of the environment with their values, no two alike in the characters that encodings change."""


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_the_environment_is_hidden_in_every_encoding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """correctness 93"""
    secret = SECRETS[name]
    monkeypatch.setenv(name, secret)
    percent = quote(secret, safe="")
    encoded = [
        *(secret, percent, quote(secret), quote_plus(secret), re.sub("%..", lambda hit: hit[0].lower(), percent)),
        *(quote(percent, safe=""), json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret)),
        *(html.escape(secret), html.escape(secret, quote=False)),
        *(base64.b64encode(f"{user}{secret}".encode()).decode() for user in ("", "a:", "ab:", "abc:", "me@host:")),
        *(base64.urlsafe_b64encode(f"{user}{secret}".encode()).decode() for user in ("", "a:", "ab:")),
    ]
    for text in encoded:
        shown = redact(f"before [{text}] after")
        assert shown.startswith("before [")
        assert shown.endswith("] after")
        assert HIDDEN in shown
        assert len(shown) <= len(f"before [me:{HIDDEN}] after"), (text, shown)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("GDAL_HTTP_USERPWD", "me:long-password", "long-password"),
        ("GDAL_HTTP_HEADERS", "Authorization: Bearer abcDEF123456,X-Api-Key: k-987654321", "abcDEF123456"),
        ("GDAL_HTTP_HEADERS", "Authorization: Bearer abcDEF123456,X-Api-Key: k-987654321", "k-987654321"),
        (
            "AZURE_STORAGE_CONNECTION_STRING",
            "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=Zm9v+/YmFyYmF6==;EndpointSuffix=core.windows.net",
            "Zm9v+/YmFyYmF6==",
        ),
        ("DATABASE_URL", "postgresql://me:pa55-word@db/prefect", "pa55-word"),
        (
            "DEPLOY_SSH_KEY",
            "-----BEGIN KEY-----\nAAAAB3NzaC1yc2E\nMIIEowIBAAKCAQEA7\n-----END KEY-----",
            "MIIEowIBAAKCAQEA7",
        ),
    ],
)
def test_the_secret_inside_a_variable_is_hidden_on_its_own(
    name: str, value: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """correctness 93"""
    monkeypatch.setenv(name, value)
    assert redact(f"the server said {secret}!") == "the server said ***!"


def test_variables_that_hold_no_secret_hide_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """correctness 93"""
    file = tmp_path / "credentials.json"
    file.touch()
    names = {"GOOGLE_APPLICATION_CREDENTIALS": str(file), "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE12", "PWD": "/work/ordinary"}
    names |= {"TOKENIZERS_PARALLELISM": "disabled-here", "SSH_AUTH_SOCK": "/tmp/agent.1234", "COMPASS": "northwards"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
        assert redact(f"see {value}") == f"see {value}"


SIGNED = [
    "https://h/x.tif?X-Amz-Algorithm=A&X-Amz-Signature=0f1e",
    "https://h/x.tif?x-amz-security-token=abc",
    "https://storage.googleapis.com/b/x.tif?X-Goog-Signature=ab01",
    "https://me.blob.core.windows.net/c/x.tif?sv=2024-01-01&sp=r&sig=a%2Fb%3D",
    "https://h/x;sig=abc",
    "https://h/x?jwt=eyJh.bGci.Oi",
    "https://h/x?password=abc",
    "https://h/x?auth=abc",
    "https://h/x?access_token=abc",
    "https://h/x?Ocp-Apim-Subscription-Key=abc",
    "https://h/x?key=AIzaSyD-0123456789abc",
    "https://h/x?A=1&amp;SIG=abc",
    "https://u:pa/ss@host/x",
    "https://u:pa'ss@host/x",
    "s3://KEY:SE/CR@ET@bucket/x",
    "/vsicurl?header.Authorization=Bearer%20abc&url=https://h/x",
    "/vsicurl?header.X-Api-Key=abc&url=https://h/x",
    "/vsicurl?userpwd=u:p&url=https://h/x",
    "https://h/x#access_token=abc",
    "/vsis3?aws_secret_access_key=abc&path=b/x",
    "PG:host=h user=u password=abc dbname=x",
    "/vsicurl?url=https%3A%2F%2Fu%3Ap%40host%2Fx",
    "/vsicurl?url=https%3A%2F%2Fh%2Fx%3Fa%3D1%26sig%3Dabc",
    "/vsicurl?url=https%253A%252F%252Fu%253Ap%2540host",
    "/vsizip//vsicurl/https://h/x.zip?token=abc",
    "<VRTDataset><SourceFilename>/vsicurl/https://h/x?a=1&amp;sig=abc</SourceFilename></VRTDataset>",
]
UNSIGNED = [
    "https://h/x.tif?signed=no&keys=3&author=me&design=2&pass=7&time=12:00",
    "https://h/get?key=path/to/scene.tif",
    "s3://bucket/a@b:c",
    "abfs://container@account.dfs.core.windows.net/x",
    "http://127.0.0.1:4200/a@b",
    "/vsicurl?pc_url_signing=yes&url=https://h/x",
    "/vsizip/s3.zip/a;b=1.tif",
    "C:/data/tokens=5/x.tif",
    "sqlite:///mlflow.db",
]


@pytest.mark.parametrize("url", SIGNED)
def test_signatures_tokens_and_passwords_of_a_url_are_hidden(url: str) -> None:
    """correctness 93"""
    shown = redact(f"cannot open '{url}' now")
    for secret in (
        "0f1e",
        "abc",
        "ab01",
        "a%2Fb",
        "eyJh",
        "AIza",
        "u:p",
        "pa/ss",
        "pa'ss",
        "SE/CR",
        "u%3Ap",
        "u%253Ap",
    ):
        assert secret not in shown or secret not in url
    assert shown.startswith("cannot open '")
    assert shown.endswith("' now")


@pytest.mark.parametrize(
    "text", [*UNSIGNED[:1], *UNSIGNED[2:], "kwargs={'a': 1,key=2}; token count=5", "Bearer of good news"]
)
def test_ordinary_text_is_not_mangled(text: str) -> None:
    """correctness 93"""
    assert redact(text) == text


@pytest.mark.parametrize("url", SIGNED)
@pytest.mark.parametrize(
    "field",
    [
        *("data.scenes.0.image", "data.scenes.0.label", "storage", "tracking.mlflow", "tracking.tensorboard"),
        *("data.catalog.stac", "data.split.file", "model.kwargs", "card.contact"),
    ],
)
def test_signed_urls_are_refused_by_the_name_of_their_field(url: str, field: str) -> None:
    """correctness 93"""
    settings: dict[str, Any] = {"name": "m", "data": {"scenes": [{"image": "a.tif"}], "classes": ["a", "b"]}}
    if field == "data.catalog.stac":
        settings["data"] = {"classes": ["a", "b"], "catalog": {"assets": ["visual"]}}
    node = settings
    *parents, last = (int(part) if part.isdigit() else part for part in field.split("."))
    for part in parents:
        node = node[part] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = {"weights": [url]} if field == "model.kwargs" else url
    if field == "model.kwargs":
        settings["model"]["target"] = "a:B"
    with pytest.raises(ConfigError, match="GDAL_HTTP_HEADERS") as caught:
        RunConfig.parse(settings)
    assert caught.value.field == field


@pytest.mark.parametrize("url", UNSIGNED)
def test_urls_without_a_secret_are_accepted(url: str) -> None:
    """correctness 93"""
    data = {"scenes": [{"image": url, "label": url}], "classes": ["a", "b"]}
    assert RunConfig.parse({"name": "m", "storage": url, "data": data}).storage == url


@pytest.mark.parametrize("storage", ["s3://KEY:SECRET@bucket/x", "https://h/x?sig=abc", "s3://"])
def test_a_storage_given_on_the_command_line_is_refused_alike(storage: str) -> None:
    """correctness 93"""
    with pytest.raises(ConfigError, match="storage = "):
        resolve_storage(storage)


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
    for url in ("https://h/x?a=1&Sig=abc", "https://h/x?X-Goog-Signature=1", "/vsicurl?header.Authorization=abc&url=x"):
        config["storage"] = url
        assert validate(config, RunConfig.model_json_schema()) != [], url
    for url in ("https://h/x?signed=no&keys=3", "s3://bucket/a@b:c"):
        config["storage"] = url
        assert validate(config, RunConfig.model_json_schema()) == [], url
    maps = {"model": "m", "images": ["https://me:secret@host/*.tif"]}
    assert validate(maps, MapsConfig.model_json_schema()) != []
    assert validate({**maps, "images": ["https://host/*.tif"]}, MapsConfig.model_json_schema()) == []
