"""A certificate authority for one test, with a certificate for each of its hosts."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Authority:
    """Writes `ca.pem`, and for each address `ADDRESS.pem` and `ADDRESS.key`, into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        made = self._signed(self._name, self._key, [(constraints, True)])
        (folder / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def sign(self, address: str) -> None:
        """Make a host's key and certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        made = self._signed(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, address)]), key, [(names, False)])
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self._folder / f"{address}.pem").write_bytes(made.public_bytes(pem))
        (self._folder / f"{address}.key").write_bytes(private)

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extensions: list[Any]) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, is_critical)
        return builder.sign(self._key, hashes.SHA256())
