"""The wire contract of Cerberus: its headers, and what each of its answers means.

An answer is Cerberus' own if its body is JSON, or if it is one of the few empty answers that Cerberus gives. Anything else
comes from a load balancer, a firewall or a proxy in front of it.
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

_NO_SUCH_THING = 99996  # with 404; with 400: not an ARN
_REGION = (
    "Cerberus does not know the region. Set CERBERUS_REGION to a region that it knows, or add one to "
    "CERBERUS_FALLBACK_REGIONS"
)
_PARTITION = "Cerberus has this AWS partition switched off"
# Contract page, "Errors": what the codes of an auth request mean, and what to do.
_REFUSALS = {
    99216: "the principal is in no safe deposit box: add this very ARN (with the role's path, if it has one) to one",
    _NO_SUCH_THING: "Cerberus does not accept this ARN. Check CERBERUS_IAM_ROLE_ARN",
    99215: _REGION,
    99229: _REGION,
    99999: f"{_REGION}; or a proxy changed the Authorization header",
    99236: "a header of the signature is missing. Check what stands in front of Cerberus",
    99237: "AWS does not accept the signature, or it has expired. Check CERBERUS_REGION and the clock",
    99238: "the AWS credentials have expired",
    99106: "AWS refused the credentials",
    99244: _PARTITION,
    99245: _PARTITION,
}
_UNKNOWN_REGION = (99215, 99229, 99999)
_REGIONAL = (*_UNKNOWN_REGION, 99237)
_CREDENTIALS = (99106, 99238)
_UNEXPECTED = 10  # also the answer while the service's database is down, whatever the region
_KEY = "it could not make or use the principal's KMS key in this region"
_FAILURES = {99223: _KEY, 99225: _KEY, 99232: _KEY, 99998: "it could not use KMS in this region"}


def ask(
    transport: Transport,
    settings: Settings,
    path: str,
    deadline: Deadline,
    *,
    headers: Callable[[], Mapping[str, str]],
    body: bytes,
    last: bool,
) -> Response:
    """Send an auth request, and return an answer that is JSON, whatever its status.

    Raises
    ------
    MethodNotOffered, BlockedAtEdge, CerberusUnavailable, InvalidResponse, DeadlineExceeded
        ``regional`` is set where the region may have caused it.
    """
    began = time.monotonic()
    answered, code = False, 0

    def repeatable(response: Response) -> str:
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
            transient=repeatable,
            repeat_timeouts=last,
        )
    except errors.CerberusUnavailable as error:
        waited = time.monotonic() - began
        error.regional = code not in (0, _UNEXPECTED) if answered else waited_out(waited, settings)
        raise
    if response.status == 404 and (not response.body or _is_json(response)):
        method, other = ("STS", "kms") if path.endswith("/sts-identity") else ("KMS", "sts")
        raise errors.MethodNotOffered(
            f"Cerberus returned 404 for {path}: {method} authentication is disabled, or CERBERUS_URL has a path. "
            f"Set CERBERUS_AUTH_METHOD={other}"
        )
    if foreign := _not_from_cerberus(response, "an auth request"):
        raise foreign
    return response


def waited_out(seconds: float, settings: Settings) -> bool:
    """Whether a service that did not answer had about the time of one request. With less, the caller was in a hurry."""
    return seconds >= 0.9 * settings.read_timeout


def auth_refusal(response: Response, principal: str, region: str) -> errors.CerberusError:
    """Return the error for Cerberus' own refusal of an auth request. Quotes its code, never its text."""
    code = error_code(response)
    if response.status not in (400, 401, 403):
        return errors.InvalidResponse(
            f"Cerberus returned {_status(response)} for an auth request. Check that CERBERUS_URL is Cerberus itself"
        )
    meaning = _REFUSALS.get(code, "the reason is in the service's log")
    error = errors.PrincipalRejected(
        f"Cerberus refuses {principal or 'the caller'} in {region} ({_status(response)}): {meaning}"
    )
    error.regional = code in _REGIONAL
    error.unknown_region = code in _UNKNOWN_REGION
    error.credentials_refused = code in _CREDENTIALS
    return error


def read_refusal(response: Response, path: str, *, file: bool = False) -> errors.CerberusError:
    """Return the error for an answer to a read that holds nothing of use; 401 is the caller's to handle.

    Parameters
    ----------
    file
        Whether a secure file was read: Cerberus answers code 99996 also where the box exists and the file does not.

    Returns
    -------
    CerberusError
        ``AccessDenied`` and ``SecretNotFound`` only where Cerberus itself says so.
    """
    if response.status == 404 and not response.body:
        return errors.SecretNotFound(
            f"Nothing is stored at {path!r} (404). Check the path's spelling: category/box/path"
        )
    if response.status == 404 and error_code(response) == _NO_SUCH_THING:
        box = "/".join(path.split("/")[:2])
        missing = "There is no such file, or no safe deposit box" if file else "There is no safe deposit box"
        return errors.SecretNotFound(
            f"{missing} {box!r} (404, code {_NO_SUCH_THING}), as read for {path!r}. Check the path's spelling: "
            f"category/box/path"
        )
    if response.status == 403 and own_error(response):
        return errors.AccessDenied(
            f"This principal may not read {path!r} ({_status(response)}): give it a role in that safe deposit box"
        )
    if reason := transient(response):
        return errors.CerberusUnavailable(
            f"Cerberus is unavailable: {reason} to a read of {path!r}", status=response.status
        )
    return _not_from_cerberus(response, f"a read of {path!r}") or errors.InvalidResponse(
        f"Cerberus returned {_status(response)} for a read of {path!r}, and not what its contract says. Check CERBERUS_URL"
    )


def shared_refusal(status: int, path: str) -> errors.CerberusError:
    """Return the error for a 403 or 404 that another container of the role got."""
    if status == 403:
        return errors.AccessDenied(
            f"This principal may not read {path!r} (403): give it a role in that safe deposit box"
        )
    return errors.SecretNotFound(f"Nothing is stored at {path!r} (404). Check the path's spelling: category/box/path")


def transient(response: Response) -> str:
    """Return why an answer of Cerberus is worth another attempt, or an empty text. A block by a firewall never is."""
    reason = overloaded(response)
    if not reason or (response.status == 429 and not own_error(response)):
        return ""
    code = error_code(response)
    meaning = _FAILURES.get(code, "")
    return f"{reason}{f', code {code}' if code else ''}{f': {meaning}' if meaning else ''}"


def own_error(response: Response) -> bool:
    """Whether the body is an error in Cerberus' own form."""
    return bool(_first_error(response))


def error_code(response: Response) -> int:
    """Return the code of Cerberus' own error, or 0. Only an integer below a million is one."""
    code = _first_error(response).get("code")
    return code if type(code) is int and 0 < code < 1_000_000 else 0


def _first_error(response: Response) -> dict[str, object]:
    found = (response.json_object() or {}).get("errors") if response.status != 200 else None
    first = found[0] if isinstance(found, list) and found else None
    return first if isinstance(first, dict) and "code" in first else {}


def _not_from_cerberus(response: Response, asked: str) -> errors.CerberusError | None:
    """Return the error for an answer of something in front of Cerberus; None for one of Cerberus itself."""
    status = response.status
    if status in (403, 429) and not own_error(response):
        return errors.BlockedAtEdge(
            f"A firewall in front of Cerberus rejected {asked} ({status} without Cerberus' error body). It blocks addresses "
            f"that send about 100 requests an hour or more. Count the requests of all that is behind this NAT address, and ask "
            f"Cerberus' operator whether the firewall blocks it. To send fewer, set CERBERUS_SHARED_CACHE_TABLE and "
            f"CERBERUS_SHARED_CACHE_KEY"
        )
    if _is_json(response) if status == 200 else own_error(response):
        return None
    return errors.CerberusUnavailable(
        f"Cerberus is unavailable: something in front of it answered {asked} ({status} without Cerberus' JSON). If it lasts, "
        f"check the load balancer or proxy, and CERBERUS_URL",
        status=status,
    )


def _is_json(response: Response) -> bool:
    """Whether the body is meant as JSON: by its beginning or its content type. It may be broken all the same."""
    kind = response.headers.get("content-type", "")
    return response.body.lstrip()[:1] in (b"{", b"[") or (bool(response.body) and kind.startswith("application/json"))


def _status(response: Response) -> str:
    code = error_code(response)
    return f"{response.status}, code {code}" if code else str(response.status)
