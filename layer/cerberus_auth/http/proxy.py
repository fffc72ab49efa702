"""Proxies: which requests use one, and how.

https requests use ``HTTPS_PROXY`` by ``CONNECT``: an ``http://`` proxy, optionally with ``user:password@``. The proxy sees the
host and the port only. These requests never use it:

- plain http, which is for loopback hosts only
- loopback hosts
- the container credentials endpoint
- hosts in ``NO_PROXY``

``NO_PROXY`` is a list of entries separated by commas:

- ``*`` matches every host.
- ``example.com``, ``.example.com`` and ``*.example.com`` match this host and its subdomains.
- ``10.0.0.0/8``, ``fd00::/8`` and ``::1`` match hosts that are given as an address in this range.
- ``example.com:8443`` and ``[::1]:8443`` match on this port only.

``HTTP_PROXY`` and ``ALL_PROXY`` are ignored. If a variable is set in both cases, the lower-case one applies.
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
    """Return the URL of the proxy for https requests to a host, or None.

    Parameters
    ----------
    settings
        The settings with the proxy variables.
    host
        The host's name or address.
    port
        The port.
    """
    if not settings.proxy or is_loopback(host):
        return None
    host = host.lower()
    for entry in settings.no_proxy.lower().split(","):
        name, named_port = _split(entry.strip())
        if named_port and named_port != str(port):
            continue
        if name == "*" or _is_below(host, name.lstrip("*").lstrip(".")) or _is_in(host, name):
            return None
    return settings.proxy


def _split(entry: str) -> tuple[str, str]:
    """Split an entry into host and port. An IPv6 address with a port needs brackets."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    if entry.count(":") > 1:
        return entry, ""
    name, _, port = entry.partition(":")
    return name, port


def _is_below(host: str, name: str) -> bool:
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _is_in(host: str, addresses: str) -> bool:
    """Return whether a host is an address within the entry's address or range."""
    if ":" not in addresses and "/" not in addresses:
        return False
    from ipaddress import ip_address, ip_network  # needed for addresses only

    try:
        return ip_address(host) in ip_network(addresses, strict=False)
    except ValueError:
        return False


def proxy_url(proxy: str) -> SplitResult:
    """Parse a proxy's URL.

    Parameters
    ----------
    proxy
        The URL, with or without ``http://``.
    """
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def tunnel_headers(proxy: SplitResult) -> dict[str, str]:
    """Return the headers for a ``CONNECT`` request: the credentials, if the proxy's URL has some.

    Parameters
    ----------
    proxy
        The parts of the proxy's URL.
    """
    if not proxy.username:
        return {}
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(credentials).decode()}"}
