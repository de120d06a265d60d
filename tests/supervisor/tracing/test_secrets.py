"""T3: what is secret is in no default trace, whichever way that goes out."""

from pathlib import Path

import pytest

from actors.errors import LinkError
from actors.server_stream import ServerStream
from supervisor.link import Link
from supervisor.server import Server
from supervisor.tracing import jsonl
from supervisor.tracing.convert import FORMATS, convert

SECRETS = {
    name: f"the-{name}-of-this-test"
    for name in (
        *("authorization", "cookie", "proxy-authorization", "x-token", "query", "request-body", "request-trailer"),
        *("set-cookie", "response-header", "response-body", "response-trailer", "informational", "error"),
    )
}


async def answer(stream: ServerStream) -> None:
    await stream.inform(103, [("link", SECRETS["informational"])])
    await stream.read()
    if stream.path.startswith("/crash"):
        raise ValueError(SECRETS["error"])
    headers = [("set-cookie", SECRETS["set-cookie"]), ("x-answer", SECRETS["response-header"])]
    body, trailers = SECRETS["response-body"].encode(), [("x-sum", SECRETS["response-trailer"])]
    if stream.path.startswith("/pieces"):
        await stream.start_response(200, headers)
        await stream.send(body)
        await stream.end(trailers)
    else:
        await stream.respond(200, headers, body=body, trailers=trailers)


async def full_of_secrets(link: Link) -> None:
    headers = {name: SECRETS[name] for name in ("authorization", "cookie", "proxy-authorization", "x-token")}
    for path in ("/whole", "/pieces", "/crash"):
        try:
            reply = await link.request(
                "POST", f"{path}?q={SECRETS['query']}", headers=headers, body=SECRETS["request-body"].encode(),
                trailers={"x-end": SECRETS["request-trailer"]},
            )  # fmt: skip
        except LinkError:
            assert path == "/crash"
        else:
            assert reply.body == SECRETS["response-body"].encode()
    async with link.stream("POST", f"/pieces?{SECRETS['query']}", headers=headers) as stream:
        await stream.send(SECRETS["request-body"].encode())
        await stream.end({"x-end": SECRETS["request-trailer"]})
        await stream.read()


def leaks(where: str, data: bytes) -> list[str]:
    return [f"{name} is in {where}" for name, secret in SECRETS.items() if secret.encode() in data]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.logs_errors("crashed")
async def test_secrets_are_in_no_trace_that_was_not_asked_for_them(tmp_path: Path) -> None:
    """T3"""
    captured = tmp_path / "capture.jsonl"
    async with Server(answer, dossiers=tmp_path / "dossiers") as server, Link(server.url) as link:
        async with server.capture(captured):
            await full_of_secrets(link)
        assert link.tracer.recorder is not None
        ring = "\n".join(f"{event} {event.message!r}" for event in link.tracer.recorder)
        for name, trace in (("link", link.trace()), ("server", server.trace())):
            jsonl.save(trace, tmp_path / f"{name}.jsonl")
    found = leaks("the ring", ring.encode())
    for source in (captured, tmp_path / "link.jsonl", tmp_path / "server.jsonl"):
        for suffix in FORMATS:
            target = tmp_path / f"{source.stem}-as.{suffix}"
            convert(source, target)
    files = files_in(tmp_path)
    assert len(files) == 3 + 3 * len(FORMATS) + 1
    for path in files:
        data = path.read_bytes()
        assert b"connection-1" in data
        found += leaks(path.name, data)
    assert found == []


async def test_they_are_in_a_capture_with_payloads(tmp_path: Path) -> None:
    """T3: or the test above could not find them."""
    path = tmp_path / "capture.jsonl"
    headers = {"authorization": SECRETS["authorization"]}
    async with Server(answer) as server, Link(server.url) as link, link.capture(path, payloads=True):
        await link.request("GET", "/", headers=headers)
    assert "authorization is in the file" in leaks("the file", path.read_bytes())
    assert "set-cookie is in the file" in leaks("the file", path.read_bytes())
