"""STS authentication: Cerberus replays a signed GetCallerIdentity to learn who signed it, and answers the token in clear."""

from __future__ import annotations

from ..aws.calls import host
from ..aws.sigv4 import sign
from . import token
from .wire import CLIENT_HEADERS, auth_refusal, transient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..aws.calls import Aws
    from ..deadline import Deadline
    from ..http.transport import Transport
    from ..settings import Settings
    from ..sharing.policy import SharedCache
    from .token import Asked, Token, Wanted

_BODY = b"Action=GetCallerIdentity&Version=2011-06-15"  # what the service replays; ours goes without a body


class StsAuth:
    """See ``AuthMethod``."""

    name = setting = "sts"

    def __init__(self, settings: Settings, transport: Transport, aws: Aws, shared: SharedCache | None = None) -> None:
        self._settings = settings
        self._transport = transport
        self._aws = aws
        self._shared = shared if settings.shared_cache_key else None

    def authenticate(
        self, principal: str, region: str, deadline: Deadline, wanted: Wanted = token.ANY, *, last: bool = True
    ) -> Token:
        """One authentication as whoever signs, or what another container shares of its own; ``principal`` does not matter
        to the service.

        Raises
        ------
        PrincipalRejected, MethodNotOffered, InvalidResponse, CerberusUnavailable, ConfigurationError, DeadlineExceeded
            As README's table says.
        RenewedElsewhere
            As wanted early, and another container is renewing.
        """

        def read(document: bytes, asked: Asked, step: str = "auth request") -> Token:
            with deadline.step(step):
                return token.parse(document, asked, principal, region, "the answer of Cerberus")

        def ask() -> tuple[bytes, Asked]:
            asked = token.Asked()
            with deadline.step("auth request"):
                return self._ask(region, deadline, last), asked

        signer = self._signer()
        if self._shared is None or not signer:
            return read(*ask())
        from ..sharing.seal import Seal  # not where nobody shares

        seal = Seal(self._settings, self._aws, signer, deadline)

        def ask_to_share() -> tuple[Token, str | None]:
            document, asked = ask()
            given = read(document, asked)
            return given, seal.close(document)

        def open_shared(sealed: str, asked: Asked) -> Token:
            return read(seal.open(sealed), asked, "shared cache")

        return self._shared.token("sts", signer, region, deadline, wanted, open_shared, ask_to_share)

    def _signer(self) -> str:
        """Who signs, as far as the settings tell; empty where they do not."""
        settings = self._settings
        return settings.assume_role_arn or (settings.iam_role_arns[0] if len(settings.iam_role_arns) == 1 else "")

    def _ask(self, region: str, deadline: Deadline, last: bool) -> bytes:
        # The public regional host, whatever our own endpoints are: it is Cerberus that calls it (contract page).
        public_host = host("sts", region)

        def headers() -> dict[str, str]:
            keys = self._aws.credentials(region, deadline)
            signed = sign("POST", public_host, "/", {}, _BODY, service="sts", region=region, credentials=keys)
            return {**CLIENT_HEADERS, **signed}

        response = self._transport.request(
            "Cerberus",
            "POST",
            f"{self._settings.url}/v2/auth/sts-identity",
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
        return response.body
