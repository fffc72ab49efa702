"""The certificate authorities that TLS trusts."""

from __future__ import annotations

import os
import ssl
import sys

from ..errors import ConfigurationError
from .connection import interruption
from .retry import reason

# certifi's, split by layer/authorities.py in the layer; missing in the pip package. Loading a whole bundle takes 16 ms.
_AUTHORITIES = os.path.join(os.path.dirname(os.path.dirname(__file__)), "authorities")


def tls_context(ca_bundles: tuple[str, ...]) -> ssl.SSLContext:
    """Return a context that verifies certificates and host names.

    Parameters
    ----------
    ca_bundles
        Paths of bundles to trust. If empty, the default authorities apply.

    Raises
    ------
    ConfigurationError
        A bundle cannot be loaded.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies by default
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # RFC 9525: subject alternative names only
    for path in ca_bundles:
        _load(context, "AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE", path)
    if ca_bundles:
        return context
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if os.path.isdir(_AUTHORITIES) and file is None and folders is None:
        context.load_verify_locations(capath=_AUTHORITIES)  # OpenSSL reads only the files that it needs
    else:
        # OpenSSL ignores missing paths and would trust the default authorities instead.
        if file:
            _load(context, "SSL_CERT_FILE", file)
        if folders and not any(map(os.path.isdir, folders.split(os.pathsep))):
            raise ConfigurationError(f"SSL_CERT_DIR: {folders} is not a folder. Set it to a folder with certificates.")
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if not context.cert_store_stats()["x509_ca"]:
            try:  # this Python has no store; requests installs certifi
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
        raise ConfigurationError(
            f"{variable}: {path} cannot be loaded ({reason(error)}). Set it to a readable file of PEM certificates."
        ) from None
