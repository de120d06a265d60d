"""Links through an HTTP proxy: names that only the proxy knows, losses, refusals, and credentials that nobody sees."""

import asyncio
import base64
import logging
from pathlib import Path

import pytest

from actors.errors import Closed, ConnectFailed, LinkError, Misuse, TlsFailed
from actors.server_stream import ServerStream
from actors.settings import Backoff, Limits
from supervisor.link import Link
from supervisor.link_state import LinkState
from supervisor.server import Server
from supervisor.tracing import jsonl
from tests.interop.command import muxlink
from tests.support.certificates import Authority
from tests.support.proxies import answering, proxying
from tests.support.sides import until

QUICK = Backoff(initial=0.01, maximum=0.05)
CREDENTIALS = "ann:s3cret%2Fword"
SHOWN = base64.b64encode(b"ann:s3cret/word").decode()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=f"{stream.scheme}://{stream.authority} ".encode() + await stream.read())


async def test_a_link_reaches_a_service_whose_name_only_its_proxy_knows() -> None:
    """C6: ``:authority`` is the service's."""
    async with Server(answer) as server, proxying({"service.test:80": server.port}) as proxy:
        async with Link("http://service.test", proxy=proxy.url) as link:
            replies = await asyncio.gather(*[link.request("POST", "/", body=b"%d" % n) for n in range(50)])
            (connection,) = link.stats().connection_stats
            assert link.stats().addresses == ("service.test:80",)
        assert [reply.body for reply in replies] == [b"http://service.test %d" % n for n in range(50)]
        assert connection.peer == f"service.test:80 through the proxy 127.0.0.1:{proxy.port}"
        assert proxy.asked == ["service.test:80"]


async def test_tls_goes_through_a_proxy_from_end_to_end(authority: Authority) -> None:
    """C5 and C6."""
    async with (
        Server(answer, tls=authority.server("service.test")) as server,
        proxying({"service.test:443": server.port, "localhost:443": server.port}) as proxy,
    ):
        async with Link("https://service.test", tls=authority.client(), proxy=proxy.url) as link:
            reply = await link.request("GET", "/")
        assert reply.body == b"https://service.test "
        with pytest.raises(TlsFailed, match=r"through the proxy .*: its certificate is for another host name"):
            async with Link("https://localhost", tls=authority.client(), proxy=proxy.url):
                pass


@pytest.mark.bulk
async def test_a_body_of_some_megabytes_goes_through_a_proxy_both_ways() -> None:
    body = bytes(range(256)) * 16384
    async with (
        Server(answer) as server,
        proxying({"service.test:80": server.port}) as proxy,
        Link("http://service.test", proxy=proxy.url) as link,
    ):
        reply = await link.request("POST", "/", body=body, timeout=30)
    assert reply.body.endswith(body)


async def test_connections_that_the_proxy_loses_are_made_again_through_it() -> None:
    async with Server(answer) as server, proxying({"service.test:80": server.port}) as proxy:
        async with Link("http://service.test", proxy=proxy.url, connections=2, backoff=QUICK) as link:
            for _ in range(4):
                assert (await link.request("GET", "/", idempotent=True, wait_for_ready=True, timeout=10)).status == 200
                proxy.cut()
        assert len(proxy.asked) >= 4
        assert set(proxy.asked) == {"service.test:80"}


async def test_a_link_outlives_its_proxy() -> None:
    """While it is away the link says so at once, and when it is back the link is, too."""
    async with Server(answer) as server:
        routes = {"service.test:80": server.port}
        async with proxying(routes) as proxy:
            link = Link("http://service.test", proxy=proxy.url, backoff=QUICK)
            await link.__aenter__()
            changes = link.changes()
        async with asyncio.timeout(10):
            async for change in changes:
                if change.state is LinkState.TRANSIENT_FAILURE:
                    break
            with pytest.raises(ConnectFailed, match=r"through the proxy .*: Connection refused"):
                await link.request("GET", "/")
            async with proxying(routes, port=proxy.port):
                assert (await link.request("GET", "/", wait_for_ready=True)).status == 200
                await link.close()


async def test_several_urls_are_asked_for_through_the_proxy_and_one_that_fails_is_passed_over() -> None:
    async with Server(answer) as one, Server(answer) as two:
        routes = {"one.test:80": one.port, "two.test:80": two.port}
        urls = ["http://one.test", "http://two.test", "http://gone.test"]
        async with proxying(routes) as proxy, Link(urls, proxy=proxy.url, connections=2, backoff=QUICK) as link:
            async with asyncio.timeout(10):
                seen: set[bytes] = set()
                while len(seen) < 2:
                    seen.add((await link.request("GET", "/")).body)
        assert seen == {b"http://one.test ", b"http://two.test "}
        assert set(proxy.asked) >= {"one.test:80", "two.test:80"}


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_credentials_open_the_proxy_and_are_shown_nowhere(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """C6: not in errors, figures, traces, logs, or the tree, whether the proxy takes them or not."""
    caplog.set_level(logging.DEBUG)
    said: list[object] = []

    async def look(link: Link, name: str) -> None:
        jsonl.save(link.trace(), tmp_path / name)
        said.extend((link.stats(), await link.census(), await link.why(), link.cause, vars(link), vars(link).values()))
        said.append((tmp_path / name).read_text())

    async with Server(answer) as server:
        routes = {"service.test:80": server.port}
        async with proxying(routes, credentials=SHOWN) as proxy:
            url = f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}"
            async with Link("http://service.test", proxy=url) as link:
                assert (await link.request("GET", "/")).status == 200
                await look(link, "let in")
        async with proxying(routes, credentials="other") as proxy:
            url = f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}"
            link = Link("http://service.test", proxy=url)
            with pytest.raises(ConnectFailed) as caught:
                await link.request("GET", "/")
            await look(link, "refused")
            await link.close()
            said += [caught.value, caught.getrepr(showlocals=False), repr(caught.value.__cause__)]
    assert caught.value.status == 407
    assert str(caught.value) == (
        f"no connection to service.test:80 through the proxy 127.0.0.1:{proxy.port}: it answered 407 Proxy "
        "Authentication Required; give it the right credentials: http://USER:PASSWORD@HOST:PORT"
    )
    everything = caplog.text + "".join(f"{each!s} {each!r}" for each in said)
    assert "service.test" in everything
    for secret in ("s3cret", SHOWN, "ann:"):
        assert secret not in everything


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_a_refusal_has_its_status_for_whoever_wants_to_act_on_it(status: int) -> None:
    async with answering(b"HTTP/1.1 %d x\r\n\r\n" % status) as port:
        link = Link("http://service.test", proxy=f"http://127.0.0.1:{port}")
        with pytest.raises(ConnectFailed, match=f"through the proxy 127.0.0.1:{port}: it answered {status} ") as caught:
            await link.__aenter__()
    assert caught.value.status == status


async def test_a_refusal_that_is_our_mistake_is_not_waited_out_and_a_service_that_is_away_is() -> None:
    """As with a certificate that does not convince: to wait for another password would only hide the mistake."""
    async with answering(b"HTTP/1.1 407 x\r\n\r\n") as port:
        link = Link("http://service.test", proxy=f"http://127.0.0.1:{port}", backoff=QUICK, wait_for_ready=True)
        with pytest.raises(ConnectFailed, match="it answered 407"):
            async with asyncio.timeout(10):
                await link.__aenter__()
    async with Server(answer) as server, proxying({}) as proxy:
        link = Link("http://service.test", proxy=proxy.url, backoff=QUICK, wait_for_ready=True)
        entering = asyncio.create_task(link.__aenter__())
        async with asyncio.timeout(10):
            await until(lambda: len(proxy.asked) >= 3)
            assert not entering.done()
            proxy.routes = {"service.test:80": server.port}
            await entering
        await link.close()


@pytest.mark.virtual_time
async def test_a_proxy_that_never_answers_costs_connect_timeout() -> None:
    async with answering(b"") as port:
        link = Link("http://service.test", proxy=f"http://127.0.0.1:{port}", limits=Limits(connect_timeout=7))
        with pytest.raises(ConnectFailed, match="it did not answer within 7 s"):
            await link.__aenter__()
        assert asyncio.get_running_loop().time() == pytest.approx(7.0, abs=0.1)


async def test_a_service_without_http2_behind_a_proxy_is_told_from_its_proxy(authority: Authority) -> None:
    async with answering(b"nonsense") as port, proxying({"service.test:80": port}) as proxy:
        with pytest.raises(LinkError, match=r"service\.test:80 through the proxy") as caught:
            async with Link("http://service.test", proxy=proxy.url):
                pass
    assert not isinstance(caught.value, ConnectFailed)


async def test_a_closed_link_ends_a_dial_through_a_proxy_that_never_answers() -> None:
    async with answering(b"") as port:
        link = Link("http://service.test", proxy=f"http://127.0.0.1:{port}")
        asking = asyncio.create_task(link.request("GET", "/"))
        async with asyncio.timeout(5):
            await until(lambda: link.stats().connections_by_state == {"dialling": 1})
            await link.close()
            with pytest.raises(Closed, match="was closed"):
                await asking


# --- what can never work ----------------------------------------------------------------------------------------------


def test_a_unix_socket_through_a_proxy_is_misuse() -> None:
    with pytest.raises(Misuse, match="unix:/run/s is a Unix socket, which no proxy reaches: leave proxy away"):
        Link("unix:/run/s", proxy="http://127.0.0.1:8080")


def test_a_proxy_that_is_no_proxys_url_is_misuse_at_once() -> None:
    with pytest.raises(Misuse, match="bad URL of a proxy"):
        Link("http://service.test", proxy="127.0.0.1:8080")


# --- the command ------------------------------------------------------------------------------------------------------


async def test_the_command_goes_through_the_proxy_that_it_is_told() -> None:
    async with Server(answer) as server, proxying({"service.test:80": server.port}, credentials=SHOWN) as proxy:
        url = f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}"
        ran = await muxlink("request", "--proxy", url, "-d", "hello", "http://service.test/")
        shut = await muxlink("request", "--proxy", proxy.url, "-d", "hello", "http://service.test/")
        wrong = await muxlink("request", "--proxy", "ann:geheim@nowhere", "http://service.test/")
    assert (ran.code, ran.text) == (0, "http://service.test hello")
    assert shut.code == 1
    assert "it answered 407 Proxy Authentication Required" in shut.err
    assert wrong.code == 2
    assert "write http://[USER:PASSWORD@]HOST:PORT" in wrong.err
    assert "geheim" not in wrong.err
