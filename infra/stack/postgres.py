"""PostgreSQL on this machine's loopback: Debian's programs, a cluster in a folder of one's own.

PostgreSQL does not run as root. Started by root it runs as the user ``postgres``, and is allowed to pass folders that
only root may enter, if its own lies below one. As whoever may log in may run programs with that right, nobody may
without the password.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

USER = "prefect"
INSTALL = "needs PostgreSQL (Debian: apt-get install postgresql)"
_INITDB_TIMEOUT_S = 300


def find_programs() -> Path | None:
    """Folder of PostgreSQL's programs, which distributions keep off the path; None if there is none."""
    found = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(found).resolve().parent if found else installed[-1].parent if installed else None


class Cluster:
    """A database cluster in a folder, with one superuser, who has a password.

    Args:
        programs: as ``find_programs`` gives it.
        folder: root folder; made by ``create``.
        port: on which it listens.
        password: of the user ``prefect``.

    Raises:
        RuntimeError: root started this, and there is no user ``postgres``.
    """

    def __init__(self, programs: Path, folder: Path, port: int, password: str) -> None:
        self._programs = programs
        self.folder = folder
        self.port = port
        self._password = password
        self._owner: tuple[int, int] | None = None
        if os.geteuid() == 0:
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                raise RuntimeError(
                    "PostgreSQL does not run as root, and there is no user 'postgres' to run it as: start this as "
                    "another user"
                ) from None
            self._owner = (user.pw_uid, user.pw_gid)

    @property
    def url(self) -> str:
        """Where Prefect's server finds its database."""
        return f"postgresql+asyncpg://{USER}:{self._password}@127.0.0.1:{self.port}/postgres"

    @property
    def data(self) -> Path:
        """The cluster itself."""
        return self.folder / "data"

    def create(self) -> None:
        """Make the cluster, unless it is there.

        Raises:
            RuntimeError: PostgreSQL refuses; with its words.
        """
        if (self.data / "PG_VERSION").exists() and (self.data / "postgresql.conf").exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)  # of one that was killed
        self.folder.mkdir(parents=True, exist_ok=True)
        word = self.folder / "password"
        word.touch(mode=0o600)
        word.write_text(f"{self._password}\n", encoding="utf-8")
        if self._owner is not None:
            for path in (self.folder, word):
                os.chown(path, *self._owner)
        make = [
            *self._as_user(),
            *(str(self._programs / "initdb"), "-D", str(self.data), "-U", USER, "-E", "UTF8", "--locale=C"),
            *("-A", "scram-sha-256", f"--pwfile={word}", "--no-sync"),
        ]
        done = subprocess.run(
            make,
            capture_output=True,
            text=True,
            timeout=_INITDB_TIMEOUT_S,
            cwd="/",
            check=False,
            stdin=subprocess.DEVNULL,
        )
        word.unlink()
        if done.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise RuntimeError(f"initdb in {self.data} failed: {' '.join(done.stderr.split())}")

    def command(self, *, durable: bool = True) -> list[str]:
        """What serves the cluster; its sockets lie nowhere, since everybody uses the port."""
        options = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        if not durable:
            options += ["-c", "fsync=off"]
        return [*self._as_user(), str(self._programs / "postgres"), "-D", str(self.data), *options]

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        ready = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False, timeout=30).returncode == 0

    def _as_user(self) -> list[str]:
        if self._owner is None:
            return []
        uid, gid = self._owner
        switch = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        if not all(_may_enter(parent) for parent in self.folder.parents):
            switch += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        return [*switch, "--"]


def _may_enter(folder: Path) -> bool:
    """Whether everybody may pass through ``folder``."""
    return bool(folder.stat().st_mode & 0o001)
