"""STS authentication: Cerberus sends a signed GetCallerIdentity request to STS, which names the signer."""

from __future__ import annotations

import json
import logging

from ..aws.calls import host
from ..aws.sigv4 import sign
from ..deadline import Moment
from ..settings import partition
from . import token
from .principal import is_for
from .wire import CLIENT_HEADERS, auth_refusal, send_auth_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..aws.calls import Aws
    from ..deadline import Deadline
    from ..http.transport import Response, Transport
    from ..settings import Settings
    from .token import Token, TokenRequest, TokenSharing

_logger = logging.getLogger("cerberus_auth")

_MAX_SEALED_BYTES = 4096  # KMS API reference, Encrypt
_BODY = b"Action=GetCallerIdentity&Version=2011-06-15"  # Cerberus sends this body to STS; the auth request itself has no body


class StsAuth:
    """Authenticate by STS. See ``AuthMethod``."""

    name = setting = "sts"

    def __init__(self, settings: Settings, transport: Transport, aws: Aws, sharing: TokenSharing | None = None) -> None:
        self._settings = settings
        self._transport = transport
        self._aws = aws
        self._sharing = sharing if settings.shared_cache_key else None
        self._unknown_regions: set[str] = set()  # regions that Cerberus does not know

    def authenticate(
        self,
        principal: str,
        region: str,
        deadline: Deadline,
        request: TokenRequest = token.ANY_TOKEN,
        *,
        last: bool = True,
    ) -> Token:
        """Authenticate once as the signer, or use the token that another container shares.

        ``principal`` has no effect: Cerberus learns the signer from STS.

        Raises
        ------
        PrincipalRejected, BlockedAtEdge, MethodNotOffered, InvalidResponse, CerberusUnavailable, ConfigurationError,
        DeadlineExceeded
            See ``CerberusAuth.token``.
        """
        signer = self._settings.principal
        sharing = self._sharing if signer else None

        def read(document: str, asked: Moment) -> Token:
            return token.parse(document.encode("utf-8", "surrogateescape"), asked, signer, region, "answer of Cerberus")

        def fetch() -> tuple[Token, str]:
            request.check_outage()
            asked = Moment()
            with deadline.step("auth request"):
                document = self._request(signer, region, deadline, last).decode("utf-8", "surrogateescape")
                return read(document, asked), _document_to_seal(document, signer, asked) if sharing else ""

        if sharing is None:
            return fetch()[0]
        return sharing.token("sts", signer, region, deadline, request, read, fetch)

    def _request(self, signer: str, region: str, deadline: Deadline, last: bool) -> bytes:
        # Credentials are valid in every region of their partition, and every Cerberus knows the oldest region.
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
        # The public regional host, not a custom endpoint of the function: Cerberus calls it.
        public_host = host("sts", signed_for)

        def headers() -> dict[str, str]:
            keys = self._aws.credentials(region, deadline)
            signed = sign("POST", public_host, "/", {}, _BODY, service="sts", region=signed_for, credentials=keys)
            return {**CLIENT_HEADERS, **signed}

        path = "/v2/auth/sts-identity"
        return send_auth_request(self._transport, self._settings, path, deadline, headers=headers, body=b"", last=last)


def _document_to_seal(document: str, signer: str, asked: Moment) -> str:
    """Return the part of the answer to share; empty if it is for another principal or exceeds the 4,096 bytes of KMS."""
    if not is_for(signer, document.encode()):
        _logger.warning("Token not shared: Cerberus returned it for another principal than %s", signer)
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
        _logger.warning(
            "Token not shared: it has %d bytes, but KMS encrypts at most %d", len(needed), _MAX_SEALED_BYTES
        )
        return ""
    return needed
