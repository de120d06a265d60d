"""What the documentation shows runs, and prints what it says."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.certificates import Authority

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    return [(found[1], found[2]) for found in BLOCK.finditer(README)]


def programs() -> list[tuple[str, str]]:
    """Each Python block with the plain block after it: the program and what it prints."""
    found = blocks()
    return [
        (code, output) for (kind, code), (then, output) in itertools.pairwise(found) if (kind, then) == ("python", "")
    ]


def run(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-X", "dev", *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=60, check=False)


def test_the_readme_shows_programs_with_their_output() -> None:
    assert len(programs()) == 5


@pytest.mark.parametrize(("program", "output"), programs())
def test_each_program_of_the_readme_prints_what_the_readme_says(program: str, output: str) -> None:
    done = run("-", text=program)
    # A link that loses its service warns of each attempt that failed.
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("link-1: ")]
    assert (done.returncode, done.stdout, complaints) == (0, output, [])


def test_the_example_of_the_seeds_prints_the_greeting_and_its_trailers() -> None:
    done = run("-m", "examples.core")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Response status: 200",
        "Response body: b'hello, world'",
        "Response trailers: Headers('len: 5')",
    ]


def test_the_example_of_tls_names_the_client(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificates = (*authority.issue("127.0.0.1"), *authority.issue("ann.test", common_name="ann"))
    done = run("-m", "examples.whoami", authority.file, *certificates)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("200 ")
    assert "(('commonName', 'ann'),)" in done.stdout


def test_the_example_of_an_own_actor_crashes_and_goes_on() -> None:
    done = run("-m", "examples.own_actor")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "ada: 1815",
        "bob: cache has ended: 'bob'",
        "cache: running, restarts: 1, because of KeyError('bob')",
        "bob: 1923",
    ]


def test_the_example_of_an_own_process_is_killed_and_goes_on() -> None:
    done = run("-m", "examples.own_process")
    # asyncio's debug mode complains of each callback that a busy machine makes slow.
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("Executing ")]
    assert (done.returncode, complaints) == (0, [])
    assert done.stdout.splitlines() == [
        "worker: at work",
        "worker: it was killed by SIGKILL, and said last: ('at work',)",
        "worker: running, restarts: 1",
        "worker: gone with its supervisor",
    ]


def test_the_example_of_a_stall_names_the_window_and_the_culprits_on_both_sides(tmp_path: Path) -> None:
    done = run("-m", "examples.stall", str(tmp_path / "stall.html"))
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("Executing ")]
    assert (done.returncode, complaints) == (0, [])
    client, server = done.stdout.removeprefix("The client says:").split("The server says:")
    said = " ".join(client.split())
    assert "link-1/request-3 (stream 5) waits for the connection's send window, since " in said
    assert "65,536 bytes are used up by stream 1 (32,768), stream 3 (32,768), which the peer does not read" in said
    said = " ".join(server.split())
    assert said.count("waits for its handler, since ") == 2
    assert "server-1/connection-1/stream-5 waits for the connection's receive window, since " in said
    assert "stream-1 (32,768), server-1/connection-1/stream-3 (32,768), whose handlers do not read" in said
    assert done.stdout.splitlines()[-1] == "The upload: 8 bytes"
    shown = README[README.index("$ python -m examples.stall") :].partition("\n")[2].partition("```")[0]
    assert undated(shown) == undated(done.stdout)
    page = (tmp_path / "stall.html").read_text(encoding="utf-8")
    assert '"process":"client"' in page
    assert '"process":"server"' in page


def undated(said: str) -> str:
    """What `why` says, without since when, and wherever its lines were broken."""
    return re.sub(r"since [\d.]+ m?s", "since", " ".join(said.split()))


def test_what_the_readme_shows_of_an_example_is_that_example() -> None:
    shown = [code for kind, code in blocks() if kind == "python" and code not in dict(programs())]
    assert len(shown) == 1
    assert shown[0].strip() in (ROOT / "examples" / "whoami.py").read_text()


def test_the_example_of_blocking_code_prints_what_came_and_as_it_came() -> None:
    done = run("-m", "examples.hyper")
    # asyncio's debug mode complains of each callback that a busy machine makes slow.
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("Executing ")]
    assert (done.returncode, complaints) == (0, [])
    assert done.stdout.splitlines() == [
        "200 20 b'hello, world'",
        *(f"as it comes: b'{number}\\n'" for number in range(3)),
        "eight threads:",
        *(f"  hello, {name}" for name in "abcdefgh"),
    ]


def test_each_example_is_run_by_a_test() -> None:
    # hello is served by the tests of the command line
    run_by_tests = {"hello", "core", "whoami", "own_actor", "own_process", "stall", "replay", "hyper", "aioh2"}
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__"} == run_by_tests


def test_the_demo_prints_the_lines_that_the_readme_shows() -> None:
    shown = next(code for kind, code in blocks() if kind == "console" and "make demo" in code).splitlines()[1:]
    # Without -X dev: asyncio's debug mode complains of each callback that a busy machine makes slow.
    command = [sys.executable, "-W", "error", "-m", "supervisor.cli", "demo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")

    def numberless(lines: list[str]) -> list[str]:
        return [re.sub(r"[\d,.]+", "N", line) for line in lines]

    assert numberless(done.stdout.splitlines()) == numberless(shown)


def test_the_commands_for_production_print_what_the_readme_shows(tmp_path: Path) -> None:
    """The server on a port of its own, and the commands beside it, line by line."""
    section = README[README.index("## Run it in production") : README.index("## More of HTTP/2")]
    (first, beside) = [found[2] for found in BLOCK.finditer(section)]
    tmp_path.chmod(0o700)
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "supervisor.cli"]
    serve = shlex.split(first.splitlines()[0])[2:]
    where = serve.index("--bind") + 1
    with subprocess.Popen(
        [*command, *serve[:where], "127.0.0.1:0", *serve[where + 1 :]],
        cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip().rpartition(":")[2]
            assert port.isdigit()
            shown: list[tuple[str, list[str]]] = []
            for line in beside.splitlines():
                if line.startswith("$ "):
                    shown.append((line, []))
                else:
                    shown[-1][1].append(line)
            for line, output in shown:
                asked = [each.replace("8080", port) for each in shlex.split(line)[2:]]
                done = subprocess.run(
                    [*command, *asked], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
                )
                assert (done.returncode, done.stderr) == (0, ""), line
                assert [aged(each) for each in done.stdout.splitlines()] == [aged(each) for each in output], line
            assert server.wait(30) == 0
        finally:
            server.kill()


def aged(line: str) -> str:
    """The line without its actors' ages."""
    return re.sub(r" +[\d.]+[smhd]", " N", line)


def test_each_map_names_every_module_of_its_package() -> None:
    for package in ("actors", "supervisor"):
        listed = set(re.findall(r"^\| `(\w+)` ", (ROOT / package / "README.md").read_text(), re.MULTILINE))
        modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
        assert listed == modules


def test_every_public_module_says_what_it_is_for() -> None:
    for package in ("actors", "supervisor"):
        for path in (ROOT / package).glob("*.py"):
            name = package if path.stem == "__init__" else f"{package}.{path.stem}"
            assert importlib.import_module(name).__doc__, name
