"""STS authentication: Cerberus replays a signed GetCallerIdentity to learn who signed it, and answers the token in clear."""

from __future__ import annotations

from . import errors, token
from .aws import host
from .aws.sigv4 import sign
from .cerberus import CLIENT_HEADERS, auth_refusal, transient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .aws import Aws
    from .clock import Deadline
    from .settings import Settings
    from .token import Token
    from .transport import Transport

_BODY = b"Action=GetCallerIdentity&Version=2011-06-15"  # what the service replays; ours goes without a body


class StsAuth:
    """See ``AuthMethod``."""

    name = setting = "sts"

    def __init__(self, settings: Settings, transport: Transport, aws: Aws) -> None:
        self._settings = settings
        self._transport = transport
        self._aws = aws

    def authenticate(self, principal: str, region: str, deadline: Deadline, *, last: bool = True) -> Token:
        """One authentication as whoever signs; ``principal`` does not matter to the service.

        Raises
        ------
        PrincipalRejected, MethodNotOffered, InvalidResponse, CerberusUnavailable, ConfigurationError, DeadlineExceeded
            As README's table says.
        """
        # The public regional host, whatever our own endpoints are: it is Cerberus that calls it (contract page).
        public_host = host("sts", region)

        def headers() -> dict[str, str]:
            keys = self._aws.credentials(region, deadline)
            signed = sign("POST", public_host, "/", {}, _BODY, service="sts", region=region, credentials=keys)
            return {**CLIENT_HEADERS, **signed}

        asked = token.Asked()
        with errors.step("auth request"):
            url = f"{self._settings.url}/v2/auth/sts-identity"
            response = self._transport.request(
                "Cerberus",
                "POST",
                url,
                deadline,
                headers=headers,
                body=b"",
                transient=transient,
                repeat_timeouts=last,
            )
            if response.status == 401:
                self._aws.forget_credentials()
            if response.status != 200:
                raise auth_refusal(response, "", region)
            return token.parse(response.body, asked, principal, region, "the answer of Cerberus")
