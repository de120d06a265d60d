"""Where a service lives, as users write it."""

from typing import Any

import pytest

from actors.errors import Misuse
from supervisor.endpoints import Endpoint, Proxy, parse_bind, parse_proxy, parse_url, parse_urls


@pytest.mark.parametrize(
    ("url", "endpoint", "path", "authority"),
    [
        ("http://service", Endpoint("service", 80), "/", "service"),
        ("http://service:80/", Endpoint("service", 80), "/", "service"),
        ("HTTP://Service:8080/a/b?c=d", Endpoint("service", 8080), "/a/b?c=d", "service:8080"),
        ("http://127.0.0.1:1", Endpoint("127.0.0.1", 1), "/", "127.0.0.1:1"),
        ("http://[::1]:65535/x", Endpoint("::1", 65535), "/x", "[::1]:65535"),
        ("http://[::1]", Endpoint("::1", 80), "/", "[::1]"),
        ("http://h?q", Endpoint("h", 80), "/?q", "h"),
        ("http://h:443", Endpoint("h", 443), "/", "h:443"),
        ("https://service", Endpoint("service", 443, secure=True), "/", "service"),
        ("https://service:443/a", Endpoint("service", 443, secure=True), "/a", "service"),
        ("HTTPS://service:80", Endpoint("service", 80, secure=True), "/", "service:80"),
        ("https://[::1]", Endpoint("::1", 443, secure=True), "/", "[::1]"),
        ("unix:/run/s.sock", Endpoint(path="/run/s.sock"), "/", "localhost"),
        ("unix:relative", Endpoint(path="relative"), "/", "localhost"),
    ],
)
def test_a_url_is_an_endpoint_and_a_path(url: str, endpoint: Endpoint, path: str, authority: str) -> None:
    assert parse_url(url) == (endpoint, path)
    assert endpoint.authority == authority


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("https://", "https:// for TLS"),
        ("https://h:0", "port 0"),
        ("ftp://service", "write http://"),
        ("service:80", "write http://"),
        ("//service", "write http://"),
        ("", "write http://"),
        ("http://", "write http://"),
        ("http://:80", "write http://"),
        ("http://h:0", "port 0"),
        ("http://h:65536", "[Pp]ort"),
        ("http://h:-1", "[Pp]ort"),
        ("http://h:x", "[Pp]ort"),
        ("http://[::1", "IPv6"),
        ("http://h/a b", "white space"),
        ("http://h\n", "white space"),
        ("http://h\0", "bad URL"),
        ("unix:", "unix:PATH"),
        (None, "a URL is a str"),
        (b"http://h", "a URL is a str"),
        (80, "a URL is a str"),
    ],
)
def test_a_bad_url_names_itself_and_the_remedy(url: Any, complaint: str) -> None:
    with pytest.raises(Misuse, match=complaint) as caught:
        parse_url(url)
    assert "\n" not in str(caught.value)


def test_credentials_in_a_url_are_refused_and_not_shown() -> None:
    with pytest.raises(Misuse, match="authorization header") as caught:
        parse_url("http://user:hunter2@service")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "endpoints"),
    [
        ("http://a", (Endpoint("a", 80),)),
        (["http://a"], (Endpoint("a", 80),)),
        (("https://b/", "https://a:8443"), (Endpoint("b", 443, secure=True), Endpoint("a", 8443, secure=True))),
        (["http://a:1", "http://a:2", "unix:/s"], (Endpoint("a", 1), Endpoint("a", 2), Endpoint(path="/s"))),
        (["https://a", "unix:/s"], (Endpoint("a", 443, secure=True), Endpoint(path="/s"))),
    ],
)
def test_a_service_is_one_url_or_several_in_their_order(url: str | list[str], endpoints: tuple[Endpoint, ...]) -> None:
    assert parse_urls(url) == endpoints


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ([], "at least one"),
        (["http://a", "http://A:80/"], "a:80 is given twice"),
        (["unix:/s", "unix:/s"], "unix:/s is given twice"),
        ("http://a/b", "a link is to a service, not to '/b'"),
        (["http://a", "http://b/?c"], r"a link is to a service, not to '/\?c'"),
        (["http://a", "https://b"], "http and https in one list"),
        (["http://a", "b:80"], "bad URL 'b:80': write http://"),
        (["http://a", None], "a URL is a str, not NoneType"),
        (None, "a URL is a str, and several are a list of them, not NoneType"),
        (b"http://a", "a URL is a str, .* not bytes"),
        ({"http://a"}, "a URL is a str, .* not set"),
    ],
)
def test_urls_that_are_no_service_say_why(url: Any, complaint: str) -> None:
    with pytest.raises(Misuse, match=complaint) as caught:
        parse_urls(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "numeric"),
    [
        (Endpoint("127.0.0.1", 80), True),
        (Endpoint("::1", 80), True),
        (Endpoint(path="/s"), True),
        (Endpoint("localhost", 80), False),
        (Endpoint("127.0.0.1.test", 80), False),
    ],
)
def test_an_endpoint_knows_whether_it_must_be_looked_up(endpoint: Endpoint, numeric: bool) -> None:
    assert endpoint.numeric is numeric


@pytest.mark.parametrize(
    ("bind", "endpoint"),
    [
        ("127.0.0.1:8080", Endpoint("127.0.0.1", 8080)),
        ("localhost:0", Endpoint("localhost", 0)),
        ("[::]:80", Endpoint("::", 80)),
        ("::1:80", Endpoint("::1", 80)),
        ("unix:/s", Endpoint(path="/s")),
    ],
)
def test_an_address_to_listen_on(bind: str, endpoint: Endpoint) -> None:
    assert parse_bind(bind) == endpoint


@pytest.mark.parametrize("bind", ["", ":80", "h:", "h", "h:65536", "h:-1", "h:x", "h:\u0661", "unix:", "h: 80"])
def test_a_bad_address_names_itself_and_the_remedy(bind: str) -> None:
    with pytest.raises(Misuse, match="bad address"):
        parse_bind(bind)


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [(Endpoint("h", 80), "h:80"), (Endpoint("::1", 5), "[::1]:5"), (Endpoint(path="/s"), "unix:/s")],
)
def test_an_endpoint_is_shown_as_it_is_written(endpoint: Endpoint, shown: str) -> None:
    assert str(endpoint) == shown


@pytest.mark.parametrize(
    "url", ["http://user:hush@host/", "https://user:hush@host/", "ftp://user:hush@host/", "http://user:hush@host:bad/"]
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(Misuse, match="credentials do not belong") as caught:
        parse_url(url)
    assert "hush" not in str(caught.value)


# --- proxies ----------------------------------------------------------------------------------------------------------

SERVICE = [Endpoint("service", 80)]


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy:3128", Proxy(Endpoint("proxy", 3128))),
        ("http://proxy:3128/", Proxy(Endpoint("proxy", 3128))),
        ("http://[::1]:80", Proxy(Endpoint("::1", 80))),
        ("http://ann:word@proxy:1", Proxy(Endpoint("proxy", 1), b"ann:word")),
        ("http://ann@proxy:1", Proxy(Endpoint("proxy", 1), b"ann:")),
        ("http://ann:@proxy:1", Proxy(Endpoint("proxy", 1), b"ann:")),
        ("http://:word@proxy:1", Proxy(Endpoint("proxy", 1), b":word")),
        ("http://a%40b:w%3A%2F%25%C3%A4@proxy:1", Proxy(Endpoint("proxy", 1), "a@b:w:/%\u00e4".encode())),
        ("http://ann:\u00e4%FF\udcff@proxy:1", Proxy(Endpoint("proxy", 1), b"ann:\xc3\xa4\xff\xff")),
    ],
)
def test_a_proxys_url_is_an_endpoint_and_perhaps_credentials(url: str, proxy: Proxy) -> None:
    assert parse_proxy(url, SERVICE) == proxy


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("https://ann:geheim@proxy:443", "write http://"),
        ("socks5://ann:geheim@proxy:443", "write http://"),
        ("ann:geheim@proxy:443", "write http://"),
        ("proxy:3128", "write http://"),
        ("", "write http://"),
        ("http://proxy", "write http://"),
        ("http://proxy:0", "write http://"),
        ("http://proxy:65536", "write http://"),
        ("http://ann:geheim@proxy:x", "write http://"),
        ("http://ann:geheim@:3128", "write http://"),
        ("http://ann:geheim@[::1", "write http://"),
        ("http://ann:geheim@proxy:3128/path", "more than a host and port"),
        ("http://ann:geheim@proxy:3128?query", "more than a host and port"),
        ("http://ann:geheim@proxy:3128#there", "more than a host and port"),
        ("http://ann:geheim @proxy:3128", "white space"),
        ("http://ann:geheim\r\nx@proxy:3128", "white space"),
        ("http://ann:geheim%0D%0Ax@proxy:3128", "control characters"),
        ("http://an%3An:geheim@proxy:3128", "no colon"),
        (b"http://proxy:3128", "a str"),
        (3128, "a str"),
    ],
)
def test_a_bad_url_of_a_proxy_is_told_without_its_secret(url: Any, complaint: str) -> None:
    with pytest.raises(Misuse, match=complaint) as caught:
        parse_proxy(url, SERVICE)
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_no_proxy_can_reach_is_misuse() -> None:
    with pytest.raises(Misuse, match="unix:/s is a Unix socket"):
        parse_proxy("http://proxy:3128", [*SERVICE, Endpoint(path="/s")])
    with pytest.raises(Misuse, match="no host name"):
        parse_proxy("http://proxy:3128", [Endpoint("\u00fc" * 70, 80)])
