"""What a tracer hears of a crash: once, before anything is let go, and never of an orderly end."""

import asyncio

import pytest
from attrs import frozen

from actors.actor import Actor, BodyActor, Stop
from actors.errors import Closed, LimitReached
from actors.mailbox import Ref
from actors.messages import Crash, Exited
from actors.trace import Recorder, Tracer
from actors.turns import TurnActor


@frozen
class Word:
    text: str

    def summary(self) -> str:
        return self.text


class Turns(TurnActor[Word]):
    def receive(self, message: Word) -> None:
        match message.text:
            case "crash":
                raise ValueError("no")
            case "stop":
                raise Stop(Closed("enough"))


class Body(BodyActor[Word]):
    async def body(self) -> None:
        raise ValueError("no")

    def fold(self, message: Word) -> None:
        raise NotImplementedError


def listening(*, record: bool = True) -> tuple[Tracer, list[Crash]]:
    tracer, crashes = Tracer(recorder=Recorder() if record else None), list[Crash]()

    def crashed(actor: Actor[Word]) -> None:
        crashes.append(actor.crash())

    tracer.crashed = crashed
    return tracer, crashes


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.logs_errors("turns crashed")
async def test_a_crash_is_told_with_what_waits_and_who_watches(record: bool) -> None:
    tracer, crashes = listening(record=record)
    actor, ended = Turns("turns", tracer), list[Exited]()
    actor.start(Ref("owner", ended.append))
    for text in ("first", "crash", "second", "third"):
        actor.tell(Word(text))
    await actor.wait()
    [crash] = crashes
    assert (crash.name, type(crash.reason), crash.state.kind) == ("turns", ValueError, "Turns")
    assert crash.waiting == (("Word", "second"), ("Word", "third"))
    assert "owner" in [watcher.name for watcher in crash.watchers]
    assert [exited.crashed for exited in ended] == [True]
    if record:
        assert tracer.recorder is not None
        assert [event.summary for event in tracer.recorder if event.id == crash.event] == ["crash"]


@pytest.mark.logs_errors("turns crashed")
async def test_an_overflow_is_a_crash_too() -> None:
    tracer, crashes = listening()
    actor = Turns("turns", tracer, bound=2)
    actor.start()
    for _ in range(3):
        actor.tell(Word(""))
    await actor.wait()
    assert [type(crash.reason) for crash in crashes] == [LimitReached]


@pytest.mark.logs_errors("body crashed")
async def test_a_body_that_raises_is_told() -> None:
    tracer, crashes = listening()
    actor = Body("body", tracer)
    actor.start()
    await actor.wait()
    assert [(crash.name, crash.waiting) for crash in crashes] == [("body", ())]


async def test_a_cancellation_from_outside_is_told() -> None:
    tracer, crashes = listening()
    actor = Turns("turns", tracer)
    actor.start()
    await asyncio.sleep(0)
    [task] = [each for each in asyncio.all_tasks() if each.get_name() == "turns"]
    task.cancel()
    await actor.wait()
    assert [type(crash.reason) for crash in crashes] == [asyncio.CancelledError]


async def test_an_orderly_end_is_not_told() -> None:
    tracer, crashes = listening()
    one, other = Turns("one", tracer), Turns("other", tracer)
    one.start()
    other.start()
    one.tell(Word("stop"))
    await one.wait()
    await other.stop(Closed("enough"))
    assert crashes == []


@pytest.mark.logs_errors("turns crashed", "turns failed at its end, in .*fail")
async def test_whoever_hears_of_it_and_fails_changes_nothing_about_the_end() -> None:
    def fail(actor: object) -> None:
        raise RuntimeError("me too")

    tracer, _ = listening()
    tracer.crashed = fail
    actor = Turns("turns", tracer)
    actor.start()
    actor.tell(Word("crash"))
    exited = await actor.wait()
    assert isinstance(exited.reason, ValueError)


def test_the_ring_knows_when_messages_were_taken_since_a_moment() -> None:
    ticks = iter(range(100))
    recorder = Recorder()
    tracer = Tracer(lambda: float(next(ticks)), recorder)
    early = tracer.told("a", Word(""))
    tracer.take(early)
    late, never = tracer.told("a", Word("")), tracer.told("a", Word(""))
    tracer.take(late)
    tracer.take(never, dead=True)
    assert recorder.taken_since(2.0) == {2: 4.0}
    assert recorder.taken_since(0.0) == {1: 1.0, 2: 4.0}
