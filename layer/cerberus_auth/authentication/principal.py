"""Finds the principals to authenticate as, the most likely one first.

The settings name them, or the role to assume is the principal. Otherwise STS returns the role without its path, and then the
function's configuration has its full ARN.
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
    """Return the role ARN of an assumed-role ARN, and any other ARN unchanged.

    >>> role_arn("arn:aws:sts::111111111111:assumed-role/web/session")
    'arn:aws:iam::111111111111:role/web'
    """
    assumed = re.fullmatch(_ASSUMED_ROLE, identity) if ":assumed-role/" in identity else None
    return f"arn:{assumed[1]}:iam::{assumed[2]}:role/{assumed[3]}" if assumed else identity


def is_for(principal: str, document: bytes) -> bool:
    """Return whether a decrypted auth response names this principal, or has truncated metadata.

    Role paths are ignored: role names are unique in an account, and STS returns ARNs without the path.
    """
    named = principal_of(document)
    return named is None or _without_path(named) == _without_path(principal)


def _without_path(arn: str) -> str:
    kind, _, name = role_arn(arn).partition("/")
    return f"{kind}/{name.rpartition('/')[2]}"


def candidates(settings: Settings, aws: Aws, deadline: Deadline, failed: list[Attempt]) -> Iterator[str]:
    """Yield principals in the order to try them. Each is looked up only when the one before did not work.

    A failed look-up is added to ``failed``, and the next one follows. Permission to read the function's configuration is
    optional: a denial is not a failure if STS has answered. Each look-up but the last has half of the remaining time.
    """
    if settings.iam_role_arns:
        yield from settings.iam_role_arns
        return
    if settings.assume_role_arn:
        yield settings.assume_role_arn
        return
    region = settings.aws_region

    def look_up(step: str, find: Callable[[Deadline], str], last: bool, optional: bool = False) -> str:
        part = deadline if last else deadline.within(deadline.remaining() / 2)
        error: CerberusError
        try:
            with part.step(step):
                return find(part)
        except AwsRefusal as refusal:
            if optional and refusal.code.startswith("AccessDenied"):
                return ""
            error = _discovery_error(refusal)
        except DeadlineExceeded as timeout:
            if deadline.remaining() <= 0:
                raise
            error = no_answer(timeout, part)
        except CerberusError as failure:
            error = failure
        failed.append(Attempt("", region, "discovery", step, error))
        return ""

    name, only_kms = settings.function_name, settings.auth_method == "kms"
    found = look_up(
        "sts:GetCallerIdentity", lambda part: role_arn(aws.caller_identity(region, part)), only_kms and not name
    )
    if found:
        yield found
    if name:
        step = "lambda:GetFunctionConfiguration"
        exact = look_up(step, lambda part: aws.function_role(name, region, part), False, optional=bool(found))
        if exact and exact != found:
            yield exact


def no_answer(timeout: DeadlineExceeded, part: Deadline) -> CerberusUnavailable:
    """Return the error for a service that did not answer within its part of the caller's time."""
    error = CerberusUnavailable(
        f"No answer within {part.seconds:.3g} s, its part of the timeout. Increase CERBERUS_TIMEOUT."
    )
    error.step = timeout.step
    return error


def _discovery_error(refusal: AwsRefusal) -> CerberusError:
    return credentials_refused(refusal) or ConfigurationError(
        f"{refusal.service} did not return the function's role ({refusal.code}). Set CERBERUS_IAM_ROLE_ARN to the role's ARN, "
        f"in SAM with !GetAtt <Function>Role.Arn."
    )
