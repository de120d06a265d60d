"""Cases: conversations that keep the rules, and what frame-aware mutations make of them."""

import random
from collections.abc import Callable
from typing import Final, Self

from attrs import evolve, frozen

from tests.support.frames import PREFACE
from tests.support.strategies import ASKED, STEPS, Speaker, Step

TARGETS: Final = ("server", "client", "actor")
"""A server's wire, a client's wire, a server's connection actor."""
HEADER: Final = 9
MAGIC: Final = b"muxlink-fuzz"


@frozen
class Case:
    """What is said to a target, in these pieces."""

    target: str
    data: bytes
    cuts: tuple[int, ...] = ()

    def pieces(self) -> list[bytes]:
        ends = [*sorted(cut for cut in self.cuts if 0 < cut < len(self.data)), len(self.data)]
        return [self.data[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def encoded(self) -> bytes:
        """A file: a line with the target and the cuts, then the bytes as they are."""
        cuts = ",".join(map(str, self.cuts))
        return b"%s %s %s\n%s" % (MAGIC, self.target.encode(), cuts.encode() or b"-", self.data)

    @classmethod
    def decoded(cls, file: bytes) -> Self:
        """Raises ValueError where a file is none of a case's."""
        line, _, data = file.partition(b"\n")
        words = line.split(b" ")
        if len(words) != 3 or words[0] != MAGIC or words[1].decode("latin-1") not in TARGETS:
            raise ValueError(f"it does not begin with '{MAGIC.decode()} TARGET CUTS'")
        cuts = () if words[2] == b"-" else tuple(map(int, words[2].split(b",")))
        return cls(words[1].decode(), data, cuts)


def generate(chance: random.Random, target: str) -> Case:
    """A case for a target: a conversation, mostly mutated."""
    speaker = Speaker(client=target != "client", asked=ASKED if target == "client" else ())
    said = [speaker.hello()] + [speaker.say(_step(chance)) for _ in range(chance.randrange(40))]
    frames = _split(b"".join(said).removeprefix(PREFACE))
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        if frames:
            chance.choice(MUTATIONS)(chance, frames)
    data = b"".join(frames)
    if target != "client" and chance.random() < 0.97:
        data = PREFACE + data
    case = Case(target, data)
    if chance.random() < 0.5:
        return case
    return evolve(case, cuts=tuple(sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(8)))))


def _step(chance: random.Random) -> Step:
    return Step(chance.choice(STEPS), chance.randrange(6), chance.randrange(401), chance.randrange(32))


def _split(data: bytes) -> list[bytes]:
    found = []
    while data:
        end = HEADER + int.from_bytes(data[:3])
        found.append(data[:end])
        data = data[end:]
    return found


# --- mutations: each changes a list of frames in place ----------------------------------------------------------------


def flip_bits(chance: random.Random, frames: list[bytes]) -> None:
    at = chance.randrange(len(frames))
    changed = bytearray(frames[at])
    for _ in range(chance.randrange(1, 4) if changed else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    frames[at] = bytes(changed)


def cut(chance: random.Random, frames: list[bytes]) -> None:
    """Lose the end of a frame; its header goes on saying what it said, or not."""
    at = chance.randrange(len(frames))
    kept = frames[at][: chance.randrange(len(frames[at]) + 1)]
    if len(kept) >= HEADER and chance.random() < 0.7:
        kept = (len(kept) - HEADER).to_bytes(3) + kept[3:]
    frames[at] = kept


def repeat(chance: random.Random, frames: list[bytes]) -> None:
    at = chance.randrange(len(frames))
    frames[at:at] = [frames[at]] * chance.choice((1, 2, 12, 40))


def reorder(chance: random.Random, frames: list[bytes]) -> None:
    one, other = chance.randrange(len(frames)), chance.randrange(len(frames))
    frames[one], frames[other] = frames[other], frames[one]


def drop(chance: random.Random, frames: list[bytes]) -> None:
    del frames[chance.randrange(len(frames))]


def _header(chance: random.Random, frames: list[bytes], start: int, end: int, values: tuple[int, ...]) -> None:
    at = chance.randrange(len(frames))
    if len(frames[at]) >= HEADER:
        value = chance.choice((*values, chance.randrange(1 << 8 * (end - start))))
        frames[at] = frames[at][:start] + value.to_bytes(end - start) + frames[at][end:]


def change_length(chance: random.Random, frames: list[bytes]) -> None:
    _header(chance, frames, 0, 3, (0, 1, 4, 8, 16_384, 16_385, 2**24 - 1))


def change_type(chance: random.Random, frames: list[bytes]) -> None:
    _header(chance, frames, 3, 4, tuple(range(13)))


def change_flags(chance: random.Random, frames: list[bytes]) -> None:
    _header(chance, frames, 4, 5, (0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF))


def change_stream(chance: random.Random, frames: list[bytes]) -> None:
    _header(chance, frames, 5, 9, (0, 1, 2, 3, 4, 5, 7, 9, 2**31 - 1, 2**31 + 1))


def insert_noise(chance: random.Random, frames: list[bytes]) -> None:
    payload = chance.randbytes(chance.randrange(30))
    header = len(payload).to_bytes(3) + bytes((chance.randrange(13), chance.randrange(256)))
    frames.insert(chance.randrange(len(frames) + 1), header + chance.randrange(10).to_bytes(4) + payload)


MUTATIONS: Final[tuple[Callable[[random.Random, list[bytes]], None], ...]] = (
    flip_bits, flip_bits, cut, repeat, reorder, drop, change_length, change_type, change_flags, change_stream,
    insert_noise,
)  # fmt: skip
