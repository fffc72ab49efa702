"""The recipes of docs/guides/rotating-database-passwords.md, as they stand there, with databases whose password is rotated."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from integration.fleet import LAYER
from integration.function import Function
from integration.mysql import MySQL
from integration.postgres import DATABASE, USER, PostgreSQL, find_python
from local_stack.stack import SECRET_PATH

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "rotating-database-passwords.md"
READ = f"/v1/secret/{SECRET_PATH}"
THREADS = 32
FLEET = 20
ANSWER = "{'total': 42}"


def recipe(driver: str) -> str:
    """The page's code below the heading of this driver."""
    found = re.search(rf"^## {driver}$.*?^```python$(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


class Container:
    """A context manager: a process that runs a recipe."""

    def __init__(self, function: Function, code: Path) -> None:
        environment = {**function.environment, "PYTHONPATH": str(LAYER), "DATABASE_SECRET": SECRET_PATH}
        self._process = subprocess.Popen(
            [find_python(), Path(__file__).with_name("database_function.py"), code],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout

    def start(self, threads: int = 1) -> None:
        """Call the handler in so many threads at once."""
        self._input.write(f"{threads}\n")
        self._input.flush()

    def outcomes(self) -> dict[str, int]:
        """What became of these calls, and how often."""
        found: dict[str, int] = json.loads(self._output.readline())
        return found

    def call(self, threads: int = 1) -> dict[str, int]:
        self.start(threads)
        return self.outcomes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._input.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with PostgreSQL() as server:
        yield server


@pytest.fixture
def postgres(server: PostgreSQL, function: Function) -> Iterator[PostgreSQL]:
    """A server whose password is in Cerberus."""
    server.set_password("the-first")
    put(function, server.port, "the-first")
    yield server
    server.disconnect()


@pytest.fixture
def start(function: Function, tmp_path: Path) -> Iterator[Callable[[str], Container]]:
    with contextlib.ExitStack() as containers:

        def start(driver: str) -> Container:
            code = tmp_path / f"{driver}.py"
            if not code.exists():
                code.write_text(recipe(driver))
            return containers.enter_context(Container(function, code))

        yield start


def put(function: Function, port: int, password: str) -> None:
    function.stack.cerberus.put_secret(
        SECRET_PATH,
        {"host": "127.0.0.1", "port": str(port), "database": DATABASE, "username": USER, "password": password},
    )


def rotate(function: Function, postgres: PostgreSQL, password: str) -> None:
    """As a rotation does it; and the connections of before end, as they do at some time."""
    postgres.set_password(password)
    put(function, postgres.port, password)
    postgres.disconnect()


@pytest.mark.parametrize("threads", [1, THREADS])
def test_one_read_and_one_reconnect_whatever_the_number_of_threads(
    function: Function, postgres: PostgreSQL, start: Callable[[str], Container], threads: int
) -> None:
    container = start("psycopg")
    assert container.call(threads) == {ANSWER: threads}
    assert function.stack.cerberus.count(READ) == 1
    accepted, refused = postgres.accepted, postgres.refused
    rotate(function, postgres, "the-second")
    assert container.call(threads) == {ANSWER: threads}
    assert function.stack.cerberus.count(READ) == 2
    assert (postgres.accepted - accepted, postgres.refused - refused) == (1, 1)


def test_threads_that_are_refused_at_once_share_one_read(
    function: Function, postgres: PostgreSQL, start: Callable[[str], Container]
) -> None:
    container = start("SQLAlchemy")
    assert container.call(THREADS) == {ANSWER: THREADS}
    assert function.stack.cerberus.count(READ) == 1
    for number in range(2):
        refused = postgres.refused
        rotate(function, postgres, f"the-next-{number}")
        assert container.call(THREADS) == {ANSWER: THREADS}
        assert function.stack.cerberus.count(READ) == 2 + number
        assert postgres.refused > refused


def test_a_fleet_reads_once(function: Function, postgres: PostgreSQL, start: Callable[[str], Container]) -> None:
    function.share()
    fleet = [start("psycopg") for _ in range(FLEET)]

    def call() -> None:
        for container in fleet:
            container.start()
        assert [container.outcomes() for container in fleet] == [{ANSWER: 1}] * FLEET

    call()
    assert function.stack.cerberus.count(READ) == 1
    accepted, refused = postgres.accepted, postgres.refused
    rotate(function, postgres, "the-second")
    call()
    assert function.stack.cerberus.count(READ) == 2
    assert postgres.accepted - accepted == FLEET
    assert postgres.refused - refused == FLEET
    assert function.stack.cerberus.authentications == 1


@pytest.mark.parametrize("driver", ["psycopg", "SQLAlchemy"])
def test_a_database_that_is_down_costs_no_more_than_one_read(
    function: Function, postgres: PostgreSQL, start: Callable[[str], Container], driver: str
) -> None:
    container = start(driver)
    assert container.call() == {ANSWER: 1}
    postgres.stop()
    try:
        for _ in range(5):
            assert container.call(8) == {"OperationalError": 8}
        assert function.stack.cerberus.count(READ) <= 2
    finally:
        postgres.start()
    assert container.call(8) == {ANSWER: 8}
    assert function.stack.cerberus.count(READ) <= 2


def test_a_password_that_is_wrong_in_cerberus_too(
    function: Function, postgres: PostgreSQL, start: Callable[[str], Container]
) -> None:
    container = start("psycopg")
    postgres.set_password("unknown-to-cerberus")
    for _ in range(3):
        assert container.call(8) == {"OperationalError": 8}
    assert function.stack.cerberus.count(READ) == 2


def test_pymysql(function: Function, start: Callable[[str], Container]) -> None:
    with MySQL("the-first") as mysql:
        put(function, mysql.port, "the-first")
        container = start("PyMySQL")
        assert container.call() == {ANSWER: 1}
        assert container.call() == {ANSWER: 1}
        assert (mysql.accepted, mysql.refused) == (1, 0)
        mysql.password = "the-second"
        put(function, mysql.port, "the-second")
        mysql.disconnect()
        assert container.call() == {ANSWER: 1}
        assert (mysql.accepted, mysql.refused) == (2, 1)
        assert function.stack.cerberus.count(READ) == 2
    for _ in range(3):
        assert container.call() == {"OperationalError": 1}  # the database is down
    assert function.stack.cerberus.count(READ) == 2
