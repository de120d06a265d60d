"""From a capture to a test: a pytest file that replays it, with the capture beside it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Final

from attrs import frozen

from actors.errors import Misuse
from supervisor.tracing import jsonl
from supervisor.tracing.failures import Failure, failures_of
from supervisor.tracing.recordings import recordings

_HANDLER: Final = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)((?:\.[^\W\d]\w*)*)")
_WITH_HANDLER: Final = '''\
"""What failed in the recording goes well with {handler}.

The capture beside this file is replayed on a virtual clock: what came from outside is
told again at its time. It may hold bodies and secrets, so keep both to yourself.
Run it where {module} can be imported:

    python -m pytest {test}
"""

import functools
from pathlib import Path

{imports}

CAPTURE = Path(__file__).with_name({capture})


@functools.cache
def replayed() -> Replayed:
    """One replay for all tests: the handler's module is as it is after its import."""
    return replay(CAPTURE, handler={handler})
'''
_PINNED: Final = '''\
"""Each connection says what it said in the recording.

The capture beside this file is replayed on a virtual clock. It may hold bodies and
secrets, so keep both to yourself. Run it with:

    python -m pytest {test}
"""

from pathlib import Path

from supervisor.tracing.replay import replay

CAPTURE = Path(__file__).with_name({capture})
'''
_GOES_WELL: Final = """

def test_{name}_goes_well() -> None:
    # In the recording it {what}
    assert replayed().failed({actor}) == ""
"""
_SAYS_THE_SAME: Final = """

def test_{name}_says_the_same() -> None:
    replayed = replay(CAPTURE, connection={actor})
    assert replayed.same, replayed.difference
"""


@frozen(kw_only=True)
class Written:
    """A test that was written."""

    test: Path
    capture: Path
    """The copy that it replays."""
    tests: int
    warnings: tuple[str, ...]


def to_test(path: Path | str, target: Path | str, handler: str | None = None) -> Written:
    """Write a pytest file to ``target`` that replays a capture, and copy that next to it; both have mode 0600.

    With ``handler``, as ``MODULE:FUNCTION``, there is a test for each stream or connection of a server that failed in
    the recording, which fails as long as it still does. Without, one for each connection says that its messages are the
    same. Raises Misuse where there is nothing to test.
    """
    path, target = Path(path), Path(target)
    if target.suffix != ".py":
        raise Misuse(f"{target} is no name for a test: end it with .py, such as test_failure.py")
    trace = jsonl.load(path)
    found, warnings = recordings(trace)
    copy = target.with_suffix(".jsonl")
    # In a text of the test's as well as in its string: no name of a file can end either.
    names = {"test": json.dumps(target.name)[1:-1], "capture": json.dumps(copy.name)}
    if handler is None:
        text = _PINNED.format(**names)
        tests = [_SAYS_THE_SAME.format(name=_identifier(each.label), actor=json.dumps(each.label)) for each in found]
    else:
        module, attribute = _parsed(handler)
        first = attribute.partition(".")[0]
        lines = {f"from {module} import {first}", "from supervisor.tracing.replay import Replayed, replay"}
        text = _WITH_HANDLER.format(handler=attribute, module=module, imports="\n".join(sorted(lines)), **names)
        servers = [each for each in found if each.is_server]
        failed = [failure.at(each.where) for each in servers for failure in failures_of(each.events, each.name)]
        if not failed:
            raise Misuse(
                f"nothing failed on a server in {path}: leave the handler out for a test that pins the messages"
            )
        tests = [_goes_well(failure) for failure in failed]
    if copy.resolve() != path.resolve():
        jsonl.save(trace, copy)
    with jsonl.replacing(target) as file:
        file.write(text + "".join(tests))
    return Written(test=target, capture=copy, tests=len(tests), warnings=(*trace.warnings, *warnings))


def to_test_command(path: Path, target: Path, handler: str | None = None) -> tuple[int, str]:
    """What ``muxlink trace to-test`` does: its exit code, and what it says."""
    written = to_test(path, target, handler)
    lines = [f"warning: {warning}" for warning in written.warnings]
    many = f"{written.tests} tests, which replay" if written.tests != 1 else "1 test, which replays"
    run = shlex.join(["python", "-m", "pytest", str(target)])
    lines.append(f"{written.test}: {many} {written.capture}; run with: {run}")
    return 0, "\n".join(lines)


def _parsed(handler: str) -> tuple[str, str]:
    found = _HANDLER.fullmatch(handler)
    if found is None:
        raise Misuse(f"bad handler {handler!r}: write MODULE:HANDLER, such as examples.hello:hello")
    return found[1], found[2] + found[3]


def _goes_well(failure: Failure) -> str:
    what = ascii(" ".join(failure.what.split()))[1:-1].removeprefix("it ")
    return _GOES_WELL.format(name=_identifier(failure.actor), actor=json.dumps(failure.actor), what=what)


def _identifier(actor: str) -> str:
    return re.sub(r"\W+", "_", actor)
