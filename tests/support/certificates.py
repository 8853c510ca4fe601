"""Certificates of an authority that nobody knows."""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(folder: Path, *, days: int = 1, address: str = "127.0.0.1") -> tuple[Path, ssl.SSLContext]:
    """An authority's certificate, and the context of a server whose certificate that authority has signed."""
    now = datetime.datetime.now(datetime.UTC)

    def build(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        begins = now - datetime.timedelta(days=30)
        builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
        return builder.serial_number(x509.random_serial_number()).not_valid_before(begins)

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    authority = build("authority", authority_key).issuer_name(issuer).not_valid_after(now + datetime.timedelta(days=30))
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    server = build("server", key).issuer_name(issuer).not_valid_after(now + datetime.timedelta(days=days))
    signed = server.add_extension(host, critical=False).sign(authority_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(signed.public_bytes(pem) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "ca.pem", context
