"""``ununennium doctor``: each fault is really made, and is to be named with what mends it."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import use_store
from ununennium.checkpoints.manifest import SavePoint
from ununennium.checkpoints.spool import Spool
from ununennium.checkpoints.store import CheckpointStore
from ununennium.cli import run
from ununennium.doctor.api import Api
from ununennium.doctor.finding import Finding
from ununennium.doctor.machine import look_at_disks, look_at_gpu, look_at_spools
from ununennium.doctor.packages import look_at_bytecode, look_at_packages
from ununennium.doctor.server import look_at_server
from ununennium.doctor.storage import look_at_storage


def only(findings: Iterator[Finding], what: str) -> Finding:
    """The finding about that."""
    found = [finding for finding in findings if finding.what == what]
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(autouse=True)
def no_server_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect-home"))
    monkeypatch.chdir(tmp_path)


def test_the_installed_packages_are_those_that_were_tested() -> None:
    assert {finding.level for finding in look_at_packages()} <= {"ok", "note"}


def test_a_package_beyond_its_cap_is_named_with_what_it_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "site" / "fastapi-0.165.0.dist-info" / "METADATA"
    record.parent.mkdir(parents=True)
    record.write_text("Metadata-Version: 2.1\nName: fastapi\nVersion: 0.165.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    finding = only(look_at_packages(), "fastapi")
    assert finding.level == "problem"
    assert finding.says.startswith("0.165.0 is installed, and <0.151 is needed: with this one, Prefect's server dies")
    assert finding.remedy == "pip install 'fastapi<0.151'"


def test_python_that_keeps_no_bytecode_is_slow_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "compiled"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (finding,) = look_at_bytecode()
    assert finding.level == "ok"
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (finding,) = look_at_bytecode()
    assert finding.level == "warning"
    assert finding.says.startswith("PYTHONDONTWRITEBYTECODE is set, and torch is not compiled")
    assert "-m compileall -q " in finding.remedy


@pytest.mark.slow
def test_a_gpu_that_the_driver_sees_and_torch_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # what torch sees, even on a machine with one
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (finding,) = look_at_gpu()
    assert finding.level == "problem"
    assert finding.says.startswith("the driver sees 1 GPU(s), and torch")
    tool.write_text("#!/bin/sh\nexit 9\n")
    (finding,) = look_at_gpu()
    assert (finding.level, finding.says[:11]) == ("note", "none: torch")


def test_a_torch_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudnn.so.9: cannot open shared object')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = look_at_gpu()
    assert finding.level == "problem"
    assert "libcudnn.so.9" in finding.says


def test_a_disk_with_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {finding.level for finding in look_at_disks("storage", 0.0)} == {"ok"}
    (finding, *_) = look_at_disks(str(tmp_path), 1e9)
    assert finding.level == "problem"
    assert "less than 1e+09" in finding.says


def test_checkpoints_that_wait_for_their_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("UNUNENNIUM_SPOOL", str(tmp_path / "spool"))
    assert [finding.level for finding in look_at_spools()] == ["ok"]
    url = str(tmp_path / "elsewhere")
    spool = Spool.claim(url)
    with spool.new() as (path, file):
        manifest = CheckpointStore(url).serialise({"model": torch.zeros(9)}, path, file, SavePoint(epoch=1, step=1))
        spool.keep(path, manifest)
    spool.release()
    (finding,) = look_at_spools()
    assert (finding.level, finding.says[:15]) == ("note", "1 checkpoint(s)")
    old = time.time() - 7200
    os.utime(spool.file(manifest), (old, old))
    (finding,) = look_at_spools()
    assert finding.level == "warning"
    assert finding.says.endswith(f"wait in {spool.folder} for their upload to {url}, for 2.0 h already")


@pytest.mark.slow
def test_storage_that_cannot_be_used(
    s3: str, s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A real server; then the condition is ignored, nobody listens, the key is wrong, and a file is in the way."""
    found = [(each.what, each.level) for each in look_at_storage(f"{s3}/doctor")]
    assert found == [("storage", "ok"), ("clock", "ok")]
    from ununennium.storage.open import open_storage

    storage = open_storage(f"{s3}/doctor")
    assert storage.list() == []  # nothing is left of the looks

    with monkeypatch.context() as changed:
        changed.setattr(type(storage), "create", lambda self, key, data: None)
        changed.setattr(type(storage), "delete", lambda self, key: None)
        finding = only(look_at_storage(f"{s3}/doctor"), "storage")
    assert (finding.level, finding.remedy[:12]) == ("problem", "take a store")

    with monkeypatch.context() as changed:
        changed.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        finding = only(look_at_storage(f"{s3}/doctor"), "storage")
    assert (finding.level, finding.remedy[:22]) == ("problem", "see whether its server")

    use_store(monkeypatch, {**s3_server, "AWS_SECRET_ACCESS_KEY": "wrong"})
    finding = only(look_at_storage(f"{s3}/doctor"), "storage")
    assert finding.level == "problem"
    assert "AWS_SECRET_ACCESS_KEY" in finding.remedy

    (tmp_path / "file").write_text("no folder")
    finding = only(look_at_storage(str(tmp_path / "file" / "storage")), "storage")
    assert finding.level == "problem"


@contextlib.contextmanager
def answering(skew_s: float, content: Any = True) -> Iterator[str]:
    """A server whose clock is wrong; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(content).encode()
            self.send_response_only(200)
            self.send_header("Date", formatdate(time.time() + skew_s, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("skew_s", "level", "words"), [(3600, "problem", "3600"), (-60, "warning", "60"), (2, "ok", "")]
)
def test_clocks_that_disagree(skew_s: float, level: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(skew_s) as address:
        finding = only(look_at_server(Api(f"{address}/api")), "clock")
        assert finding.level == level
        if level != "ok":
            apart = int(finding.says.partition(" s apart")[0].rpartition(" ")[2])
            assert abs(apart - abs(skew_s)) <= 2
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        from ununennium.doctor.storage import _clock_of_s3

        assert only(_clock_of_s3(), "clock").level == level


def test_a_server_that_is_not_there_or_is_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert only(look_at_server(Api.of_environment()), "server").level == "note"
    home = tmp_path / "prefect-home"
    home.mkdir()
    (home / "profiles.toml").write_text(
        'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'
    )
    finding = only(look_at_server(Api.of_environment()), "server")  # the profile's
    assert finding.level == "problem"
    assert "127.0.0.1:9/api does not answer" in finding.says
    with answering(0) as address:
        monkeypatch.setenv("PREFECT_API_URL", f"{address}/")
        problems = [each for each in look_at_server(Api.of_environment()) if each.level == "problem"]
        assert len(problems) == 1
        assert "/api" in problems[0].remedy


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("prefect") is None, reason="needs the extra pipeline")
def test_the_command_gives_json_and_an_exit_code(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["doctor", "--storage", str(tmp_path / "storage"), "--least-free-gb", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["what"] for each in found} >= {"packages", "gpu", "disk", "storage", "spool", "server"}
    assert run(["doctor", "--storage", str(tmp_path / "storage"), "--least-free-gb", "1e9"]) == 1
    text = capsys.readouterr().out
    assert "problem  disk" in text
    assert "-> " in text
    assert text.rstrip().endswith("problem(s)")
