"""Compare small fixed-seed runs of two states of this project, bit for bit.

Usage: python tests/compat/same_as.py COMMIT [--only TASK ...] [--keep FOLDER]

Each task is trained, evaluated, judged and promoted twice (the second run meets a champion), and a scene is mapped, by
the command line of COMMIT (its sources are taken from git) and by that of the present tree, in the same folder with
the same scenes. Weights, optimizer, history, metrics, statistics, gate, contract and maps are compared value by value.
Exit code 1 if a value differs that ``ON_PURPOSE`` does not name.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.compat.write_storage import configuration, write_scenes  # noqa: E402

ROADS = {"classes": ["ground", "road"]}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "segmentation": ("road", ROADS),
    "regression": ("height", {"classes": ["height"]}),
    "change": ("road", ROADS),
    "classification": ("road", ROADS),
    "multilabel": ("road", ROADS),
}
"""Task -> the label rasters, and its part of the data section."""

NOT_COMPARED = {
    "best_checkpoint", "checkpoint", "checkpoints", "created", "data_wait", "duration_s", "finished", "git_commit",
    "hardware", "kept", "last_checkpoint", "manifest", "numpy", "peak_memory_bytes", "places", "python", "run_id",
    "sha256", "started", "token", "train_s", "url", "version", "versions", "weights_sha256",
}  # fmt: skip
"""Times, names of runs and hashes over them, and states of the global generators of Python and NumPy, which no seed
sets: they differ between two runs of the same code."""

RUN = re.compile(r"\d{8}T\d{6}Z-(\w+)-[0-9a-f]{4}")

ON_PURPOSE = {
    r"index\.(band_set|scenes\.\d+\.image_bands)|contract\.band_tags": "bands by name and unit (0e821af)",
    r"(index|plan\.config\.data)\.scenes\.\d+\.(label|placed_by)": "settings of labels (6962935), images by control "
    "points (1056722)",
    r"plan\.config\.data\.(max_pixels|values|allow_absent)": "limits and units of delivered files (100a139, 0e821af)",
    r"plan\.config\.trainer\.(agree_every_steps|max_nonfinite_steps|scheduler_monitor)": "can be configured (09523b1)",
    r"plan\.config\.(recipe|gate\.first|data\.transform)|index\.transform|evaluation\.baselines": "settings that came "
    "with the recipe of init and the baselines of a first model",
    r"(gate|summary)\.reason": "first models say that they were compared with no baseline",
    r"plan\.config\.checkpoints\.snapshot": "snapshot is for local folders (f0224e4)",
    r"plan\.rows|gate\.(notes|words)|\.worst\.|slices\.\d+\.value": "places and sizes in words (990cc78)",
    r"\.areas\.": "areas on the ellipsoid, and their errors (66e794e, 07126e2)",
    r"\.calibration\.": "the temperature after tiles and views are put together (e69af63), intervals (07126e2)",
    r"holdout_sha256|left_out|units\.scenes\.\d+\.shape": "pixels that both models have data for (fa143ff)",
    r"\.R2$|units\.packed": "R2 from centred sums (53e6c99): the last bits",
    r"gate\.checks\.\d+\.interval": "correlated blocks are put together (8a663f6)",
    r"^change change-(confidence|probabilities)\.tif\.pixels|contract\.temperature$": "the temperature after tiles and "
    "views are put together, fitted without rounding (e69af63, 53e6c99): the last bits",
    r"^multilabel .*(\.IoU\.|slices\.\d+\.metrics\.(F1|precision|recall)\.mean$)": "IoU of several labels, means over "
    "the labelled classes (eeba758)",
    r"^multilabel run 2\.gate\.checks\.[1-4]\.": "classes are guarded by their IoU (eeba758)",
}
"""Pattern of a task and a row -> why it is not what it was in 2928e86, and the commits that changed it."""


def sources(commit: str, folder: Path) -> Path:
    """The tree of a commit, in ``folder``."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def run_all(tree: Path, work: Path, tasks: list[str]) -> None:
    """Make the runs and maps of one tree in ``work``."""
    write_scenes(work / "scenes")
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "UNUNENNIUM_STORAGE": "store",
        **{f"UNUNENNIUM_{name}": str(work / name.lower()) for name in ("WORK", "CACHE", "SPOOL")},
    }

    def ununennium(*arguments: str, accepted: tuple[int, ...] = (0,)) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "ununennium", *arguments],
            cwd=work, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode not in accepted:
            raise SystemExit(f"{tree}: {' '.join(arguments)} ended with {done.returncode}\n{done.stderr}")

    for task in tasks:
        label, data = TASKS[task]
        settings = configuration(task, label, {**data, "task": task})
        if task in ("classification", "multilabel"):
            settings["model"] = {"target": "ununennium.models:PatchClassifier", "kwargs": {}}
        if task == "change":
            for scene in settings["data"]["scenes"]:
                scene["image"] = [earlier_date(work, scene["image"]), scene["image"]]
                scene["date"] = ["2026-01-15", "2026-07-15"]
        (work / f"{task}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        for seed in (3, 4):
            # Before, a first model was promoted whatever it was worth; the second run needs a champion.
            any_first = ["--set", "gate.first=any"] if tree == ROOT else []
            ununennium("train", f"{task}.yaml", "--set", f"seed={seed}", *any_first)
            ununennium("evaluate", "latest")
            ununennium("promote", "latest", accepted=(0, 3))
        image = settings["data"]["scenes"][0]["image"]
        images = image if isinstance(image, list) else [image]
        extra = {"regression": [], "multilabel": ["probabilities"]}.get(task, ["probabilities", "confidence"])
        options = [argument for output in extra for argument in ("--outputs", output)]
        ununennium("predict", *images, "--model", task, "-o", f"{task}.tif", *options)


def earlier_date(work: Path, image: str) -> str:
    """Write another image of the same ground, upside down."""
    file = Path(image).with_name(f"earlier-{Path(image).name}")
    with rasterio.open(work / image) as dataset:
        pixels, profile = dataset.read(), dataset.profile
    with rasterio.open(work / file, "w", **profile) as dataset:
        dataset.write(np.ascontiguousarray(pixels[:, ::-1]))
    return str(file)


def values(work: Path, task: str) -> Iterator[tuple[str, Any]]:
    """Everything that is compared of a task: a dotted name, and a number, text or array."""
    runs = sorted((work / "store" / "runs").glob(f"*-{task}-????"))
    for place, run in enumerate(runs, 1):
        of = f"run {place}"
        newest = max((run / "checkpoints").glob("*.pt"), key=lambda file: file.name.split("-")[:2])
        state = torch.load(newest, weights_only=True)
        for part in ("model", "optimizer", "scheduler", "history", "state", "callbacks", "random_states"):
            yield from flat(f"{of}.checkpoint {part}", state[part])
        yield from flat(f"{of}.artifact weights", load_file(run / "artifact" / "model.safetensors"))
        rows = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        yield from flat(f"{of}.metrics", [json.loads(row) for row in rows])
        for name in ("statistics", "index", "plan", "evaluation", "gate", "artifact/contract", "result", "summary"):
            yield from flat(f"{of}.{name}", json.loads((run / f"{name}.json").read_text(encoding="utf-8")))
    for file in sorted(work.glob(f"{task}*.tif")):
        with rasterio.open(file) as dataset:
            yield f"{file.name}.pixels", dataset.read()
            yield from flat(f"{file.name}.profile", {**dataset.profile, "transform": list(dataset.transform)})


def flat(name: str, content: Any) -> Iterator[tuple[str, Any]]:
    """The values within dictionaries and lists, by dotted names; times and names of runs apart."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key not in NOT_COMPARED or (key == "checkpoints" and isinstance(value, dict)):
                yield from flat(f"{name}.{key}", value)
    elif isinstance(content, list | tuple):
        for place, value in enumerate(content):
            yield from flat(f"{name}.{place}", value)
    else:
        yield name, RUN.sub(r"RUN of \1", content) if isinstance(content, str) else content


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal to the bit; NaN is NaN."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bool(torch.equal(one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return bool(one == other) or (one != one and other != other)


def said(value: Any) -> str:
    """A value in a few letters."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{type(value).__name__}{tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def reason(row: str) -> str | None:
    """Why the row of a task may differ."""
    return next((why for pattern, why in ON_PURPOSE.items() if re.search(pattern, row)), None)


def compare(task: str, before: dict[str, Any], now: dict[str, Any]) -> int:
    """Print the table of a task; gives how many rows differ without a reason."""
    groups: dict[str, list[int]] = {}
    unexplained = 0
    explained: dict[str, int] = {}
    for name in sorted(before.keys() | now.keys()):
        group = groups.setdefault(".".join(name.split(".")[:2]), [0, 0])
        if name in before and name in now and same(before[name], now[name]):
            group[0] += 1
            continue
        group[1] += 1
        why = reason(f"{task} {name}")
        if why is not None:
            explained[why] = explained.get(why, 0) + 1
            continue
        unexplained += 1
        was, became = (said(side[name]) if name in side else "absent" for side in (before, now))
        print(f"  DIFFERS {task}: {name}: {was} -> {became}")
    for group_name, (equal, different) in groups.items():
        print(f"  {task:15} {group_name:45} {equal:6} equal  {different or '':>4}{' differ' if different else ''}")
    for why, count in explained.items():
        print(f"  {task:15} {count} on purpose: {why}")
    return unexplained


def main() -> int:
    """Run both, and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--only", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--keep", type=Path, help="a folder for what is made, and was made before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        found = []
        for name in (options.commit, "now"):
            if not (folder / name).exists():
                work = folder / "work"  # the same path, as files name it
                tree = ROOT if name == "now" else sources(name, folder / f"sources-{name}")
                run_all(tree, work, options.only)
                work.rename(folder / name)
            found.append({task: dict(values(folder / name, task)) for task in options.only})
        print(f"{options.commit} and the present tree, values that are equal to the bit:")
        unexplained = sum(compare(task, found[0][task], found[1][task]) for task in options.only)
    print(f"{unexplained} differ without a reason" if unexplained else "nothing differs without a reason")
    return int(unexplained > 0)


if __name__ == "__main__":
    raise SystemExit(main())
