"""Checks the files for TLS with a store: certificates and a key as PEM. No error shows any of a key's text."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.access.secret_files import UnusableFile, read_secret_file

if TYPE_CHECKING:
    from ssl import SSLContext

_KEY = re.compile(r"-----BEGIN ((?:[A-Z]+ )?PRIVATE KEY)-----")


def check_certificates(path: Path) -> None:
    """Raises UnusableFile if the file has no certificate, or one that cannot be used."""
    read_secret_file(path)  # a regular file of a bounded size, so that OpenSSL does not wait
    try:
        _context().load_verify_locations(path)  # a bundle may have comments in UTF-8
    except OSError:  # ssl.SSLError is one
        raise UnusableFile("it has no certificate in PEM form") from None


def check_key(path: Path) -> None:
    """Raises UnusableFile if the file has no private key, or one that wants a passphrase."""
    text = read_secret_file(path)
    found = _KEY.search(text)
    if found is None:
        raise UnusableFile("it has no private key in PEM form")
    if found[1].startswith("ENCRYPTED") or "Proc-Type: 4,ENCRYPTED" in text:
        raise UnusableFile("its key is encrypted")


def check_pair(certificate: Path, key: Path) -> None:
    """Raises UnusableFile if the key is not that of the certificate."""
    try:
        _context().load_cert_chain(certificate, key, password="")
    except OSError:
        raise UnusableFile("its key is not that of the certificate in REDIS_CERT_FILE") from None


def _context() -> "SSLContext":
    import ssl  # here: without files to check, the start does not load it

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
