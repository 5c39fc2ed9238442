"""Encryption between hosts: a certificate of this host, its key, and the authority that signs every host's.

Both sides show a certificate, and check that the other's is signed by the authority; whoever dials also checks that it
names the address dialled. Who somebody *is* stays the hello's affair. Unix sockets stay plain.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from shoal.foundation.errors import BadInput


class TlsFiles(msgspec.Struct, frozen=True):
    """Paths of PEM files: this host's certificate and key (0600), and the authority's certificate."""

    certificate: str
    key: str
    authority: str

    def dialling(self) -> ssl.SSLContext:
        """Return the context of whoever dials.

        Raises:
            BadInput: a file is missing, or is not what it should be.
        """
        return self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def serving(self) -> ssl.SSLContext:
        """Return the context of whoever listens. Raises as `dialling`."""
        context = self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.authority)
        except OSError as error:  # SSLError is one
            raise BadInput(
                f"TLS: expected a certificate, its key and an authority in PEM, got {error.strerror or error} "
                f"from {self.certificate}, {self.key}, {self.authority}"
            ) from error
        return context


_REFUSALS = ("ALERT_UNKNOWN_CA", "ALERT_CERTIFICATE", "ALERT_BAD_CERTIFICATE", "ALERT_UNSUPPORTED_CERTIFICATE")


def verdict(error: Exception) -> str:
    """Return why TLS will not hold with a peer however often it is tried; empty for what may pass.

    Either its certificate is not signed by our authority, is out of date or does not name the address dialled, or it
    has said the same of ours.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and any(alert in (error.reason or "") for alert in _REFUSALS):
        return f"it refuses our certificate: {error.reason.replace('_', ' ').lower()}"
    return ""


def files_of(paths: Sequence[str] | None) -> TlsFiles | None:
    """Return the three paths as files, None for none."""
    return TlsFiles(*paths) if paths else None


def given(paths: Mapping[str, Path | None]) -> TlsFiles | None:
    """Return what a person named, checked; None if nothing.

    `paths` are the certificate, its key and the authority's certificate, in this order, by the names that the person
    knows them under.

    Raises:
        BadInput: one of the three is missing or unusable.
    """
    missing = [name for name, path in paths.items() if path is None]
    if len(missing) == len(paths):
        return None
    if missing:
        raise BadInput(f"TLS: expected all of {', '.join(paths)} or none, got no {' and no '.join(missing)}")
    files = TlsFiles(*(str(path.resolve()) for path in paths.values() if path is not None))
    files.serving()
    return files
