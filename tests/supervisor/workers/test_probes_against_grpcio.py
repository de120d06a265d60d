"""Health checking, asked by grpcio with the stubs and the messages of its own health package."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from attrs import Factory, define, field
from hypothesis import given
from hypothesis import strategies as st

from supervisor.server import Server
from supervisor.workers.probes import MAX_GROUPS, Probes, Refused, Status, decode_request, framed, limits
from tests.interop.peers import missing
from tests.supervisor.workers.test_probes import MALFORMED, named, unknown
from tests.support.sides import until

try:
    import grpc  # type: ignore[import-untyped, unused-ignore]
    import grpc.aio  # type: ignore[import-untyped, unused-ignore]
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
    from grpc_health.v1.health_pb2 import (  # type: ignore[import-untyped, unused-ignore]
        HealthCheckRequest,
        HealthCheckResponse,
    )
    from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped, unused-ignore]
except ImportError:
    missing("grpcio-health-checking is not installed: pip install grpcio-health-checking")

WATCHERS: Final = 50


@define
class World:
    """A process that is ready or not, its probes, and grpcio's channel to them."""

    ready: bool = True
    probes: Probes = field(init=False, default=Factory(lambda self: Probes(lambda: self.ready), takes_self=True))
    server: Server = field(init=False)
    channel: Any = field(init=False)

    def turn(self, ready: bool) -> None:
        self.ready = ready
        self.probes.changed()

    def check(self, service: str, **options: Any) -> Any:
        return HealthStub(self.channel).Check(HealthCheckRequest(service=service), timeout=30, **options)

    def watch(self, service: str = "", timeout: float | None = None) -> Any:
        return HealthStub(self.channel).Watch(HealthCheckRequest(service=service), timeout=timeout)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    async with (
        Server(made.probes.handler, limits=limits()) as made.server,
        grpc.aio.insecure_channel(f"127.0.0.1:{made.server.port}") as made.channel,
        asyncio.timeout(60),
    ):
        yield made


async def ending(call: Any) -> Any:
    """The status that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await (call.read() if hasattr(call, "read") else call)
    return raised.value.code()


@pytest.mark.parametrize("service", ["", "readiness", "liveness"])
async def test_grpcio_checks_each_service(service: str) -> None:
    """M7."""
    async with world() as made:
        assert (await made.check(service)).status == HealthCheckResponse.SERVING
        made.turn(False)
        alive = service == "liveness"
        expected = HealthCheckResponse.SERVING if alive else HealthCheckResponse.NOT_SERVING
        assert (await made.check(service)).status == expected


async def test_grpcio_understands_why_a_call_is_refused() -> None:
    """Each of them over the one connection, which serves on."""
    async with world() as made:
        assert await ending(made.check("other")) is grpc.StatusCode.NOT_FOUND
        assert await ending(made.check("x" * 5_000)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await ending(made.check("x" * 500_000)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        gzipped = made.check("x" * 500, compression=grpc.Compression.Gzip)
        assert await ending(gzipped) is grpc.StatusCode.UNIMPLEMENTED
        for method in ("/grpc.health.v1.Health/Nothing", "/other.Service/Check"):
            assert await ending(made.channel.unary_unary(method)(b"")) is grpc.StatusCode.UNIMPLEMENTED
        malformed = made.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\x0a\x7f")
        assert await ending(malformed) is grpc.StatusCode.INTERNAL
        assert (await made.check("")).status == HealthCheckResponse.SERVING
        assert made.server.stats().connections_accepted == 1


async def test_grpcio_hears_each_change_in_order() -> None:
    """M7: also those that follow each other before any watcher had a turn, and none twice."""
    async with world() as made:
        watch = made.watch()
        told = [(await watch.read()).status]
        for ready in (True, False, False, True, True, False):
            made.turn(ready)
        told += [(await watch.read()).status for _ in range(3)]
        made.turn(True)
        told.append((await watch.read()).status)
        made.probes.close()
        assert await ending(watch) is grpc.StatusCode.UNAVAILABLE
    assert told == [1, 2, 1, 2, 1]


async def test_grpcio_watches_a_service_that_is_unknown_until_the_end() -> None:
    async with world() as made:
        watch = made.watch("other")
        assert (await watch.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        made.turn(False)
        assert (made.probes.watchers, watch.done()) == (1, False)
        made.probes.close()
        assert await ending(watch) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.bulk
async def test_fifty_watchers_of_grpcio_hear_all_of_ten_changes() -> None:
    """M7: and a Check is answered within 1 s among them."""

    async def follow(watch: Any) -> list[int]:
        return [(await watch.read()).status for _ in range(11)]

    async with world() as made:
        watches = [made.watch("readiness") for _ in range(WATCHERS)]
        following = asyncio.gather(*map(follow, watches))
        await until(lambda: made.probes.watchers == WATCHERS, timeout=30)
        for number in range(10):
            made.turn(number % 2 == 1)
            async with asyncio.timeout(1):
                await made.check("")
        assert await following == [[1, 2] * 5 + [1]] * WATCHERS
        made.probes.close()
        assert [await ending(each) for each in watches] == [grpc.StatusCode.UNAVAILABLE] * WATCHERS
        assert made.probes.watchers == 0


async def test_watchers_that_grpcio_cancels_or_whose_deadline_passes_are_forgotten() -> None:
    async with world() as made:
        cancelled, late, stays = made.watch(), made.watch(timeout=0.5), made.watch()
        for each in (cancelled, late, stays):
            await each.read()
        assert made.probes.watchers == 3
        cancelled.cancel()
        assert await ending(late) is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: made.probes.watchers == 1)
        made.turn(False)
        assert (await stays.read()).status == HealthCheckResponse.NOT_SERVING


# --- protobuf's own library -------------------------------------------------------------------------------------------


def theirs(data: bytes) -> str | None:
    """The service that the library finds; None where it refuses."""
    try:
        return str(HealthCheckRequest.FromString(data).service)
    except DecodeError:
        return None


def ours(data: bytes) -> str | None:
    try:
        return decode_request(data)
    except Refused:
        return None


def test_the_library_reads_what_we_write() -> None:
    for status in Status:
        assert HealthCheckResponse.FromString(framed(status)[5:]).status == status
        assert HealthCheckResponse(status=int(status)).SerializeToString() == framed(status)[5:]
        assert HealthCheckResponse.ServingStatus.Name(int(status)) == status.name


@given(st.text())
def test_we_read_what_the_library_writes(service: str) -> None:
    data = HealthCheckRequest(service=service).SerializeToString()
    assert decode_request(data) == service
    assert data == (named(service) if service else b"")


@given(st.lists(unknown | st.text().map(named), max_size=5).map(b"".join), st.integers(0, 40), st.integers(0, 40))
def test_we_and_the_library_agree_on_good_messages_and_cut_ones(data: bytes, begin: int, end: int) -> None:
    assert theirs(data) is not None
    assert ours(data) == theirs(data)
    assert ours(data[: len(data) - end]) == theirs(data[: len(data) - end])
    assert ours(data[begin:]) in (theirs(data[begin:]), None)


@given(st.binary(max_size=40))
def test_what_we_take_the_library_takes_for_the_same(data: bytes) -> None:
    """It takes more: a field 0 within a group, which no message has."""
    assert ours(data) in (theirs(data), None)


def test_the_library_refuses_what_we_call_malformed() -> None:
    assert {what: theirs(data) for what, data in MALFORMED.items()} == dict.fromkeys(MALFORMED)


def test_groups_as_deep_as_the_library_takes_them_are_taken() -> None:
    data = b"\x0b" * MAX_GROUPS + b"\x0c" * MAX_GROUPS + named("x")
    assert ours(data) == theirs(data) == "x"
