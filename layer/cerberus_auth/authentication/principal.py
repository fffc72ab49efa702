"""The principals to offer to Cerberus, most certain first.

They come from the settings, or are the role that is assumed first. Else STS names the role, without its path; else the
function's own configuration names it in full.
"""

from __future__ import annotations

import re

from ..aws.calls import AwsRefusal, credentials_refused
from ..errors import Attempt, CerberusError, CerberusUnavailable, ConfigurationError, DeadlineExceeded
from .token import principal_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..aws.calls import Aws
    from ..deadline import Deadline
    from ..settings import Settings

_ASSUMED_ROLE = r"arn:(aws|aws-cn):sts::(\d{12}):assumed-role/([^/]+)/.+"  # compiled when first needed


def role_arn(identity: str) -> str:
    """Return the role's ARN of an assumed-role ARN; any other ARN as it is.

    >>> role_arn("arn:aws:sts::111111111111:assumed-role/web/session")
    'arn:aws:iam::111111111111:role/web'
    """
    assumed = re.fullmatch(_ASSUMED_ROLE, identity) if ":assumed-role/" in identity else None
    return f"arn:{assumed[1]}:iam::{assumed[2]}:role/{assumed[3]}" if assumed else identity


def is_for(principal: str, document: bytes) -> bool:
    """Whether a decrypted auth response names this principal, or has truncated metadata.

    Paths do not count: no account has two roles of one name (IAM User Guide, "IAM identifiers"), and STS knows no paths.
    """
    named = principal_of(document)
    return named is None or _pathless(named) == _pathless(principal)


def _pathless(arn: str) -> str:
    kind, _, name = role_arn(arn).partition("/")
    return f"{kind}/{name.rpartition('/')[2]}"


def candidates(settings: Settings, aws: Aws, deadline: Deadline, failed: list[Attempt]) -> Iterator[str]:
    """Yield principals in the order to try them, each looked for only when the one before did not work.

    A step that fails is added to ``failed``, and the next one follows. A function that may not read its own configuration
    has not failed if STS has answered: the permission is optional. While another step or method remains, a step has half
    of the time.
    """
    if settings.iam_role_arns:
        yield from settings.iam_role_arns
        return
    if settings.assume_role_arn:
        yield settings.assume_role_arn
        return
    region = settings.aws_region

    def look(step: str, find: Callable[[Deadline], str], last: bool, optional: bool = False) -> str:
        share = deadline if last else deadline.within(deadline.remaining() / 2)
        error: CerberusError
        try:
            with share.step(step):
                return find(share)
        except AwsRefusal as refusal:
            if optional and refusal.code.startswith("AccessDenied"):
                return ""
            error = _refused(refusal)
        except DeadlineExceeded as late:
            if deadline.remaining() <= 0:
                raise
            error = unanswered(late, share)
        except CerberusError as failure:
            error = failure
        failed.append(Attempt("", region, "discovery", step, error))
        return ""

    name, only_kms = settings.function_name, settings.auth_method == "kms"
    found = look(
        "sts:GetCallerIdentity", lambda share: role_arn(aws.caller_identity(region, share)), only_kms and not name
    )
    if found:
        yield found
    if name:
        step = "lambda:GetFunctionConfiguration"
        exact = look(step, lambda share: aws.function_role(name, region, share), False, optional=bool(found))
        if exact and exact != found:
            yield exact


def unanswered(late: DeadlineExceeded, share: Deadline) -> CerberusUnavailable:
    """Return the error for a service that did not answer within its share of the caller's time."""
    error = CerberusUnavailable(f"no answer within its share of the time, {share.seconds:.3g} s")
    error.step = late.step
    return error


def _refused(refusal: AwsRefusal) -> CerberusError:
    return credentials_refused(refusal) or ConfigurationError(
        f"{refusal.service} refuses to say which role this is ({refusal.code}): set CERBERUS_IAM_ROLE_ARN to the function's "
        f"role, in SAM with !GetAtt <Function>Role.Arn. Then no discovery is needed"
    )
