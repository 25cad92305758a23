"""The settings of the way into the store: the forms of its address, the files for TLS, the Sentinels' login."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from gateway.settings import InvalidSettings, load
from gateway.store.address import Access, Address, parse_address
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "hunter2"
TLS = {"REDIS_URL": "rediss://h"}


def refusal(**environ: str) -> str:
    """The one line that says what is wrong with this environment."""
    with pytest.raises(InvalidSettings) as caught:
        load(environ)
    (line,) = caught.value.problems
    assert "\n" not in line
    return line


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that makes this module's certificates."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    ("url", "parts"),
    [("redis://h", {"hosts": (("h", 6379),)}),
     ("rediss://u:p%40w@h:1/15", {"hosts": (("h", 1),), "has_tls": True, "user": "u", "password": "p@w",
                                  "database": 15}),
     ("redis+sentinel://a:1,b,[::1]:3/main",
      {"hosts": (("a", 1), ("b", 26379), ("::1", 3)), "master": "main"}),
     ("rediss+sentinel://:p:@h/m/2",
      {"hosts": (("h", 26379),), "has_tls": True, "master": "m", "password": "p:", "database": 2}),
     ("redis://a@b@h/", {"hosts": (("h", 6379),), "user": "a@b"})],
)  # fmt: skip
def test_an_address_says_these_things(url: str, parts: dict[str, Any]) -> None:
    """Hosts with their default ports, the master's name, the database, and the store's login without its escapes."""
    assert parse_address(url) == Address(**parts)


def test_nothing_that_is_shown_has_a_password() -> None:
    """Neither an address nor a way into the store shows its password."""
    url = f"redis://u:{SECRET}@h"
    assert SECRET not in repr(parse_address(url)) + repr(Access(url, sentinel_password=SECRET))


def test_the_sentinels_login_is_their_own(tmp_path: Path) -> None:
    """The login in the URL is the store's; that of the Sentinels has its own variables, and only one password."""
    (tmp_path / "password").write_text(SECRET)
    url = "redis+sentinel://u:p@a,b/main"
    found = load({"REDIS_URL": url, "REDIS_SENTINEL_USER": "s", "REDIS_SENTINEL_PASSWORD": SECRET})
    assert (found.redis_url, found.redis_sentinel_user, found.redis_sentinel_password) == (url, "s", SECRET)
    file = str(tmp_path / "password")
    assert str(load({"REDIS_URL": url, "REDIS_SENTINEL_PASSWORD_FILE": file}).redis_sentinel_password_file) == file
    line = refusal(REDIS_URL=url, REDIS_SENTINEL_PASSWORD=SECRET, REDIS_SENTINEL_PASSWORD_FILE=file)
    assert line == "REDIS_SENTINEL_PASSWORD=*** is not valid; allowed: either it or REDIS_SENTINEL_PASSWORD_FILE"


def test_the_stores_password_file_works_with_sentinel(tmp_path: Path) -> None:
    """The file is the store's password; the user in front of the Sentinels is the store's."""
    path = tmp_path / "password"
    path.write_text(SECRET)
    found = load({"REDIS_URL": "redis+sentinel://me@a:1,[::1]/main/3", "REDIS_PASSWORD_FILE": str(path)})
    assert (found.redis_url, found.redis_user, found.redis_password_file) == (
        "redis+sentinel://a:1,[::1]/main/3", "me", path,
    )  # fmt: skip


@pytest.mark.parametrize("scheme", ["rediss://h", "rediss+sentinel://h/m", "REDISS://h"])
def test_the_files_for_tls_are_taken(scheme: str, authority: Authority) -> None:
    """With TLS to the store or its Sentinels all three files count; the authorities count alone, too."""
    certificate, key = authority.issue("client")
    found = load(
        {"REDIS_URL": scheme, "REDIS_CA_FILE": str(authority.certificate), "REDIS_CERT_FILE": str(certificate),
         "REDIS_KEY_FILE": str(key)}
    )  # fmt: skip
    assert (found.redis_ca_file, found.redis_cert_file, found.redis_key_file) == (
        authority.certificate, certificate, key,
    )  # fmt: skip
    assert load({"REDIS_URL": scheme, "REDIS_CA_FILE": str(authority.certificate)}).redis_cert_file is None


@pytest.mark.parametrize(
    "store", [{}, {"REDIS_HOST": "h"}, {"REDIS_URL": "redis://h"}, {"REDIS_URL": "redis+sentinel://h/m"}]
)
def test_without_tls_its_files_are_refused(store: dict[str, str], authority: Authority) -> None:
    """A file for TLS would have no effect with a store that is asked without it."""
    line = refusal(**store, REDIS_CA_FILE=str(authority.certificate))
    assert line == (
        f"REDIS_CA_FILE='{authority.certificate}' is not valid; "
        "allowed: only with a REDIS_URL of rediss:// or rediss+sentinel://"
    )


def test_certificate_and_key_come_together(authority: Authority) -> None:
    """Each is refused without the other, and a key that belongs to another certificate, too."""
    certificate, key = map(str, authority.issue("client"))
    _, other = map(str, authority.issue("other"))
    line = refusal(**TLS, REDIS_CERT_FILE=certificate)
    assert line == f"REDIS_CERT_FILE='{certificate}' is not valid; allowed: only with REDIS_KEY_FILE"
    assert refusal(**TLS, REDIS_KEY_FILE=key).endswith("allowed: only with REDIS_CERT_FILE")
    line = refusal(**TLS, REDIS_CERT_FILE=certificate, REDIS_KEY_FILE=other)
    assert line.startswith(f"REDIS_KEY_FILE='{other}' is not valid (its key is not that of the certificate")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [("REDIS_CA_FILE", "", "it has no certificate in PEM form"), ("REDIS_CERT_FILE", "{key}", "it has no certificate"),
     ("REDIS_CA_FILE", "é", "it has no certificate"), ("REDIS_KEY_FILE", "{certificate}", "it has no private key"),
     ("REDIS_CA_FILE", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it has no certificate"),
     ("REDIS_KEY_FILE", "{encrypted}", "its key is encrypted")],
)  # fmt: skip
def test_a_file_that_is_no_pem_is_refused(
    name: str, text: str, reason: str, tmp_path: Path, authority: Authority
) -> None:
    """The line has the path and the reason, and nothing of the file."""
    certificate, key = authority.issue("client")
    path = tmp_path / "file.pem"
    if text == "{encrypted}":
        made = ["openssl", "pkcs8", "-topk8", "-in", str(key), "-passout", "pass:secret", "-out", str(path)]
        subprocess.run(made, check=True, capture_output=True)
    else:
        path.write_text(text.format(key=key.read_text(), certificate=certificate.read_text()))
    line = refusal(**TLS, **{name: str(path)})
    assert line.startswith(f"{name}='{path}' is not valid ({reason}")
    assert "BEGIN" not in line
