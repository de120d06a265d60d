"""The census: every actor of a process, found from its root, and nothing that is a secret."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from actors.actor import Actor, BodyActor, get_state
from actors.client_stream import ClientStream
from actors.mailbox import Ref, SystemMessage, Understood
from actors.messages import Exited, Halt, Suspend
from actors.server_stream import ServerStream
from actors.turns import TurnActor
from supervisor import census as census_module
from supervisor.census import Plain, census, graft
from supervisor.link import Link
from supervisor.restart import ChildSpec
from supervisor.server import Server
from supervisor.tree import Supervisor
from tests.support.frames import Code, Type, goaway, ping
from tests.support.sides import linked_to_raw, settle, until


class Parent(TurnActor[Any]):
    """Starts the actors that it is told."""

    understands: ClassVar[Understood] = object

    def receive(self, message: Any) -> None:
        match message:
            case Exited():
                pass
            case Actor():
                self.start_child(message)
            case BaseException():
                raise message

    def detail(self) -> Mapping[str, str | int | float | bool | None]:
        return {"note": "n" * 1_000, "half": 0.5, "error": "what a peer said"}


class Leaf(BodyActor[Any]):
    async def body(self) -> None:
        await asyncio.Event().wait()

    def fold(self, message: Any) -> None: ...


class Mute(Leaf):
    """One that does not answer."""

    @property
    def ref(self) -> Ref[Any]:
        return Ref(self.name, self.tell, lambda signal: super(Mute, self).signal(signal) if is_end(signal) else True)


def is_end(signal: object) -> bool:
    return isinstance(signal, Halt)


def lines(rows: list[Plain]) -> list[str]:
    return [f"{row['parent']}>{row['name']}:{row['state']}" for row in rows]


async def family(*children: Actor[Any]) -> Parent:
    parent = Parent("parent")
    parent.start()
    for child in children:
        parent.tell(child)
    await settle()
    return parent


async def test_each_actor_is_listed_behind_its_parent() -> None:
    """R9: looking into what runs."""
    second = Parent("b")
    parent = await family(Leaf("a"), second, Leaf("c"))
    second.tell(Leaf("b/1"))
    second.tell(Leaf("b/2"))
    await settle()
    rows = await census(parent.ref)
    assert lines(rows) == [
        "None>parent:running", "parent>a:running", "parent>b:running", "b>b/1:running", "b>b/2:running",
        "parent>c:running",
    ]  # fmt: skip
    assert [row["kind"] for row in rows] == ["Parent", "Leaf", "Parent", "Leaf", "Leaf", "Leaf"]
    assert json.loads(json.dumps(rows)) == rows
    assert set(rows[0]) == {
        "name", "parent", "kind", "state", "mailbox", "streams", "age", "restarts", "detail",
    }  # fmt: skip
    await parent.stop()


async def test_what_waits_and_who_is_suspended_is_seen() -> None:
    child = Parent("child")
    parent = await family(child)
    child.signal(Suspend())
    await settle()
    for _ in range(3):
        child.tell("wait")
    row = (await census(parent.ref))[1]
    assert (row["state"], row["mailbox"], row["streams"]) == ("suspended", 3, None)
    await parent.stop()


async def test_details_are_bounded_and_what_a_peer_may_have_said_is_left_out() -> None:
    parent = await family()
    assert (await census(parent.ref))[0]["detail"] == {"note": "n" * 200, "half": 0.5, "error": True}
    await parent.stop()


@pytest.mark.virtual_time
async def test_the_age_is_the_time_since_an_actor_began_within_a_tenth_of_a_second() -> None:
    parent = await family(Leaf("early"))
    await asyncio.sleep(10.0)
    parent.tell(Leaf("late"))
    await asyncio.sleep(5.0)
    ages = [row["age"] for row in await census(parent.ref)]
    assert ages == [pytest.approx(15.0, abs=0.1), pytest.approx(15.0, abs=0.1), pytest.approx(5.0, abs=0.1)]
    await parent.stop()


async def test_actors_that_begin_together_share_the_memory_of_when() -> None:
    parent = await family(*(Leaf(f"leaf-{number}") for number in range(100)))
    begun = {id(ref.tell.__self__._born) for ref in parent.children.values()}  # type: ignore[attr-defined]
    assert len(begun) < 5  # as many as tenths of a second that it took
    await parent.stop()


@pytest.mark.virtual_time
async def test_one_that_does_not_answer_is_hung_and_the_others_are_listed() -> None:
    mute = [Mute(f"mute-{number}") for number in range(20)]
    parent = await family(Leaf("before"), *mute, Leaf("after"))
    began = asyncio.get_running_loop().time()
    rows = await census(parent.ref, timeout=2.0)
    assert asyncio.get_running_loop().time() - began == pytest.approx(2.0)  # not for each
    assert lines(rows) == [
        "None>parent:running", "parent>before:running", *(f"parent>{each.name}:hung" for each in mute),
        "parent>after:running",
    ]  # fmt: skip
    assert {rows[2][figure] for figure in ("kind", "mailbox", "streams", "age")} == {None}
    await parent.stop()


async def test_one_that_has_ended_is_left_out() -> None:
    leaf = Leaf("leaf")
    parent = await family(leaf, Leaf("other"))
    refs = (await get_state(parent.ref)).refs
    await leaf.stop()
    stale = Parent("stale")
    stale.start()
    stale.children = {ref.name: ref for ref in refs}
    assert lines(await census(stale.ref)) == ["None>stale:running", "stale>other:running"]
    stale.children = {}
    await stale.stop()
    assert await census(stale.ref) == []
    await parent.stop()


async def test_one_that_ends_while_it_is_asked_is_left_out() -> None:
    child = Parent("child")
    parent = await family(child, Leaf("other"))

    def end_first(signal: SystemMessage) -> bool:
        child.signal(Halt(None))
        return child.signal(signal)

    parent.children["child"] = Ref("child", child.tell, end_first)
    assert lines(await census(parent.ref)) == ["None>parent:running", "parent>other:running"]
    await parent.stop()


async def test_what_is_no_actor_of_ours_is_passed_over() -> None:
    parent = await family()
    parent.children["list"] = Ref("list", [].append)
    assert lines(await census(parent.ref)) == ["None>parent:running"]
    parent.children.clear()
    await parent.stop()


@pytest.mark.bulk
async def test_of_very_many_those_nearest_to_the_root_are_listed_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(census_module, "MOST", 10)
    second = Parent("b")
    parent = await family(Leaf("a"), second, Leaf("c"))
    for number in range(7):
        second.tell(Leaf(f"b/{number}"))
    await settle()
    rows = await census(parent.ref)
    assert [row["name"] for row in rows[:-1]] == ["parent", "a", "b", *(f"b/{number}" for number in range(6)), "c"]
    assert rows[-1]["name"] == "more than 10 actors: the others are not listed"
    assert set(rows[-1]) == set(rows[0])
    second.children["b/0"].signal(Halt(None))
    await settle()
    assert len(await census(parent.ref)) == 10  # as many as there may be: nothing is left out
    await parent.stop()


@pytest.mark.bulk
async def test_ten_thousand_actors_leave_others_their_turns() -> None:
    parent = await family(*(Leaf(f"leaf-{number}") for number in range(11_000)))
    await until(lambda: len(parent.children) == 11_000)
    parent.shutdown_timeout = 60.0
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    rows = await census(parent.ref)
    counting.cancel()
    assert len(rows) == 10_001
    assert rows[-1]["name"].startswith("more than 10,000 actors")
    assert turns > 30
    await parent.stop()


@pytest.mark.logs_errors("child crashed")
async def test_restarts_are_those_of_each_child_of_a_supervisor() -> None:
    specs = [ChildSpec("one", lambda: Parent("child")), ChildSpec("two", lambda: Leaf("leaf"))]
    async with Supervisor(specs, name="tree") as tree:
        for _ in range(2):
            (await tree.find_child("one")).tell(KeyError("a bug"))
            await settle()
        rows = await census(tree.ref)
    assert [(row["name"], row["restarts"], row["kind"]) for row in rows] == [
        ("tree", 0, "Supervisor"), ("child", 2, "Parent"), ("leaf", 0, "Leaf"),
    ]  # fmt: skip
    assert rows[0]["detail"]["restarts"] == 2


# --- servers and links ------------------------------------------------------------------------------------------------


async def chat(stream: ServerStream) -> None:
    await stream.start_response(200)
    async for _ in stream:
        pass


async def open_chat(stream: ClientStream) -> None:
    await stream.send(b"the-body-5f2a")
    await stream.response()


async def test_a_server_and_a_link_list_their_connections_and_streams() -> None:
    async with Server(chat) as server, Link(server.url) as link, link.stream("POST", "/") as stream:
        await open_chat(stream)
        there, here = await server.census(), await link.census()
        assert [(row["kind"], row["streams"]) for row in there] == [
            ("ListenerActor", None), ("ServerConnection", 1), ("StreamActor", None),
        ]  # fmt: skip
        assert [(row["kind"], row["streams"]) for row in here] == [
            ("Keeper", None), ("ClientConnection", 1), ("StreamActor", None),
        ]  # fmt: skip
        for rows in (there, here):
            assert [row["parent"] for row in rows] == [None, rows[0]["name"], rows[1]["name"]]
        await stream.end()
        await stream.read()


async def test_a_request_that_lives_in_its_callers_task_is_listed_too() -> None:
    come, go = asyncio.Event(), asyncio.Event()

    async def wait(stream: ServerStream) -> None:
        come.set()
        await go.wait()
        await stream.respond(200)

    async with Server(wait) as server, Link(server.url) as link:
        asking = asyncio.create_task(link.request("GET", "/"))
        await come.wait()
        row = (await link.census())[2]
        assert (row["kind"], row["state"]) == ("StreamActor", "running")
        assert 0 <= row["age"] < 60
        go.set()
        await asking


async def test_before_and_after_its_time_there_is_nobody() -> None:
    server = Server(chat)
    assert await server.census() == []
    async with server:
        assert len(await server.census()) == 1
        link = Link(server.url)
        assert await link.census() == []
        async with link:
            assert len(await link.census()) == 2
        assert await link.census() == []
    assert await server.census() == []


async def test_no_header_path_body_or_word_of_a_peer_is_told() -> None:
    hidden = "5f2a"
    async with (
        Server(chat) as server,
        Link(server.url) as link,
        link.stream("POST", f"/path-{hidden}", headers=[("x-own", f"value-{hidden}")]) as stream,
    ):
        await open_chat(stream)
        rows = [*await server.census(), *await link.census()]
        assert hidden not in json.dumps(rows)
        assert len(rows) == 6
        await stream.end()
        await stream.read()


async def test_what_a_peer_said_as_it_went_is_not_told() -> None:
    async with linked_to_raw() as (link, peer):
        asking = asyncio.create_task(link.request("GET", "/"))
        head = await peer.expect(Type.HEADERS)
        peer.send(goaway(head.stream_id, Code.NO_ERROR, b"debug-5f2a"))
        peer.send(ping(b"12345678"))
        await peer.expect(Type.PING)  # so that it was read
        rows = await link.census()
        [going] = [each["detail"]["going"] for each in rows if each["kind"] == "ClientConnection" and each["streams"]]
        assert going is True
        assert "5f2a" not in json.dumps(rows)
        asking.cancel()
        await asyncio.wait([asking])


# --- several processes ------------------------------------------------------------------------------------------------


def row(name: str, parent: str | None) -> dict[str, Any]:
    return {"name": name, "parent": parent, "state": "running"}


def test_what_lives_in_another_process_is_put_below_the_actor_that_stands_for_it() -> None:
    trunk = [row("crew", None), row("worker-1", "crew"), row("worker-2", "crew")]
    branch = [row("server-1", None), row("server-1/connection-1", "server-1")]
    grown = graft(trunk, {"worker-1": branch, "worker-2": branch, "worker-9": branch})
    assert [(each["name"], each["parent"]) for each in grown] == [
        ("crew", None), ("worker-1", "crew"), ("server-1", "worker-1"), ("server-1/connection-1", "server-1"),
        ("worker-2", "crew"), ("server-1", "worker-2"), ("server-1/connection-1", "server-1"),
    ]  # fmt: skip


def test_all_processes_together_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census_module, "MOST", 4)
    trunk = [row("crew", None), row("worker-1", "crew"), row("worker-2", "crew")]
    grown = graft(trunk, {"worker-1": [row("server-1", None), row("more", "server-1")], "worker-2": []})
    assert [each["name"] for each in grown] == [
        "crew", "worker-1", "server-1", "worker-2", "more than 4 actors: the others are not listed",
    ]  # fmt: skip
