"""Puts the variables of the store together: its address, and how to log in. Takes parsed values, reads nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.store.address import parse_address


def store_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Settings that say where the store is, and how to log in."""
    url, user, password_file = _address(values)
    return {
        "redis_url": url,
        "redis_user": user,
        "redis_password_file": password_file,
        "redis_ca_file": values["REDIS_CA_FILE"],
        "redis_cert_file": values["REDIS_CERT_FILE"],
        "redis_key_file": values["REDIS_KEY_FILE"],
        "redis_sentinel_user": values["REDIS_SENTINEL_USER"] or "",
        "redis_sentinel_password": values["REDIS_SENTINEL_PASSWORD"] or "",
        "redis_sentinel_password_file": values["REDIS_SENTINEL_PASSWORD_FILE"],
    }


def _address(values: Mapping[str, Any]) -> tuple[str | None, str, Path | None]:
    """(URL of the store or None, user, password file or None). User and file are for a URL without a password."""
    file: Path | None = values["REDIS_PASSWORD_FILE"]
    if values["REDIS_URL"]:
        return _login_apart(values["REDIS_URL"], file)
    if not values["REDIS_HOST"]:
        return None, "", None
    user, password = values["REDIS_USER"], values["REDIS_PASSWORD"]
    # The gateway sends credentials only if there is a password.
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if password else ""
    host = values["REDIS_HOST"]
    host = f"[{host}]" if ":" in host else host
    url = f"redis://{login}{host}:{values['REDIS_PORT']}/{values['REDIS_DB']}"
    return (url, user, file) if file else (url, "", None)


def _login_apart(url: str, file: Path | None) -> tuple[str, str, Path | None]:
    """As `_address`, for REDIS_URL: takes the user out of the URL if the password is in `file`."""
    address = parse_address(url)
    if file is None or address.password:
        return url, "", None
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}", address.user, file
