"""What a person names on the command line for encryption is checked before anything starts."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from shoal.foundation.errors import BadInput
from shoal.transport import tls
from tests.hosts.authority import Authority


def given(*paths: Path | None) -> tls.TlsFiles | None:
    return tls.given(dict(zip(("--tls-cert", "--tls-key", "--tls-ca"), paths, strict=True)))


def test_all_three_files_or_none(tmp_path: Path) -> None:
    assert given(None, None, None) is None
    with pytest.raises(BadInput, match="got no --tls-key and no --tls-ca"):
        given(tmp_path / "a.pem", None, None)


def test_files_that_are_not_what_they_should_be_are_named(tmp_path: Path) -> None:
    Authority(tmp_path).sign("127.0.0.1")
    certificate, key, authority = tmp_path / "127.0.0.1.pem", tmp_path / "127.0.0.1.key", tmp_path / "ca.pem"
    with pytest.raises(BadInput, match=r"nothing\.pem"):
        given(tmp_path / "nothing.pem", key, authority)
    with pytest.raises(BadInput, match="expected a certificate, its key and an authority"):
        given(certificate, certificate, authority)

    files = given(certificate, key, authority)

    assert files is not None
    assert tls.files_of([files.certificate, files.key, files.authority]) == files
    serving = files.serving()
    assert serving.verify_mode is ssl.CERT_REQUIRED, "whoever comes without a certificate of the authority is refused"
    assert files.dialling().check_hostname
    assert serving.minimum_version is ssl.TLSVersion.TLSv1_3
