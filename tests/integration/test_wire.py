"""What the wire takes: TLS 1.2 or newer, the right host's certificate, and no header but ours."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
import requests

from cerberus_auth import CerberusUnavailable, ConfigurationError, InvalidResponse, Settings
from cerberus_auth.testing.http_server import Response, Server
from integration.function import Function
from local_stack.stack import SECRET_PATH


def in_the_place_of_cerberus(function: Function, tls: ssl.SSLContext) -> Server:
    """A server that answers everything, and must not be asked anything."""
    server = Server(lambda request: Response(200, b"{}"), tls)
    function.configure(CERBERUS_URL=server.url, CERBERUS_MAX_ATTEMPTS="1")
    return server


@pytest.mark.filterwarnings("ignore:.*TLSv1:DeprecationWarning")
def test_older_than_tls_1_2_is_refused(function: Function) -> None:
    tls = function.stack.ca.server_context()
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version, tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with in_the_place_of_cerberus(function, tls):
        assert type(function.failure(function.auth().token)) is CerberusUnavailable


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_is_newer_is_spoken(function: Function, version: ssl.TLSVersion) -> None:
    tls = function.stack.ca.server_context()
    tls.minimum_version = tls.maximum_version = version
    with in_the_place_of_cerberus(function, tls):
        assert type(function.failure(function.auth().token)) is InvalidResponse  # an answer, of no use


def test_the_certificate_of_another_host_is_refused(function: Function) -> None:
    with in_the_place_of_cerberus(function, function.stack.ca.server_context("other.example.com")):
        error = function.failure(function.auth().token)
    assert type(error) is CerberusUnavailable
    assert "Hostname mismatch" in str(error)


@pytest.mark.parametrize("url", ["http://cerberus.example.com", "http://10.0.0.1", "http://localhost.example.com"])
def test_plain_http_is_for_loopback_alone(url: str) -> None:
    with pytest.raises(ConfigurationError, match="CERBERUS_URL"):
        Settings(url=url, region="us-west-2")


def test_a_netrc_neither_replaces_nor_adds_to_our_header(
    function: Function, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine localhost login somebody password secret-of-somebody\n")
    monkeypatch.setenv("NETRC", str(file))
    auth = function.auth()
    url = f"{function.stack.cerberus.url}/v1/secret/{SECRET_PATH}"
    assert requests.get(url, auth=auth, timeout=5).status_code == 200
    (read,) = [request for request in function.cerberus.requests if request.path.startswith("/v1/secret")]
    assert read.headers["X-Cerberus-Token"] == auth.token()
    assert read.headers["Authorization"] is None


@pytest.mark.parametrize("character", ["\r\nX-Injected: yes", "\n", "\r", "\0", " ", "\x7f", "é", "\u2028"])
def test_a_hostile_token_puts_nothing_into_a_request(function: Function, character: str) -> None:
    document = {"client_token": f"hostile{character}token", "lease_duration": 3600}
    function.stack.cerberus.plaintext_override = json.dumps(document).encode()
    assert type(function.failure(function.auth().token)) is InvalidResponse
    assert all("/auth/" in request.path for request in function.cerberus.requests)
