"""Keys with self-signed certificates for servers that tests start."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
_LIFE = datetime.timedelta(days=3650)


def write_certificate(folder: Path, *names: x509.GeneralName) -> tuple[Path, Path]:
    """Write `tls.crt`, which is its own authority, and its RSA key `tls.key`, and return the two paths."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    owner = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test server")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(owner, owner, key.public_key(), x509.random_serial_number())
        # Clocks of machines that share a folder may differ.
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    # PKCS#1 is the one form of a key that every program reads.
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (folder / "tls.key").write_bytes(pem)
    (folder / "tls.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return folder / "tls.crt", folder / "tls.key"
