"""The wheel in an environment of its own: the library and its commands, and nothing else at the top level."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "ununennium")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of copies: a build leaves files beside its sources."""
    source = tmp_path_factory.mktemp("source")
    for name in (*SOURCES, "flows", "infra"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(source / "dist")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, timeout=120)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and borrows what it needs from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)], check=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # Their .pth files are not followed, so that an editable install of the checkout is not found.
    here = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "borrowed.pth").write_text("\n".join(here), encoding="utf-8")
    return folder / "bin"


def run(program: Path, *arguments: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UNUNENNIUM"))}
    return subprocess.run(
        [program, *map(str, arguments)],
        cwd=folder, env={**inherited, **environment}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_the_wheel_holds_the_library_alone_with_its_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"ununennium"}
    wanted = {path for path in (ROOT / "ununennium").rglob("*") if path.suffix in {".py", ".html", ".css", ".typed"}}
    assert names == {path.relative_to(ROOT).as_posix() for path in wanted | {ROOT / "ununennium" / "py.typed"}}


def test_the_wheel_is_imported_and_neither_flows_nor_infra_is_there(installed: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.util import find_spec; import ununennium; print(ununennium.__file__);"
        "print(find_spec('flows'), find_spec('infra'))"
    )
    done = run(installed / "python", "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    file, absent = done.stdout.splitlines()
    assert Path(file).is_relative_to(installed.parent)
    assert absent == "None None"


def test_the_command_line_teaches_itself(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "ununennium", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Retrain Earth-observation models" in done.stdout


@pytest.mark.slow
def test_a_run_is_planned_and_one_batch_is_trained_by_a_process_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "width": 96, "height": 96, "count": 1, "dtype": "uint8", "crs": "EPSG:32616"}
    for name, most in (("image", 256), ("label", 2)):
        with rasterio.open(tmp_path / f"{name}.tif", "w", transform=from_origin(5e5, 4e6, 1, 1), **profile) as target:
            target.write(np.random.default_rng(0).integers(0, most, (1, 96, 96), np.uint8))
    settings = {
        "name": "tiny",
        "data": {
            "scenes": [{"image": "image.tif", "label": "label.tif"}],
            "classes": ["ground", "roof"],
            "chip_size": 32,
            "batch_size": 1,
            "split": {"block_size": 32},
        },
        "trainer": {"epochs": 1, "device": "cpu"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    done = run(installed / "ununennium", "train", "run.yaml", "--dry-run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "a batch of 1 x 1 x 32 x 32" in done.stdout


def test_a_command_of_the_flows_says_that_it_needs_a_checkout(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "ununennium", "demo", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "No module named 'flows'" in done.stderr
    assert "use a checkout of the project" in done.stderr


@pytest.mark.slow
def test_flows_of_a_users_own_are_left_alone(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("mine = True\n", encoding="utf-8")
    done = run(installed / "python", "-c", "import flows; print(flows.mine)", folder=tmp_path)
    assert done.stdout == "True\n", done.stderr
    done = run(installed / "ununennium", "demo", folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "No module named 'flows.local'" in done.stderr
