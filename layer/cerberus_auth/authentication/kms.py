"""KMS authentication: Cerberus encrypts the token with a KMS key that only the role can decrypt with."""

from __future__ import annotations

import json
import re
from binascii import a2b_base64

from .. import errors
from ..aws.calls import AwsRefusal, credentials_refused
from ..deadline import Moment
from ..settings import partition
from . import token
from .principal import is_for
from .wire import CLIENT_HEADERS, auth_refusal, send_auth_request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..aws.calls import Aws, Decrypted
    from ..deadline import Deadline
    from ..http.transport import Transport
    from ..settings import Settings
    from .token import Token, TokenRequest, TokenSharing

_MAX_CIPHERTEXT_BYTES = 6144  # KMS API reference, Decrypt
_OLDER_PRINCIPAL = r"arn:aws:iam::(\d{12}):role/(.+)"  # compiled when first needed
_KEY_ARN = re.compile(r"arn:(aws|aws-cn):kms:([a-z0-9-]+):(\d{12}):key/[\w-]+")


class KmsAuth:
    """Authenticate by KMS. See ``AuthMethod``."""

    name = setting = "kms"

    def __init__(self, settings: Settings, transport: Transport, aws: Aws, sharing: TokenSharing | None = None) -> None:
        self._settings = settings
        self._transport = transport
        self._aws = aws
        self._sharing = sharing

    def authenticate(
        self,
        principal: str,
        region: str,
        deadline: Deadline,
        request: TokenRequest = token.ANY_TOKEN,
        *,
        last: bool = True,
    ) -> Token:
        """Authenticate once as one principal in one region, or use the auth response that another container shares.

        Parameters
        ----------
        last
            Whether this is the last region to try. In the others, a request that timed out is not retried.

        Raises
        ------
        PrincipalRejected, BlockedAtEdge, MethodNotOffered, DecryptionDenied, InvalidResponse, CerberusUnavailable,
        DeadlineExceeded
            See ``CerberusAuth.token``. ``step`` is ``auth request`` or ``kms:Decrypt``.
        ConfigurationError
            The AWS credentials are missing, or the role cannot be assumed.
        """

        def open_response(auth_data: str, asked: Moment) -> Token:
            with deadline.step("kms:Decrypt"):
                document = self._decrypt(auth_data, region, deadline, last)
                parsed = token.parse(document, asked, principal, region, "decrypted auth response")
                if is_for(principal, document):
                    return parsed
                raise errors.InvalidResponse(
                    f"Auth response rejected: it is for another principal than {principal}. Check CERBERUS_URL."
                )

        def fetch() -> tuple[Token, str]:
            request.check_outage()
            asked = Moment()
            with deadline.step("auth request"):
                auth_data = self._request(principal, region, deadline, last)
            return open_response(auth_data, asked), auth_data

        def open_shared(auth_data: str, asked: Moment) -> Token:
            _check_ciphertext(auth_data, "shared auth response")
            return open_response(auth_data, asked)

        if self._sharing is None:
            return fetch()[0]
        return self._sharing.token(self.name, principal, region, deadline, request, open_shared, fetch)

    def _path_and_fields(self, principal: str, region: str) -> tuple[str, dict[str, str]]:
        return "/v2/auth/iam-principal", {"iam_principal_arn": principal, "region": region}

    def _request(self, principal: str, region: str, deadline: Deadline, last: bool) -> str:
        path, fields = self._path_and_fields(principal, region)
        response = send_auth_request(
            self._transport,
            self._settings,
            path,
            deadline,
            headers=lambda: {**CLIENT_HEADERS, "Content-Type": "application/json"},
            body=json.dumps(fields).encode(),
            last=last,
        )
        if response.status != 200:
            raise auth_refusal(response, principal, region)
        auth_data = (response.json_object() or {}).get("auth_data")
        if not isinstance(auth_data, str):
            raise errors.InvalidResponse(
                "Cerberus answered an auth request without auth_data (200). Check that CERBERUS_URL is Cerberus."
            )
        _check_ciphertext(auth_data, "auth_data of Cerberus")
        return auth_data

    def _decrypt(self, auth_data: str, region: str, deadline: Deadline, last: bool) -> bytes:
        try:
            decrypted = self._aws.decrypt(auth_data, region, deadline, repeat_timeouts=last)
        except AwsRefusal as refusal:
            error = _decryption_error(refusal, region, self._settings)
        else:
            self._check_key(decrypted)
            return decrypted.plaintext
        raise error

    def _check_key(self, decrypted: Decrypted) -> None:
        key = _KEY_ARN.fullmatch(decrypted.key_arn)
        if key is None:
            raise errors.InvalidResponse("KMS returned an invalid key ARN. Check AWS_ENDPOINT_URL_KMS.")
        if self._settings.kms_account_id and key[3] != self._settings.kms_account_id:
            raise errors.InvalidResponse(
                f"Auth response rejected: its KMS key belongs to account {key[3]}, but CERBERUS_KMS_ACCOUNT_ID is "
                f"{self._settings.kms_account_id}. Check CERBERUS_URL."
            )


class OlderKmsAuth(KmsAuth):
    """Authenticate by KMS at the older endpoint, for an old Cerberus. It accepts roles of partition ``aws`` only."""

    name = "kms v1"

    def _path_and_fields(self, principal: str, region: str) -> tuple[str, dict[str, str]]:
        role = re.fullmatch(_OLDER_PRINCIPAL, principal)
        if role is None:
            raise errors.ConfigurationError(
                f"/v1/auth/iam-role accepts roles of partition aws only, not {principal}. Check CERBERUS_IAM_ROLE_ARN."
            )
        return "/v1/auth/iam-role", {"account_id": role[1], "role_name": role[2], "region": region}


def _check_ciphertext(auth_data: str, what: str) -> None:
    try:
        size = len(a2b_base64(auth_data, strict_mode=True))
    except ValueError:
        raise errors.InvalidResponse(f"The {what} is not base64. Check whether a proxy truncates answers.") from None
    if not 0 < size <= _MAX_CIPHERTEXT_BYTES:
        raise errors.InvalidResponse(
            f"The {what} has {size} bytes, but a KMS ciphertext has 1 to {_MAX_CIPHERTEXT_BYTES}. Check CERBERUS_URL."
        )


def _decryption_error(refusal: AwsRefusal, region: str, settings: Settings) -> errors.CerberusError:
    """Return the error for a refusal of KMS. From the message of KMS, only a key ARN is repeated."""
    text, code = refusal.message, refusal.code
    if code in ("InvalidCiphertextException", "IncorrectKeyException", "ValidationException", "SerializationException"):
        return errors.InvalidResponse(
            f"KMS in {region} does not recognize the auth response as its ciphertext ({code}). Check that CERBERUS_URL is "
            f"Cerberus."
        )
    refused = credentials_refused(refusal)
    error = errors.DecryptionDenied(str(refused) if refused else _advice(text, code, region, settings))
    error.credentials_refused, error.regional = refused is not None, refused is None
    return error


def _advice(text: str, code: str, region: str, settings: Settings) -> str:
    if code in ("DisabledException", "KMSInvalidStateException", "NotFoundException"):
        return (
            f"KMS in {region} cannot use the key ({code}): it is disabled or deleted in the account of Cerberus. Ask the "
            f"operator of Cerberus to restore it. Until then, set CERBERUS_FALLBACK_REGIONS."
        )
    key = _KEY_ARN.search(text)
    owner = settings.kms_account_id or (key[3] if key else "<the account of Cerberus>")
    statement = json.dumps(
        {
            "Effect": "Allow",
            "Action": "kms:Decrypt",
            "Resource": f"arn:{partition(region)}:kms:*:{owner}:key/*",
            # Cerberus encrypts without a context. The condition excludes other ciphertext of that account.
            "Condition": {"Null": {"kms:EncryptionContextKeys": "true"}},
        }
    )
    role = settings.assume_role_arn or "its execution role"
    if any(kind in text for kind in ("identity-based polic", "permissions boundar", "control polic", "session polic")):
        return (
            f"The policies of the function's role do not allow kms:Decrypt ({code}). Add to {role}: {statement}. If the role "
            f"has this statement, check for a permissions boundary, a service control policy or a Deny."
        )
    if "resource-based polic" in text:  # KMS has one text for a key's policy and for a key of another region
        return (
            f"The policy of Cerberus' KMS key does not name this role, or the key is not in {region} ({code}). If the role was "
            f"deleted and created again, wait five minutes: Cerberus updates the key policy. Otherwise check that "
            f"CERBERUS_IAM_ROLE_ARN is this function's role, and CERBERUS_REGION is the region where Cerberus encrypts."
        )
    return (
        f"KMS in {region} does not have the key, or does not allow this role to use it ({code}). Check the region: "
        f"CERBERUS_REGION must be the region where Cerberus encrypts. Check the function's policy: it needs {statement}. If "
        f"the role was deleted and created again, wait five minutes: Cerberus updates the key policy."
    )
