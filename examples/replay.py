"""A race that only bad timing shows: captured once, replayed on a virtual clock, made a test, fixed.

Run it with ``python -m examples.replay``.
"""

import asyncio
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from actors.errors import StreamReset
from supervisor.handlers import load_handler
from supervisor.link import Link
from supervisor.server import Server
from supervisor.tracing.replay import Replayed, replay
from supervisor.tracing.to_test import to_test

APP = """\
import asyncio

free = {"/seat-7": "by the window"}


async def handle(stream):
    if stream.path not in free:
        return await stream.respond(409, body=b"it is taken")
    await asyncio.sleep(0.02)  # whoever pays has to be asked
    seat = free.pop(stream.path)
    await stream.respond(200, body=seat.encode())
"""
BUG = """\
    if stream.path not in free:
        return await stream.respond(409, body=b"it is taken")
    await asyncio.sleep(0.02)  # whoever pays has to be asked
    seat = free.pop(stream.path)
"""
FIX = """\
    seat = free.pop(stream.path, None)  # nobody else gets it meanwhile
    if seat is None:
        return await stream.respond(409, body=b"it is taken")
    await asyncio.sleep(0.02)  # whoever pays has to be asked
"""


async def book(link: Link) -> str:
    try:
        response = await link.request("POST", "/seat-7", timeout=5)
    except StreamReset as reset:
        return f"reset with {reset.code}"
    return f"{response.status} {response.body.decode()}"


async def record(capture: Path) -> list[str]:
    """Serve two clients who want the same seat, and write down all that is said."""
    async with (
        Server(load_handler("seats:handle")) as server,
        server.capture(capture, for_replay=True),
        Link(server.url) as link,
    ):
        return [*await asyncio.gather(book(link), book(link))]


def replayed(capture: Path) -> Replayed:
    """The same again, with the handler as it is after a fresh import."""
    del sys.modules["seats"]
    return replay(capture, handler=load_handler("seats:handle"))


def passes(test: Path) -> bool:
    """Whether the test passes, in a process of its own."""
    runs = ["-m", "pytest", "-q", "-p", "no:cacheprovider", test.name]
    if importlib.util.find_spec("pytest") is None:
        runs = ["-c", f"import {test.stem} as t; [f() for n, f in vars(t).items() if n.startswith('test_')]"]
    path = os.pathsep.join([str(test.parent), *filter(None, sys.path), os.getcwd()])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *runs]
    done = subprocess.run(command, cwd=test.parent, env=environment, capture_output=True, check=False)  # noqa: S603  (ours)
    return done.returncode == 0


def story(folder: Path) -> bool:
    app, capture, test = folder / "seats.py", folder / "booking.jsonl", folder / "test_seats.py"
    app.write_text(APP)
    answers = asyncio.run(record(capture))
    print("Two clients book the same seat at once:", ", ".join(sorted(answers)))

    began = time.perf_counter()
    again = replayed(capture)
    print("What failed in the recording:", *again.recorded)
    print("What failed in the replay:   ", *again.failures)
    print(f"The same messages: {again.same}, in {(time.perf_counter() - began) * 1000:.0f} ms and without a socket")

    written = to_test(capture, test, handler="seats:handle")
    if importlib.util.find_spec("pytest") is None:
        print("pytest is not installed (pip install pytest): the test's functions are called without it")
    before = passes(test)
    print(f"{written.tests} test was written; with the bug it {'passes' if before else 'fails'}")

    app.write_text(APP.replace(BUG, FIX))
    after = passes(test)
    print(f"With the bug fixed it {'passes' if after else 'fails'}")
    fixed = replayed(capture)
    was, becomes = (line.strip("> ") for line in fixed.difference.splitlines() if line.startswith("  >"))
    print(f"What the fix changes: {was!r} becomes {becomes!r}")
    crashed = [failure.what for failure in again.failures]
    return crashed == ["crashed: KeyError"] and again.same and not before and after and not fixed.failures


def main() -> int:
    logging.getLogger("muxlink").setLevel(logging.CRITICAL)  # or the log shows the traceback of each crash
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, folder)
        sys.dont_write_bytecode = True  # the fix comes within the second
        return 0 if story(Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
