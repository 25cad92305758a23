"""Which browser pages may call, under which host names, and which CORS fields they get."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.origins import OriginPolicy, is_preflight, preflight_fields, response_fields
from gateway.errors import OriginNotAllowed

DEFAULT = OriginPolicy(machine="Box-1")
HOST = "127.0.0.1:11535"
BROWSER = {b"user-agent": b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}


def passes(
    policy: OriginPolicy, host: str = HOST, method: str = "GET", target: str = "/v1/models", **fields: str
) -> bool:
    """Whether a request with this Host and these fields (underscores for hyphens) may go on."""
    named = {name.replace("_", "-").encode(): value.encode() for name, value in fields.items()}
    try:
        policy.check(method, target.encode(), {b"host": host.encode()} | named)
    except OriginNotAllowed:
        return False
    return True


OLLAMAS_OWN = [
    *(f"{scheme}://{host}{port}" for scheme in ("http", "https") for host in ("localhost", "127.0.0.1", "0.0.0.0")
      for port in ("", ":1", ":3000", ":65535")),
    "app://obsidian.md", "app://x", "file://", "file:///x", "tauri://localhost", "vscode-webview://1ab2c3",
    "vscode-file://vscode-app", "HTTP://LocalHost:3000",
]  # fmt: skip

FOREIGN = [
    "null", "", "*", "https://evil.example", "http://evil.example:11535", "http://localhost.evil.example",
    "http://localhost@evil.example", "http://localhost:3000@evil.example", "http://localhost:x", "http://localhost:",
    "http://localhost:3000.evil.example", "http://localhost/", "http://localhost:3000/", "http://127.0.0.1.evil.example",
    "http://127.0.0.2", "http://[::1]:3000", "http://evillocalhost", "ftp://localhost", "ws://localhost:1", "localhost",
    "http:/localhost", "xapp://x", "app:x", "file:/", "chrome-extension://abc", "http://localhost http://evil.example",
    "http://localhost, http://evil.example", "https://", "http://\xff", "tauri.evil://x",
]  # fmt: skip


@pytest.mark.parametrize("origin", OLLAMAS_OWN)
def test_ollamas_own_origins_may_call(origin: str) -> None:
    """Pages of this machine, on any port, and apps may call, under any host name."""
    assert passes(DEFAULT, origin=origin)
    assert passes(DEFAULT, "ollama.example.com", origin=origin)


@pytest.mark.parametrize("origin", FOREIGN, ids=range(len(FOREIGN)))
def test_no_other_origin_may_call(origin: str) -> None:
    """An origin that only resembles one of these may not, nor may `null`."""
    assert not passes(DEFAULT, origin=origin)


@pytest.mark.parametrize(
    ("patterns", "allowed", "refused"),
    [
        (["https://a.example"], ["https://a.example", "HTTPS://A.EXAMPLE", "https://a.example:443", "http://localhost"],
         ["http://a.example", "https://a.example:8443", "https://b.a.example", "https://a.example.evil"]),
        (["https://a.example:443"], ["https://a.example"], ["http://a.example"]),
        (["https://*.a.example"], ["https://b.a.example", "https://c.b.a.example"],
         ["https://a.example", "https://xa.example", "http://b.a.example", "https://b.a.example:8443",
          "https://b.a.example.evil", "https://evil/.a.example", "https://.a.example.evil"]),
        (["http://a.example:*"], ["http://a.example", "http://a.example:80", "http://a.example:3000"],
         ["https://a.example", "http://a.example.evil:3000", "http://a.example:x"]),
        (["chrome-extension://*"], ["chrome-extension://abc"], ["moz-extension://abc", "chrome-extension://"]),
        (["http://10.0.0.*"], ["http://10.0.0.9", "http://10.0.0.9:3000"], ["http://10.0.1.9", "null"]),
        (["*"], ["https://evil.example", "null", "", "chrome-extension://x"], []),
    ],
    ids=range(7),
)  # fmt: skip
def test_further_origins(patterns: list[str], allowed: list[str], refused: list[str]) -> None:
    """CORS_ALLOW_ORIGINS adds origins; its `*` stands for any text inside of one origin, and alone for all."""
    policy = OriginPolicy(patterns)
    assert [origin for origin in allowed if not passes(policy, origin=origin)] == []
    assert [origin for origin in refused if passes(policy, origin=origin)] == []


TRUSTED = [
    "localhost", "localhost:11535", "127.0.0.1", "127.0.0.1:11535", "192.168.1.7:11535", "8.8.8.8", "[::1]",
    "[::1]:11535", "[fe80::1]:80", "box-1", "BOX-1:11535", "box-1.local:11535", "a.b.localhost", "gpu.internal", "",
]  # fmt: skip
REBOUND = [
    "evil.example", "evil.example:11535", "gateway:11535", "localhost.evil.example", "127.0.0.1.evil.example",
    "local", "internal", "box-1.evil.example", "xlocalhost", "127.0.0.1@evil.example", "[evil.example]", "2130706433",
    "[::1].evil.example", "evil.example:80:127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", TRUSTED)
def test_same_origin_calls_under_a_trusted_name(host: str) -> None:
    """A page that this gateway serves may call, under names that DNS rebinding cannot use."""
    if host:
        assert passes(DEFAULT, host, origin=f"http://{host}")
        assert passes(DEFAULT, host, origin=f"https://{host}")
        assert not passes(DEFAULT, host, origin="http://evil.example")
    assert passes(DEFAULT, host, user_agent="Mozilla/5.0")


@pytest.mark.parametrize("host", REBOUND)
def test_a_rebound_name_is_refused(host: str) -> None:
    """Any other name could be a rebinding page's: it is refused with an Origin, and to browsers."""
    assert not passes(DEFAULT, host, origin=f"http://{host}")
    assert not passes(DEFAULT, host, sec_fetch_site="same-origin")
    assert not passes(DEFAULT, host, user_agent="curl/8.0", accept_language="")
    assert not passes(DEFAULT, host, user_agent="Mozilla/5.0 (X11) Firefox/140.0")


@pytest.mark.parametrize("host", [*REBOUND, *TRUSTED])
@pytest.mark.parametrize("agent", ["curl/8.0", "OpenAI/Python 3.0", "python-httpx/0.28", "x Mozilla/5.0", ""])
def test_programs_may_use_any_name(host: str, agent: str) -> None:
    """Clients other than browsers can use any host name: a compose service name, an alias or a mistake."""
    assert passes(DEFAULT, host, user_agent=agent)
    assert passes(DEFAULT, host, user_agent=agent, accept_language="*", sec_fetch_mode="cors")  # Node's fetch
    assert passes(DEFAULT, host)


@pytest.mark.parametrize(
    ("hosts", "trusted", "refused"),
    [
        (["gateway", "a.example"], ["gateway:11535", "A.Example", "a.example:443"], ["b.example", "x.a.example"]),
        (["*.a.example"], ["b.a.example:1", "c.b.a.example"], ["a.example", "xa.example", "a.example.evil"]),
        (["*"], ["evil.example", "x"], []),
    ],
    ids=range(3),
)
def test_further_hosts(hosts: list[str], trusted: list[str], refused: list[str]) -> None:
    """ALLOWED_HOSTS adds names, with any port: for calls with an Origin of the same name and without one."""
    policy = OriginPolicy(hosts=hosts)
    for host in trusted:
        assert passes(policy, host, origin=f"http://{host}")
        assert passes(policy, host, user_agent="Mozilla/5.0")
        assert not passes(policy, host, origin="https://other.example")
    for host in refused:
        assert not passes(policy, host, origin=f"http://{host}")
        assert not passes(policy, host, user_agent="Mozilla/5.0")


def test_the_name_of_an_allowed_origin_is_trusted() -> None:
    """A proxy that serves page and API under one allowed origin needs no second setting: its GETs have no Origin."""
    policy = OriginPolicy(["https://chat.example.com", "http://*.lan.example:8080"])
    for host in ("chat.example.com", "a.lan.example:8080"):
        assert passes(policy, host, user_agent="Mozilla/5.0", sec_fetch_site="same-origin")
    assert not passes(policy, "evil.example.com", user_agent="Mozilla/5.0")
    assert not passes(policy, "a.lan.example:9090", user_agent="Mozilla/5.0")


@pytest.mark.parametrize(
    ("origin", "host", "is_same"),
    [("http://box-1:80", "box-1", True), ("https://box-1", "box-1:443", True), ("http://box-1", "box-1:443", False),
     ("http://box-1:1", "box-1:2", False), ("app2://box-1", "box-1", False), ("http://box-1", "box-2.local", False)],
)  # fmt: skip
def test_same_origin_means_name_and_port(origin: str, host: str, is_same: bool) -> None:
    """The Origin's authority equals Host, apart from a default port."""
    assert passes(DEFAULT, host, origin=origin) == is_same


# What a browser sends of its own accord for each way in which a page can ask without an Origin: mode and destination.
WAYS = {
    "img": ("no-cors", "image"), "script": ("no-cors", "script"), "style": ("no-cors", "style"),
    "video": ("no-cors", "video"), "no-cors fetch": ("no-cors", "empty"), "beacon": ("no-cors", "empty"),
    "worker": ("same-origin", "worker"), "iframe": ("navigate", "iframe"), "frame": ("navigate", "frame"),
    "object": ("navigate", "object"), "embed": ("navigate", "embed"), "prefetch": ("no-cors", "empty"),
    "no way known": ("", ""), "a document, not navigated to": ("no-cors", "document"), "manifest": ("cors", "manifest"),
}  # fmt: skip
SHOWN = [
    "/", "/?x=1", "/docs", "/tasks/status", "/tasks/status?limit=5&state=FAILED", "/tasks/status/some-id",
    "/tasks/status/some-id?wait=5", "/openapi.json", "/metrics", "/livez", "/readyz", "/models/loaded",
]  # fmt: skip
NOT_SHOWN = [
    "/v1/models", "/v1/", "/v1/chat/completions?x=/tasks/status/", "/tasks/x/cancel", "/tasks/cancel", "/x",
    "/tasks/statusx", "//tasks/status/x", "/v1/../tasks/status/x", "*", "/dashboard/app.js",
]  # fmt: skip
FOREIGN_SITES = ["cross-site", "same-site", "", "none, cross-site", "cross-origin", "Same-Origin"]


@pytest.mark.parametrize("site", FOREIGN_SITES)
@pytest.mark.parametrize("way", WAYS)
def test_a_foreign_page_loads_nothing(site: str, way: str) -> None:
    """A request of another site's page without an Origin is refused on every route, whatever it asks for."""
    mode, destination = WAYS[way]
    for target in (*SHOWN, *NOT_SHOWN):
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            asked = {"sec_fetch_site": site, "sec_fetch_mode": mode, "sec_fetch_dest": destination}
            assert not passes(DEFAULT, HOST, method, target, **asked), (method, target)


@pytest.mark.parametrize("site", FOREIGN_SITES)
def test_a_link_of_another_site_opens_our_own_pages_alone(site: str) -> None:
    """A navigation of the whole page may open a route that only shows something; it never reaches Ollama."""
    link = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document", "sec_fetch_user": "?1"}
    assert [target for target in SHOWN if not passes(DEFAULT, HOST, "GET", target, **link)] == []
    assert [target for target in NOT_SHOWN if passes(DEFAULT, HOST, "GET", target, **link)] == []
    assert [m for m in ("POST", "HEAD", "PUT", "OPTIONS") if passes(DEFAULT, HOST, m, "/tasks/status", **link)] == []
    assert not passes(DEFAULT, "evil.example", "GET", "/", **link)


@pytest.mark.parametrize(
    "policy", [OriginPolicy(["*"], ["*"]), OriginPolicy(["https://a.example"])], ids=["all", "one"]
)
def test_an_allowed_page_asks_with_its_origin(policy: OriginPolicy) -> None:
    """Further origins allow nothing to requests without an Origin; with one, the site does not matter."""
    for site in FOREIGN_SITES:
        assert not passes(policy, sec_fetch_site=site, sec_fetch_mode="no-cors", sec_fetch_dest="image")
        assert passes(policy, sec_fetch_site=site, sec_fetch_mode="cors", origin="https://a.example")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("site", ["same-origin", "none", None])
def test_our_own_pages_and_typed_addresses_pass(site: str | None, way: str) -> None:
    """Requests of the gateway's own page, and addresses that a person opens, are allowed, under /v1/ too."""
    mode, destination = WAYS[way]
    sent = {"sec_fetch_mode": mode, "sec_fetch_dest": destination} | ({} if site is None else {"sec_fetch_site": site})
    assert [target for target in (*SHOWN, *NOT_SHOWN) if not passes(DEFAULT, HOST, "GET", target, **sent)] == []


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_are_decided(origin: bytes, host: bytes) -> None:
    """Whatever the two fields hold, the answer is yes or no; a yes needs one of the allowed forms."""
    try:
        DEFAULT.check("GET", b"/v1/models", {b"origin": origin, b"host": host})
    except OriginNotAllowed:
        return
    assert b"://" in origin


# -- CORS fields --


def test_a_preflight_is_an_options_that_asks() -> None:
    """OPTIONS with Access-Control-Request-Method; any other OPTIONS is a request like all others."""
    asking = {b"access-control-request-method": b"POST"}
    assert is_preflight("OPTIONS", asking)
    assert not is_preflight("OPTIONS", {})
    assert not is_preflight("POST", asking)


def test_a_preflight_gets_what_it_asks_for() -> None:
    """Origin, method and fields are echoed; credentials are not offered."""
    asked = {
        b"origin": b"http://localhost:3000",
        b"access-control-request-method": b"PATCH",
        b"access-control-request-headers": b"authorization,content-type,x-stainless-os, x-task-id",
    }
    assert dict(preflight_fields(asked)) == {
        b"access-control-allow-origin": b"http://localhost:3000",
        b"access-control-allow-methods": b"PATCH",
        b"access-control-allow-headers": b"authorization,content-type,x-stainless-os, x-task-id",
        b"access-control-max-age": b"7200",
        b"vary": b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }


def test_a_preflight_into_a_private_network() -> None:
    """A page of an allowed origin may call into a private network, if its browser asks for that."""
    asked = {b"origin": b"o", b"access-control-request-method": b"GET"}
    name = b"access-control-allow-private-network"
    assert name not in dict(preflight_fields(asked))
    assert dict(preflight_fields(asked | {b"access-control-request-private-network": b"true"}))[name] == b"true"


@given(st.binary(max_size=60))
def test_what_is_no_token_is_not_echoed(asked: bytes) -> None:
    """Only tokens, commas and blanks get from the request into the answer."""
    fields = {b"origin": b"o", b"access-control-request-method": asked, b"access-control-request-headers": asked}
    for name, value in preflight_fields(fields):
        if name in (b"access-control-allow-methods", b"access-control-allow-headers"):
            assert value == asked
            assert not set(value) & set(b'\r\n\x00\t:;"()/<=>?@[\\]{}')
            assert value.isascii()


def test_an_answer_names_the_origin_and_exposes_the_task() -> None:
    """The page may read the answer and its task id, and a cache is told that it is for this origin."""
    assert dict(response_fields(b"http://localhost:3000")) == {
        b"access-control-allow-origin": b"http://localhost:3000",
        b"access-control-expose-headers": (
            b"X-Task-Id, X-Task-Joined, ETag, Location, Retry-After, Content-Range, Preference-Applied"
        ),
        b"vary": b"Origin",
    }
