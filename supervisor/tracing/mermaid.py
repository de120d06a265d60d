"""Mermaid's sequence diagrams, for a page of documentation: short traces, or filtered ones.

Every character that the grammar could take for its own is written as an entity code, such as ``#59;``. Mermaid itself
refuses more than 50,000 characters unless a page allows them, so a diagram keeps to both limits and says what it left
out.
"""

from __future__ import annotations

import re
from typing import Final, TextIO

from attrs import define, field

from supervisor.tracing.records import Event, Trace

LIMIT: Final = 500
"""Messages."""
MAX_SIZE: Final = 50_000
"""Characters, Mermaid's default for ``maxTextSize``."""
MAX_TEXT: Final = 60
"""Characters of what a message says of itself; in a trace it may be longer."""

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9 _.,/()\[\]=+*!?-]")
_UNSAFE_AFTER_COLON: Final = re.compile(_UNSAFE.pattern.replace("_", ":_"))  # only the first one ends a name
_ROOM: Final = 400  # for the notes at the end


def write(trace: Trace, file: TextIO, *, limit: int = LIMIT, max_size: int = MAX_SIZE) -> None:
    """Write a sequence diagram of the trace's first messages: at most ``limit``, and ``max_size`` characters in all."""
    diagram = _Diagram(many_processes=len({event.process for event in trace.events}) > 1)
    for event in trace.events[:limit]:
        if not diagram.add(event, max_size - _ROOM):
            break
    file.write(diagram.text(left_out=len(trace.events) - diagram.shown, dropped=sum(h.dropped for h in trace.heads)))


def escape(text: str) -> str:
    """A text of which Mermaid takes no character for its own."""
    return _UNSAFE.sub(_code, text)


def _code(found: re.Match[str]) -> str:
    return f"#{ord(found[0])};"


@define
class _Diagram:
    many_processes: bool
    aliases: dict[tuple[str, str], str] = field(factory=dict)
    participants: list[str] = field(factory=list)
    messages: list[str] = field(factory=list)
    size: int = 0
    shown: int = 0

    def add(self, event: Event, max_size: int) -> bool:
        """Draw one more message, unless the diagram would get too large."""
        # What arrived over the wire comes from the socket of the other end.
        origin = event.remote[-1][0] if event.remote else event.process
        ends = list(dict.fromkeys([(origin, event.sender), (event.process, event.receiver)]))
        new = {
            end: f"p{len(self.aliases) + index}"
            for index, end in enumerate((e for e in ends if e not in self.aliases), 1)
        }
        known = self.aliases | new if new else self.aliases
        sender, receiver = known[origin, event.sender], known[event.process, event.receiver]
        line = f"    {sender}{'--x' if event.dead else '->>'}{receiver}: {_said(event)}\n"
        lines = [f"    participant {alias} as {self._name(*end)}\n" for end, alias in new.items()]
        size = self.size + len(line) + sum(map(len, lines))
        if size > max_size:
            return False
        self.aliases.update(new)
        self.participants += lines
        self.messages.append(line)
        self.size, self.shown = size, self.shown + 1
        return True

    def text(self, *, left_out: int, dropped: int) -> str:
        lines = ["sequenceDiagram\n", *self.participants]
        if dropped:
            lines += self._note(f"{dropped} earlier messages were forgotten before the trace was taken")
        lines += self.messages
        if left_out:
            lines += self._note(f"{left_out} more messages are left out: filter the trace to see them")
        if not self.shown and not left_out:
            lines.append("%% no messages\n")
        return "".join(lines)

    def _note(self, text: str) -> list[str]:
        aliases = list(self.aliases.values())
        if not aliases:
            return ["    participant p1 as trace\n", f"    Note over p1: {text}\n"]
        over = aliases[0] if len(aliases) == 1 else f"{aliases[0]},{aliases[-1]}"
        return [f"    Note over {over}: {text}\n"]

    def _name(self, process: str, actor: str) -> str:
        return f"{escape(actor)} ({escape(process)})" if self.many_processes else escape(actor)


def _said(event: Event) -> str:
    kind = escape(event.type)
    if kind in ("wrap", "nowrap"):
        kind = f"#{ord(kind[0])};{kind[1:]}"  # a word of the grammar here
    text = event.text if len(event.text) <= MAX_TEXT else f"{event.text[: MAX_TEXT - 3]}..."
    return f"{kind}: {_UNSAFE_AFTER_COLON.sub(_code, text)}" if text else kind
