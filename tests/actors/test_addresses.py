"""Addresses of endpoints: what needs no lookup, what the system's resolver says, and resolvers that say nothing."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors.addresses import MOST_LOOKUPS, Address, Endpoint, interleaved, resolve
from actors.errors import ConnectFailed
from tests.support.sides import settle, until

ROOT = Path(__file__).parent.parent.parent
NAMED = Endpoint("service.test", 80)
FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


def at_once(resolving: Coroutine[Any, Any, tuple[Address, ...]]) -> tuple[Address, ...]:
    """What a coroutine returns that never waits."""
    with pytest.raises(StopIteration) as done:
        resolving.send(None)
    found: tuple[Address, ...] = done.value.value
    return found


def lookups() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "muxlink-lookup"]


class Resolver:
    """A system's resolver that answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.let = threading.Event()
        self.answer: Callable[[], list[Any]] = lambda: FOUND

    def __call__(self, host: str, *_: object, **__: object) -> list[Any]:
        self.asked.append(host)
        self.let.wait(20)
        return self.answer()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """Its threads are gone before the next test."""
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.let.set()
    for thread in lookups():
        thread.join(20)


@pytest.mark.parametrize(
    ("host", "port", "family", "sockaddr", "shown"),
    [
        ("127.0.0.1", 80, socket.AF_INET, ("127.0.0.1", 80), "127.0.0.1:80"),
        ("::1", 443, socket.AF_INET6, ("::1", 443, 0, 0), "[::1]:443"),
        ("fe80::1%1", 80, socket.AF_INET6, ("fe80::1", 80, 0, 1), "[fe80::1%1]:80"),
    ],
)
def test_a_numeric_host_is_an_address_without_a_lookup(
    host: str, port: int, family: int, sockaddr: tuple[str, int], shown: str
) -> None:
    endpoint = Endpoint(host, port)
    (address,) = at_once(resolve(endpoint, timeout=0.0))
    assert (address.endpoint, address.family, address.sockaddr) == (endpoint, family, sockaddr)
    assert address.numeric
    assert str(address) == shown
    assert {address: 1}[Address(endpoint, family, sockaddr)] == 1


def test_a_unix_socket_is_an_address_without_a_lookup() -> None:
    endpoint = Endpoint(path="/run/s")
    assert at_once(resolve(endpoint, timeout=0.0)) == (Address(endpoint, socket.AF_UNIX, "/run/s"),)
    (address,) = at_once(resolve(endpoint, timeout=0.0))
    assert (str(address), address.numeric) == ("unix:/run/s", True)


def test_a_scope_that_there_is_none_of_is_a_failed_connection() -> None:
    with pytest.raises(ConnectFailed, match="no address of fe80::1%nosuch was found"):
        resolve(Endpoint("fe80::1%nosuch", 80), timeout=1.0).send(None)


async def test_a_name_has_the_addresses_that_the_system_says() -> None:
    addresses = await resolve(Endpoint("localhost", 80), timeout=10.0)
    assert Address(Endpoint("localhost", 80), socket.AF_INET, ("127.0.0.1", 80)) in addresses
    assert not any(address.numeric for address in addresses)


async def test_families_take_turns_and_the_systems_first_is_first(resolver: Resolver) -> None:
    """RFC 8305, 4."""
    six = [(socket.AF_INET6, 1, 6, "", (f"2001:db8::{n}", 80, 0, 0)) for n in (1, 2, 3)]
    four = [(socket.AF_INET, 1, 6, "", (f"192.0.2.{n}", 80)) for n in (1, 2)]
    resolver.answer = lambda: [*six, *four, four[0]]
    resolver.let.set()
    shown = [str(address) for address in await resolve(NAMED, timeout=5.0)]
    assert shown == [
        *("[2001:db8::1]:80", "192.0.2.1:80", "[2001:db8::2]:80", "192.0.2.2:80"),
        "[2001:db8::3]:80",
    ]
    assert interleaved(()) == ()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 300])
async def test_a_name_that_is_none_is_one_line(host: str) -> None:
    with pytest.raises(ConnectFailed, match=f"no address of {host} was found: ") as caught:
        await resolve(Endpoint(host, 80), timeout=20.0)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


async def test_an_unknown_name_and_a_silent_name_server_have_their_remedies(resolver: Resolver) -> None:
    resolver.let.set()
    for code, remedy in ((socket.EAI_NONAME, "is the name right"), (socket.EAI_AGAIN, "reach its name server")):

        def refuse(code: int = code) -> list[Any]:
            raise socket.gaierror(code, "words")

        resolver.answer = refuse
        with pytest.raises(ConnectFailed, match=f"no address of service.test was found: words; .*{remedy}"):
            await resolve(NAMED, timeout=5.0)


async def test_a_name_with_addresses_of_no_family_of_ours_is_a_failed_connection(resolver: Resolver) -> None:
    resolver.answer = lambda: [(socket.AF_UNIX, 1, 0, "", "x")]
    resolver.let.set()
    with pytest.raises(ConnectFailed, match="neither one of IPv4"):
        await resolve(NAMED, timeout=5.0)


@contextmanager
def refused_late(resolver: Resolver) -> Iterator[None]:
    """Afterwards, the resolver says no to who has gone."""

    def refuse() -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "nobody asks any more")

    resolver.answer = refuse
    yield
    resolver.let.set()


@pytest.mark.virtual_time
async def test_a_lookup_has_its_time_and_what_comes_later_disturbs_nobody(resolver: Resolver) -> None:
    loop = asyncio.get_running_loop()
    with refused_late(resolver):
        with pytest.raises(ConnectFailed, match=r"no address of service\.test was found within 7 s") as caught:
            await resolve(NAMED, timeout=7)
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert loop.time() == pytest.approx(7)
    await until(lambda: not lookups())
    await settle()


async def test_a_cancelled_lookup_leaves_nothing(resolver: Resolver) -> None:
    with refused_late(resolver):
        resolving = asyncio.create_task(resolve(NAMED, timeout=60))
        await until(lambda: bool(resolver.asked))
        resolving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await resolving
    await until(lambda: not lookups())
    await settle()


async def test_many_lookups_share_a_few_threads_and_who_went_before_its_turn_is_not_asked_for(
    resolver: Resolver,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(resolve(Endpoint(f"h{n}.test", 80), timeout=60)) for n in range(3 * MOST_LOOKUPS)]
        await until(lambda: len(resolver.asked) == MOST_LOOKUPS)
        assert len(lookups()) == MOST_LOOKUPS
        asking[-1].cancel()
        await asyncio.wait((asking[-1],))
        resolver.let.set()
    assert all(len(each.result()) == 1 for each in asking[:-1])
    await until(lambda: not lookups())
    assert sorted(resolver.asked) == sorted(f"h{n}.test" for n in range(3 * MOST_LOOKUPS - 1))


async def test_where_the_system_gives_no_thread_the_lookup_fails(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as poor:
        poor.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ConnectFailed, match=r"no address of service\.test was found: can't start new thread"):
            await resolve(NAMED, timeout=60)
    resolver.let.set()
    assert len(await resolve(NAMED, timeout=60)) == 1
    assert resolver.asked == ["service.test"]


def test_an_answer_after_the_end_of_the_loop_is_dropped(resolver: Resolver) -> None:
    async def give_up() -> None:
        with pytest.raises(ConnectFailed):
            await resolve(NAMED, timeout=0.01)

    asyncio.run(give_up())
    (hanging,) = lookups()
    resolver.let.set()
    hanging.join(20)
    assert not hanging.is_alive()


PREAMBLE = """
import asyncio, os, socket, sys, time
from actors.addresses import MOST_LOOKUPS, Endpoint, resolve
from actors.errors import ConnectFailed

honest = socket.getaddrinfo
socket.getaddrinfo = lambda *_, **__: time.sleep(300)

async def give_up():
    for each in await asyncio.gather(
        *(resolve(Endpoint("service.test", n), timeout=0.05) for n in range(MOST_LOOKUPS)), return_exceptions=True
    ):
        assert isinstance(each, ConnectFailed), each

asyncio.run(give_up())
"""


def run(program: str) -> None:
    subprocess.run([sys.executable, "-c", PREAMBLE + program], cwd=ROOT, check=True, timeout=60)


def test_lookups_that_hang_hold_up_neither_the_loops_end_nor_the_process() -> None:
    """The threads of asyncio's default executor would hold up both."""
    run("")


def test_a_forked_process_looks_names_up_although_its_parents_threads_hang() -> None:
    run(
        """
socket.getaddrinfo = honest
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
asyncio.run(resolve(Endpoint("localhost", 80), timeout=20))
"""
    )
