"""The image of infra/docker: what Docker would send to the builder, and what a container makes of secrets."""

from __future__ import annotations

import http.server
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

ROOT = Path(__file__).parents[2]
DOCKERFILE = "infra/docker/worker.Dockerfile"
PLANTED = {
    ".env": "AWS_SECRET_ACCESS_KEY=",
    ".git/config": "https://user:",
    ".venv/bin/activate": "TOKEN=",
    ".ununennium/stack/env": "export AWS_SECRET_ACCESS_KEY=",
    "storage/models/weights": "",
    "build/lib/settings.py": "",
    "notify.yaml": "slack: https://hooks.slack.com/services/",
    "infra/.env": "PASSWORD=",
    "infra/compose/compose.override.yaml": "environment: {AWS_SECRET_ACCESS_KEY: ",
    "examples/.aws/credentials": "aws_secret_access_key = ",
    "infra/stack/secrets/API_AUTH": "team:",
    "infra/terraform/terraform.tfvars": "auth = ",
    "infra/kubernetes/team/kustomization.yaml": "literals: [API_AUTH=",
    "infra/kubernetes-mine/kustomization.yaml": "literals: [API_AUTH=",
    "deployments/worker.env": "PREFECT_API_AUTH_STRING=",
    "examples/atlanta/storage/runs/run.json": "",
    "flows/__pycache__/retrain.cpython-311.pyc": "",
    "examples/atlanta/server.key": "",
}
"""Files of a checkout in use that hold secrets, and what stands before each secret."""


@pytest.fixture
def checkout(tmp_path: Path) -> tuple[Path, set[bytes]]:
    """A copy of the project as a user has it before ``docker compose up --build``, and the secrets in it."""
    root = tmp_path / "checkout"
    for name in (".dockerignore", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        root.mkdir(exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, root / name)
    for folder in ("ununennium", "flows", "infra", "deployments", "examples"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "secrets"))
    subprocess.run([root / "infra" / "compose" / "make-secrets"], check=True, capture_output=True, timeout=60)
    secrets = {file.read_bytes() for file in (root / "infra" / "compose" / "secrets").iterdir()}
    for number, (name, before) in enumerate(PLANTED.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        secrets.add(secret := f"planted-secret-{number:02}".encode())
        (root / name).write_bytes(before.encode() + secret)
    return root, secrets


def build_context(root: Path) -> set[str]:
    """Files that Docker's own library for Python takes into the build context."""
    ignore = root / ".dockerignore"
    lines = ignore.read_text().splitlines() if ignore.exists() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return {path for path in exclude_paths(str(root), patterns, DOCKERFILE) if (root / path).is_file()}


def copied(root: Path, context: set[str]) -> set[str]:
    """Files of a build context that a COPY of the Dockerfile takes."""
    copies = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", (root / DOCKERFILE).read_text(), re.MULTILINE)
    sources = [source for line in copies for source in line.split()]
    return {path for path in context if any(path == source or path.startswith(f"{source}/") for source in sources)}


def holding(root: Path, files: set[str], secrets: set[bytes]) -> set[str]:
    """The files that hold one of the secrets."""
    return {name for name in files if any(secret in (root / name).read_bytes() for secret in secrets)}


def test_no_secret_of_a_checkout_is_in_a_layer_of_the_image(checkout: tuple[Path, set[bytes]]) -> None:
    root, secrets = checkout
    assert len(secrets) == 5 + len(PLANTED)
    context = build_context(root)
    assert holding(root, context, secrets) == set()
    taken = copied(root, context)
    assert {
        *("pyproject.toml", "ununennium/storage/__init__.py", "flows/retrain.py", "infra/bootstrap.py"),
        *("infra/kubernetes/gpu-job.json", "infra/docker/with-secrets", "infra/work-pools/local.json"),
        *("deployments/prefect.yaml", "examples/atlanta/data/atlanta_pan_05m.tif"),
    } <= taken
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    own = {name for name in tracked.stdout.splitlines() if name.startswith(("ununennium/", "flows/"))}
    assert own <= taken  # and nothing of the library is lost to a pattern


def test_without_the_file_the_secrets_are_in_the_image(checkout: tuple[Path, set[bytes]]) -> None:
    """The search of the test above finds what it looks for."""
    root, secrets = checkout
    (root / ".dockerignore").unlink(missing_ok=True)
    found = holding(root, copied(root, build_context(root)), secrets)
    assert {f"infra/compose/secrets/{name}" for name in ("API_AUTH", "DATABASE_PASSWORD")} <= found


def test_torch_and_torchvision_are_those_that_the_tests_passed_with() -> None:
    """Both from one index, in one resolution; what comes after cannot replace them."""
    text = (ROOT / DOCKERFILE).read_text()
    for name in ("torch", "torchvision"):
        pinned = re.search(rf"^ARG {name.upper()}=(\S+)$", text, re.MULTILINE)
        assert pinned is not None
        assert pinned[1] == importlib.metadata.version(name).partition("+")[0], f"mend {DOCKERFILE}"
    first, second = re.findall(r"uv pip install ((?:.|\\\n)+?)(?: \\\n &&|\n[A-Z#\n])", text)
    assert first.endswith("-r torch.txt")
    assert "-c constraints.txt -c torch.txt" in second


class Builder(http.server.BaseHTTPRequestHandler):
    """As much of Docker's API as ``docker build`` needs in order to send its context; the context is kept."""

    protocol_version = "HTTP/1.1"
    received: bytes = b""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"OK")

    def do_POST(self) -> None:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        type(self).received = body
        self._answer(b'{"stream":"done"}')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Api-Version", "1.44")
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs Docker's command line (no daemon)")
def test_docker_itself_sends_the_same_files(checkout: tuple[Path, set[bytes]], tmp_path: Path) -> None:
    """The command packs the context by itself, and sends it to whatever answers as a daemon."""
    root, secrets = checkout
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Builder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")},
        "DOCKER_BUILDKIT": "0",
        "DOCKER_HOST": f"tcp://127.0.0.1:{server.server_address[1]}",
        "DOCKER_CONFIG": str(tmp_path / "docker"),
    }
    try:
        done = subprocess.run(
            ["docker", "build", "-f", DOCKERFILE, "."],
            cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert Builder.received, done.stdout + done.stderr
    assert not any(secret in Builder.received for secret in secrets)
    with tarfile.open(fileobj=io.BytesIO(Builder.received)) as sent:
        assert {each.name for each in sent if each.isfile()} == build_context(root)
