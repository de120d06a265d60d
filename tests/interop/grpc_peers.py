"""grpcio as a server and as a client, each a process of its own; what a method does is the same on both sides.

A method takes and gives bytes, so no protobuf is needed. ``Count`` gets ``b"MESSAGES SECONDS SIZE"`` and streams that
many messages of that size with a pause between two; ``Fail`` gets ``b"CODE DETAILS"`` and answers with that status.
Run as a program, this module is the server (``serve``) or does one of the client's jobs.
"""

from __future__ import annotations

import itertools
import json
import queue
import signal
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final

from attrs import frozen

from tests.interop.peers import Ran, missing, run
from tests.interop.programs import Running, running

try:
    import grpc  # type: ignore[import-untyped, unused-ignore]
except ImportError:
    missing("grpcio is not installed: pip install grpcio")

SERVICE: Final = "test.Peer"
REQUEST: Final = (("content-type", "application/grpc"), ("te", "trailers"))
"""What each gRPC request has for headers."""
PROGRAM: Final = (sys.executable, "-m", "tests.interop.grpc_peers")
BURST: Final = 200

# --- length-prefixed messages -----------------------------------------------------------------------------------------


def message(data: bytes) -> bytes:
    """One message as it stands in a body: not compressed, its length, and itself."""
    return struct.pack(">BL", 0, len(data)) + data


def messages(body: bytes) -> list[bytes]:
    """The messages of a whole body."""
    cutter = _Cutter()
    found = list(cutter.cut(body))
    assert not cutter.rest, f"{len(cutter.rest)} bytes of a message that is not whole"
    return found


async def arriving(stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The messages of a stream as they become whole."""
    cutter = _Cutter()
    async for chunk in stream:
        for found in cutter.cut(chunk):
            yield found
    assert not cutter.rest, f"{len(cutter.rest)} bytes of a message that is not whole"


class _Cutter:
    def __init__(self) -> None:
        self.rest = bytearray()

    def cut(self, chunk: bytes) -> Iterator[bytes]:
        self.rest += chunk
        while len(self.rest) >= 5:
            compressed, size = struct.unpack_from(">BL", self.rest)
            assert not compressed
            if len(self.rest) < 5 + size:
                return
            yield bytes(self.rest[5 : 5 + size])
            del self.rest[: 5 + size]


# --- starting them ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def grpc_server() -> AsyncIterator[Running]:
    """A ``grpc.server`` with its defaults; SIGTERM lets it finish what is open, and end."""
    async with running(*PROGRAM, "serve", where=r"serving on (http://\S+)") as peer:
        yield peer


@frozen
class Report:
    """What a job of grpcio's client came to."""

    result: object
    log: str
    """What the C core had to say."""


async def grpc_client(job: str, url: str, *arguments: object, limit: float = 60.0) -> Report:
    """Do a job over one ``grpc.insecure_channel``, with its defaults unless the job says otherwise."""
    ran: Ran = await run(*PROGRAM, job, url.removeprefix("http://"), *map(str, arguments), limit=limit)
    assert ran.code == 0, ran
    return Report(json.loads(ran.text), ran.err)


def rounds(seconds: float) -> tuple[float, ...]:
    """How a time of silence is cut up: of 10 minutes the first piece is longer than 5, the others than 1."""
    return (0.55 * seconds, 0.15 * seconds, 0.15 * seconds, 0.15 * seconds)


# --- the server -------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    print(text, flush=True)


def _count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    number, pause, size = request.split()
    for n in range(int(number)):
        if n and float(pause):
            time.sleep(float(pause))
        say(f"made {n + 1}")
        yield bytes(int(size))


def _sum(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    return b"%d" % sum(map(len, requests))


def _fail(request: bytes, context: grpc.ServicerContext) -> bytes:
    code, details = request.decode().split(" ", 1)
    context.abort(_code(int(code)), details)
    return b""


def _wait(request: bytes, context: grpc.ServicerContext) -> bytes:
    ended = threading.Event()
    context.add_callback(ended.set)
    say(f"waiting for {context.time_remaining()}")
    ended.wait()
    say("the wait is over")
    return b""


def _cancel(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.cancel()
    return b""


class _Gate:
    """``Hold`` reads one message, and the others once somebody called ``Release``."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def hold(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        first = next(requests)
        say("holding")
        self._open.wait()
        return _sum(itertools.chain([first], requests), context)

    def release(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._open.set()
        return request


def _code(number: int) -> grpc.StatusCode:
    return next(each for each in grpc.StatusCode if each.value[0] == number)


def serve() -> None:
    """Serve until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in every thread: only sigwait hears of it
    gate = _Gate()
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
        "Count": grpc.unary_stream_rpc_method_handler(_count),
        "Sum": grpc.stream_unary_rpc_method_handler(_sum),
        "Talk": grpc.stream_stream_rpc_method_handler(lambda requests, context: requests),
        "Fail": grpc.unary_unary_rpc_method_handler(_fail),
        "Wait": grpc.unary_unary_rpc_method_handler(_wait),
        "Cancel": grpc.unary_unary_rpc_method_handler(_cancel),
        "Hold": grpc.stream_unary_rpc_method_handler(gate.hold),
        "Release": grpc.unary_unary_rpc_method_handler(gate.release),
    }
    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    say(f"serving on http://127.0.0.1:{port}")
    signal.sigwait({signal.SIGTERM})
    stopped = server.stop(grace=10)
    say("stopping")
    stopped.wait()


# --- the client's jobs ------------------------------------------------------------------------------------------------


def _ended(call: grpc.Call) -> list[object]:
    """How a call ended: the number of its status, and the details."""
    return [call.code().value[0], call.details()]


def _method(channel: grpc.Channel, kind: str, name: str) -> Callable[..., grpc.Call]:
    made: Callable[..., grpc.Call] = getattr(channel, kind)(f"/{SERVICE}/{name}")
    return made


def burst(channel: grpc.Channel) -> Counter[str]:
    """Two bursts of unary calls; how they ended."""
    echo = channel.unary_unary(f"/{SERVICE}/Echo")
    found: Counter[str] = Counter()
    for _ in range(2):
        calls = [(body, echo.future(body, timeout=30)) for body in (b"%d" % n for n in range(BURST))]
        found.update("same" if call.result() == body else "other" for body, call in calls)
    return found


def streams(channel: grpc.Channel) -> object:
    """All kinds of streams, one after the other."""
    count = _method(channel, "unary_stream", "Count")(b"3 0.5 1000", timeout=30)
    total = _method(channel, "stream_unary", "Sum")(iter([bytes(1000)] * 5), timeout=30)
    talk = _method(channel, "stream_stream", "Talk")(iter([b"one", b"", b"three"]), timeout=30)
    return [[len(each) for each in count], total.decode(), [each.decode() for each in talk]]


def statuses(channel: grpc.Channel) -> object:
    """What the client makes of each status."""
    fail = channel.unary_unary(f"/{SERVICE}/Fail")
    return [_ended(fail.future(f"{n} n° {n}".encode(), timeout=30)) for n in range(17)]


def ends(channel: grpc.Channel, method: str, timeout: str, request: str = "") -> object:
    """How one unary call ends."""
    timeout_or_none = float(timeout) or None
    return _ended(channel.unary_unary(f"/{SERVICE}/{method}").future(request.encode(), timeout=timeout_or_none))


def cancel(channel: grpc.Channel) -> object:
    """Cancel a stream that would never end after its second message, and make another call."""
    call = _method(channel, "unary_stream", "Count")(b"1000000000 0 1000")
    for _ in range(2):
        next(call)
    call.cancel()
    return [_ended(call)[0], ends(channel, "Echo", "30")]


def large(channel: grpc.Channel, size: str) -> object:
    """Send many bytes in one message and have them back."""
    body = bytes(range(256)) * (int(size) // 256)
    return bool(channel.unary_unary(f"/{SERVICE}/Echo")(body, timeout=60) == body)


def upload(channel: grpc.Channel, number: str, size: str) -> object:
    """Send many messages; what the server has counted, and how many had been taken when it began to read them."""
    taken = 0

    def generate() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(int(number)):
            taken += 1
            yield bytes(int(size))

    call = channel.stream_unary(f"/{SERVICE}/Hold").future(generate(), timeout=60)
    before = None
    while before != taken:  # until nothing more is taken for a while
        before = taken
        time.sleep(1)
    channel.unary_unary(f"/{SERVICE}/Release")(b"", timeout=30)
    return [int(call.result()), before]


def download(channel: grpc.Channel, number: str, size: str) -> object:
    """Take many messages, the second a second after the first: how many bytes came, and what was said in between."""
    call = _method(channel, "unary_stream", "Count")(f"{number} 0 {size}".encode(), timeout=60)
    came = len(next(call))
    time.sleep(1)
    between = channel.unary_unary(f"/{SERVICE}/Made")(b"", timeout=30).decode()
    return [came + sum(map(len, call)), int(between)]


def drink(channel: grpc.Channel, number: str, pause: str, size: str) -> object:
    """Take messages as they come; how many bytes they had."""
    return sum(map(len, _method(channel, "unary_stream", "Count")(f"{number} {pause} {size}".encode(), timeout=60)))


def busy(channel: grpc.Channel, seconds: str) -> object:
    """Make calls in four threads for that long; how they ended."""
    echo = channel.unary_unary(f"/{SERVICE}/Echo")
    until = time.monotonic() + float(seconds)

    def work() -> Counter[str]:
        found: Counter[str] = Counter()
        while time.monotonic() < until:
            found[str(_ended(echo.future(b"busy", timeout=30)))] += 1
        return found

    with ThreadPoolExecutor(4) as pool:
        return sum((each.result() for each in [pool.submit(work) for _ in range(4)]), Counter())


def stay(channel: grpc.Channel) -> object:
    """Let a call be answered while its server goes away, and then wait for another server."""
    first = channel.unary_unary(f"/{SERVICE}/Last").future(b"", timeout=30)
    end = _ended(first)
    second = channel.unary_unary(f"/{SERVICE}/Echo").future(b"", timeout=30, wait_for_ready=True)
    return [end, _ended(second)]


def silence(channel: grpc.Channel, seconds: str) -> object:
    """Bursts and silence, while one stream stays open; what was said over it, and how the bursts ended."""
    said: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    talk = _method(channel, "stream_stream", "Talk")(iter(said.get, None))
    heard, calls = [], Counter[str]()
    for n, pause in enumerate((*rounds(float(seconds)), 0.0)):
        said.put(b"%d" % n)
        heard.append(next(talk).decode())
        calls.update(burst(channel))
        time.sleep(pause)
    said.put(None)
    return [heard, [each.decode() for each in talk], _ended(talk)[0], calls]


JOBS: Final = burst, streams, statuses, ends, cancel, large, upload, download, drink, busy, stay, silence
EAGER: Final = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
"""Options of a channel that asks for a sign of life each second, whether it has calls or not."""


def main(name: str, target: str = "", *arguments: str) -> None:
    """Serve, or do a job and print what it came to as JSON; a job whose name ends with ``!`` does it eagerly."""
    if name == "serve":
        serve()
        return
    job = next(each for each in JOBS if each.__name__ == name.rstrip("!"))
    with grpc.insecure_channel(target, options=EAGER if name.endswith("!") else None) as channel:
        say(json.dumps(job(channel, *arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
