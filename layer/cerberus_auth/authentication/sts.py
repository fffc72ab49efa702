"""STS authentication: Cerberus replays a signed GetCallerIdentity to learn who signed it, and returns the token."""

from __future__ import annotations

import json
import logging

from ..aws.calls import host
from ..aws.sigv4 import sign
from ..deadline import Moment
from ..settings import partition
from . import token
from .principal import is_for
from .wire import CLIENT_HEADERS, ask, auth_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..aws.calls import Aws
    from ..deadline import Deadline
    from ..http.transport import Response, Transport
    from ..settings import Settings
    from .token import Shared, Token, Wanted

_logger = logging.getLogger("cerberus_auth")

_MAX_SEALED_BYTES = 4096  # KMS API reference, Encrypt
_BODY = b"Action=GetCallerIdentity&Version=2011-06-15"  # what the service replays; ours goes without a body


class StsAuth:
    """See ``AuthMethod``."""

    name = setting = "sts"

    def __init__(self, settings: Settings, transport: Transport, aws: Aws, shared: Shared | None = None) -> None:
        self._settings = settings
        self._transport = transport
        self._aws = aws
        self._shared = shared if settings.shared_cache_key else None
        self._unknown_regions: set[str] = set()  # to Cerberus; remembered for the container

    def authenticate(
        self, principal: str, region: str, deadline: Deadline, wanted: Wanted = token.ANY, *, last: bool = True
    ) -> Token:
        """Authenticate once as the signer, or take the token that another container shares.

        ``principal`` does not matter to the service: it learns the signer from AWS.

        Raises
        ------
        PrincipalRejected, BlockedAtEdge, MethodNotOffered, InvalidResponse, CerberusUnavailable, ConfigurationError,
        DeadlineExceeded
            See README, "Errors and what to do".
        """
        signer = self._settings.principal
        shared = self._shared if signer else None

        def read(document: str, asked: Moment) -> Token:
            return token.parse(
                document.encode("utf-8", "surrogateescape"), asked, signer, region, "the answer of Cerberus"
            )

        def request() -> tuple[Token, str]:
            wanted.check_outage()
            asked = Moment()
            with deadline.step("auth request"):
                document = self._request(signer, region, deadline, last).decode("utf-8", "surrogateescape")
                return read(document, asked), _to_seal(document, signer, asked) if shared else ""

        if shared is None:
            return request()[0]
        return shared.token("sts", signer, region, deadline, wanted, read, request)

    def _request(self, signer: str, region: str, deadline: Deadline, last: bool) -> bytes:
        # Credentials are valid in every region of their partition, and Cerberus knows the oldest one.
        oldest = "cn-north-1" if partition(region) == "aws-cn" else "us-east-1"
        signed_for = oldest if region in self._unknown_regions else region
        response = self._send(signed_for, region, deadline, last)
        if response.status == 200:
            return response.body
        refusal = auth_refusal(response, signer, signed_for)
        if not refusal.unknown_region or signed_for == oldest:
            raise refusal
        self._unknown_regions.add(region)
        return self._request(signer, region, deadline, last)

    def _send(self, signed_for: str, region: str, deadline: Deadline, last: bool) -> Response:
        # The public regional host, whatever our own endpoints are: it is Cerberus that calls it (contract page).
        public_host = host("sts", signed_for)

        def headers() -> dict[str, str]:
            keys = self._aws.credentials(region, deadline)
            signed = sign("POST", public_host, "/", {}, _BODY, service="sts", region=signed_for, credentials=keys)
            return {**CLIENT_HEADERS, **signed}

        path = "/v2/auth/sts-identity"
        return ask(self._transport, self._settings, path, deadline, headers=headers, body=b"", last=last)


def _to_seal(document: str, signer: str, asked: Moment) -> str:
    """Return what is shared of the answer: KMS seals 4,096 bytes at most. Nothing, if the token is not the signer's."""
    if not is_for(signer, document.encode()):
        _logger.warning("The token is not shared: Cerberus made it for another principal than %s", signer)
        return ""
    fields = json.loads(document)
    needed = json.dumps(
        {
            "client_token": fields["client_token"],
            "lease_duration": fields["lease_duration"],
            "metadata": {"aws_iam_principal_arn": signer},
            "asked": asked.wall,
        }
    )
    if len(needed) > _MAX_SEALED_BYTES:
        _logger.warning("The token is not shared: it has %d bytes, and KMS seals %d", len(needed), _MAX_SEALED_BYTES)
        return ""
    return needed
