"""Write the storage that ``test_stored.py`` reads: what an earlier version of this project left behind.

Run with the sources of that version, outside of any repository; OUT is replaced::

    git worktree add --detach /tmp/earlier 2928e86
    PYTHONPATH=/tmp/earlier python tests/compat/write_storage.py tests/compat/stored-2928e86

Everything is done by the command line and the public Trainer, in ``/tmp/ununennium-stored``. That path is ``/ROOT`` in
all texts that are written, so that ``stored.unpack`` can put another in its place. Inside of the checkpoints it stays:
their manifests hold their hashes.

    scenes/             two small scenes, each with labels of two classes and a height
    roads.yaml          segmentation; roads-interrupted.yaml is the same of another name
    heights.yaml        regression
    store/              registry: roads (two versions, an approval, a rollback, the alias "staging") and heights;
                        runs: roads twice, heights once, all judged, and roads-interrupted, stopped within an epoch
    plain/              checkpoints of a plain Trainer program (``plain_run.py``), stopped within its third epoch
    plain-whole.pt      the same program, not stopped
    map-roads.tif       the first scene, mapped by the champion; and map-heights.tif
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml

WHERE = Path("/tmp/ununennium-stored")
PLACEHOLDER = "/ROOT"
TEXTS = (".json", ".jsonl", ".geojson", ".yaml", ".md", ".csv")
NOT_KEPT = ("pictures", "live", "logs", "prediction", "report.html", "split.geojson")
"""Files of runs that only people look at."""

SIZE = 64
EPOCHS = 16
STEPS_PER_EPOCH = 4


def write_scenes(folder: Path) -> None:
    """Two scenes of two bands; where the first is bright is a road, and the height follows both."""
    folder.mkdir(parents=True)
    for number in range(2):
        rng = np.random.default_rng(number)
        road = np.kron(rng.random((SIZE // 8, SIZE // 8)) < 0.4, np.ones((8, 8))).astype(np.uint8)
        image = rng.normal(1000, 100, (2, SIZE, SIZE))
        image[0] += 300.0 * road
        image = image.round().astype(np.uint16)
        height = (0.1 * image[0] - 0.05 * image[1]).astype(np.float32)
        for name, array in {"image": image, "road": road[None], "height": height[None]}.items():
            profile = {
                "crs": "EPSG:32633",
                "transform": rasterio.Affine(10, 0, 500000 + 10000 * number, 0, -10, 5000000),
                "compress": "deflate",
            }
            bands, dtype = len(array), array.dtype
            file = folder / f"{name}{number}.tif"
            with rasterio.open(file, "w", "GTiff", SIZE, SIZE, bands, dtype=dtype, **profile) as dataset:
                dataset.write(array)


def configuration(name: str, label: str, data: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """A run of some seconds."""
    scenes = [
        {"name": f"scene{number}", "image": f"scenes/image{number}.tif", "label": f"scenes/{label}{number}.tif"}
        for number in range(2)
    ]
    split = {"block_size": 16, "buffer": 2, "validation": 0.2, "holdout": 0.3}
    return {
        "name": name,
        "data": {
            "scenes": scenes, "split": split, "chip_size": 16,
            "chips_per_epoch": 8 * STEPS_PER_EPOCH, "batch_size": 8, **data,
        },
        "model": {"target": "ununennium.models:UNet", "kwargs": {"base_channels": 4, "depth": 1}},
        "optimizer": {"target": "torch.optim:AdamW", "kwargs": {"lr": 0.01}},
        "scheduler": {"target": "torch.optim.lr_scheduler:OneCycleLR", "kwargs": {"max_lr": 0.01}},
        "trainer": {"epochs": EPOCHS, "device": "cpu", "mixed_precision": False, "ema_decay": 0.9},
        "checkpoints": {"save_top_k": 1},
        "storage": "store",
        "seed": 3,
        **settings,
    }  # fmt: skip


def write_configurations() -> None:
    """The configurations, in the working directory."""
    roads = {"classes": ["ground", "road"]}
    heights = {"task": "regression", "classes": ["height"]}
    lenient = {"min_improvement": -1.0, "confidence": None, "max_class_drop": None, "max_slice_drop": None}
    for name, content in {
        "roads": configuration("roads", "road", roads, gate={**lenient, "approval": "manual"}),
        "roads-interrupted": configuration("roads-interrupted", "road", roads, gate=lenient),
        "heights": configuration("heights", "height", heights),
    }.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def ununennium(*arguments: str) -> None:
    """Run a command."""
    environment = {**os.environ, "UNUNENNIUM_STORAGE": "store"}
    subprocess.run([sys.executable, "-m", "ununennium", *arguments], check=True, env=environment)


def judged(config: str, *changes: str) -> str:
    """Train, evaluate and promote; gives the run's name."""
    settings = [argument for change in changes for argument in ("--set", change)]
    before = set(Path("store/runs").glob("*")) if Path("store/runs").exists() else set()
    ununennium("train", config, *settings)
    (run,) = set(Path("store/runs").glob("*")) - before
    ununennium("evaluate", run.name)
    ununennium("promote", run.name, "--reason", "of a test")
    time.sleep(1.1)  # names of runs sort by the second
    return run.name


def interrupt(config: str) -> None:
    """Train, and ask it to stop within an epoch; the same command goes on, until that is where it stopped."""
    known: set[Path] = set()
    while not any(_within_an_epoch(file) for file in known):
        with subprocess.Popen([sys.executable, "-m", "ununennium", "train", config]) as training:
            while not (found := set(Path("store/runs").glob("*-roads-interrupted-*/checkpoints/*.json")) - known):
                time.sleep(0.01)
            training.send_signal(signal.SIGTERM)
        if training.returncode == 0:
            raise SystemExit("it came to its end before it was stopped; raise EPOCHS")
        known = found | set(Path("store/runs").glob("*-roads-interrupted-*/checkpoints/*.json"))


def _within_an_epoch(manifest: Path) -> bool:
    return int(json.loads(manifest.read_bytes())["step"]) % STEPS_PER_EPOCH != 0


def plain(*arguments: str) -> None:
    """Run the plain Trainer program."""
    subprocess.run([sys.executable, str(Path(__file__).with_name("plain_run.py")), *arguments], check=True)


def strip(root: Path) -> None:
    """Take away what only people look at, and what tells of this machine."""
    for run in (root / "store" / "runs").iterdir():
        for name in NOT_KEPT:
            shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(missing_ok=True)
    for file in root.rglob("*"):
        if file.is_file() and file.suffix in TEXTS:
            text = file.read_text(encoding="utf-8")
            text = text.replace(str(root), PLACEHOLDER).replace(json.dumps(platform.node()), '"host"')
            file.write_text(text, encoding="utf-8")


def main(out: str) -> None:
    """Write everything to ``out``, instead of what is there."""
    target = Path(out).resolve()
    with tempfile.TemporaryDirectory() as other:
        write_scenes(WHERE / "scenes")
        os.environ.update(USER="ada", LOGNAME="ada", OMP_NUM_THREADS="1")
        for variable, folder in {"WORK": "work", "CACHE": "cache", "SPOOL": "spool"}.items():
            os.environ[f"UNUNENNIUM_{variable}"] = str(Path(other) / folder)
        os.chdir(WHERE)
        write_configurations()
        judged("roads.yaml", "checkpoints.save_top_k=2")
        judged("roads.yaml", "seed=4")
        judged("heights.yaml")
        ununennium("registry", "alias", "roads", "staging", "--to", "champion")
        ununennium("registry", "rollback", "roads", "--reason", "stripes on coastal tiles")
        for model in ("roads", "heights"):
            ununennium("predict", "scenes/image0.tif", "--model", model, "--output", f"map-{model}.tif")
            Path(f"map-{model}.png").unlink()
        interrupt("roads-interrupted.yaml")
        plain("whole", "elsewhere", "plain-whole.pt")
        plain("stop", "plain", "unused.pt")
        Path("unused.pt").unlink(missing_ok=True)
        shutil.rmtree("elsewhere")
    strip(WHERE)
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(WHERE, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
