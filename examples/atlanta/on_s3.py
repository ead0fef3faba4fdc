"""The demo on object storage: ``make demo STORAGE=s3``.

Starts a real S3 server (SeaweedFS) for as long as it takes, retrains and promotes against it, maps the scene with the
champion into the bucket, and says what lies there. The server's files stay in ``.ununennium/s3``: run it again, and the
new model has to beat the champion.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.servers.object_store import CHECKPOINTS, object_store
from ununennium.config.maps import MapsConfig
from ununennium.inference.jobs import make_job, run_job
from ununennium.storage.open import open_storage

HERE = Path(__file__).parent
STORAGE = f"s3://{CHECKPOINTS}/demo"


def main(arguments: list[str]) -> int:
    """Exit status: that of the retraining, or 1 if the map could not be made."""
    with object_store(Path(".ununennium/s3").resolve()) as environment:
        os.environ.update(environment)
        print(f"An S3 server listens on {environment['AWS_ENDPOINT_URL_S3']}; storage is {STORAGE}")
        flow = [
            sys.executable,
            "-m",
            "flows.retrain",
            "--config",
            str(HERE / "run.yaml"),
            "--set",
            f"storage={STORAGE}",
        ]
        status = subprocess.run([*flow, *arguments], check=False).returncode
        if status != 0:
            return status
        maps = {"model": "atlanta-buildings", "images": [str(HERE / "data" / "atlanta_pan_05m.tif")], "device": "cpu"}
        config = MapsConfig.parse({**maps, "storage": STORAGE, "output": f"{STORAGE}/maps"})
        mapped = run_job(make_job(config))
        for row in mapped.rows():
            print("  ".join(f"{key}: {value}" for key, value in row.items() if value))
        storage = open_storage(STORAGE)
        print(f"\nIn {STORAGE} lie now:")
        for key in storage.list():
            print(f"  {storage.size(key):>12,}  {key}")
        return 1 if mapped.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
