"""A stand-in for Cerberus' management service: authentication by KMS and by STS, secrets, files, revocation.

It holds to the service's wire contract, its error codes included. It is given the keys that it encrypts with, and whoever
knows the signer of a request.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import ssl
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import unquote

from .http_server import Request, Response, Server

KMS_PLAINTEXT_LIMIT = 4096
"""Bytes that KMS encrypts at most; the service shortens its answer to fit."""

DEFAULT_LEASE_SECONDS = 3600

_WRITER = "owner@example.com"
"""Who has put everything here, as the lists say."""

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


class RefusalError(Exception):
    """An answer in the service's error format."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        errors = [{"code": code, "message": message}]
        self.response = _json(status, {"error_id": str(uuid.uuid4()), "errors": errors})


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
    """A principal's key could not be made or used."""


class Keys(Protocol):
    """The KMS keys of Cerberus' account: one for each principal in each region."""

    def encrypt(self, plaintext: bytes, principal: str, region: str) -> bytes:
        """Encrypt for this principal.

        :raises KeyUnusableError: that is not possible.
        """

    def knows(self, region: str) -> bool:
        """Whether there is such a region."""


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

        self._lock = threading.Lock()
        self._grants: defaultdict[str, set[str]] = defaultdict(set)
        self._tokens: dict[str, _Token] = {}
        self._answers: dict[tuple[str, str, str], tuple[float, Response]] = {}
        self._secrets: defaultdict[str, dict[str, _Version]] = defaultdict(dict)
        self._files: defaultdict[str, dict[str, _Version]] = defaultdict(dict)
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
            response = self._route(call)
        except RefusalError as refusal:
            response = refusal.response
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
        method, path = call.request.method, call.request.path
        if (method, path) == ("POST", "/v2/auth/iam-principal"):
            return self._authenticate_by_kms(call) if self.kms_enabled else _switched_off()
        if (method, path) == ("POST", "/v1/auth/iam-role"):
            return self._authenticate_by_kms(call) if self.kms_enabled and self.v1_enabled else _switched_off()
        if (method, path) == ("POST", "/v2/auth/sts-identity"):
            return self._authenticate_by_sts(call) if self.sts_enabled else _switched_off()
        if (method, path) == ("DELETE", "/v1/auth"):
            self._check_token(call)
            self.revoke(call.token)
            return Response(204)
        if method == "GET" and path.startswith("/v1/secret/"):
            return self._read_secret(call, unquote(path.removeprefix("/v1/secret/")).strip("/"))
        if method == "GET" and path.startswith("/v1/secure-file/"):
            return self._read_file(call, unquote(path.removeprefix("/v1/secure-file/")).strip("/"))
        if method == "GET" and path.startswith("/v1/secret-versions/"):
            return self._list_versions(call, unquote(path.removeprefix("/v1/secret-versions/")).strip("/"))
        if method == "GET" and path.startswith("/v1/secure-files/"):
            return self._list_files(call, unquote(path.removeprefix("/v1/secure-files/")).strip("/"))
        raise RefusalError(404, 99996, "Not Found")

    # Authentication

    def _authenticate_by_kms(self, call: _Call) -> Response:
        body = call.body or {}
        if call.request.path.startswith("/v1/"):
            # As the service does: always this partition.
            call.principal = f"arn:aws:iam::{body.get('account_id')}:role/{body.get('role_name')}"
            named = {"aws_account_id": body.get("account_id"), "aws_iam_role_name": body.get("role_name")}
        else:
            call.principal = str(body.get("iam_principal_arn"))
            named = {"aws_iam_principal_arn": call.principal}
        region = body.get("region")
        if not isinstance(region, str) or not region.strip():
            raise RefusalError(400, 99229, "The region cannot be blank.")
        if not self._keys.knows(region):
            raise RefusalError(400, 99215, f"The region {region} is not one.")
        registered = self._look_up(call.principal)

        question = (call.request.path, call.principal, region)
        with self._lock:
            until, response = self._answers.get(question, (0.0, None))
            if response is not None and time.monotonic() < until:
                self.cached_answers += 1
                return response

        plaintext = self._new_token(call.principal, {"aws_region": region, **named}, for_kms=True)
        try:
            ciphertext = self._keys.encrypt(plaintext, registered, region)
        except KeyUnusableError as error:
            raise RefusalError(500, 99223, f"The principal's KMS key could not be used: {error}") from error
        auth_data = self.auth_data_override
        response = _json(200, {"auth_data": base64.b64encode(ciphertext).decode() if auth_data is None else auth_data})
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
        return Response(200, token, {"Content-Type": "application/json"})

    def _signed_for(self, request: Request) -> str:
        """Give the region that a request was signed for."""
        authorization = request.headers["Authorization"]
        if not authorization or not request.headers["x-amz-date"]:
            raise RefusalError(400, 99236, "A header of the signature is missing.")
        scope = _CREDENTIAL_SCOPE.search(authorization)
        if scope is None:
            raise RefusalError(400, 99237, "The signature has no credential scope for STS.")
        region = scope["region"]
        if not self._keys.knows(region):
            raise RefusalError(400, 99215, f"The region {region} is not one.")
        return region

    def _look_up(self, principal: str) -> str:
        """Find the role, or other principal, that a key is kept for.

        :raises RefusalError: the ARN is none, its partition is switched off, or nothing is granted to it.
        """
        arn = _PRINCIPAL.fullmatch(principal)
        if arn is None:
            raise RefusalError(400, 99996, f"The arn {principal} was not a valid arn.")
        if arn["partition"] not in self.partitions:
            code = 99244 if arn["partition"] == "aws" else 99245
            raise RefusalError(401, code, f"The partition {arn['partition']} is switched off.")
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

    def _check_token(self, call: _Call) -> str:
        """Give the principal that the request's token was made for."""
        with self._lock:
            token = self._tokens.get(call.token)
        if token is None:
            raise RefusalError(401, 99105, "The token is missing, malformed or revoked.")
        call.principal = token.principal
        if time.monotonic() >= token.expires:
            raise RefusalError(401, 99105, "The token has expired.")
        return token.principal

    def _check_access(self, call: _Call, path: str) -> None:
        arn = _PRINCIPAL.fullmatch(self._check_token(call))
        sdb = "/".join(path.split("/")[:2])
        with self._lock:
            if arn is None or not any(sdb in self._grants.get(name, ()) for name in _names(arn)):
                raise RefusalError(403, 99994, "Permission was not granted to this principal for the requested path.")

    def _read_secret(self, call: _Call, path: str) -> Response:
        self._check_access(call, path)
        metadata: dict[str, str] = {}
        data: dict[str, Any]
        with self._lock:
            if call.request.query.get("list") == "true":
                below = [name.removeprefix(f"{path}/") for name in self._secrets if name.startswith(f"{path}/")]
                data = {"keys": sorted({head + slash for head, slash, _ in (name.partition("/") for name in below)})}
                found = bool(below)
            else:
                version, stored = _asked_for(call.request, self._secrets.get(path, {}))
                found = stored is not None
                data = stored.content if stored else {}
                metadata = {"version_id": version}
        if not found:
            return Response(404)
        of_vault = {"lease_id": "", "renewable": False, "lease_duration": 3600, "wrap_info": None, "warnings": None}
        return _json(200, {"request_id": str(uuid.uuid4()), **of_vault, "data": data, "metadata": metadata})

    def _read_file(self, call: _Call, path: str) -> Response:
        self._check_access(call, path)
        with self._lock:
            _, stored = _asked_for(call.request, self._files.get(path, {}))
        if stored is None:
            return Response(404)
        disposition = f'attachment; filename="{path.rpartition("/")[2]}"'
        headers = {"Content-Type": "application/octet-stream", "Content-Disposition": disposition}
        return Response(200, stored.content, headers)

    def _list_versions(self, call: _Call, path: str) -> Response:
        self._check_access(call, path)
        with self._lock:
            kind, stored = ("OBJECT", self._secrets) if path in self._secrets else ("FILE", self._files)
            versions = list(stored.get(path, {}).items())
        found = [
            {
                "id": version,
                "sdbox_id": _box_id(path),
                "path": path,
                "action": each.action,
                "type": kind,
                "size_in_bytes": each.size,
                "version_created_by": _WRITER,
                "version_created_ts": each.created,
                "action_principal": _WRITER,
                "action_ts": each.created,
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
                "created_by": _WRITER,
                "created_ts": versions[0].created,
                "last_updated_by": _WRITER,
                "last_updated_ts": versions[-1].created,
            }
            for name, versions in sorted(files.items())
        ]
        return _page(call.request, found, "secure_file_summaries", "file")


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


def _asked_for(request: Request, versions: Mapping[str, _Version]) -> tuple[str, _Version | None]:
    """Find the version that a request asks for, by default the current one."""
    version = request.query.get("versionId", "CURRENT")
    if version == "CURRENT":
        version = next(reversed(list(versions)), "")
    return version, versions.get(version)


def _box_id(path: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(path.split("/")[:2])))


def _page(request: Request, found: list[dict[str, Any]], name: str, kind: str) -> Response:
    """A page of a list, as the service counts it."""
    given = request.query.get("limit", "100"), request.query.get("offset", "0")
    if not all(re.fullmatch("[0-9]{1,9}", number) for number in given):
        return Response(400)
    limit, offset = map(int, given)
    page, has_next = found[offset : offset + limit], len(found) > offset + limit
    counts = {f"{kind}_count_in_result": len(page), f"total_{kind}_count": len(found)}
    bounds = {
        "limit": limit,
        "offset": offset,
        "has_next": has_next,
        "next_offset": offset + limit if has_next else None,
    }
    return _json(200, {**bounds, **counts, name: page})


def _json(status: int, value: Any) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


def _switched_off() -> Response:
    """Answer as the web framework does for a path that nothing is mapped to."""
    page = (
        b"<html><body><h1>Whitelabel Error Page</h1><p>There was an unexpected error (type=Not Found, status=404).</p>"
    )
    return Response(404, page + b"</body></html>", {"Content-Type": "text/html;charset=UTF-8"})
