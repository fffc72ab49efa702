"""Which role am I? The principals to offer to Cerberus, most certain first.

On EC2 the official clients ask the metadata service. Here it is the settings that say, or the role that is assumed first; else
STS, whose assumed-role ARN has lost the role's path; else the function's own configuration, which alone knows the path.
"""

from __future__ import annotations

import re

from ..aws.calls import AwsRefusal, credentials_refused
from ..errors import Attempt, CerberusError, ConfigurationError, DeadlineExceeded
from .token import principal_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..aws.calls import Aws
    from ..deadline import Deadline
    from ..settings import Settings

_ASSUMED_ROLE = re.compile(r"arn:(aws|aws-cn):sts::(\d{12}):assumed-role/([^/]+)/.+")


def role_arn(identity: str) -> str:
    """The role's ARN of an assumed-role ARN; any other ARN as it is.

    >>> role_arn("arn:aws:sts::111111111111:assumed-role/web/session")
    'arn:aws:iam::111111111111:role/web'
    """
    assumed = _ASSUMED_ROLE.fullmatch(identity)
    return f"arn:{assumed[1]}:iam::{assumed[2]}:role/{assumed[3]}" if assumed else identity


def is_for(principal: str, document: bytes) -> bool:
    """Whether an auth response, decrypted, says that it is this principal's own; or says nothing, to save room.

    Paths do not count: no account has two roles of one name (IAM User Guide, "IAM identifiers"), and STS knows none.
    """
    named = principal_of(document)
    return named is None or _pathless(named) == _pathless(principal)


def _pathless(arn: str) -> str:
    kind, _, name = role_arn(arn).partition("/")
    return f"{kind}/{name.rpartition('/')[2]}"


def candidates(settings: Settings, aws: Aws, deadline: Deadline, failed: list[Attempt]) -> Iterator[str]:
    """Principals in the order to try them, each found only when the one before did not work.

    A step that fails is added to ``failed`` and the next goes on. A function that may not read its own configuration is
    not a failure when STS has answered: the permission is optional.
    """
    if settings.iam_role_arns:
        yield from settings.iam_role_arns
        return
    if settings.assume_role_arn:
        yield settings.assume_role_arn
        return
    region = settings.aws_region
    found = ""
    try:
        with deadline.step("sts:GetCallerIdentity"):
            found = role_arn(aws.caller_identity(region, deadline))
    except DeadlineExceeded:
        raise
    except AwsRefusal as refusal:
        failed.append(Attempt("", region, "discovery", "sts:GetCallerIdentity", _refused(refusal)))
    except CerberusError as error:
        failed.append(Attempt("", region, "discovery", "sts:GetCallerIdentity", error))
    if found:
        yield found
    if not settings.function_name:
        return
    try:
        with deadline.step("lambda:GetFunctionConfiguration"):
            exact = aws.function_role(settings.function_name, region, deadline)
    except DeadlineExceeded:
        raise
    except AwsRefusal as refusal:
        if not found or not refusal.code.startswith("AccessDenied"):
            failed.append(Attempt("", region, "discovery", "lambda:GetFunctionConfiguration", _refused(refusal)))
    except CerberusError as error:
        failed.append(Attempt("", region, "discovery", "lambda:GetFunctionConfiguration", error))
    else:
        if exact != found:
            yield exact


def _refused(refusal: AwsRefusal) -> CerberusError:
    return credentials_refused(refusal) or ConfigurationError(
        f"{refusal.service} refuses to say which role this is ({refusal.code}): set CERBERUS_IAM_ROLE_ARN to the function's "
        f"role, in SAM with !GetAtt <Function>Role.Arn, and no discovery is needed"
    )
