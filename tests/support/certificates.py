"""Owns the certificates of the tests, made by openssl: authorities, servers, clients, and one that has expired."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
LOCAL = "DNS:localhost,IP:127.0.0.1"


class Authority:
    """An authority in `directory`, which makes certificates there."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory
        self.name = name
        self.certificate, self._key = directory / f"{name}.crt", directory / f"{name}.key"
        directory.mkdir(exist_ok=True)
        _openssl("req", "-x509", *NEW_KEY, "-days", "2", "-subj", f"/CN={name}",
                 "-keyout", str(self._key), "-out", str(self.certificate))  # fmt: skip

    def issue(self, name: str, subject_alt_name: str = LOCAL, *, has_expired: bool = False) -> tuple[Path, Path]:
        """(certificate, key) that this authority vouches for."""
        certificate, key, request = (self.directory / f"{self.name}-{name}.{end}" for end in ("crt", "key", "csr"))
        _openssl("req", *NEW_KEY, "-subj", f"/CN={name}", "-addext", f"subjectAltName={subject_alt_name}",
                 "-keyout", str(key), "-out", str(request))  # fmt: skip
        _openssl("x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key),
                 "-CAcreateserial", "-copy_extensions", "copyall", "-days", "-1" if has_expired else "2",
                 "-out", str(certificate))  # fmt: skip
        return certificate, key


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
