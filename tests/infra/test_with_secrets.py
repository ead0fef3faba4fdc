"""``infra/docker/with-secrets``: what a container's command gets, from files and variables with any content."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.asyncio.connection import parse_url
from sqlalchemy.engine import make_url

from infra.stack.ports import free_ports
from infra.stack.postgres import INSTALL, Cluster, find_programs
from tests.processes import wait_until
from tests.servers.programs import running

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "docker" / "with-secrets"
URL = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
ODD = [
    "p@ss",
    "p%41s",
    "a:b/c?d#e&f=g",
    " two  spaces + ",
    string.punctuation,
    "$HOME `id` $(id) \\n",
    "Grüße €",
    "-n",
    "two\nlines",
]


def with_secrets(
    folder: Path, secrets: dict[str, str], variables: dict[str, str], *command: str
) -> subprocess.CompletedProcess[str]:
    """Run the script as a container would."""
    folder.mkdir(exist_ok=True)
    for name, value in secrets.items():
        (folder / name).write_text(value, encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "SECRETS_FOLDER": str(folder), **variables}
    return subprocess.run(
        [str(SCRIPT), *(command or ("env", "-0"))],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def seen(folder: Path, secrets: dict[str, str], **variables: str) -> dict[str, str]:
    """The environment of the command."""
    done = with_secrets(folder, secrets, variables)
    assert done.returncode == 0, done.stderr
    return dict(each.split("=", 1) for each in done.stdout.split("\0") if each)


@pytest.mark.parametrize("password", ODD)
def test_a_password_of_any_characters_reaches_the_database_and_redis(tmp_path: Path, password: str) -> None:
    """The URLs, read by what the server reads them with."""
    secrets = {"DATABASE_PASSWORD": password, "REDIS_PASSWORD": password, "API_AUTH": f"team:{password}"}
    got = seen(tmp_path, secrets, DATABASE_HOST="db", DATABASE_USER=password, DATABASE_NAME="eo", REDIS_HOST="redis")
    url = make_url(got[URL])
    assert (url.drivername, url.host, url.port, url.database) == ("postgresql+asyncpg", "db", 5432, "eo")
    assert (url.username, url.password, dict(url.query)) == (password, password, {})
    for name, number in (("PREFECT_REDIS_MESSAGING_URL", 0), ("PREFECT_SERVER_DOCKET_URL", 1)):
        wanted = {"password": password, "host": "redis", "port": 6379, "db": number}
        assert parse_url(got[name]) == wanted, got[name]
    assert got["PREFECT_API_AUTH_STRING"] == got["PREFECT_SERVER_API_AUTH_STRING"] == f"team:{password}"
    assert not {"DATABASE_PASSWORD", "DATABASE_URL", "REDIS_PASSWORD", "API_AUTH"} & got.keys()


def test_every_part_of_the_address_can_be_given(tmp_path: Path) -> None:
    got = seen(
        tmp_path, {"DATABASE_PASSWORD": "pw\n"}, DATABASE_HOST="db.example.org", DATABASE_PORT="6543",
        DATABASE_USER="prefect@tenant", DATABASE_NAME="eo prefect", DATABASE_TLS="verify-full",
    )  # fmt: skip
    url = make_url(got[URL])
    assert (url.username, url.password, url.host, url.port) == ("prefect@tenant", "pw", "db.example.org", 6543)
    assert (url.database, dict(url.query)) == ("eo prefect", {"ssl": "verify-full"})
    plain = make_url(seen(tmp_path, {}, DATABASE_HOST="fd00::5")[URL])
    assert (plain.username, plain.host, plain.port, plain.database) == ("prefect", "fd00::5", 5432, "prefect")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_a_whole_url_is_a_secret_of_its_own_and_goes_first(tmp_path: Path, scheme: str) -> None:
    """As providers hand it out: their scheme, and libpq's name of the TLS mode."""
    given = f"{scheme}://eo:p%40ss%25@db.example.org:6543/eo?application_name=x&sslmode=require\n"
    got = seen(tmp_path, {"DATABASE_URL": given, "DATABASE_PASSWORD": "other"}, DATABASE_HOST="other")
    url = make_url(got[URL])
    assert (url.drivername, url.username, url.password) == ("postgresql+asyncpg", "eo", "p@ss%")
    assert (url.host, url.port, url.database) == ("db.example.org", 6543, "eo")
    assert dict(url.query) == {"application_name": "x", "ssl": "require"}


@pytest.mark.parametrize(
    ("secrets", "variables", "says"),
    [
        ({}, {"DATABASE_HOST": "db"}, "no secret DATABASE_PASSWORD or DATABASE_URL"),
        ({"DATABASE_PASSWORD": "pw"}, {"DATABASE_HOST": "db", "DATABASE_TLS": "yes"}, "DATABASE_TLS is 'yes'"),
        ({"DATABASE_URL": "mysql://u:secret@h/d"}, {}, "has to begin with postgresql://"),
        ({}, {"REDIS_HOST": "redis"}, "no secret REDIS_PASSWORD"),
    ],
)
def test_what_is_incomplete_or_wrong_is_refused_with_its_name(
    tmp_path: Path, secrets: dict[str, str], variables: dict[str, str], says: str
) -> None:
    """A server without its database would begin an empty one in its own home."""
    done = with_secrets(tmp_path, secrets, variables)
    assert (done.returncode, done.stdout) == (78, "")
    assert says in done.stderr
    assert "secret@" not in done.stderr


def test_files_that_are_no_variables_are_left_alone(tmp_path: Path) -> None:
    got = seen(tmp_path, {"tls.crt": "x", "DATABASE_CA": "certificate", "AWS_ACCESS_KEY_ID": "key"})
    assert got["AWS_ACCESS_KEY_ID"] == "key"
    assert got["PGSSLROOTCERT"] == str(tmp_path / "DATABASE_CA")
    assert not {"tls.crt", "DATABASE_CA", URL} & got.keys()


class Database(NamedTuple):
    port: int
    authority: str


def certificate() -> tuple[str, str]:
    """A certificate of 127.0.0.1, signed by itself, and its key; as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "database")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(pem).decode(), private.decode()


PASSWORD = f"p@ss%41 {string.punctuation} Grüße"


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """PostgreSQL that asks for an odd password, and takes connections by TLS alone."""
    programs = find_programs()
    if programs is None:
        pytest.skip(INSTALL)
    folder = Path(tempfile.mkdtemp(prefix="ununennium-postgres-"))
    try:
        cluster = Cluster(programs, folder, free_ports(1)[0], PASSWORD)
        cluster.create()
        public, private = certificate()
        for name, text in (("server.crt", public), ("server.key", private)):
            (cluster.data / name).write_text(text)
            (cluster.data / name).chmod(0o600)
            owner = cluster.data.stat()
            os.chown(cluster.data / name, owner.st_uid, owner.st_gid)
        (cluster.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        command = [*cluster.command(durable=False), "-c", "ssl=on"]
        with running(command, folder / "log"):
            assert wait_until(cluster.is_ready, 60), (folder / "log").read_text()
            yield Database(cluster.port, public)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


ASK = """
import asyncio, json, os
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
async def ask():
    async with create_async_engine(os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"]).connect() as connection:
        return (await connection.execute(text(
            "select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()"))).one()
print(json.dumps(list(asyncio.run(ask()))))
"""


@pytest.mark.slow
def test_postgresql_takes_the_password_and_the_certificate_is_checked(database: Database, tmp_path: Path) -> None:
    secrets = {"DATABASE_PASSWORD": PASSWORD, "DATABASE_CA": database.authority}
    variables = {"DATABASE_HOST": "127.0.0.1", "DATABASE_PORT": str(database.port), "DATABASE_NAME": "postgres"}
    ask = (sys.executable, "-c", ASK)
    done = with_secrets(tmp_path / "right", secrets, {**variables, "DATABASE_TLS": "verify-full"}, *ask)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["prefect", True]
    other, _ = certificate()
    wrong = {**secrets, "DATABASE_CA": other}
    done = with_secrets(tmp_path / "wrong", wrong, {**variables, "DATABASE_TLS": "verify-full"}, *ask)
    assert done.returncode != 0
    assert "certificate verify failed" in done.stderr
    done = with_secrets(tmp_path / "plain", secrets, {**variables, "DATABASE_TLS": "disable"}, *ask)
    assert done.returncode != 0
    assert "no encryption" in done.stderr
