"""A certificate authority made on the spot, so that TLS is the default between the parts of the local stack."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


class CertificateAuthority:
    """A new authority with each instance. Its keys stay in memory; only its certificate is written.

    :param folder: an existing folder, where ``ca.pem`` is written.
    """

    bundle: Path
    """The PEM file that a client is to trust."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.bundle = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.bundle))

    def server_context(self, *hosts: str) -> ssl.SSLContext:
        """Make the server's side of TLS, with a new certificate for these hosts.

        :param hosts: names and addresses; by default ``localhost`` and ``127.0.0.1``.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*(hosts or ("localhost", "127.0.0.1"))).configure_cert(context)
        return context
