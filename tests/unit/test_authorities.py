"""The layout of the layer's authorities: OpenSSL itself finds in it whatever it looks for."""

from __future__ import annotations

import datetime
import ssl
import warnings
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

import authorities

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.datetime.now(datetime.UTC)
HOST = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
with warnings.catch_warnings():
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # an authority of 2007 has 0 for its serial number
    PUBLIC = [each.subject for each in x509.load_pem_x509_certificates(Path(certifi.where()).read_bytes())]


def text(value: str, kind: _ASN1Type = _ASN1Type.UTF8String) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.ORGANIZATION_NAME, value, _type=kind, _validate=False)


def unit(value: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, value)


ODD = {
    "case": x509.Name([text("AMAZON Root ca")]),
    "spaces": x509.Name([text("  a \t b\n  c  ")]),
    "printable": x509.Name([text("Some  Authority", _ASN1Type.PrintableString)]),
    "IA5": x509.Name([text("Some@Authority", _ASN1Type.IA5String)]),
    "BMP": x509.Name([text("Ünïcode  Authority", _ASN1Type.BMPString)]),
    "universal": x509.Name([text("Ünïcode Authority", _ASN1Type.UniversalString)]),
    "no ASCII": x509.Name([text("ŁÓDŹ  Főtanúsítvány 認證")]),
    "long": x509.Name([text("A" * 300), unit("B" * 130)]),
    "several at one level": x509.Name([x509.RelativeDistinguishedName([unit("Z"), text("A")])]),
    "empty": x509.Name([text("")]),
    "numbers": x509.Name([x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\x01\x02", _ASN1Type.BitString)]),
}


def certificate(subject: x509.Name, issuer: x509.Name, is_authority: bool) -> x509.Certificate:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(KEY.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(NOW - datetime.timedelta(days=1)).not_valid_after(
        NOW + datetime.timedelta(days=1)
    )
    builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(KEY, hashes.SHA256())


def pem(found: x509.Certificate) -> str:
    return found.public_bytes(Encoding.PEM).decode()


def shake_hands(issuer: x509.Name, folder: Path, scratch: Path) -> None:
    """A server whose certificate that issuer signed, and a client who trusts what is laid out in the folder."""
    chain = scratch / "server.pem"
    key = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    chain.write_text(key + pem(certificate(HOST, issuer, is_authority=False)))
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    serving.load_cert_chain(chain)
    trusting.load_verify_locations(capath=folder)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            side.do_handshake()
    client.do_handshake()


def test_openssl_finds_every_public_authority_by_its_name(tmp_path: Path) -> None:
    bundle, folder = tmp_path / "bundle.pem", tmp_path / "authorities"
    bundle.write_text("".join(pem(certificate(name, name, is_authority=True)) for name in PUBLIC))
    authorities.main(bundle, folder)
    assert len(list(folder.iterdir())) == len(PUBLIC) > 100
    for name in PUBLIC:
        shake_hands(name, folder, tmp_path)


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_openssl_finds_odd_names_too(name: x509.Name, tmp_path: Path) -> None:
    bundle, folder = tmp_path / "bundle.pem", tmp_path / "authorities"
    bundle.write_text(pem(certificate(name, name, is_authority=True)))
    authorities.main(bundle, folder)
    shake_hands(name, folder, tmp_path)


def test_authorities_of_one_name_are_all_kept(tmp_path: Path) -> None:
    bundle, folder = tmp_path / "bundle.pem", tmp_path / "authorities"
    two = [pem(certificate(HOST, HOST, is_authority=True)) for _ in range(2)]
    bundle.write_text("# a comment between them\n".join(two))
    authorities.main(bundle, folder)
    files = sorted(folder.iterdir())
    assert [file.suffix for file in files] == [".0", ".1"]
    assert len({file.stem for file in files}) == 1
    assert [file.read_text() for file in files] == two


def test_an_authority_that_is_not_there_is_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "authorities"
    authorities.main(Path(certifi.where()), folder)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake_hands(ODD["case"], folder, tmp_path)
