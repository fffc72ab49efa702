"""KMS authentication: Cerberus encrypts a token for the role, and only a holder of the role can decrypt it."""

from __future__ import annotations

import json
import re
from binascii import a2b_base64

from .. import errors
from ..aws.calls import AwsRefusal, credentials_refused
from ..settings import partition
from . import token
from .principal import is_for
from .wire import CLIENT_HEADERS, auth_refusal, transient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..aws.calls import Aws, Decrypted
    from ..deadline import Deadline
    from ..http.transport import Transport
    from ..settings import Settings
    from ..sharing.policy import SharedCache
    from .token import Asked, Token, Wanted

_MAX_CIPHERTEXT_BYTES = 6144  # KMS API reference, Decrypt
_OLDER_PRINCIPAL = re.compile(r"arn:aws:iam::(\d{12}):role/(.+)")
_KEY_ARN = re.compile(r"arn:(aws|aws-cn):kms:([a-z0-9-]+):(\d{12}):key/[\w-]+")


class KmsAuth:
    """See ``AuthMethod``."""

    name = setting = "kms"

    def __init__(self, settings: Settings, transport: Transport, aws: Aws, shared: SharedCache | None = None) -> None:
        self._settings = settings
        self._transport = transport
        self._aws = aws
        self._shared = shared

    def authenticate(
        self, principal: str, region: str, deadline: Deadline, wanted: Wanted = token.ANY, *, last: bool = True
    ) -> Token:
        """One authentication of one principal in one region, or what another container shares of its own.

        Parameters
        ----------
        last
            Whether no other region remains; while one does, a request that timed out is not repeated here.

        Raises
        ------
        PrincipalRejected, MethodNotOffered, DecryptionDenied, InvalidResponse, CerberusUnavailable, DeadlineExceeded
            As README's table says; ``step`` tells where: ``credentials``, ``sts:AssumeRole``, ``auth request`` or
            ``kms:Decrypt``.
        ConfigurationError
            There are no credentials, or the role may not be assumed.
        RenewedElsewhere
            As wanted early, and another container is renewing.
        """
        with deadline.step("credentials"):  # first: without them Cerberus would be asked in vain
            self._aws.credentials(region, deadline)

        def ask() -> tuple[str, Asked]:
            asked = token.Asked()
            with deadline.step("auth request"):
                return self._ask(principal, region, deadline, last), asked

        def open_response(auth_data: str, asked: Asked) -> tuple[Token, Decrypted]:
            with deadline.step("kms:Decrypt"):
                decrypted = self._decrypt(auth_data, region, deadline, last)
                source = "the decrypted auth response"
                return token.parse(decrypted.plaintext, asked, principal, region, source), decrypted

        def ask_to_share() -> tuple[Token, str | None]:
            auth_data, asked = ask()
            given, decrypted = open_response(auth_data, asked)
            return given, auth_data if is_for(principal, decrypted.plaintext) else None

        def open_shared(auth_data: str, asked: Asked) -> Token:
            _check_ciphertext(auth_data, "shared auth response")
            given, decrypted = open_response(auth_data, asked)
            if not is_for(principal, decrypted.plaintext):
                raise errors.InvalidResponse(f"it is not that of {principal}")
            return given

        if self._shared is None:
            return open_response(*ask())[0]
        return self._shared.token("kms", principal, region, deadline, wanted, open_shared, ask_to_share)

    def _question(self, principal: str, region: str) -> tuple[str, dict[str, str]]:
        return "/v2/auth/iam-principal", {"iam_principal_arn": principal, "region": region}

    def _ask(self, principal: str, region: str, deadline: Deadline, last: bool) -> str:
        path, fields = self._question(principal, region)
        response = self._transport.request(
            "Cerberus",
            "POST",
            f"{self._settings.url}{path}",
            deadline,
            headers=lambda: {**CLIENT_HEADERS, "Content-Type": "application/json"},
            body=json.dumps(fields).encode(),
            transient=transient,
            repeat_timeouts=last,
        )
        if response.status != 200:
            raise auth_refusal(response, principal, region)
        auth_data = (response.json_object() or {}).get("auth_data")
        if not isinstance(auth_data, str):
            raise errors.InvalidResponse(
                "Cerberus answers an auth request without auth_data: see whether CERBERUS_URL is right"
            )
        _check_ciphertext(auth_data, "auth_data of Cerberus")
        return auth_data

    def _decrypt(self, auth_data: str, region: str, deadline: Deadline, last: bool) -> Decrypted:
        try:
            decrypted = self._aws.decrypt(auth_data, region, deadline, repeat_timeouts=last)
        except AwsRefusal as refusal:
            error = _denied(refusal, region, self._settings)
        else:
            self._check_key(decrypted)
            return decrypted
        raise error

    def _check_key(self, decrypted: Decrypted) -> None:
        key = _KEY_ARN.fullmatch(decrypted.key_arn)
        if key is None:
            raise errors.InvalidResponse("KMS names a key that is not one: see AWS_ENDPOINT_URL_KMS")
        if self._settings.kms_account_id and key[3] != self._settings.kms_account_id:
            raise errors.InvalidResponse(
                f"the auth response was encrypted by a key of account {key[3]}, not of CERBERUS_KMS_ACCOUNT_ID "
                f"({self._settings.kms_account_id}): is CERBERUS_URL the right Cerberus? It was not used"
            )


class OlderKmsAuth(KmsAuth):
    """The same by the older path, for a service that has no other: takes roles of partition ``aws`` only."""

    name = "kms v1"

    def _question(self, principal: str, region: str) -> tuple[str, dict[str, str]]:
        role = _OLDER_PRINCIPAL.fullmatch(principal)
        if role is None:
            raise errors.ConfigurationError(
                f"the older KMS authentication takes roles of partition aws only, not {principal}: see CERBERUS_IAM_ROLE_ARN"
            )
        return "/v1/auth/iam-role", {"account_id": role[1], "role_name": role[2], "region": region}


def _check_ciphertext(auth_data: str, what: str) -> None:
    try:
        size = len(a2b_base64(auth_data, strict_mode=True))
    except ValueError:
        raise errors.InvalidResponse(f"the {what} is not base64: was it cut on its way?") from None
    if not 0 < size <= _MAX_CIPHERTEXT_BYTES:
        raise errors.InvalidResponse(f"the {what} has {size} bytes, which no KMS ciphertext has")


def _denied(refusal: AwsRefusal, region: str, settings: Settings) -> errors.CerberusError:
    """Which of the causes it is, told from how KMS words its refusals; of its words only a key's ARN is repeated."""
    if (refused := credentials_refused(refusal)) is not None:
        return errors.DecryptionDenied(str(refused))
    text, code = refusal.message, refusal.code
    if code in ("InvalidCiphertextException", "IncorrectKeyException", "ValidationException", "SerializationException"):
        return errors.InvalidResponse(
            f"KMS in {region} finds no ciphertext of its own in the auth response ({code}): see whether CERBERUS_URL is right"
        )
    if code in ("DisabledException", "KMSInvalidStateException", "NotFoundException"):
        return errors.DecryptionDenied(
            f"KMS in {region} cannot use the key ({code}): it is disabled or deleted in Cerberus' account. Cerberus' "
            f"operator can mend that; CERBERUS_FALLBACK_REGIONS gives another way meanwhile"
        )
    key = _KEY_ARN.search(text)
    owner = settings.kms_account_id or (key[3] if key else "<the account of Cerberus>")
    statement = json.dumps(
        {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": f"arn:{partition(region)}:kms:*:{owner}:key/*"}
    )
    role = settings.assume_role_arn or "its execution role"
    if any(kind in text for kind in ("identity-based polic", "permissions boundar", "control polic", "session polic")):
        return errors.DecryptionDenied(
            f"the policies of the function's role do not let it decrypt ({code}). Add to {role}: {statement}; if "
            f"that is there, a permissions boundary, a service control policy or a Deny stands against it"
        )
    if "resource-based polic" in text:  # KMS words a key's policy and a key of another region alike
        return errors.DecryptionDenied(
            f"the policy of Cerberus' KMS key does not name this role, or the key is not in {region} ({code}). If the role was "
            f"deleted and made again under the same name, Cerberus mends its key within five minutes; else see that "
            f"CERBERUS_IAM_ROLE_ARN is this function's own role, and CERBERUS_REGION the region where Cerberus encrypts"
        )
    return errors.DecryptionDenied(
        f"KMS in {region} knows no such key, or does not let this role use it ({code}). One of three is wrong: the region (see "
        f"that CERBERUS_REGION is where Cerberus encrypts); the function's policy (it needs {statement}); or the key's policy "
        f"(a role deleted and made again under the same name: Cerberus mends its key within five minutes)"
    )
