"""The benchmarks: each is a job, its common peer and how a run is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from tests.benchmarks import harness, jobs, mailboxes, peers
from tests.benchmarks.harness import BYTES, REQUESTS, Benchmark, Measure


@contextmanager
def _against_h2load() -> Iterator[Measure]:
    def run(variant: str, requests: int) -> float:
        with harness.server(variant, "hello-server") as port:
            peers.h2load(port, jobs.HELLO_PATH, 500, at_a_time=100, body=len(jobs.HELLO))
            load = peers.h2load(port, jobs.HELLO_PATH, requests, at_a_time=100, body=len(jobs.HELLO))
            return load.requests_per_second

    yield run


@contextmanager
def _h2load_downloads() -> Iterator[Measure]:
    def run(variant: str, rounds: int) -> float:
        with harness.server(variant, "bulk-server") as port:
            load = peers.h2load(port, jobs.BULK_PATH, rounds, at_a_time=1, body=jobs.BULK)
            return rounds * jobs.BULK / load.seconds

    yield run


@contextmanager
def _h2load_uploads() -> Iterator[Measure]:
    with peers.files() as folder:

        def run(variant: str, rounds: int) -> float:
            with harness.server(variant, "bulk-server") as port:
                upload = folder / jobs.BULK_PATH[1:]
                load = peers.h2load(port, jobs.BULK_PATH, rounds, at_a_time=1, body=0, upload=upload)
                return rounds * jobs.BULK / load.seconds

        yield run


def _against_nghttpd(role: str) -> AbstractContextManager[Measure]:
    @contextmanager
    def peer() -> Iterator[Measure]:
        with peers.nghttpd() as port:
            yield lambda variant, amount: harness.client(variant, role, port, amount)

    return peer()


ALL = (
    Benchmark(
        name="server",
        work="h2load, one connection, 100 streams at a time, GET with a 12-byte body",
        unit=REQUESTS,
        open=_against_h2load,
        probe=2000,
    ),
    Benchmark(
        name="client",
        work=f"{jobs.CALLERS} concurrent callers on one connection to nghttpd, 12-byte bodies",
        unit=REQUESTS,
        open=lambda: _against_nghttpd("client"),
        probe=2000,
    ),
    Benchmark(
        name="download",
        work="a client reads 200 MB in one stream from nghttpd",
        unit=BYTES,
        open=lambda: _against_nghttpd("download"),
        probe=1,
        one=jobs.BULK,
    ),
    Benchmark(
        name="upload",
        work="a client sends 200 MB in one stream to nghttpd",
        unit=BYTES,
        open=lambda: _against_nghttpd("upload"),
        probe=1,
        one=jobs.BULK,
    ),
    Benchmark(
        name="server-download",
        work="h2load reads 200 MB in one stream from a server",
        unit=BYTES,
        open=_h2load_downloads,
        probe=1,
        one=jobs.BULK,
    ),
    Benchmark(
        name="server-upload",
        work="h2load sends 200 MB in one stream to a server",
        unit=BYTES,
        open=_h2load_uploads,
        probe=1,
        one=jobs.BULK,
    ),
    *mailboxes.ALL,
)
