"""One request over loopback to another process, as to an extension that caches secrets. Warm calls only."""

import http.client
import os
from urllib.parse import urlsplit

import requests

url = os.environ["BENCH_HOP_URL"]
connection = http.client.HTTPConnection(urlsplit(url).netloc)
session = requests.Session()


def by_http_client() -> bytes:
    connection.request("GET", "/")
    return connection.getresponse().read()


def by_requests() -> bytes:
    return session.get(url).content


WARM = {"loopback hop, http.client": by_http_client, "loopback hop, requests": by_requests}
