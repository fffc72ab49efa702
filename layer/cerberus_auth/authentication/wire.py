"""The HTTP contract of Cerberus: its headers, and the meaning of its answers.

An answer comes from Cerberus if its body is JSON, or if it is one of the few empty answers of Cerberus. Any other answer comes
from a load balancer, a firewall or a proxy in front of Cerberus.
"""

from __future__ import annotations

import time

from .. import errors
from .._version import __version__
from ..http.transport import overloaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..deadline import Deadline
    from ..http.transport import Response, Transport
    from ..settings import Settings

TOKEN_HEADER = "X-Cerberus-Token"  # noqa: S105  (a header's name)
CLIENT_HEADERS = {"X-Cerberus-Client": f"CerberusAuthLambda/{__version__}", "Accept": "application/json"}

_NOT_FOUND = 99996  # with status 404; with 400 it means an invalid ARN
_REGION = (
    "Cerberus does not know the region. Set CERBERUS_REGION to a region that Cerberus knows, or add one to "
    "CERBERUS_FALLBACK_REGIONS."
)
_PARTITION = "Cerberus has this AWS partition disabled. Ask the operator of Cerberus to enable it."
# The meaning of the codes of an auth request, and what to do.
_REFUSALS = {
    99216: "The principal is in no safe deposit box. Add exactly this ARN to one, with the role's path if it has one.",
    _NOT_FOUND: "Cerberus does not accept this ARN. Check CERBERUS_IAM_ROLE_ARN.",
    99215: _REGION,
    99229: _REGION,
    99999: f"{_REGION} Or a proxy changed the Authorization header.",
    99236: "A header of the signature is missing. Check the proxy or load balancer in front of Cerberus.",
    99237: "AWS rejected the signature, or it has expired. Check CERBERUS_REGION and the clock.",
    99238: "The AWS credentials have expired. Renew them.",
    99106: "AWS rejected the credentials. Check the credentials of this environment.",
    99244: _PARTITION,
    99245: _PARTITION,
}
_UNKNOWN_REGION = (99215, 99229, 99999)
_REGIONAL = (*_UNKNOWN_REGION, 99237)
_CREDENTIALS = (99106, 99238)
_UNEXPECTED = 10  # also returned while the database of Cerberus is down, for every region
_KEY = "Cerberus could not create or use the principal's KMS key in this region"
_FAILURES = {99223: _KEY, 99225: _KEY, 99232: _KEY, 99998: "Cerberus could not use KMS in this region"}


def send_auth_request(
    transport: Transport,
    settings: Settings,
    path: str,
    deadline: Deadline,
    *,
    headers: Callable[[], Mapping[str, str]],
    body: bytes,
    last: bool,
) -> Response:
    """Send an auth request. Return the answer of Cerberus, whatever its status.

    Raises
    ------
    MethodNotOffered, BlockedAtEdge, CerberusUnavailable, InvalidResponse, DeadlineExceeded
        ``regional`` is set if the region can be the cause.
    """
    began = time.monotonic()
    answered, code = False, 0

    def retry_reason(response: Response) -> str:
        nonlocal answered, code
        answered, code = True, error_code(response)
        return transient(response)

    try:
        response = transport.request(
            "Cerberus",
            "POST",
            f"{settings.url}{path}",
            deadline,
            headers=headers,
            body=body,
            transient=retry_reason,
            repeat_timeouts=last,
        )
    except errors.CerberusUnavailable as error:
        waited = time.monotonic() - began
        error.regional = code not in (0, _UNEXPECTED) if answered else used_full_timeout(waited, settings)
        raise
    if response.status == 404 and (not response.body or _is_json(response)):
        method, other = ("STS", "kms") if path.endswith("/sts-identity") else ("KMS", "sts")
        raise errors.MethodNotOffered(
            f"Cerberus returned 404 for {path}: {method} authentication is disabled, or CERBERUS_URL has a path. "
            f"Set CERBERUS_AUTH_METHOD={other}."
        )
    if not_own := _not_from_cerberus(response, "an auth request"):
        raise not_own
    return response


def used_full_timeout(seconds: float, settings: Settings) -> bool:
    """Return whether a request without an answer had about the full read timeout. If not, the caller's timeout was short."""
    return seconds >= 0.9 * settings.read_timeout


def auth_refusal(response: Response, principal: str, region: str) -> errors.CerberusError:
    """Return the error for an auth request that Cerberus refused. It quotes the code, never the text."""
    code = error_code(response)
    if response.status not in (400, 401, 403):
        return errors.InvalidResponse(
            f"Cerberus returned {_status(response)} for an auth request. Check that CERBERUS_URL is Cerberus."
        )
    meaning = _REFUSALS.get(code, "Find the reason in the log of Cerberus.")
    error = errors.PrincipalRejected(
        f"Cerberus rejected {principal or 'the caller'} in {region} ({_status(response)}). {meaning}"
    )
    error.regional = code in _REGIONAL
    error.unknown_region = code in _UNKNOWN_REGION
    error.credentials_refused = code in _CREDENTIALS
    return error


def read_refusal(response: Response, path: str, *, file: bool = False) -> errors.CerberusError:
    """Return the error for a read without a usable answer. The caller handles 401.

    Parameters
    ----------
    file
        Whether the read was for a secure file. Cerberus returns code 99996 also for a missing file in an existing box.

    Returns
    -------
    CerberusError
        ``AccessDenied`` and ``SecretNotFound`` only if the answer comes from Cerberus, not from a proxy.
    """
    if response.status == 404 and not response.body:
        return _not_found(path)
    if response.status == 404 and error_code(response) == _NOT_FOUND:
        box = "/".join(path.split("/")[:2])
        missing = f"The file {path!r} or its safe deposit box" if file else "The safe deposit box"
        return errors.SecretNotFound(
            f"{missing} {box!r} does not exist (404, code {_NOT_FOUND}). Check the spelling of {path!r}: category/box/path."
        )
    if response.status == 403 and own_error(response):
        return _no_access(path, _status(response))
    if reason := transient(response):
        return errors.CerberusUnavailable(
            f"Cerberus is unavailable: {reason} for a read of {path!r}. If it persists, check the service.",
            status=response.status,
        )
    return _not_from_cerberus(response, f"a read of {path!r}") or errors.InvalidResponse(
        f"Cerberus returned {_status(response)} for a read of {path!r}, which is unexpected. Check CERBERUS_URL."
    )


def shared_refusal(status: int, path: str) -> errors.CerberusError:
    """Return the error for a 403 or 404 that another container of the role received."""
    return _no_access(path, "403") if status == 403 else _not_found(path)


def _no_access(path: str, status: str) -> errors.AccessDenied:
    return errors.AccessDenied(
        f"This principal has no access to {path!r} ({status}). Give it a role in that safe deposit box."
    )


def _not_found(path: str) -> errors.SecretNotFound:
    return errors.SecretNotFound(
        f"Nothing is stored at {path!r} (404). Check the spelling of the path: category/box/path."
    )


def transient(response: Response) -> str:
    """Return why a request can be retried after this answer; empty if not. A block by a firewall is never retried."""
    reason = overloaded(response)
    if not reason or (response.status == 429 and not own_error(response)):
        return ""
    code = error_code(response)
    meaning = _FAILURES.get(code, "")
    return f"{reason}{f', code {code}' if code else ''}{f': {meaning}' if meaning else ''}"


def own_error(response: Response) -> bool:
    """Return whether the body has the error format of Cerberus."""
    return bool(_first_error(response))


def error_code(response: Response) -> int:
    """Return the error code of Cerberus, or 0. Only an integer from 1 to 999,999 is a code."""
    code = _first_error(response).get("code")
    return code if type(code) is int and 0 < code < 1_000_000 else 0


def _first_error(response: Response) -> dict[str, object]:
    found = (response.json_object() or {}).get("errors") if response.status != 200 else None
    first = found[0] if isinstance(found, list) and found else None
    return first if isinstance(first, dict) and "code" in first else {}


def _not_from_cerberus(response: Response, request: str) -> errors.CerberusError | None:
    """Return the error for an answer of a proxy, load balancer or firewall; None for an answer of Cerberus."""
    status = response.status
    if status in (403, 429) and not own_error(response):
        return errors.BlockedAtEdge(
            f"A firewall in front of Cerberus rejected {request} ({status} without the error body of Cerberus). It blocks IP "
            f"addresses that send about 100 requests per hour or more. Count the requests of everything behind this NAT "
            f"gateway, and ask the operator of Cerberus whether its address is blocked. To send fewer requests, set "
            f"CERBERUS_SHARED_CACHE_TABLE and CERBERUS_SHARED_CACHE_KEY."
        )
    if _is_json(response) if status == 200 else own_error(response):
        return None
    return errors.CerberusUnavailable(
        f"Cerberus is unavailable: a proxy or load balancer in front of it answered {request} ({status} "
        f"without the JSON of Cerberus). If it persists, check the proxy, the load balancer and CERBERUS_URL.",
        status=status,
    )


def _is_json(response: Response) -> bool:
    """Return whether the body looks like JSON, by its first character or its content type. It can be invalid JSON."""
    kind = response.headers.get("content-type", "")
    return response.body.lstrip()[:1] in (b"{", b"[") or (bool(response.body) and kind.startswith("application/json"))


def _status(response: Response) -> str:
    code = error_code(response)
    return f"{response.status}, code {code}" if code else str(response.status)
