"""A trainer that is killed at any request of a save to S3 leaves a complete checkpoint, and the restart repairs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("way", "values"), [("background", 64), ("direct", 4_500_000)])
def test_killed_at_every_request_of_a_save_at_least_one_checkpoint_is_whole(s3, tmp_path, way, values):
    """correctness 49, 50: before each request, and after each answer; the large state goes up in three parts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(what):
        url = f"s3://checkpoints/{uuid.uuid4().hex}"
        script = "tests.checkpoints.killed_upload"
        command = [sys.executable, "-m", script, url, str(tmp_path / "spool"), str(values), way, what]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    requests = run("0")
    assert requests >= (7 if values < 1000 else 12)  # put, size, commit, size, read, delete twice; in parts five more
    outcomes = run(f"each {requests}")
    assert len(outcomes) == requests * (2 if values < 1000 else 1)
    for outcome in outcomes:
        assert outcome["killed"], outcome
        assert outcome["complete"], outcome
        assert set(outcome["complete"]) <= {1, 2}
        assert outcome["dangling"] == outcome["dangling_after"] == [], outcome
        assert 2 in outcome["after_restart"], outcome
