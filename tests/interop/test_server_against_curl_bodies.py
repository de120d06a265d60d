"""Our server, called by curl: responses without a body, bodies that wait, crawl, or break off."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.errors import ErrorCode, LinkError, StreamReset
from actors.server_stream import ServerStream
from supervisor.server import Server
from tests.interop.bodies import BLOCK, big_blocks, send_big, take_big
from tests.interop.peers import Ran, Tool


@pytest.fixture(scope="module")
def fifty_megabytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fifty") / "megabytes"
    with path.open("wb") as file:
        file.writelines(block for _, block in zip(range(50), big_blocks(), strict=False))
    return path


def head_of(ran: Ran) -> tuple[str, dict[str, str], str]:
    """The status line, the headers and the body of what ``curl -i`` wrote."""
    assert ran.code == 0, ran
    head, _, body = ran.text.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    return status.strip(), dict(line.split(": ", 1) for line in lines), body


async def by_path(stream: ServerStream) -> None:
    """Answer with the status that the path names."""
    status = int(stream.path[1:])
    if status == 304:
        await stream.respond(status, headers=[("etag", '"1"'), ("content-length", "12")])
    elif status == 204:
        await stream.respond(status)
    else:
        await stream.respond(status, body=b"hello, world")


@pytest.mark.parametrize(
    ("options", "path", "length"),
    [
        pytest.param((), "/204", None, id="204"),
        pytest.param(("-H", 'if-none-match: "1"'), "/304", "12", id="304"),
        pytest.param(("--head",), "/200", "12", id="HEAD"),
        pytest.param(("--head",), "/204", None, id="HEAD of 204"),
        pytest.param(("--head",), "/404", "12", id="HEAD of 404"),
    ],
)
async def test_curl_takes_a_response_without_a_body(
    curl: Tool, options: tuple[str, ...], path: str, length: str | None
) -> None:
    """S15: curl would find fault with a body, or with a length that it waits for in vain."""
    async with Server(by_path) as server:
        status, headers, body = head_of(await curl("-i", *options, f"{server.url}{path}"))

    assert status == f"HTTP/2 {path[1:]}"
    assert headers.get("content-length") == length
    assert body == ""


@pytest.mark.bulk
async def test_curl_that_expects_100_gets_it_and_uploads_50_megabytes(curl: Tool, fifty_megabytes: Path) -> None:
    """S7: the server sends 100 at the handler's first read; F5: memory does not grow with the upload."""
    # That a refusal keeps the body back is shown with nghttp: curl 7.88 often says "Empty reply" (52) where END_STREAM
    # and RST_STREAM(NO_ERROR) come in one read, whoever the server is.
    async with Server(take_big) as server:
        ran = await curl(
            "-i", "-H", "Expect: 100-continue", "--expect100-timeout", "20",
            "--data-binary", f"@{fifty_megabytes}", f"{server.url}/", limit=15,
        )  # fmt: skip

    assert ran.code == 0, ran
    assert re.findall(r"^HTTP/2 (\d+)", ran.text, re.MULTILINE) == ["100", "200"]
    assert ran.text.partition("\r\n\r\n")[2].rpartition("\r\n\r\n")[2].startswith(f"{50 * BLOCK} ")


async def test_a_download_at_300_kilobytes_a_second_slows_the_handler(curl: Tool) -> None:
    """F6: when curl has read 2 s at its pace, the handler has not sent much more than curl's window of 32 MiB."""
    sent = 0

    async def count(stream: ServerStream) -> None:
        nonlocal sent
        await stream.start_response(200)
        for block in big_blocks():
            await stream.send(block)
            sent += len(block)

    async with Server(count) as server:
        ran = await curl("--limit-rate", "300k", "--max-time", "2", "-o", "/dev/null", f"{server.url}/")

    assert ran.code == 28, ran
    assert sent <= 40 * BLOCK


async def test_an_upload_at_300_kilobytes_a_second_arrives_whole(curl: Tool, tmp_path: Path) -> None:
    """A slow body is read as it comes, in parts over a second and more."""
    (tmp_path / "slow").write_bytes(bytes(400 * 1024))
    at: list[float] = []

    async def take(stream: ServerStream) -> None:
        length = 0
        async for chunk in stream:
            at.append(asyncio.get_running_loop().time())
            length += len(chunk)
        await stream.respond(200, body=str(length).encode())

    async with Server(take) as server:
        ran = await curl("--limit-rate", "300k", "-T", str(tmp_path / "slow"), f"{server.url}/")

    assert (ran.code, ran.text) == (0, str(400 * 1024)), ran
    assert at[-1] - at[0] > 0.5


@asynccontextmanager
async def cut_off() -> AsyncIterator[tuple[Server, asyncio.Future[LinkError | None]]]:
    """A server whose handler reads, or sends where there is nothing to read, until it is cancelled."""
    ended: asyncio.Future[LinkError | None] = asyncio.get_running_loop().create_future()

    async def go_on(stream: ServerStream) -> None:
        try:
            if stream.method == "GET":
                await send_big(stream)
            else:
                await take_big(stream)
        except asyncio.CancelledError:
            ended.set_result(stream.cause)
            raise

    async with Server(go_on) as server:
        yield server, ended


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_transfer_that_curl_cuts_off_half_way_cancels_the_handler(
    curl: Tool, big_file: Path, method: str
) -> None:
    """S6: by --max-time, on a rate that could not finish; the cause is a reset or the end of the connection."""
    body = ("-T", str(big_file)) if method == "PUT" else ()
    async with cut_off() as (server, ended):
        ran = await curl("--limit-rate", "1M", "--max-time", "0.5", "-o", "/dev/null", *body, f"{server.url}/")
        async with asyncio.timeout(10):
            cause = await ended

    assert ran.code == 28, ran
    assert cause is not None
    if isinstance(cause, StreamReset):
        assert cause.code in (ErrorCode.CANCEL, ErrorCode.NO_ERROR)
