"""A stand-in for Cerberus' management service: authentication by KMS and by STS, secrets, files, revocation.

It answers as version 4.13.0 does, its errors and its behaviour when it is ill included. It is given the keys that it
encrypts with, and whoever knows the signer of a request.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
import ssl
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from .http_server import Request, Response, Server
from .web import ACTUATOR, PageError, RefusalError, as_json, dressed, file_headers, not_mapped, resolve, unexpected

VERSION = "4.13.0"
"""Of the service that this stands in for."""

_REGION_NAMES = """
us-gov-west-1 us-gov-east-1 us-east-1 us-east-2 us-west-1 us-west-2 eu-west-1 eu-west-2 eu-west-3 eu-central-1 eu-central-2
eu-north-1 eu-south-1 eu-south-2 ap-east-1 ap-south-1 ap-south-2 ap-southeast-1 ap-southeast-2 ap-southeast-3 ap-southeast-4
ap-northeast-1 ap-northeast-2 ap-northeast-3 sa-east-1 cn-north-1 cn-northwest-1 ca-central-1 me-central-1 me-south-1
af-south-1
"""
REGIONS = frozenset(_REGION_NAMES.split())
"""Those that the service knows: those of AWS SDK for Java 1.12.454, which it was built with."""

KMS_PLAINTEXT_LIMIT = 4096
"""Bytes that KMS encrypts at most; the service shortens its answer to fit."""

DEFAULT_LEASE_SECONDS = 3600

_WRITER = "owner@example.com"
"""Who has put everything here, as the lists say."""

_READ_AND_WRITE = ("GET", "POST", "PUT", "DELETE")
_STARTED = datetime.now(UTC).isoformat(timespec="milliseconds")

_PRINCIPAL = re.compile(
    r"arn:(?P<partition>aws|aws-cn):(?:iam|sts)::(?P<account>\d+):(?!group)\w[^/:]*/(?P<name>[^/]+).*"
)
_ROLE = re.compile(r"arn:[^:]+:iam::\d+:role/.+")
_CREDENTIAL_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/(?P<region>[^/,\s]+)/sts/aws4_request")


class Call(NamedTuple):
    """One request that arrived, in the order of their answers. ``status`` is 0 where a fault left it without one."""

    method: str
    path: str
    status: int
    principal: str | None
    """The ARN that asked to authenticate, or that the token was made for; ``None`` where neither is known."""
    body: dict[str, Any] | None
    """The JSON object that was posted."""
    client: str | None
    """The ``X-Cerberus-Client`` header."""


@dataclass(frozen=True)
class _Token:
    principal: str
    expires: float
    """On the clock of :func:`time.monotonic`."""


@dataclass(frozen=True)
class _Version:
    """A secret or a file as it was stored once."""

    content: Any
    size: int
    action: str
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))


class KeyUnusableError(Exception):
    """A principal's key could not be created or used."""


class Keys(Protocol):
    """KMS in Cerberus' account."""

    def create(self, principal: str, region: str) -> str:
        """Create a key under which this principal alone may decrypt, and return the key's ARN.

        :raises KeyUnusableError: that is not possible.
        """

    def encrypt(self, plaintext: bytes, key_arn: str, region: str) -> bytes:
        """Encrypt under a key.

        :raises KeyUnusableError: that is not possible.
        """


class Callers(Protocol):
    """Whoever knows who signed a request."""

    def caller(self, request: Request, region: str) -> str:
        """Give the ARN of who signed, for STS in this region.

        :raises RefusalError: nobody did, as AWS sees it.
        """


class Cerberus:
    """A context manager: the service, listening from its construction to its end. Many threads may use all of it.

    :param keys: which it encrypts with.
    :param callers: what it asks who signed.
    :param tls: a server's context, or ``None`` for plain HTTP.
    :param port: 0 for one that the system chooses.
    :raises OSError: the port is in use.
    """

    def __init__(self, keys: Keys, callers: Callers, *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.lease_seconds: Any = DEFAULT_LEASE_SECONDS
        """Sent as it is, whatever it is; ``None`` leaves it out. What is no sensible number counts as an hour here."""
        self.kms_enabled = True
        self.sts_enabled = True
        self.v1_enabled = True
        """``/v1/auth/iam-role``, which ``kms_enabled`` switches off too."""
        self.kms_cache_seconds: float = 0
        """For how long a principal gets the same KMS answer in a region. Revoking the token does not end that."""
        self.answer_after_seconds: float = 0
        """How long every answer takes at least."""
        self.key_creation_seconds: float = 0
        """How long KMS takes to create a principal's key."""
        self.partitions = {"aws", "aws-cn"}
        """Those switched on, of the two that the service knows."""
        self.truncate_metadata = False
        """Shorten KMS answers even where they would fit."""
        self.plaintext_override: bytes | None = None
        """In place of the token's JSON: encrypted for KMS, in clear for STS."""
        self.auth_data_override: str | None = None
        """In place of the base64 of the ciphertext."""

        self.calls: list[Call] = []
        self.authentications = 0
        """Tokens made."""
        self.cached_answers = 0
        """KMS answers given again."""
        self.keys_made = 0
        """KMS keys created, those that lost the race and stay behind among them."""

        self._lock = threading.Lock()
        self._grants: defaultdict[str, set[str]] = defaultdict(set)
        self._tokens: dict[str, _Token] = {}
        self._answers: dict[tuple[str, str, str], tuple[float, Response]] = {}
        self._secrets: defaultdict[str, dict[str, _Version]] = defaultdict(dict)
        self._files: defaultdict[str, dict[str, _Version]] = defaultdict(dict)
        self._key_arns: dict[tuple[str, str], str] = {}
        self._outage: _Outage | None = None
        self._keys = keys
        self._callers = callers
        self.server = Server(self._respond, tls, port, replaced=self._count_replaced)
        self.url = self.server.url

    # What a test arranges

    def grant(self, principal_arn: str, sdb: str = "app/orders") -> None:
        """Register a principal, or an account by the ARN of its root, for a safe deposit box (``category/name``)."""
        with self._lock:
            self._grants[principal_arn].add(sdb)

    def deny(self, principal_arn: str) -> None:
        """Take back everything that was granted to a principal."""
        with self._lock:
            self._grants.pop(principal_arn, None)

    def put_secret(self, path: str, data: dict[str, str]) -> str:
        """Store a new version of a secret (``category/sdb/path``), and give the version's id."""
        return self._put(self._secrets, path, dict(data), len(json.dumps(data)))

    def put_file(self, path: str, content: bytes) -> str:
        """Store a new version of a file (``category/sdb/path``), and give the version's id."""
        return self._put(self._files, path, content, len(content))

    def _put(self, stored: defaultdict[str, dict[str, _Version]], path: str, content: Any, size: int) -> str:
        version = str(uuid.uuid4())
        with self._lock:
            versions = stored[path]
            versions[version] = _Version(content, size, "UPDATE" if versions else "CREATE")
        return version

    def revoke(self, token: str | None = None) -> None:
        """Revoke a token, or all of them."""
        with self._lock:
            if token is None:
                self._tokens.clear()
            else:
                self._tokens.pop(token, None)

    def key_arn(self, principal: str, region: str) -> str:
        """Return the KMS key of a principal in a region, created now if there is none.

        Callers that come before the first key is recorded each create one. One is recorded, the others fail.
        """
        with self._lock:
            known = self._key_arns.get((principal, region))
        if known is not None:
            return known
        created = self._keys.create(principal, region)
        if self.key_creation_seconds:
            self.server.pause(self.key_creation_seconds)
        with self._lock:
            self.keys_made += 1
            if self._key_arns.setdefault((principal, region), created) != created:
                raise unexpected()
        return created

    @contextlib.contextmanager
    def database_down(self) -> Iterator[None]:
        """Refuse every token with 401 and every authentication with 500, as the service does without its database."""
        with self._without_database(0):
            yield

    @contextlib.contextmanager
    def database_hanging(self, seconds: float = 60) -> Iterator[None]:
        """Answer nothing that needs the database for so many seconds, and then as in ``database_down``.

        At the end of the context, those that still wait are answered as ever.
        """
        with self._without_database(seconds):
            yield

    @contextlib.contextmanager
    def _without_database(self, seconds: float) -> Iterator[None]:
        before, self._outage = self._outage, _Outage(seconds)
        outage = self._outage
        try:
            yield
        finally:
            self._outage = before
            outage.over.set()

    # What a test looks at

    def count(self, path_prefix: str) -> int:
        """How many requests arrived whose path begins so, whatever became of them."""
        with self._lock:
            return sum(call.path.startswith(path_prefix) for call in self.calls)

    def close(self) -> None:
        """End the server, its threads and its connections. May be called again."""
        self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Requests

    def _respond(self, request: Request) -> Response:
        if self.answer_after_seconds:
            self.server.pause(self.answer_after_seconds)
        call = _Call(request)
        try:
            response = dressed(self._route(call), request)
        except PageError as page:
            response = page.response
        except RefusalError as refusal:
            response = dressed(refusal.response, request)
        self._count(call, response.status)
        return response

    def _count_replaced(self, request: Request, status: int) -> None:
        self._count(_Call(request), status)

    def _count(self, call: _Call, status: int) -> None:
        request = call.request
        client = request.headers["X-Cerberus-Client"]
        with self._lock:
            self.calls.append(Call(request.method, request.path, status, call.principal, call.body, client))

    def _route(self, call: _Call) -> Response:
        path = resolve(call.request.path)
        method = "GET" if call.request.method == "HEAD" else call.request.method
        without_token: dict[str, tuple[str, Callable[[_Call], Response] | None]] = {
            "/": ("GET", self._root),
            "/dashboard/index.html": ("GET", self._dashboard),
            "/healthcheck": ("GET", self._healthcheck),
            "/info": ("GET", self._info),
            "/v1/auth/iam-role": ("POST", self._authenticate_by_kms if self.v1_enabled and self.kms_enabled else None),
            "/v2/auth/iam-principal": ("POST", self._authenticate_by_kms if self.kms_enabled else None),
            "/v2/auth/sts-identity": ("POST", self._authenticate_by_sts if self.sts_enabled else None),
        }
        if path in without_token:
            only, answer = without_token[path]
            if answer is None:
                return not_mapped(call.request)
            _check_method(method, only)
            return answer(call)
        self._check_token(call)
        if path == "/v1/auth":
            _check_method(method, "DELETE")
            self.revoke(call.token)
            return Response(204)
        if path == "/v2/safe-deposit-box":
            _check_method(method, "GET")
            return self._list_boxes(call)
        below: dict[str, tuple[Callable[[_Call, str], Response], Collection[str]]] = {
            "/v1/secret/": (self._read_secret, _READ_AND_WRITE),
            "/v1/secure-file/": (self._read_file, _READ_AND_WRITE),
            "/v1/secret-versions/": (self._list_versions, ["GET"]),
            "/v1/secure-files/": (self._list_files, ["GET"]),
        }
        for prefix, (read, methods) in below.items():
            if path.startswith(prefix):
                _check_method(method, *methods)
                return read(call, path.removeprefix(prefix).strip("/"))
        return not_mapped(call.request)

    def _root(self, call: _Call) -> Response:
        return Response(302, headers={"Location": "/dashboard/index.html"})

    def _dashboard(self, call: _Call) -> Response:
        page = b"<!doctype html><html><head><title>Cerberus Management Dashboard</title></head><body></body></html>"
        return Response(200, page, {"Content-Type": "text/html"})

    def _healthcheck(self, call: _Call) -> Response:
        is_up = self._database_answers()
        return as_json(200 if is_up else 503, {"status": "UP" if is_up else "DOWN"}, ACTUATOR)

    def _info(self, call: _Call) -> Response:
        build = {
            "version": VERSION,
            "artifact": "cerberus-web",
            "name": "cerberus",
            "group": "com.nike.cerberus",
            "time": _STARTED,
        }
        return as_json(200, {"build": build}, ACTUATOR)

    def _database_answers(self) -> bool:
        """Return whether the database is there; wait as long as it hangs."""
        outage = self._outage
        if outage is None:
            return True
        until = time.monotonic() + outage.seconds
        while not outage.over.is_set() and (left := until - time.monotonic()) > 0:
            self.server.pause(0)  # ends with the server
            outage.over.wait(min(left, 0.05))
        return outage.seconds > 0 and outage.over.is_set()

    # Authentication

    def _authenticate_by_kms(self, call: _Call) -> Response:
        body = call.body
        if body is None:
            raise unexpected()
        if call.request.path.startswith("/v1/"):
            # As the service does: always this partition.
            call.principal = f"arn:aws:iam::{body.get('account_id')}:role/{body.get('role_name')}"
            named = {"aws_account_id": body.get("account_id"), "aws_iam_role_name": body.get("role_name")}
        elif body.get("iam_principal_arn") is None:
            raise unexpected()
        else:
            call.principal = str(body["iam_principal_arn"]).rstrip()
            named = {"aws_iam_principal_arn": call.principal}
        registered = self._look_up(call.principal)
        region = str(body.get("region"))
        if region not in REGIONS:
            raise RefusalError(400, 99229, "Invalid AWS region provided during authentication.")

        question = (call.request.path, call.principal, region)
        with self._lock:
            until, response = self._answers.get(question, (0.0, None))
            if response is not None and time.monotonic() < until:
                self.cached_answers += 1
                return response

        try:
            key_arn = self.key_arn(registered, region)
            plaintext = self._new_token(call.principal, {"aws_region": region, **named}, for_kms=True)
            ciphertext = self._keys.encrypt(plaintext, key_arn, region)
        except KeyUnusableError as error:
            raise RefusalError(500, 99998, "Internal server error has occurred.") from error
        auth_data = self.auth_data_override
        response = as_json(
            200, {"auth_data": base64.b64encode(ciphertext).decode() if auth_data is None else auth_data}
        )
        with self._lock:
            self.authentications += 1
            if self.kms_cache_seconds > 0:
                self._answers[question] = (time.monotonic() + self.kms_cache_seconds, response)
        return response

    def _authenticate_by_sts(self, call: _Call) -> Response:
        call.principal = self._callers.caller(call.request, self._signed_for(call.request))
        self._look_up(call.principal)
        token = self._new_token(call.principal, {"aws_iam_principal_arn": call.principal}, for_kms=False)
        with self._lock:
            self.authentications += 1
        return Response(200, token, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})

    def _signed_for(self, request: Request) -> str:
        """Give the region that a request was signed for."""
        authorization = request.headers["Authorization"]
        if not authorization or not request.headers["x-amz-date"]:
            raise RefusalError(400, 99236, "One or more required headers are missing.")
        scope = _CREDENTIAL_SCOPE.search(authorization)
        if scope is None or scope["region"] not in REGIONS:
            raise RefusalError(400, 99999, "Request will not be completed.")
        return scope["region"]

    def _look_up(self, principal: str) -> str:
        """Find the role, or other principal, that a key is kept for.

        :raises RefusalError: the ARN is none, its partition is switched off, or nothing is granted to it.
        """
        arn = _PRINCIPAL.fullmatch(principal)
        if arn is None:
            raise RefusalError(400, 99996, f"The arn {principal} was not a valid arn.")
        if arn["partition"] not in self.partitions:
            code = 99244 if arn["partition"] == "aws-cn" else 99245
            raise RefusalError(401, code, f"The partition {arn['partition']} is disabled by the admin.")
        if not self._database_answers():
            raise unexpected()
        as_given, *others = _names(arn)
        with self._lock:
            if self._grants.get(as_given):
                return as_given
            if any(self._grants.get(other) for other in others):
                return others[0] if len(others) > 1 else as_given
        raise RefusalError(400, 99216, f"The role: {principal} was not configured for any SDB.")

    def _new_token(self, principal: str, named: Mapping[str, Any], *, for_kms: bool) -> bytes:
        """Make a token and give the JSON that tells of it."""
        lease = self.lease_seconds
        seconds = lease if isinstance(lease, int | float) and abs(lease) < 1e12 else DEFAULT_LEASE_SECONDS
        value = secrets.token_urlsafe(48)
        with self._lock:
            self._tokens[value] = _Token(principal, time.monotonic() + seconds)
        if self.plaintext_override is not None:
            return self.plaintext_override
        token: dict[str, Any] = {
            "client_token": value,
            "policies": [],
            "metadata": {
                "username": principal,
                "is_iam_principal": "true",
                "is_admin": "false",
                "groups": "registered-iam-principals",
                **named,
            },
            "lease_duration": lease,
            "renewable": False,
        }
        if lease is None:
            del token["lease_duration"]
        encoded = json.dumps(token).encode()
        if for_kms and (self.truncate_metadata or len(encoded) > KMS_PLAINTEXT_LIMIT):
            token |= {"metadata": {"_truncated": "true"}, "policies": ["_truncated"]}
            encoded = json.dumps(token).encode()
        return encoded

    # What a token is for

    def _check_token(self, call: _Call) -> None:
        """Note the principal that the request's token was made for."""
        # The service takes a database that is away for a token that it does not know.
        known = bool(call.token) and self._database_answers()
        with self._lock:
            token = self._tokens.get(call.token) if known else None
        if token is not None:
            call.principal = token.principal
        if token is None or time.monotonic() >= token.expires:
            raise RefusalError(401, 99105, "X-Vault-Token or X-Cerberus-Token header is malformed or invalid.")

    def _boxes(self) -> set[str]:
        """All safe deposit boxes: those granted to somebody, and those that hold something. The lock is held."""
        used = {"/".join(path.split("/")[:2]) for path in (*self._secrets, *self._files)}
        return used.union(*self._grants.values())

    def _may_read(self, call: _Call, box: str) -> bool:
        """Whether a box is granted to who has the token. The lock is held."""
        arn = _PRINCIPAL.fullmatch(call.principal or "")
        return arn is not None and any(box in self._grants.get(name, ()) for name in _names(arn))

    def _check_access(self, call: _Call, path: str) -> None:
        category, _, below = path.partition("/")
        box = f"{category}/{below.partition('/')[0]}"
        if not below:
            raise RefusalError(400, 99999, "Request will not be completed.")
        if _beyond_the_database(box):
            raise unexpected()
        with self._lock:
            is_there, may_read = box in self._boxes(), self._may_read(call, box)
        if not is_there:
            raise RefusalError(404, 99996, "Not found")
        if not may_read or call.request.method not in ("GET", "HEAD"):  # it is granted for reading
            raise RefusalError(403, 99994, "Access to the requested resource was denied.")
        if _beyond_the_database(path):
            raise unexpected()

    def _list_boxes(self, call: _Call) -> Response:
        with self._lock:
            boxes = sorted(box for box in self._boxes() if self._may_read(call, box))
        return as_json(200, [_summary(box) for box in boxes])

    def _read_secret(self, call: _Call, path: str) -> Response:
        self._check_access(call, path)
        query = call.request.query
        if query.get("list", "").lower() == "true":
            with self._lock:
                below = [name.removeprefix(f"{path}/") for name in self._secrets if name.startswith(f"{path}/")]
            keys = {head + slash for head, slash, _ in (name.partition("/") for name in below)}
            # The service sorts nothing. This order is never the sorted one where there are two.
            return _of_vault(None, {"keys": sorted(keys, reverse=True)}, {})
        with self._lock:
            versions = dict(self._secrets.get(path, {}))
        stored = _asked_for(query, versions)
        if stored is None:
            return Response(404)
        if "versionId" in query:
            metadata = {"version_id": query["versionId"], **_written(stored)}
        else:
            first = next(iter(versions.values()))
            metadata = _last_written("created", first) | _last_written("last_updated", stored)
        return _of_vault(str(uuid.uuid4()), stored.content, metadata)

    def _read_file(self, call: _Call, path: str) -> Response:
        self._check_access(call, path)
        with self._lock:
            stored = _asked_for(call.request.query, self._files.get(path, {}))
        if stored is None:
            raise RefusalError(404, 99996, "Not found")
        return Response(200, stored.content, file_headers(path.rpartition("/")[2]))

    def _list_versions(self, call: _Call, path: str) -> Response:
        self._check_access(call, path)
        with self._lock:
            kind, stored = ("OBJECT", self._secrets) if path in self._secrets else ("FILE", self._files)
            versions = list(stored.get(path, {}).items())
        if versions:
            versions[-1] = ("CURRENT", versions[-1][1])
        found = [
            {
                "id": version,
                "sdbox_id": _box_id(path),
                "path": path,
                "type": kind,
                "size_in_bytes": each.size,
                **_written(each),
            }
            for version, each in reversed(versions)
        ]
        return _page(call.request, found, "secure_data_version_summaries", "version")

    def _list_files(self, call: _Call, path: str) -> Response:
        self._check_access(call, path)
        with self._lock:
            files = {name: list(each.values()) for name, each in self._files.items() if name.startswith(f"{path}/")}
        found = [
            {
                "sdbox_id": _box_id(name),
                "path": name.partition("/")[2],  # without the category, as the service has it
                "size_in_bytes": versions[-1].size,
                "name": name.rpartition("/")[2],
                **_last_written("created", versions[0]),
                **_last_written("last_updated", versions[-1]),
            }
            for name, versions in sorted(files.items())
        ]
        return _page(call.request, found, "secure_file_summaries", "file")


@dataclass(frozen=True)
class _Outage:
    """The database refuses connections (no seconds), or does not answer for so many seconds."""

    seconds: float
    over: threading.Event = field(default_factory=threading.Event)


class _Call:
    """A request, and what becomes known of it on the way to its answer."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.principal: str | None = None
        self.token: str = request.headers["X-Cerberus-Token"] or request.headers["X-Vault-Token"] or ""
        self.body: dict[str, Any] | None = None
        try:
            body = json.loads(request.body)
        except ValueError:
            return
        if isinstance(body, dict):
            self.body = body


def _names(arn: re.Match[str]) -> list[str]:
    """By which the service looks a principal up, in this order: as given, as a role, the whole account."""
    partition, account = arn["partition"], arn["account"]
    # An assumed role has lost the path of its role, which is therefore not found by this name.
    as_role = [] if _ROLE.fullmatch(arn[0]) else [f"arn:{partition}:iam::{account}:role/{arn['name']}"]
    return [arn[0], *as_role, f"arn:{partition}:iam::{account}:root"]


def _check_method(method: str, *known: str) -> None:
    if method not in known:
        raise RefusalError(405, 120, "Http Request method not allowed for this resource")


def _beyond_the_database(text: str) -> bool:
    """Whether there is a character that the database's three-byte UTF-8 cannot hold."""
    return any(each > "\uffff" for each in text)


def _asked_for(query: Mapping[str, str], versions: Mapping[str, _Version]) -> _Version | None:
    """Find the version that a request asks for, by default the current one."""
    version = query.get("versionId", "CURRENT")
    if version == "CURRENT":
        version = next(reversed(list(versions)), "")
    return versions.get(version)


def _of_vault(request_id: str | None, data: Any, metadata: dict[str, str]) -> Response:
    """Return a secret or a list with the fields of the days when Vault kept them."""
    return as_json(
        200,
        {
            "request_id": request_id,
            "lease_id": "",
            "renewable": False,
            "lease_duration": 3600,
            "wrap_info": None,
            "warnings": None,
            "auth": None,
            "data": data,
            "metadata": metadata,
        },
    )


def _written(version: _Version) -> dict[str, str]:
    return {
        "action": version.action,
        "action_principal": _WRITER,
        "action_ts": version.created,
        "version_created_by": _WRITER,
        "version_created_ts": version.created,
    }


def _last_written(what: str, version: _Version) -> dict[str, str]:
    return {f"{what}_by": _WRITER, f"{what}_ts": version.created}


def _summary(box: str) -> dict[str, str]:
    category, _, name = box.partition("/")
    return {"id": _box_id(box), "name": name, "path": f"{box}/", "category_id": _id(category)}


def _box_id(path: str) -> str:
    return _id("/".join(path.split("/")[:2]))


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def _page(request: Request, found: list[dict[str, Any]], name: str, kind: str) -> Response:
    """A page of a list, as the service counts it."""
    given = request.query.get("limit", "100"), request.query.get("offset", "0")
    if not all(re.fullmatch("[0-9]{1,9}", number) for number in given):
        raise RefusalError(400, 99999, "Request will not be completed.")
    limit, offset = map(int, given)
    page, has_next = found[offset : offset + limit], len(found) > offset + limit
    if kind == "version" and not page:
        raise RefusalError(400, 99999, "Request will not be completed.")
    counts = {f"{kind}_count_in_result": len(page), f"total_{kind}_count": len(found)}
    bounds = {
        "limit": limit,
        "offset": offset,
        "has_next": has_next,
        "next_offset": offset + limit if has_next else None,
    }
    return as_json(200, {**bounds, **counts, name: page})
