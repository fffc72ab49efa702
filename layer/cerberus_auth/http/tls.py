"""What TLS trusts."""

from __future__ import annotations

import os
import ssl

from ..errors import ConfigurationError
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
    for path in ca_bundles:
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE: {path} holds no certificates ({reason(error)})"
            ) from None
    if ca_bundles:
        return context
    if os.path.isdir(_AUTHORITIES) and not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys():
        context.load_verify_locations(capath=_AUTHORITIES)  # OpenSSL reads there, when it verifies, only what it needs
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if not context.cert_store_stats()["x509_ca"]:
            try:  # a Python without a store of its own; requests brings certifi
                import certifi
            except ImportError:
                pass
            else:
                context.load_verify_locations(certifi.where())
    return context
