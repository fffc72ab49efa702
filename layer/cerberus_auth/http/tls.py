"""What TLS trusts."""

from __future__ import annotations

import os
import ssl
import sys

from ..errors import ConfigurationError
from .connection import interruption
from .retry import reason

# The layer's, of certifi (layer/authorities.py); the pip package has none. Loading a store as a whole takes 16 ms.
_AUTHORITIES = os.path.join(os.path.dirname(os.path.dirname(__file__)), "authorities")


def tls_context(ca_bundles: tuple[str, ...]) -> ssl.SSLContext:
    """Make a context that verifies certificates and host names.

    Raises
    ------
    ConfigurationError
        A bundle of authorities cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # RFC 9525: subject alternative names only
    for path in ca_bundles:
        _load(context, "AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE", path)
    if ca_bundles:
        return context
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if os.path.isdir(_AUTHORITIES) and file is None and folders is None:
        context.load_verify_locations(capath=_AUTHORITIES)  # OpenSSL reads there, when it verifies, only what it needs
    else:
        # OpenSSL passes over what is not there, and would trust other authorities instead.
        if file:
            _load(context, "SSL_CERT_FILE", file)
        if folders and not any(map(os.path.isdir, folders.split(os.pathsep))):
            raise ConfigurationError(f"SSL_CERT_DIR: {folders} is no folder. Set it to one with certificates")
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if not context.cert_store_stats()["x509_ca"]:
            try:  # a Python without a store of its own; requests brings certifi
                import certifi
            except ImportError:
                pass
            else:
                context.load_verify_locations(certifi.where())
    return context


def _load(context: ssl.SSLContext, variable: str, path: str) -> None:
    before = sys.exception()
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        if interruption(error, before):
            raise
        raise ConfigurationError(f"{variable}: {path} holds no certificates ({reason(error)})") from None
