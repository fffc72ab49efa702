"""What both ways of authenticating know of the service: its URLs, its header, and what its refusals mean."""

from __future__ import annotations

from .. import errors
from .._version import __version__
from ..http.transport import overloaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..http.transport import Response

TOKEN_HEADER = "X-Cerberus-Token"  # noqa: S105  (a header's name)
CLIENT_HEADERS = {"X-Cerberus-Client": f"CerberusAuthLambda/{__version__}", "Accept": "application/json"}

# Contract page, "Errors": what the codes of an auth request mean, and what to do.
_REFUSALS = {
    99216: "the principal is in no safe deposit box: add this very ARN (with the role's path, if it has one) to one",
    99996: "not an ARN that Cerberus takes: see CERBERUS_IAM_ROLE_ARN",
    99215: "Cerberus does not know the region: see CERBERUS_REGION and CERBERUS_FALLBACK_REGIONS",
    99229: "the region is blank: see CERBERUS_REGION",
    99236: "a header of the signature was lost on its way: see what stands in front of Cerberus",
    99237: "AWS does not accept the signature, or it has expired: see the region and the clock",
    99238: "the AWS credentials have expired",
    99106: "AWS refused the credentials",
    99244: "Cerberus has this AWS partition switched off",
    99245: "Cerberus has this AWS partition switched off",
}
_REGIONAL = (99215, 99229, 99237)
_KEY = "it could not make or use the principal's KMS key in this region"
_FAILURES = {99223: _KEY, 99225: _KEY, 99232: _KEY}


def transient(response: Response) -> str:
    """Why an answer to an auth request is worth another attempt; empty where it is not."""
    reason, code = overloaded(response), error_code(response)
    if reason and code:
        meaning = _FAILURES.get(code, "")
        return f"{reason}, code {code}{': ' * bool(meaning)}{meaning}"
    return reason


def auth_refusal(response: Response, principal: str, region: str) -> errors.CerberusError:
    """The error for an answer other than 200 to an auth request. Quotes the service by its code, never by its text."""
    code = error_code(response)
    if response.status == 404:
        return errors.MethodNotOffered(
            "Cerberus has this way of authenticating switched off (404): see CERBERUS_AUTH_METHOD and CERBERUS_URL"
        )
    if response.status not in (400, 401, 403):
        return errors.InvalidResponse(
            f"Cerberus answers {response.status} to an auth request: see whether CERBERUS_URL is right"
        )
    meaning = _REFUSALS.get(code, "see the service's log for why")
    error = errors.PrincipalRejected(
        f"Cerberus refuses {principal or 'the caller'} in {region} ({response.status}, code {code}): {meaning}"
    )
    error.regional = code in _REGIONAL
    return error


def error_code(response: Response) -> int:
    """The first code of an error answer; 0 where there is none, as from a proxy in front."""
    fields = response.json_object()
    try:
        code = fields["errors"][0]["code"] if fields else 0
    except (KeyError, IndexError, TypeError):
        return 0
    return code if type(code) is int else 0
