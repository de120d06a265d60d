"""Our client, calling nghttp2's server; what it got of us is read from its own log."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from actors.errors import InvalidHeaders
from supervisor.link import Link
from tests.interop.bodies import BIG, ROOM, Tally, big_blocks, big_digest, resident_bytes
from tests.interop.peers import Nghttpd


async def test_a_link_gets_status_headers_body_and_trailers(nghttpd: Nghttpd, htdocs: Path) -> None:
    """S8 (present trailers)."""
    async with nghttpd(htdocs, "--trailer=x-length: 12", "--trailer=x-sum: abc") as peer, Link(peer.url) as link:
        reply = await link.request("GET", "/small", timeout=10)

    assert reply.status == 200
    assert reply.headers["server"].startswith("nghttpd")
    assert reply.headers["content-length"] == "12"
    assert reply.body == b"hello, world"
    assert (reply.trailers["x-length"], reply.trailers["x-sum"]) == ("12", "abc")


async def test_a_response_without_trailers_has_empty_ones(nghttpd: Nghttpd, htdocs: Path) -> None:
    """S8 (absent trailers): of the same type."""
    async with nghttpd(htdocs, "--trailer=x-length: 12") as peer, Link(peer.url) as link:
        with_trailers = await link.request("GET", "/small", timeout=10)
    async with nghttpd(htdocs) as peer, Link(peer.url) as link:
        without = await link.request("GET", "/small", timeout=10)

    assert list(without.trailers) == []
    assert type(without.trailers) is type(with_trailers.trailers)


async def test_any_status_is_a_reply(nghttpd: Nghttpd, htdocs: Path) -> None:
    async with nghttpd(htdocs) as peer, Link(peer.url) as link:
        reply = await link.request("GET", "/nowhere", timeout=10)

    assert reply.status == 404
    assert b"404" in reply.body


async def test_nghttpd_receives_our_headers_body_and_trailers(nghttpd: Nghttpd, htdocs: Path) -> None:
    async with nghttpd(htdocs, "--echo-upload", "--verbose") as peer, Link(peer.url) as link:
        reply = await link.request(
            "POST",
            "/echo?q=1",
            headers=[("X-Twice", "one"), ("x-twice", "two"), ("cookie", "a=b")],
            body=b"from our link",
            trailers=[("x-up", "down")],
            timeout=10,
        )
        log = await peer.logged("x-up: down")

    assert reply.body == b"from our link"
    # "sensitive" is how nghttpd calls a field that no HPACK table may keep.
    assert re.findall(r"recv \(stream_id=1(?:, sensitive)?\) (.*)", log) == [
        ":method: POST",
        f":authority: 127.0.0.1:{peer.port}",
        ":scheme: http",
        ":path: /echo?q=1",
        "x-twice: one",
        "x-twice: two",
        "cookie: a=b",
        "content-length: 13",
        "x-up: down",
    ]
    assert re.findall(r"recv \(stream_id=1, sensitive\) (.*)", log) == ["cookie: a=b"]


async def test_a_forbidden_header_harms_neither_link_nor_peer(nghttpd: Nghttpd, htdocs: Path) -> None:
    """W2: it raises at the call, nothing goes out, and the next request on the same connection succeeds."""
    async with nghttpd(htdocs, "--verbose") as peer, Link(peer.url) as link:
        assert (await link.request("GET", "/small", timeout=10)).status == 200
        with pytest.raises(InvalidHeaders, match="connection"):
            await link.request("GET", "/small", headers=[("x-fine", "1"), ("connection", "close")], timeout=10)
        assert (await link.request("GET", "/small", headers=[("x-fine", "1")], timeout=10)).status == 200
        log = await peer.logged("stream_id=3 closed")

    assert log.count("Open new stream") == 2
    # The readiness probe was the first connection, the link's only one the second.
    assert set(re.findall(r"\[id=(\d+)\].* recv HEADERS", log)) == {"2"}


@pytest.mark.bulk
async def test_1000_requests_100_at_a_time_are_all_answered_on_one_connection(nghttpd: Nghttpd, htdocs: Path) -> None:
    """S13, at a small scale."""

    async def ten(link: Link, caller: int) -> list[bytes]:
        return [
            (await link.request("POST", "/echo", body=f"{caller} {turn}".encode(), timeout=30)).body
            for turn in range(10)
        ]

    async with nghttpd(htdocs, "--echo-upload", "--verbose") as peer, Link(peer.url) as link:
        replies = await asyncio.gather(*[ten(link, caller) for caller in range(100)])
        log = await peer.logged("stream_id=1999 closed")

    assert replies == [[f"{caller} {turn}".encode() for turn in range(10)] for caller in range(100)]
    assert set(re.findall(r"\[id=(\d+)\].* recv HEADERS", log)) == {"2"}
    assert "RST_STREAM" not in log


async def test_the_peers_limit_of_3_is_kept_by_50_requests_at_once(nghttpd: Nghttpd, htdocs: Path) -> None:
    """L1: never more than 3 are open, and all complete; nghttpd would refuse a fourth."""
    async with nghttpd(htdocs, "--max-concurrent-streams=3", "--verbose") as peer, Link(peer.url) as link:
        # The first answer comes after nghttpd's SETTINGS, so that the limit is known from here on.
        assert (await link.request("GET", "/small", timeout=10)).status == 200
        replies = await asyncio.gather(*[link.request("GET", f"/small?{n}", timeout=30) for n in range(50)])
        log = await peer.logged("stream_id=101 closed")

    assert [reply.body for reply in replies] == [b"hello, world"] * 50
    assert "RST_STREAM" not in log
    opened = most = 0
    for event in re.findall(r"Open new stream|stream_id=\d+ closed", log):
        opened += 1 if event == "Open new stream" else -1
        most = max(most, opened)
    assert most <= 3
    assert re.findall(r":path: /small\?(\d+)", log) == [str(n) for n in range(50)]


@pytest.mark.bulk
async def test_a_link_downloads_100_megabytes(nghttpd: Nghttpd, big_file: Path) -> None:
    """F5 for downloads: memory does not grow with the body."""
    async with (
        nghttpd(big_file.parent) as peer,
        Link(peer.url) as link,
        link.stream("GET", f"/{big_file.name}") as stream,
    ):
        head = await stream.response()
        tally = Tally()
        async for chunk in stream:
            tally.add(chunk)

    assert (head.status, head.headers["content-length"]) == (200, str(BIG))
    assert (tally.length, tally.digest) == (BIG, big_digest())
    assert tally.growth < ROOM


@pytest.mark.bulk
async def test_a_link_uploads_100_megabytes_and_gets_them_back(nghttpd: Nghttpd, htdocs: Path) -> None:
    """F5 and F6: ``send`` waits for room, so that memory does not grow with the upload."""
    async with nghttpd(htdocs, "--echo-upload") as peer, Link(peer.url) as link, link.stream("POST", "/") as stream:
        there, back = Tally(), Tally()
        for block in big_blocks():
            await stream.send(block)
            there.add(block)
        await stream.end()
        async for chunk in stream:
            back.add(chunk)

    assert (back.length, back.digest) == (BIG, big_digest())
    assert max(there.growth, back.growth) < ROOM


async def test_an_unread_download_does_not_stop_its_siblings(nghttpd: Nghttpd, htdocs: Path, big_file: Path) -> None:
    """F3: the link goes on, and what it holds for the unread stream stays within its window."""
    (htdocs / "big").symlink_to(big_file)
    async with nghttpd(htdocs) as peer, Link(peer.url) as link, link.stream("GET", "/big") as unread:
        await unread.response()
        before = resident_bytes()
        for _ in range(100):
            assert (await link.request("GET", "/small", timeout=10)).body == b"hello, world"
        assert resident_bytes() - before < 16 << 20


async def test_leaving_a_download_puts_one_cancel_on_the_wire(nghttpd: Nghttpd, htdocs: Path, big_file: Path) -> None:
    """S10: exactly one RST_STREAM, whatever was still under way; the connection lives."""
    (htdocs / "big").symlink_to(big_file)
    async with nghttpd(htdocs, "--verbose") as peer, Link(peer.url) as link:
        for _ in range(5):
            async with link.stream("GET", "/big") as stream:
                await stream.response()
                assert await stream.read(1)
        assert (await link.request("GET", "/small", timeout=10)).status == 200
        log = await peer.logged("stream_id=11 closed")

    resets = re.findall(r"recv RST_STREAM frame <.*stream_id=(\d+)>\n\s+\(error_code=(\w+)", log)
    assert resets == [("1", "CANCEL"), ("3", "CANCEL"), ("5", "CANCEL"), ("7", "CANCEL"), ("9", "CANCEL")]


async def test_cancelling_a_caller_harms_no_other(nghttpd: Nghttpd, htdocs: Path, big_file: Path) -> None:
    """S3: the cancelled upload is reset with CANCEL; a sibling in its midst is answered in full."""

    async def upload_for_ever(link: Link) -> None:
        async with link.stream("POST", "/for-ever") as stream:
            while True:
                await stream.send(bytes(16_384))

    async with nghttpd(htdocs, "--echo-upload", "--verbose") as peer, Link(peer.url) as link:
        uploading = asyncio.create_task(upload_for_ever(link))
        await peer.logged("/for-ever")
        async with link.stream("POST", "/sibling") as sibling:
            await sibling.send(b"first, ")
            uploading.cancel()
            await asyncio.wait([uploading])
            assert uploading.cancelled()
            await sibling.send(b"then")
            await sibling.end()
            assert await sibling.read() == b"first, then"
        log = await peer.logged("recv RST_STREAM")

    assert re.findall(r"recv RST_STREAM frame .*\n\s+\(error_code=(\w+)", log) == ["CANCEL"]


async def test_leaving_a_link_says_goaway(nghttpd: Nghttpd, htdocs: Path) -> None:
    """G4: GOAWAY is on the wire before the connection closes."""
    async with nghttpd(htdocs, "--verbose") as peer:
        async with Link(peer.url) as link:
            await link.request("GET", "/small", timeout=10)
        log = await peer.logged("recv GOAWAY")

    assert re.findall(r"recv GOAWAY frame .*\n\s+\(last_stream_id=0, error_code=(\w+)", log) == ["NO_ERROR"]


async def test_nghttpd_pushes_nothing_to_a_link_that_takes_no_pushes(nghttpd: Nghttpd, htdocs: Path) -> None:
    """S12 (push off): ENABLE_PUSH=0 is in the first SETTINGS, and nghttpd, which would push, keeps to it."""
    (htdocs / "other").write_bytes(b"pushed")
    async with nghttpd(htdocs, "--push=/small=/other", "--verbose") as peer, Link(peer.url) as link:
        reply = await link.request("GET", "/small", timeout=10)
        log = await peer.logged("stream_id=1 closed")

    assert reply.body == b"hello, world"
    _, _, ours = log.partition("recv SETTINGS frame")
    assert "[SETTINGS_ENABLE_PUSH(0x02):0]" in ours.partition("recv HEADERS frame")[0]
    assert "PUSH_PROMISE" not in log


async def test_nghttpd_sends_trailers_after_a_body_of_some_size(nghttpd: Nghttpd, htdocs: Path) -> None:
    """S8: they wait behind a body of 1 MiB that is read in parts; a response without a body has none of them."""
    (htdocs / "medium").write_bytes(bytes(1 << 20))
    async with nghttpd(htdocs, "--trailer=x-sum: abc") as peer, Link(peer.url) as link:
        async with link.stream("GET", "/medium", timeout=10) as stream:
            length = sum([len(chunk) async for chunk in stream])
            trailers = await stream.trailers()
        head = await link.request("HEAD", "/medium", timeout=10)

    assert (length, trailers["x-sum"]) == (1 << 20, "abc")
    assert (head.headers["content-length"], head.body, list(head.trailers)) == (str(1 << 20), b"", [])
