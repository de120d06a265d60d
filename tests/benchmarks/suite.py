"""The benchmarks: each is a job, its common peer and how a run is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from attrs import evolve

from tests.benchmarks import (
    certificates,
    faces,
    harness,
    jobs,
    latency,
    links,
    mailboxes,
    peers,
    processes,
    streams,
    traces,
)
from tests.benchmarks.flood import Flood
from tests.benchmarks.harness import BYTES, REQUESTS, Benchmark, Measure
from tests.benchmarks.studies import Study


@contextmanager
def _against_h2load(tls: Path | None = None) -> Iterator[Measure]:
    def run(variant: str, requests: int) -> float:
        with harness.server(variant, "hello-server", tls=tls) as port:
            get = partial(peers.h2load, port, jobs.HELLO_PATH, at_a_time=100, body=len(jobs.HELLO), scheme=_scheme(tls))
            get(500)
            return get(requests).requests_per_second

    yield run


@contextmanager
def _h2load_downloads(tls: Path | None = None) -> Iterator[Measure]:
    def run(variant: str, rounds: int) -> float:
        with harness.server(variant, "bulk-server", tls=tls) as port:
            load = peers.h2load(port, jobs.BULK_PATH, rounds, at_a_time=1, body=jobs.BULK, scheme=_scheme(tls))
            return rounds * jobs.BULK / load.seconds

    yield run


@contextmanager
def _h2load_uploads(tls: Path | None = None) -> Iterator[Measure]:
    with peers.files() as folder:

        def run(variant: str, rounds: int) -> float:
            with harness.server(variant, "bulk-server", tls=tls) as port:
                upload = folder / jobs.BULK_PATH[1:]
                load = peers.h2load(
                    port, jobs.BULK_PATH, rounds, at_a_time=1, body=0, upload=upload, scheme=_scheme(tls)
                )
                return rounds * jobs.BULK / load.seconds

        yield run


@contextmanager
def _against_nghttpd(role: str, tls: Path | None = None) -> Iterator[Measure]:
    with peers.nghttpd(tls) as port:
        yield lambda variant, amount: harness.client(variant, role, port, amount, tls=tls)


def _scheme(tls: Path | None) -> str:
    return "http" if tls is None else "https"


def _over_tls(plain: Benchmark, start: Callable[[Path], AbstractContextManager[Measure]]) -> Benchmark:
    @contextmanager
    def measure() -> Iterator[Measure]:
        with certificates.certificates() as folder, start(folder) as run:
            yield run

    return evolve(plain, name=f"tls:{plain.name}", work=f"{plain.work}, over TLS", open=measure)


_PLAIN = (
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
)

_TLS: tuple[Callable[[Path], AbstractContextManager[Measure]], ...] = (
    _against_h2load,
    partial(_against_nghttpd, "client"),
    partial(_against_nghttpd, "download"),
    partial(_against_nghttpd, "upload"),
    _h2load_downloads,
    _h2load_uploads,
)

ALL: tuple[Benchmark | Study | Flood, ...] = (
    *_PLAIN,
    *mailboxes.ALL,
    *streams.ALL,
    *latency.ALL,
    *links.ALL,
    *processes.ALL,
    *traces.ALL,
    *faces.ALL,
    *(_over_tls(plain, start) for plain, start in zip(_PLAIN, _TLS, strict=True)),
    Flood(),
)
