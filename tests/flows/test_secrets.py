"""Secrets that a worker holds are in nothing that its runs leave: storage, server, work folders, logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import use_store
from tests.servers.prefect_server import LONG_S, prefect_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PLANTED = ("planted-s3-key", "planted-s3-secret", "planted-database", "planted-api", "planted-in-url")
CARELESS = '''"""A user's model that tells more than it should, and fails on request."""
import logging, os
from ununennium.models import UNet

def said():
    names = ("AWS_SECRET_ACCESS_KEY", "DATABASE_PASSWORD", "PREFECT_API_AUTH_STRING", "MIRROR")
    return " ".join(f"{name}={os.environ.get(name)}" for name in names)

class Careless(UNet):
    def __init__(self, in_channels, num_classes, fails, **options):
        super().__init__(in_channels, num_classes, **options)
        logging.getLogger("ununennium.careless").warning("with %s", said())
        if fails:
            raise RuntimeError("careless model: " + said())
'''


@pytest.fixture
def planted(tmp_path: Path, own_store: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A real S3 server whose keys are planted; what a worker's environment has besides."""
    own_store.stop()
    own_store.environment |= {"AWS_ACCESS_KEY_ID": "planted-s3-key", "AWS_SECRET_ACCESS_KEY": "planted-s3-secret"}
    own_store.start()
    use_store(monkeypatch, own_store.environment)
    return {
        **own_store.environment,
        "DATABASE_PASSWORD": "planted-database",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://prefect:planted-database@127.0.0.1:1/prefect",
        "PREFECT_API_AUTH_STRING": "planter:planted-api",
        "MIRROR": "https://planter:planted-in-url@mirror.example.org/models",
    }


def written(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below the folders but the S3 server's own, and every object of that server."""
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file() and "own-store" not in file.parts:
                yield str(file), file.read_bytes()
    import s3fs

    store = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    for bucket in ("scenes", "checkpoints"):
        for key in store.find(bucket):
            yield f"s3://{key}", store.cat_file(key)


def test_no_planted_secret_is_in_anything_that_runs_wrote(
    tmp_path: Path, place: Path, planted: dict[str, str], tiny: Any
) -> None:
    (tmp_path / "careless.py").write_text(CARELESS)
    with prefect_server(tmp_path, PREFECT_SERVER_API_AUTH_STRING=planted["PREFECT_API_AUTH_STRING"]) as environment:
        environment |= planted | {"PREFECT_LOGGING_EXTRA_LOGGERS": "ununennium"}
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
        good, bad = (retraining(environment, tmp_path, tiny, fails=fails) for fails in (False, True))
        said = good.communicate(timeout=LONG_S)[0] + bad.communicate(timeout=LONG_S)[0]
    assert (good.returncode, bad.returncode) == (0, 2), said
    assert b"planted-" not in said
    files = dict(written(tmp_path, place))
    for name, content in files.items():
        for secret in PLANTED:
            assert secret.encode() not in content, f"{secret} is in {name}"
    # The search saw what it has to: checkpoints, records, the server's database with the failure's message.
    names = " ".join(files)
    assert ".pt" in names
    assert "gate.json" in names
    told = b"".join(content for name, content in files.items() if "prefect.db" in name)
    assert b"careless model: AWS_SECRET_ACCESS_KEY=***" in told
    assert any(b"AWS_SECRET_ACCESS_KEY=***" in content for name, content in files.items() if "/errors/" in name)


def retraining(environment: dict[str, str], folder: Path, tiny: Any, *, fails: bool) -> subprocess.Popen[bytes]:
    """The flow on the server, with the careless model."""
    kwargs = {"base_channels": 4, "depth": 2, "fails": fails}
    config = tiny("storage=s3://checkpoints/storage", f"name=careless-{str(fails).lower()}")
    described = config.model_dump(mode="json") | {"model": {"target": "careless:Careless", "kwargs": kwargs}}
    file = folder / f"{config.name}.yaml"
    file.write_text(json.dumps(described))
    return subprocess.Popen(
        [sys.executable, "-m", "flows.retrain", "--config", str(file), "--server"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
