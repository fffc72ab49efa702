"""Proxies: which requests go through one, and how.

https goes through ``HTTPS_PROXY`` (an ``http://`` proxy, with ``user:password@`` if it wants them) by ``CONNECT``, so
that it learns the host and port and nothing else. Never through it go plain http (which is for loopback hosts only), loopback
hosts, the endpoint of container credentials, and what ``NO_PROXY`` names: hosts by comma, each of them with all below it
(``example.com``, ``.example.com`` and ``*.example.com`` are the same), with ``:port`` for that port only, ``*`` for all.
Addresses are compared as they are written; ranges such as ``10.0.0.0/8`` are not known. ``HTTP_PROXY`` and ``ALL_PROXY`` are
not read. Of a variable in both spellings, the lower-case one counts.
"""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import unquote, urlsplit

from ..settings import is_loopback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from ..settings import Settings


def proxy_for(settings: Settings, host: str, port: int) -> str | None:
    """The proxy that https to this host goes through, if any."""
    if not settings.proxy or is_loopback(host):
        return None
    for entry in settings.no_proxy.lower().split(","):
        name, _, entry_port = entry.strip().partition(":")
        name = name.lstrip("*").lstrip(".")
        if entry.strip() == "*":
            return None
        if (
            name
            and (not entry_port or entry_port == str(port))
            and (host.lower() == name or host.lower().endswith("." + name))
        ):
            return None
    return settings.proxy


def proxy_url(proxy: str) -> SplitResult:
    """The parts of a proxy's URL, which may come without its scheme."""
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def tunnel_headers(proxy: SplitResult) -> dict[str, str]:
    """What a proxy wants to see besides the host: who asks, where its URL says that."""
    if not proxy.username:
        return {}
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(credentials).decode()}"}
