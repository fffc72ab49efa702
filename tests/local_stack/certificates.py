"""A temporary certificate authority, for TLS between the parts of the local stack."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


class CertificateAuthority:
    """A new authority. Its keys stay in memory.

    Parameters
    ----------
    folder
        The existing folder in which it writes ``ca.pem``.
    """

    bundle: Path
    """The PEM file for clients to trust."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.bundle = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.bundle))

    def server_context(self, *hosts: str) -> ssl.SSLContext:
        """Return a TLS context for a server, with a new certificate.

        Parameters
        ----------
        hosts
            The names and addresses of the server; by default ``localhost`` and ``127.0.0.1``.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(hosts or ("localhost", "127.0.0.1"))).configure_cert(context)
        return context
