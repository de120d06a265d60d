"""A process that forks with connections open: the child has its own, and its parent goes on with what it had."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap

from tests.interop.peers import ROOT
from tests.supervisor.adapters.http11_servers import LONG, says, scripted, stdlib_server
from tests.supervisor.adapters.served import answers, in_thread

FORKING = """
import os, sys, threading, time
from supervisor.adapters.hyper import HTTPConnection

def in_a_child(work):
    "What the work makes in a forked child, or what it raises; a child that hangs is killed."
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try: said = repr(work())
        except BaseException as error: said = f"{type(error).__name__}: {error}"
        os.write(theirs, said.encode())
        os._exit(0)
    os.close(theirs)
    deadline = time.monotonic() + 10
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return "it hangs"
        time.sleep(0.005)
    with open(ours, "rb") as pipe: return pipe.read().decode()

def begun(work):
    "Run it in a thread that has come to a wait."
    def quietly():
        try: work()
        except Exception: pass
    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    time.sleep(0.2)

port = int(sys.argv[1])
"""


def forking(program: str, port: int) -> list[str]:
    """What a program prints that must end by itself, without a warning."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKING + textwrap.dedent(program), str(port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


def test_a_child_over_http1_has_sockets_of_its_own() -> None:
    program = """
    c = HTTPConnection("127.0.0.1", port, timeout=10)
    c.request("GET", "/parent"); c.get_response().read()
    print(in_a_child(lambda: (c.request("GET", "/child"), c.get_response().read())))
    print(in_a_child(c.close))
    c.request("POST", "/", b"the parent goes on"); print(c.get_response().read())
    """
    with stdlib_server() as server:
        assert forking(program, server.port) == ["(None, b'/child')", "None", "b'the parent goes on'"]
        assert server.connections == 2


def test_a_child_that_closes_a_response_over_http1_leaves_it_to_its_parent() -> None:
    program = """
    c = HTTPConnection("127.0.0.1", port, timeout=10)
    c.request("GET", "/long"); response = c.get_response(); response.read(10)
    def child():
        try: response.read(1)
        except Exception as error: print(type(error).__name__, error, flush=True)
        response.close()
        c.close()
    print(in_a_child(child))
    print(len(response.read()))
    """
    with stdlib_server() as server:
        said, ended, length = forking(program, server.port)
    assert said.startswith("NotOpen the response from 127.0.0.1:")
    assert said.endswith("belongs to the process that was forked")
    assert (ended, int(length)) == ("None", len(LONG) - 10)


def test_a_child_does_not_wait_for_a_thread_that_chose_the_protocol() -> None:
    program = """
    c = HTTPConnection("127.0.0.1", port, secure=True, timeout=1)
    begun(lambda: c.request("GET", "/"))
    print(in_a_child(lambda: c.request("GET", "/")))
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert forking(program, silent.getsockname()[1])[0].startswith("ConnectTimedOut")


def test_a_child_does_not_wait_for_a_thread_that_read_over_http1() -> None:
    program = """
    c = HTTPConnection("127.0.0.1", port)
    c.request("GET", "/"); response = c.get_response()
    begun(response.read)
    print(in_a_child(response.read))
    print(in_a_child(response.close))
    print(in_a_child(c.close))
    c.close()
    """
    with scripted(says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")) as peer:
        said = forking(program, peer.port)
    assert said[0].startswith("NotOpen: the response from")
    assert said[1:] == ["None", "None"]


def test_a_child_does_not_wait_for_a_thread_that_read_over_http2() -> None:
    program = """
    c = HTTPConnection("127.0.0.1", port, force_proto="h2")
    c.request("GET", "/half"); response = c.get_response()
    begun(response.read)
    print(in_a_child(response.read))
    print(in_a_child(response.close))
    c.close()
    """
    with in_thread(answers) as server:
        said, ended = forking(program, server.port)
    assert said.startswith("NotOpen: GET http://127.0.0.1:")
    assert ended == "None"
