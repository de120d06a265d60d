"""Blocking code in 8 threads: hyper's interface, or httpx with one client for all or one for each.

python -m tests.benchmarks.threads VARIANT PORT SECONDS   print requests per second and CPU seconds a request
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final

from tests.benchmarks import jobs
from tests.benchmarks.faces import HTTPX_EACH, HTTPX_ONE
from tests.benchmarks.harness import OURS

THREADS: Final = 8
_WARM: Final = 0.3
_PATIENCE: Final = 5.0
Get = Callable[[], tuple[int, bytes]]


@contextmanager
def _ours(port: int) -> Iterator[list[Get]]:
    from supervisor.adapters.hyper import HTTP20Connection  # noqa: PLC0415  (httpx is measured without it)

    with HTTP20Connection("127.0.0.1", port) as connection:

        def get() -> tuple[int, bytes]:
            response = connection.get_response(connection.request("GET", jobs.HELLO_PATH))
            return response.status, response.read()

        yield [get] * THREADS


@contextmanager
def _httpx(port: int, clients: int) -> Iterator[list[Get]]:
    import httpx  # noqa: PLC0415  (ours is measured without it)

    url = f"http://127.0.0.1:{port}{jobs.HELLO_PATH}"

    def getter(client: httpx.Client) -> Get:
        def get() -> tuple[int, bytes]:
            response = client.get(url)
            return response.status_code, response.content

        return get

    with ExitStack() as stack:
        made = [
            stack.enter_context(httpx.Client(http1=False, http2=True, trust_env=False, timeout=_PATIENCE))
            for _ in range(clients)
        ]
        yield [getter(made[number % clients]) for number in range(THREADS)]


def _measure(gets: list[Get], seconds: float, *, forgiving: bool) -> dict[str, float]:
    """All threads begin together, and each counts what it got until the time is up."""
    together = threading.Barrier(THREADS + 1)

    def caller(get: Get) -> tuple[int, int]:
        together.wait()
        done, failed, until = 0, 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            try:
                reply = get()
            except Exception:
                if not forgiving:
                    raise
                failed += 1
                continue
            if reply != (200, jobs.HELLO):
                raise jobs.WrongReply(reply)
            done += time.perf_counter() < until
        return done, failed

    with ThreadPoolExecutor(THREADS) as pool:
        callers = [pool.submit(caller, get) for get in gets]
        together.wait()
        used = time.process_time()
        counts = [each.result() for each in callers]
        used = time.process_time() - used
    done, failed = (sum(count) for count in zip(*counts, strict=True))
    return {"rate": done / seconds, "cpu": used / done if done else 0.0, "failed": failed}


def main(variant: str, port: str, seconds: str) -> None:
    """Measure a variant."""
    clients = {HTTPX_ONE: 1, HTTPX_EACH: THREADS}
    opened = _ours(int(port)) if variant == OURS else _httpx(int(port), clients[variant])
    with opened as gets:
        _measure(gets, _WARM, forgiving=variant != OURS)
        print(json.dumps(_measure(gets, float(seconds), forgiving=variant != OURS)))


if __name__ == "__main__":
    main(*sys.argv[1:])
