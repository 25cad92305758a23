"""API keys: what a valid key is, which header fields carry it, and what error messages say."""

from __future__ import annotations

import string
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.keys import Caller, InvalidKeys, identify, keys_of_lines, keys_of_list

KEY_CHARACTERS = "".join(c for c in string.printable if c.isprintable() and c not in " ,:")
keys = st.text(KEY_CHARACTERS, min_size=8, max_size=256)
names = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64)

KEYS = keys_of_list("alice:key-of-alice,bob:key-of-bob,admin:key-of-admin,key-without-name")
UNNAMED = "key-" + sha256(b"key-without-name").hexdigest()[:8]

AUTHORIZATION = b"authorization"
X_API_KEY = b"x-api-key"


@given(st.lists(st.tuples(names, keys), min_size=1, max_size=5, unique_by=lambda pair: pair[1]))
def test_a_list_and_a_file_say_the_same(pairs: list[tuple[str, str]]) -> None:
    """Names and keys are parsed alike from a comma list and from lines; only a key's SHA-256 is kept."""
    entries = [f"{name}:{key}" for name, key in pairs]
    expected = {sha256(key.encode()).digest(): name for name, key in pairs}
    assert keys_of_list(",".join(entries)) == expected
    assert keys_of_lines("\n".join(entries)) == expected


@given(keys.filter(lambda key: not key.startswith("#")))
def test_a_key_without_a_name_gets_a_lasting_one(key: str) -> None:
    """The name of a key without one follows from the key alone, so that restarts and other instances agree."""
    (found,) = keys_of_list(key).values()
    assert found == "key-" + sha256(key.encode()).hexdigest()[:8]
    assert keys_of_lines(f"# keys\r\n\r\n \t{key} \r\n") == keys_of_list(key)


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_lines_end_at_line_ends_alone(mark: str) -> None:
    """A character that only some programs take for a line end begins no key after a comment, and splits no key."""
    assert keys_of_lines(f"# old:{mark}key-of-mallory\nalice:key-of-alice") == keys_of_list("alice:key-of-alice")
    with pytest.raises(InvalidKeys, match="line 1 is no key"):
        keys_of_lines(f"key-of-mallory{mark}key-of-mallory")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_counts(end: str) -> None:
    """Files of all systems can be read, and an error names the line as an editor counts it."""
    assert keys_of_lines(f"key-of-alice{end}#{end}key-of-bob{end}") == keys_of_list("key-of-alice,key-of-bob")
    with pytest.raises(InvalidKeys, match="line 3 is no key"):
        keys_of_lines(f"key-of-alice{end}{end}short{end}")


def test_one_name_may_have_several_keys() -> None:
    """A key is replaced without a gap: for a while the old and the new key are the same caller."""
    assert list(keys_of_list("alice:old-key-1,alice:new-key-2").values()) == ["alice", "alice"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("good-key,short", "entry 2 is no key"), ("", "there is no key"), (",,", "there is no key"),
     ("a b:good-key", "entry 1 is no key"), ("a:the-same-key,b:the-same-key", "entry 2 gives a second name to a key")],
)  # fmt: skip
def test_what_is_wrong_is_told_without_the_key(text: str, message: str) -> None:
    """The message names the place of an error, and never shows the text there."""
    with pytest.raises(InvalidKeys) as caught:
        keys_of_list(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("fields", "caller"),
    [
        ([(AUTHORIZATION, b"Bearer key-of-alice")], Caller("alice", (AUTHORIZATION,))),
        ([(AUTHORIZATION, b"bEARER   key-of-bob ")], Caller("bob", (AUTHORIZATION,))),
        ([(X_API_KEY, b"key-of-bob")], Caller("bob", (X_API_KEY,))),
        ([(X_API_KEY, b"key-without-name")], Caller(UNNAMED, (X_API_KEY,))),
        ([(AUTHORIZATION, b"Bearer not-ours"), (X_API_KEY, b"key-of-bob")], Caller("bob", (X_API_KEY,))),
        ([(X_API_KEY, b"not-ours"), (AUTHORIZATION, b"Bearer key-of-bob")], Caller("bob", (AUTHORIZATION,))),
        ([(X_API_KEY, b"key-of-bob"), (AUTHORIZATION, b"Bearer key-of-alice")],
         Caller("alice", (AUTHORIZATION, X_API_KEY))),
    ],
    ids=range(7),
)  # fmt: skip
def test_who_calls(fields: list[tuple[bytes, bytes]], caller: Caller) -> None:
    """Either field names the caller, `Authorization` first; all fields with a valid key are reported, and no other."""
    assert identify(KEYS, [(b"accept", b"*/*"), *fields]) == caller


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(AUTHORIZATION, b"")],
        [(X_API_KEY, b"")],
        [(AUTHORIZATION, b"Bearer")],
        [(AUTHORIZATION, b"Bearer ")],
        [(AUTHORIZATION, b"key-of-alice")],
        [(AUTHORIZATION, b"Basic key-of-alice")],
        [(AUTHORIZATION, b"Bearer key-of-alice, Bearer key-of-bob")],
        [(AUTHORIZATION, b"Bearer KEY-OF-ALICE")],
        [(AUTHORIZATION, b"Bearer key-of-alic")],
        [(AUTHORIZATION, b"Bearer alice:key-of-alice")],
        [(X_API_KEY, b"Bearer key-of-alice")],
        [(X_API_KEY, b"key-of-alice\xff")],
        [(b"cookie", b"key-of-alice")],
        [(b"x-auth-token", b"key-of-alice")],
        [(AUTHORIZATION, b"Bearer key-of-alice"), (AUTHORIZATION, b"Bearer key-of-alice")],
        [(AUTHORIZATION, b"Bearer x"), (X_API_KEY, b"key-of-bob"), (X_API_KEY, b"key-of-bob")],
    ],
    ids=range(17),
)
def test_who_is_nobody(fields: list[tuple[bytes, bytes]]) -> None:
    """No caller: no key, a wrong one, one in another field, or a repeated field, which servers may read differently."""
    assert identify(KEYS, fields) is None


@given(st.binary(max_size=300))
def test_any_value_is_only_a_wrong_key(value: bytes) -> None:
    """Whatever bytes a field holds, there is no caller unless they are a key."""
    for field in ((AUTHORIZATION, b"Bearer " + value), (X_API_KEY, value)):
        assert identify(KEYS, [field]) is None


@pytest.mark.parametrize("key", [b"key-of-alice", b"key-of-bob", b"key-of-unknown"])
def test_every_key_is_compared(key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is compared with all keys, be it the first, the last or unknown, so that the time reveals nothing."""
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr("gateway.access.keys.hmac.compare_digest", compare)
    identify(KEYS, [(X_API_KEY, key)])
    assert set(compared) == set(KEYS)
    assert len(compared) % len(KEYS) == 0


def test_only_admin_sees_all() -> None:
    """The name `admin` sees every task, in exactly that spelling."""
    assert [Caller(name, ()).sees_all for name in ("admin", "Admin", "administrator", "alice", UNNAMED)] == [
        True, False, False, False, False,
    ]  # fmt: skip
