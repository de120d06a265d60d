"""Hypothesis strategies for records and traces."""

from __future__ import annotations

from hypothesis import strategies as st

from supervisor.tracing.records import Conversation, End, Event, Frame, Head, Record, Trace

# Lone surrogates, too: headers come as latin-1 or with surrogateescape from who knows where.
texts = st.text(st.characters(), max_size=30)
counts = st.integers(0, 2**53 - 1)
seconds = st.floats(-1e12, 1e12)
names = st.one_of(
    st.sampled_from(
        ("socket", "timer", "caller", "link-1", "link-1/connection-2", "link-1/request-10", "link-1/request-9", "end")
    ),
    texts,
)
types = st.one_of(st.sampled_from(("BytesArrived", "DataArrived", "Exited", "FramesSent")), texts)

frames = st.builds(
    Frame,
    kind=st.integers(0, 255),
    flags=st.integers(0, 255),
    stream=st.integers(0, 2**31 - 1),
    length=st.integers(0, 2**24 - 1),
)
json_values = st.recursive(
    st.none() | st.booleans() | counts | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)

heads = st.builds(
    Head,
    process=texts,
    pid=counts,
    monotonic=seconds,
    wall=seconds,
    dropped=counts,
    payloads=st.booleans(),
    version=texts,
    offset=st.none() | seconds,
    uncertainty=st.none() | seconds,
)
references = st.none() | st.tuples(texts, names)
conversations = st.builds(
    Conversation, process=texts, name=names, side=texts, local=texts, peer=texts, remote=references
)
events = st.builds(
    Event,
    process=texts,
    id=counts,
    time=seconds,
    taken=st.none() | seconds,
    sender=names,
    receiver=names,
    type=types,
    text=texts,
    cause=counts,
    dead=st.booleans(),
    connection=st.none() | names,
    stream=st.none() | counts,
    first=st.none() | counts,
    frames=st.none() | st.lists(frames, max_size=4).map(tuple),
    remote=st.lists(st.tuples(texts, counts), max_size=2).map(tuple),
    data=st.none() | st.dictionaries(texts, json_values, max_size=3),
)
ends = st.builds(End, process=texts, reason=texts, events=counts, lost=counts)
records: st.SearchStrategy[Record] = st.one_of(heads, conversations, events, ends)


@st.composite
def _told(draw: st.DrawFn, process: str) -> list[Event]:
    """What the actors of one process say: ids rise with time, causes are older, times lie close or far apart."""
    told: list[Event] = []
    now = draw(st.floats(0, 1e6))
    for number in range(1, draw(st.integers(0, 12)) + 1):
        now += draw(st.sampled_from((0.0, 1e-7, 4e-7, 3e-6, 0.001, 5.0)))
        delay = draw(st.sampled_from((None, 0.0, 2e-7, 5e-6, 0.01)))
        told.append(
            Event(
                process=process,
                id=number,
                time=now,
                taken=None if delay is None else now + delay,
                sender=draw(names),
                receiver=draw(names),
                type=draw(types),
                text=draw(texts),
                cause=draw(st.integers(0, number - 1)),
                dead=draw(st.booleans()) if delay is None else False,
                connection=draw(st.none() | names),
                stream=draw(st.none() | st.integers(0, 9)),
            )
        )
    return told


@st.composite
def _traces(draw: st.DrawFn) -> Trace:
    found: list[Record] = []
    for process in draw(st.lists(texts, max_size=3, unique=True)):
        head = Head(process=process, pid=draw(st.integers(0, 3)), monotonic=0.0, wall=1.7e9 + draw(st.floats(0, 1e5)))
        found += [head, *draw(_told(process))]
    return Trace.of(found)


traces = _traces()
"""Traces that can have happened, of up to three processes."""
