"""A fake of the Cerberus management service: authentication by KMS and STS, secrets, files and revocation.

It behaves like Cerberus 4.13.0, also in error cases and during outages. The caller provides KMS (``Keys``) and STS
(``Callers``).
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
from .web import (
    ACTUATOR,
    PageError,
    RefusalError,
    as_json,
    file_headers,
    not_mapped,
    resolve,
    unexpected_error,
    with_common_headers,
)

VERSION = "4.13.0"
"""The version of Cerberus that this fake behaves like."""

_REGION_NAMES = """
us-gov-west-1 us-gov-east-1 us-east-1 us-east-2 us-west-1 us-west-2 eu-west-1 eu-west-2 eu-west-3 eu-central-1 eu-central-2
eu-north-1 eu-south-1 eu-south-2 ap-east-1 ap-south-1 ap-south-2 ap-southeast-1 ap-southeast-2 ap-southeast-3 ap-southeast-4
ap-northeast-1 ap-northeast-2 ap-northeast-3 sa-east-1 cn-north-1 cn-northwest-1 ca-central-1 me-central-1 me-south-1
af-south-1
"""
REGIONS = frozenset(_REGION_NAMES.split())
"""The regions that Cerberus knows: those of AWS SDK for Java 1.12.454, its dependency."""

KMS_PLAINTEXT_LIMIT = 4096
"""The maximum number of bytes that KMS encrypts. Cerberus shortens larger responses."""

DEFAULT_LEASE_SECONDS = 3600

_WRITER = "owner@example.com"
"""The user that created and updated all secrets and files."""

_READ_AND_WRITE = ("GET", "POST", "PUT", "DELETE")
_STARTED = datetime.now(UTC).isoformat(timespec="milliseconds")

_PRINCIPAL = re.compile(
    r"arn:(?P<partition>aws|aws-cn):(?:iam|sts)::(?P<account>\d+):(?!group)\w[^/:]*/(?P<name>[^/]+).*"
)
_ROLE = re.compile(r"arn:[^:]+:iam::\d+:role/.+")
_CREDENTIAL_SCOPE = re.compile(r"Credential=[^/,\s]+/\d{8}/(?P<region>[^/,\s]+)/sts/aws4_request")


class Call(NamedTuple):
    """A request to Cerberus and the status of its response. ``status`` is 0 if a fault prevented the response."""

    method: str
    path: str
    status: int
    principal: str | None
    """The ARN that authenticated, or the owner of the token. ``None`` if unknown."""
    body: dict[str, Any] | None
    """The JSON object in the body of the request."""
    client: str | None
    """The ``X-Cerberus-Client`` header."""


@dataclass(frozen=True)
class _Token:
    principal: str
    expires: float
    """By ``time.monotonic()``, in seconds."""


@dataclass(frozen=True)
class _Version:
    """One version of a secret or a file."""

    content: Any
    size: int
    action: str
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))


class KeyUnusableError(Exception):
    """The KMS key of a principal cannot be created or used."""


class Keys(Protocol):
    """KMS in the AWS account of Cerberus."""

    def create(self, principal: str, region: str) -> str:
        """Create a key that only the principal can decrypt with.

        Parameters
        ----------
        principal : str
            The ARN of the principal.
        region : str
            The AWS region of the key.

        Returns
        -------
        str
            The ARN of the key.

        Raises
        ------
        KeyUnusableError
            KMS cannot create the key.
        """

    def encrypt(self, plaintext: bytes, key_arn: str, region: str) -> bytes:
        """Encrypt with a key.

        Parameters
        ----------
        plaintext : bytes
            4,096 bytes at most.
        key_arn : str
            The ARN of the key.
        region : str
            The AWS region of the key.

        Returns
        -------
        bytes
            The ciphertext.

        Raises
        ------
        KeyUnusableError
            KMS cannot use the key.
        """


class Callers(Protocol):
    """STS, which identifies the signer of a request."""

    def caller(self, request: Request, region: str) -> str:
        """Return the ARN of the signer of a request.

        Parameters
        ----------
        request : Request
            A signed request.
        region : str
            The AWS region of STS.

        Returns
        -------
        str
            The ARN.

        Raises
        ------
        RefusalError
            The signature is not valid.
        """


class Cerberus:
    """Run a fake Cerberus on a loopback address, until ``close`` or the end of the ``with`` block. Thread-safe.

    Parameters
    ----------
    keys : Keys
        KMS, which encrypts the auth responses.
    callers : Callers
        STS, which identifies the signer of a request.
    tls : ssl.SSLContext, optional
        The TLS context of the server. Plain HTTP by default.
    port : int
        The port. 0: the operating system chooses a free one.

    Raises
    ------
    OSError
        The port is in use.
    """

    def __init__(self, keys: Keys, callers: Callers, *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.lease_seconds: Any = DEFAULT_LEASE_SECONDS
        """The lease that responses contain. Any value is sent as it is; ``None`` omits it. An invalid lease lasts one hour."""
        self.kms_enabled = True
        self.sts_enabled = True
        self.v1_enabled = True
        """Whether ``/v1/auth/iam-role`` is enabled. It requires ``kms_enabled`` too."""
        self.kms_cache_seconds: float = 0
        """Seconds for which a principal gets the same KMS response in a region, even if its token is revoked."""
        self.answer_after_seconds: float = 0
        """The minimum time of each response, in seconds."""
        self.key_creation_seconds: float = 0
        """Seconds that KMS needs to create a key."""
        self.partitions = {"aws", "aws-cn"}
        """The enabled AWS partitions."""
        self.truncate_metadata = False
        """Whether to shorten KMS responses that would fit too."""
        self.plaintext_override: bytes | None = None
        """Sent instead of the JSON with the token: encrypted for KMS, not encrypted for STS."""
        self.auth_data_override: str | None = None
        """Sent instead of the base64 of the ciphertext."""

        self.calls: list[Call] = []
        self.authentications = 0
        """The number of tokens issued."""
        self.cached_answers = 0
        """The number of KMS responses sent again."""
        self.keys_made = 0
        """The number of KMS keys created, including unused ones of concurrent requests."""

        self._lock = threading.Lock()
        self._grants: defaultdict[str, set[str]] = defaultdict(set)
        self._tokens: dict[str, _Token] = {}
        self._responses: dict[tuple[str, str, str], tuple[float, Response]] = {}
        self._secrets: defaultdict[str, dict[str, _Version]] = defaultdict(dict)
        self._files: defaultdict[str, dict[str, _Version]] = defaultdict(dict)
        self._key_arns: dict[tuple[str, str], str] = {}
        self._outage: _Outage | None = None
        self._keys = keys
        self._callers = callers
        self.server = Server(self._respond, tls, port, replaced=self._count_replaced)
        self.url = self.server.url

    # Setup of a test

    def grant(self, principal_arn: str, sdb: str = "app/orders") -> None:
        """Give a principal access to a safe deposit box.

        Parameters
        ----------
        principal_arn : str
            The ARN of a principal, or the root ARN of an account.
        sdb : str
            ``category/box``.
        """
        with self._lock:
            self._grants[principal_arn].add(sdb)

    def deny(self, principal_arn: str) -> None:
        """Remove a principal from all safe deposit boxes."""
        with self._lock:
            self._grants.pop(principal_arn, None)

    def put_secret(self, path: str, data: dict[str, str]) -> str:
        """Store a new version of a secret (``category/box/path``), and return the ID of the version."""
        return self._put(self._secrets, path, dict(data), len(json.dumps(data)))

    def put_file(self, path: str, content: bytes) -> str:
        """Store a new version of a file (``category/box/path``), and return the ID of the version."""
        return self._put(self._files, path, content, len(content))

    def _put(self, stored: defaultdict[str, dict[str, _Version]], path: str, content: Any, size: int) -> str:
        version = str(uuid.uuid4())
        with self._lock:
            versions = stored[path]
            versions[version] = _Version(content, size, "UPDATE" if versions else "CREATE")
        return version

    def revoke(self, token: str | None = None) -> None:
        """Revoke a token, by default all tokens."""
        with self._lock:
            if token is None:
                self._tokens.clear()
            else:
                self._tokens.pop(token, None)

    def key_arn(self, principal: str, region: str) -> str:
        """Return the ARN of the KMS key of a principal in a region. Create the key if there is none.

        Concurrent requests each create a key. Cerberus records one of them, and the other requests fail.
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
                raise unexpected_error()
        return created

    @contextlib.contextmanager
    def database_down(self) -> Iterator[None]:
        """Return a context manager in which tokens get 401 and authentications 500, as without a database."""
        with self._without_database(0):
            yield

    @contextlib.contextmanager
    def database_hanging(self, seconds: float = 60) -> Iterator[None]:
        """Return a context manager in which requests that need the database hang, then fail as in ``database_down``.

        When the context ends, waiting requests get their normal response.

        Parameters
        ----------
        seconds : float
            The time after which a request fails.
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

    # Results of a test

    def count(self, path_prefix: str) -> int:
        """Return the number of requests whose path starts with a prefix, failed ones included."""
        with self._lock:
            return sum(call.path.startswith(path_prefix) for call in self.calls)

    def close(self) -> None:
        """Stop the server and close its connections. Safe to repeat."""
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
            response = with_common_headers(self._route(call), request)
        except PageError as page:
            response = page.response
        except RefusalError as refusal:
            response = with_common_headers(refusal.response, request)
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
        """Return whether the database responds. Wait while it hangs."""
        outage = self._outage
        if outage is None:
            return True
        until = time.monotonic() + outage.seconds
        while not outage.over.is_set() and (left := until - time.monotonic()) > 0:
            self.server.pause(0)  # raises once the server is closed
            outage.over.wait(min(left, 0.05))
        return outage.seconds > 0 and outage.over.is_set()

    # Authentication

    def _authenticate_by_kms(self, call: _Call) -> Response:
        body = call.body
        if body is None:
            raise unexpected_error()
        if call.request.path.startswith("/v1/"):
            # Cerberus always uses this partition here.
            call.principal = f"arn:aws:iam::{body.get('account_id')}:role/{body.get('role_name')}"
            named = {"aws_account_id": body.get("account_id"), "aws_iam_role_name": body.get("role_name")}
        elif body.get("iam_principal_arn") is None:
            raise unexpected_error()
        else:
            call.principal = str(body["iam_principal_arn"]).rstrip()
            named = {"aws_iam_principal_arn": call.principal}
        registered = self._registered_name(call.principal)
        region = str(body.get("region"))
        if region not in REGIONS:
            raise RefusalError(400, 99229, "Invalid AWS region provided during authentication.")

        cache_key = (call.request.path, call.principal, region)
        with self._lock:
            until, response = self._responses.get(cache_key, (0.0, None))
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
                self._responses[cache_key] = (time.monotonic() + self.kms_cache_seconds, response)
        return response

    def _authenticate_by_sts(self, call: _Call) -> Response:
        call.principal = self._callers.caller(call.request, self._signed_region(call.request))
        self._registered_name(call.principal)
        token = self._new_token(call.principal, {"aws_iam_principal_arn": call.principal}, for_kms=False)
        with self._lock:
            self.authentications += 1
        return Response(200, token, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"})

    def _signed_region(self, request: Request) -> str:
        """Return the region in the signature of a request."""
        authorization = request.headers["Authorization"]
        if not authorization or not request.headers["x-amz-date"]:
            raise RefusalError(400, 99236, "One or more required headers are missing.")
        scope = _CREDENTIAL_SCOPE.search(authorization)
        if scope is None or scope["region"] not in REGIONS:
            raise RefusalError(400, 99999, "Request will not be completed.")
        return scope["region"]

    def _registered_name(self, principal: str) -> str:
        """Return the ARN under which a principal has a KMS key.

        Raises
        ------
        RefusalError
            The ARN is not valid, its partition is disabled, or it has access to no box.
        """
        arn = _PRINCIPAL.fullmatch(principal)
        if arn is None:
            raise RefusalError(400, 99996, f"The arn {principal} was not a valid arn.")
        if arn["partition"] not in self.partitions:
            code = 99244 if arn["partition"] == "aws-cn" else 99245
            raise RefusalError(401, code, f"The partition {arn['partition']} is disabled by the admin.")
        if not self._database_answers():
            raise unexpected_error()
        as_given, *others = _lookup_names(arn)
        with self._lock:
            if self._grants.get(as_given):
                return as_given
            if any(self._grants.get(other) for other in others):
                return others[0] if len(others) > 1 else as_given
        raise RefusalError(400, 99216, f"The role: {principal} was not configured for any SDB.")

    def _new_token(self, principal: str, named: Mapping[str, Any], *, for_kms: bool) -> bytes:
        """Create a token, and return the JSON of the response with it."""
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

    # Secrets, files and lists

    def _check_token(self, call: _Call) -> None:
        """Check the token of a request, and record its principal."""
        # Without its database, Cerberus rejects all tokens as unknown.
        known = bool(call.token) and self._database_answers()
        with self._lock:
            token = self._tokens.get(call.token) if known else None
        if token is not None:
            call.principal = token.principal
        if token is None or time.monotonic() >= token.expires:
            raise RefusalError(401, 99105, "X-Vault-Token or X-Cerberus-Token header is malformed or invalid.")

    def _boxes(self) -> set[str]:
        """Return all boxes: those with a principal, and those with a secret or file. The caller holds the lock."""
        used = {"/".join(path.split("/")[:2]) for path in (*self._secrets, *self._files)}
        return used.union(*self._grants.values())

    def _may_read(self, call: _Call, box: str) -> bool:
        """Return whether the owner of the token has access to a box. The caller holds the lock."""
        arn = _PRINCIPAL.fullmatch(call.principal or "")
        return arn is not None and any(box in self._grants.get(name, ()) for name in _lookup_names(arn))

    def _check_access(self, call: _Call, path: str) -> None:
        category, _, below = path.partition("/")
        box = f"{category}/{below.partition('/')[0]}"
        if not below:
            raise RefusalError(400, 99999, "Request will not be completed.")
        if _has_four_byte_characters(box):
            raise unexpected_error()
        with self._lock:
            is_there, may_read = box in self._boxes(), self._may_read(call, box)
        if not is_there:
            raise RefusalError(404, 99996, "Not found")
        if not may_read or call.request.method not in ("GET", "HEAD"):  # all grants are read-only
            raise RefusalError(403, 99994, "Access to the requested resource was denied.")
        if _has_four_byte_characters(path):
            raise unexpected_error()

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
            # Cerberus does not sort. Two or more keys are never in sorted order here, so tests find a missing sort.
            return _vault_response(None, {"keys": sorted(keys, reverse=True)}, {})
        with self._lock:
            versions = dict(self._secrets.get(path, {}))
        stored = _requested_version(query, versions)
        if stored is None:
            return Response(404)
        if "versionId" in query:
            metadata = {"version_id": query["versionId"], **_version_fields(stored)}
        else:
            first = next(iter(versions.values()))
            metadata = _change_fields("created", first) | _change_fields("last_updated", stored)
        return _vault_response(str(uuid.uuid4()), stored.content, metadata)

    def _read_file(self, call: _Call, path: str) -> Response:
        self._check_access(call, path)
        with self._lock:
            stored = _requested_version(call.request.query, self._files.get(path, {}))
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
                **_version_fields(each),
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
                "path": name.partition("/")[2],  # Cerberus omits the category
                "size_in_bytes": versions[-1].size,
                "name": name.rpartition("/")[2],
                **_change_fields("created", versions[0]),
                **_change_fields("last_updated", versions[-1]),
            }
            for name, versions in sorted(files.items())
        ]
        return _page(call.request, found, "secure_file_summaries", "file")


@dataclass(frozen=True)
class _Outage:
    """An outage of the database: it is down (0 seconds), or each request hangs for some seconds."""

    seconds: float
    over: threading.Event = field(default_factory=threading.Event)


class _Call:
    """A request that is being handled, with its principal, token and body."""

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


def _lookup_names(arn: re.Match[str]) -> list[str]:
    """Return the names under which Cerberus looks up a principal, in order: as sent, as a role, as an account."""
    partition, account = arn["partition"], arn["account"]
    # The ARN of an assumed role does not contain the path of the role, so Cerberus does not find a role with a path.
    as_role = [] if _ROLE.fullmatch(arn[0]) else [f"arn:{partition}:iam::{account}:role/{arn['name']}"]
    return [arn[0], *as_role, f"arn:{partition}:iam::{account}:root"]


def _check_method(method: str, *known: str) -> None:
    if method not in known:
        raise RefusalError(405, 120, "Http Request method not allowed for this resource")


def _has_four_byte_characters(text: str) -> bool:
    """Return whether a text has characters that the three-byte UTF-8 of the database cannot store."""
    return any(each > "\uffff" for each in text)


def _requested_version(query: Mapping[str, str], versions: Mapping[str, _Version]) -> _Version | None:
    """Return the version that a request names, by default the current one."""
    version = query.get("versionId", "CURRENT")
    if version == "CURRENT":
        version = next(reversed(list(versions)), "")
    return versions.get(version)


def _vault_response(request_id: str | None, data: Any, metadata: dict[str, str]) -> Response:
    """Return a secret or a list with the fields that Vault used, as Cerberus still does."""
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


def _version_fields(version: _Version) -> dict[str, str]:
    return {
        "action": version.action,
        "action_principal": _WRITER,
        "action_ts": version.created,
        "version_created_by": _WRITER,
        "version_created_ts": version.created,
    }


def _change_fields(what: str, version: _Version) -> dict[str, str]:
    return {f"{what}_by": _WRITER, f"{what}_ts": version.created}


def _summary(box: str) -> dict[str, str]:
    category, _, name = box.partition("/")
    return {"id": _box_id(box), "name": name, "path": f"{box}/", "category_id": _id(category)}


def _box_id(path: str) -> str:
    return _id("/".join(path.split("/")[:2]))


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def _page(request: Request, found: list[dict[str, Any]], name: str, kind: str) -> Response:
    """Return one page of a list, with the counts of Cerberus."""
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
