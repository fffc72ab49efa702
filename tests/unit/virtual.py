"""Containers on virtual time: the package's own code, with a small model of Cerberus and of AWS in place of the network."""

from __future__ import annotations

import base64
import importlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from cerberus_auth import CerberusAuth, CerberusClient, CerberusError, Settings
from cerberus_auth.aws.calls import AwsRefusal, Credentials, Decrypted
from cerberus_auth.deadline import Deadline
from cerberus_auth.http.retry import NoAnswer
from cerberus_auth.http.transport import Response, Transport
from unit.scheduler import Event, Scheduler, Task

ROLE = "arn:aws:iam::111111111111:role/web"
KEY = "arn:aws:kms:us-west-2:111111111111:key/00000000-0000-0000-0000-000000000000"

_CERBERUS_KEY = "arn:aws:kms:us-west-2:222222222222:key/00000000-0000-0000-0000-000000000000"
_NUMBERS = itertools.count(1)
_TIMED = (
    "auth",
    "authentication.sequence",
    "authentication.wire",
    "caching.breaker",
    "caching.cache",
    "caching.flight",
    "caching.kept",
    "client",
    "deadline",
    "http.retry",
    "sharing.policy",
)
"""The package's modules that look at a clock, or start and lock threads."""


class _Lock:
    """Nobody waits while holding one of the package's locks, so taking one is no reason to let others run."""

    def __init__(self, virtual: Virtual) -> None:
        self._virtual = virtual
        self._owner: object = None
        self._depth = 0

    def __enter__(self) -> None:
        me = self._virtual.current
        if self._depth and self._owner is not me:
            self._virtual.wait(lambda: self._depth == 0)
        self._owner, self._depth = me, self._depth + 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1


class _Event(Event):
    def clear(self) -> None:
        self._set = False


class _Worker(Task):
    """A thread that takes one task after another: to start a thread takes longer than most tasks."""

    def work(self, work: Callable[[], object]) -> None:
        self._work, self.done = work, False

    def _run(self) -> None:
        while not self.ended:
            super()._run()


class Virtual(Scheduler):
    """Virtual time for one test. The test's own thread may wait too: the others run meanwhile, and time passes.

    :param early: what every random fraction is; ``None`` for fractions from a seed.
    """

    def __init__(self, patch: pytest.MonkeyPatch, early: float | None) -> None:
        fractions = random.Random(1)
        super().__init__(fractions.randrange)
        self.early = early
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self.time.sleep = lambda seconds: self.wait(lambda: False, seconds)
        self.threading.Lock = self.threading.RLock = lambda: _Lock(self)
        self.threading.Event = lambda: _Event(self)

        def urandom(size: int) -> bytes:
            fraction = fractions.random() if early is None else early
            return int(fraction * 256**size).to_bytes(size, "big")

        for name in _TIMED:
            module = importlib.import_module(f"cerberus_auth.{name}")
            for each in ("time", "threading"):
                if hasattr(module, each):
                    patch.setattr(module, each, getattr(self, each))
        patch.setattr("cerberus_auth.deadline.os", SimpleNamespace(urandom=urandom))

    def spawn(self, work: Callable[[], object]) -> Task:
        worker = self._idle.pop() if self._idle else _Worker(self, work)
        worker.work(work)
        self._workers.add(worker)
        self._tasks.append(worker)
        return worker

    def _resume(self, task: Task) -> None:
        super()._resume(task)
        if task.done and isinstance(task, _Worker):
            self._idle.append(task)

    def end(self) -> None:
        """End all threads."""
        self._tasks.clear()
        for worker in self._workers:
            worker.done = False
            worker.end()

    def wait(self, ready: Callable[[], bool], seconds: float | None = None) -> bool:
        if self.current is not None:
            return super().wait(ready, seconds)
        end = float("inf") if seconds is None else self.monotonic + seconds
        while not ready():
            able = [task for task in self._tasks if self._due(task) or task.ready()]
            if able:
                self._resume(able[self._choose(len(able))])
                continue
            due = min([end, *(task.until for task in self._tasks if task.until is not None)])
            assert due < float("inf"), "the test's own thread would wait for ever"
            passed = max(0.0, due - self.monotonic)
            self.monotonic += passed
            self.wall += passed
            if self.monotonic >= end:
                break
        return ready()

    def sleep(self, seconds: float) -> None:
        """Let time pass for all threads."""
        self.wait(lambda: False, seconds)

    def freeze(self, seconds: float) -> None:
        """Stop all threads, as Lambda does between invocations: only the wall clock goes on."""
        self.wall += seconds


@contextmanager
def virtual_time(patch: pytest.MonkeyPatch, early: float | None) -> Iterator[Virtual]:
    """Virtual time until the end of a test, when all threads end."""
    virtual = Virtual(patch, early)
    try:
        yield virtual
    finally:
        virtual.end()


class Cerberus:
    """A model of Cerberus and of AWS, asked in place of the network by every container of a test.

    Moments are on the wall clock, in seconds since the model was made.
    """

    def __init__(self, virtual: Virtual, patch: pytest.MonkeyPatch) -> None:
        self.virtual = virtual
        self.url = f"https://cerberus-{next(_NUMBERS)}.example"  # what has equal settings is shared in a process
        self.lease = 3600
        self.answers_after = 0.0
        self.cached_for = 0.0  # a KMS answer, for one principal
        self.refuses_all = False  # every token
        self.accepts_newest = False  # and no older one
        self.database_is_down = False
        self.status: int | None = None  # of every answer
        self.retry_after = ""
        self.hangs = False
        self.statuses: dict[str, int] = {}  # by path, for ever
        self.not_offered: set[str] = set()  # paths of auth requests, of methods that this Cerberus does not have
        self.loses_frozen = False  # the connection of a request that is under way in a freeze is gone after it
        self.version = 1
        self.authentications: list[float] = []  # the requests
        self.reads: list[tuple[float, str]] = []
        self.answered: list[tuple[float, str]] = []  # with a secret
        self.newest = ""
        self._began = virtual.wall
        self._tokens: dict[str, float] = {}
        self._cached: tuple[float, bytes] = 0.0, b""
        self.table: dict[str, Any] = {}
        self.table_calls: Counter[str] = Counter()
        self.table_answers_after = 0.0
        self.throttles = False  # the table
        patch.setattr(Transport, "once", self._once)
        patch.setattr(Transport, "load", lambda transport: None)  # no TLS, so no certificate store
        patch.setattr("cerberus_auth.auth.connect", lambda settings, transport: _Aws(self))

    @property
    def now(self) -> float:
        return self.virtual.wall - self._began

    @property
    def requests(self) -> int:
        return len(self.authentications) + len(self.reads)

    def auth(self, **settings: Any) -> CerberusAuth:
        """The container's; another one's if its settings differ."""
        settings = {"iam_role_arns": (ROLE,), "auth_method": "kms", **settings}
        return CerberusAuth(Settings(url=self.url, region="us-west-2", **settings))

    def client(self, **settings: Any) -> CerberusClient:
        """A client with secrets of its own and the token of ``auth``."""
        return CerberusClient(self.auth(**settings))

    def pause(self, seconds: float) -> None:
        """Wait for an answer that is on its way: it goes on coming while the container is frozen."""
        arrives = self.virtual.wall + seconds
        if seconds:
            self.virtual.wait(lambda: self.virtual.wall >= arrives, seconds)

    def revoke(self) -> None:
        """Revoke all tokens. The cached answer stays."""
        self._tokens.clear()

    def _once(
        self, service: str, method: str, url: str, deadline: Deadline, *, headers: Mapping[str, str], **_: Any
    ) -> Response:
        assert service == "Cerberus"
        path, asked = unquote(urlsplit(url).path), self.now
        if path.startswith("/v1/secret/"):
            self.reads.append((self.now, path.removeprefix("/v1/secret/")))
        elif method == "POST":
            self.authentications.append(self.now)
        limit = min(5.0, deadline.remaining())
        seconds = limit if self.hangs else self.answers_after
        if seconds:
            virtual = self.virtual
            before = virtual.wall - virtual.monotonic
            self.pause(min(limit, seconds))
            was_frozen = virtual.wall - virtual.monotonic > before + 0.001
            if was_frozen and self.loses_frozen:
                raise NoAnswer("the connection broke")
            if self.hangs or (seconds > limit and not was_frozen):
                raise NoAnswer("no complete answer", timed_out=True)
        status, body = self._answer(method, path, headers, asked)
        if status == 200 and path.startswith("/v1/secret/"):
            self.answered.append((self.now, path.removeprefix("/v1/secret/")))
        message = {"content-type": "application/json"}
        if self.retry_after:
            message["retry-after"] = self.retry_after
        return Response(status, message, body)

    def _answer(self, method: str, path: str, headers: Mapping[str, str], asked: float) -> tuple[int, bytes]:
        if self.status is not None:
            return self.status, _error(99997)
        if path in self.not_offered:
            return 404, b""
        if method == "POST":
            return (500, _error(10)) if self.database_is_down else (200, self._new_token(path))
        secret, token = path.removeprefix("/v1/secret/"), headers["X-Cerberus-Token"]
        refused = self.refuses_all or (self.accepts_newest and token != self.newest)
        if self.database_is_down or refused or self._tokens.get(token, 0) <= self.virtual.wall:
            return 401, _error(99105)
        if status := self.statuses.get(secret):
            codes = {401: 99105, 403: 99994, 404: 99996, 500: 10}
            return status, _error(codes[status])
        return 200, json.dumps({"data": {"version": str(self.version), "asked": str(asked)}}).encode()

    def _new_token(self, path: str) -> bytes:
        until, answer = self._cached
        if self.virtual.wall < until:
            return answer
        self.newest = f"token-{next(_NUMBERS)}"
        self._tokens[self.newest] = self.virtual.wall + self.lease
        metadata = {"aws_iam_principal_arn": ROLE}
        fields = {"client_token": self.newest, "lease_duration": self.lease, "metadata": metadata}
        document = json.dumps(fields).encode()
        if not path.endswith("/sts-identity"):
            document = json.dumps({"auth_data": base64.b64encode(document).decode()}).encode()
        self._cached = self.virtual.wall + self.cached_for, document
        return document


class _Aws:
    """AWS as a container sees it: it answers at once."""

    def __init__(self, cerberus: Cerberus) -> None:
        self._cerberus = cerberus

    def close(self) -> None:
        pass

    def credentials(self, region: str, deadline: Deadline) -> Credentials:
        return Credentials("AKIDEXAMPLE", "example", None)

    def forget_credentials(self) -> None:
        pass

    def decrypt(self, ciphertext: str, region: str, deadline: Deadline, *, repeat_timeouts: bool = True) -> Decrypted:
        return Decrypted(base64.b64decode(ciphertext), _CERBERUS_KEY)

    def seal(self, plaintext: bytes, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> str:
        return base64.b64encode(plaintext).decode()

    def unseal(self, ciphertext: str, key_arn: str, context: Mapping[str, str], deadline: Deadline) -> bytes:
        return base64.b64decode(ciphertext)

    def item(self, action: str, request: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        table = self._cerberus.table
        self._cerberus.table_calls[action] += 1
        self._cerberus.pause(self._cerberus.table_answers_after)
        if self._cerberus.throttles:
            raise AwsRefusal("DynamoDB", "ProvisionedThroughputExceededException", "slow down")
        if action == "GetItem":
            found = table.get(request["Key"]["scope"]["S"])
            return {"Item": found} if found else {}
        item = request["Item"]
        held = table.get(item["scope"]["S"])
        wanted = request.get("ExpressionAttributeValues", {}).get(":version")
        if (held or {}).get("version") != wanted:
            raise AwsRefusal("DynamoDB", "ConditionalCheckFailedException", "the version differs", held)
        table[item["scope"]["S"]] = item
        return {}


def _error(code: int) -> bytes:
    return json.dumps({"error_id": "none", "errors": [{"code": code, "message": "none"}]}).encode()


class Outcome:
    """What the reads of a loop came to."""

    def __init__(self) -> None:
        self.failures: list[tuple[float, str, str]] = []  # when, of which path, and the error's class
        self.served: list[tuple[float, str]] = []
        self.waits: list[float] = []  # seconds of each read that took any

    def failed(self, path: str) -> list[tuple[float, str, str]]:
        """The failures of one path, or of all below it."""
        return [failure for failure in self.failures if failure[1].startswith(path)]


def read(
    cerberus: Cerberus, client: CerberusClient, path: str, outcome: Outcome, **options: Any
) -> Mapping[str, Any] | None:
    began, at = cerberus.virtual.monotonic, cerberus.now
    try:
        secret: Mapping[str, Any] = client.read(path, **options)
    except CerberusError as error:
        outcome.failures.append((at, path, type(error).__name__))
        return None
    finally:
        seconds = cerberus.virtual.monotonic - began
        if seconds:
            outcome.waits.append(seconds)
    outcome.served.append((at, path))
    return secret


def read_until(
    cerberus: Cerberus,
    client: CerberusClient,
    end: float,
    paths: Iterable[str],
    outcome: Outcome,
    every: float = 0.1,
    **options: Any,
) -> None:
    """Read the next path, in turn, every so many seconds."""
    turns = itertools.cycle(paths)
    while cerberus.now < end - 1e-6:
        read(cerberus, client, next(turns), outcome, **options)
        cerberus.virtual.sleep(every)
