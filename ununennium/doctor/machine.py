"""The machine: GPU, disks, and checkpoints that still wait for their upload."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ununennium.checkpoints.spool import spool_root, spools
from ununennium.doctor.finding import Finding
from ununennium.files import work_root

_TORCH_S = 120
_ASK_TORCH = (
    "import json, torch; c = torch.cuda; n = c.device_count() if c.is_available() else 0; "
    "print(json.dumps([torch.__version__, torch.version.cuda, [c.get_device_name(i) for i in range(n)]]))"
)
_OLD_S = 3600.0


def look_at_gpu() -> Iterator[Finding]:
    """Does torch see the GPUs that the driver sees? Asked in a process of its own, which a hanging driver may stop."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=_TORCH_S, check=False
        )
    except subprocess.TimeoutExpired:
        remedy = "run nvidia-smi; a driver that hangs takes a restart of the machine"
        yield Finding("gpu", "problem", f"torch does not answer within {_TORCH_S} s", remedy)
        return
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no word of why"])[-1]
        yield Finding("gpu", "problem", f"torch cannot be used: {last}", "pip install --force-reinstall torch")
        return
    version, cuda, names = json.loads(answer.stdout.strip().splitlines()[-1])
    driver = _driver_sees()
    if names:
        yield Finding("gpu", "ok", f"torch {version} sees {len(names)}: {', '.join(sorted(set(names)))}")
    elif driver:
        why = "is built without CUDA" if cuda is None else f"is built for CUDA {cuda}; the driver may be too old for it"
        remedy = "pip install a torch that fits the driver (nvidia-smi shows its CUDA version)"
        yield Finding("gpu", "problem", f"the driver sees {driver} GPU(s), and torch {version} none: it {why}", remedy)
    else:
        yield Finding("gpu", "note", f"none: torch {version} trains on the CPU")


def _driver_sees() -> int:
    """GPUs by the driver's own tool; 0 if there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0


def look_at_disks(storage: str, least_free_gb: float) -> Iterator[Finding]:
    """Is there room for work folders, for checkpoints that wait, and for a storage on a local disk?"""
    places = {"work folder": work_root(), "spool": spool_root()}
    if "://" not in storage:
        places["storage"] = Path(storage)
    seen: dict[int, str] = {}
    for name, place in places.items():
        there = next(folder for folder in (place, *place.parents) if folder.exists())
        device = there.stat().st_dev
        if device in seen:
            continue
        seen[device] = name
        free_gb = shutil.disk_usage(there).free / 1e9
        says = f"{free_gb:,.1f} GB are free where the {name} is ({place})"
        if free_gb < least_free_gb:
            remedy = "ununennium storage gc --dry-run; remove old work folders; or move them (UNUNENNIUM_WORK, _SPOOL)"
            yield Finding("disk", "problem", f"only {says}, less than {least_free_gb:g}", remedy)
        else:
            yield Finding("disk", "ok", says)


def look_at_spools() -> Iterator[Finding]:
    """Do checkpoints wait for their upload that no process is about to upload?"""
    found = False
    for spool in spools():
        waiting = [manifest for manifest in spool.waiting() if spool.file(manifest).exists()]
        if not waiting:
            continue
        found = True
        size_mb = sum(manifest.size_bytes for manifest in waiting) / 1e6
        age_s = time.time() - max(spool.file(manifest).stat().st_mtime for manifest in waiting)
        says = (
            f"{len(waiting)} checkpoint(s), {size_mb:,.1f} MB, wait in {spool.folder} for their upload to {spool.url}"
        )
        if age_s < _OLD_S:
            yield Finding("spool", "note", f"{says}; the newest is {age_s / 60:.0f} min old")
        else:
            remedy = "the next run that saves there uploads them; ununennium storage gc --dry-run shows them"
            yield Finding("spool", "warning", f"{says}, for {age_s / 3600:.1f} h already", remedy)
    if not found:
        yield Finding("spool", "ok", "no checkpoint waits for its upload")
