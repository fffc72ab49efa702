"""Verification of AWS Signature Version 4 (IAM User Guide, "Create a signed AWS API request")."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Container
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from cerberus_auth.testing.http_server import Request

from .refusal import RefusedError, mismatch

STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Signature:
    """The signature in an ``Authorization`` header."""

    access_key: str
    day: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    value: str

    @classmethod
    def of(cls, request: Request) -> Signature:
        """Parse the header of a request.

        Raises
        ------
        RefusedError
            The header is missing or has another format.
        """
        header = request.headers.get("Authorization")
        if not header:
            raise RefusedError("MissingAuthenticationTokenException", "Missing Authentication Token")
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 +Credential=([^/, ]+)/(\d{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request *, *"
            r"SignedHeaders=([a-z0-9;_-]+) *, *Signature=([0-9a-f]{64})",
            header.strip(),
        )
        if found is None:
            raise RefusedError("IncompleteSignatureException", "Authorization header is not of AWS4-HMAC-SHA256")
        access_key, day, region, service, signed, value = found.groups()
        return cls(access_key, day, region, service, tuple(signed.split(";")), value)

    def check_scope(self, request: Request, service: str, regions: Container[str]) -> None:
        """Check that the scope names the service and one of its regions. With a regional host, it must be that region.

        Raises
        ------
        RefusedError
            The scope is wrong.
        """
        if self.service != service:
            raise mismatch(f"Credential should be scoped to correct service: '{service}'. ")
        host = re.fullmatch(r"[a-z]+\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?", request.headers.get("Host") or "")
        if self.region not in regions or (host is not None and host[1] != self.region):
            raise mismatch("Credential should be scoped to a valid region. ")

    def check_date(self, request: Request, minutes: int) -> None:
        """Check that the request was signed within a number of minutes from now.

        Raises
        ------
        RefusedError
            The date is missing, malformed, too early or too late.
        """
        stamp, now = request.headers.get("X-Amz-Date") or "", datetime.now(UTC)
        try:
            made = datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)
        except ValueError:
            raise RefusedError(
                "IncompleteSignatureException", "Authorization header requires existence of a valid 'X-Amz-Date' header"
            ) from None
        if made.strftime("%Y%m%d") != self.day:
            raise mismatch("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP")
        earliest, latest = now - timedelta(minutes=minutes), now + timedelta(minutes=minutes)
        if made < earliest:
            limit = f"{earliest:{STAMP}} ({now:{STAMP}} - {minutes} min.)"
            raise mismatch(f"Signature expired: {stamp} is now earlier than {limit}")
        if made > latest:
            limit = f"{latest:{STAMP}} ({now:{STAMP}} + {minutes} min.)"
            raise mismatch(f"Signature not yet current: {stamp} is still later than {limit}")

    def verify(self, request: Request, secret_key: str) -> None:
        """Compute the signature and compare it.

        Raises
        ------
        RefusedError
            The signatures differ, or a required header is not signed.
        """
        if "host" not in self.signed_headers:
            raise RefusedError(
                "IncompleteSignatureException", "'Host' or ':authority' must be a 'SignedHeader' in the Authorization."
            )
        unsigned = {name.lower() for name in request.headers if name.lower().startswith("x-amz-")}
        body_hash = hashlib.sha256(request.body).hexdigest()
        if not unsigned.issubset(self.signed_headers) or not hmac.compare_digest(
            self._expected(request, body_hash, secret_key), self.value
        ):
            raise mismatch(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
                "Access Key and signing method. Consult the service documentation for details."
            )

    def _expected(self, request: Request, body_hash: str, secret_key: str) -> str:
        headers = [
            f"{name}:{','.join(' '.join(value.split()) for value in request.headers.get_all(name, []))}\n"
            for name in self.signed_headers
        ]
        canonical = "\n".join(
            [
                request.method,
                quote(request.path, safe="/"),  # encoded twice, as for all services but S3
                "&".join(sorted(f"{quote(name, '')}={quote(value, '')}" for name, value in request.query.items())),
                "".join(headers),
                ";".join(self.signed_headers),
                body_hash,
            ]
        )
        scope = (self.day, self.region, self.service, "aws4_request")
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = "\n".join(["AWS4-HMAC-SHA256", request.headers["X-Amz-Date"], "/".join(scope), hashed])
        key = f"AWS4{secret_key}".encode()
        for part in (*scope, to_sign):
            key = hmac.digest(key, part.encode(), "sha256")
        return key.hex()
