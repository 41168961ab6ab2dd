"""Keys and self-signed certificates for servers that tests start."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = datetime.timedelta(days=3650)


def write_private_key(path: Path) -> rsa.RSAPrivateKey:
    """Make an RSA key and write it as PKCS#1, the one form that every program reads."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    return key


def write_server_certificate(folder: Path, names: list[x509.GeneralName]) -> tuple[Path, Path]:
    """Write `tls.crt`, signed by its own key `tls.key`, and return the two paths."""
    key = write_private_key(folder / "tls.key")
    names_of_server = x509.SubjectAlternativeName(names)
    certificate = _builder("test server", "test server", key).add_extension(names_of_server, critical=False)
    (folder / "tls.crt").write_bytes(certificate.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return folder / "tls.crt", folder / "tls.key"


def loopback(addresses: list[str]) -> list[x509.GeneralName]:
    """Return addresses as names of a certificate."""
    return [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]


def write_webhook_certificates(folder: Path, server: str) -> None:
    """Write `ca.crt`, `ca.key`, `tls.crt`, `tls.key` unless they are there; safe if several do so at once."""
    if (folder / "tls.crt").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent))
    authority_key, key = write_private_key(work / "ca.key"), write_private_key(work / "tls.key")
    authority = (
        _builder("training-operator-ca", "training-operator-ca", authority_key)
        # Training Operator renews what does not name its authority so.
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("training-operator-ca")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _builder(server, "training-operator-ca", key)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(server)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    (work / "ca.crt").write_bytes(authority.public_bytes(Encoding.PEM))
    (work / "tls.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    try:
        work.rename(folder)
    except OSError:  # somebody else was faster
        shutil.rmtree(work)


def _builder(subject: str, issuer: str, key: rsa.RSAPrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of machines that share a folder may differ.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _LIFE)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "training-operator"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
