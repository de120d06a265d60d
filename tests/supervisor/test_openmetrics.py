"""OpenMetrics: an independent parser reads what is written, and finds the figures in it."""

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from actors.server_stream import ServerStream
from supervisor.link import Link
from supervisor.openmetrics import text
from supervisor.server import Server
from supervisor.stats import ServerStats


def read(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    families = text_string_to_metric_families(text(figures))  # type: ignore[no-untyped-call]  # has no annotations
    return {family.name: family for family in families}


def samples(family: Metric) -> dict[tuple[str, tuple[str, ...]], float]:
    return {(each.name, tuple(each.labels.values())): each.value for each in family.samples}


async def answer(stream: ServerStream) -> None:
    await stream.respond(200, body=b"answer")


async def stats_of_a_server(requests: int) -> dict[str, Any]:
    async with Server(answer) as server, Link(server.url) as link:
        for _ in range(requests):
            await link.request("GET", "/")
        return attrs.asdict(server.stats(), filter=lambda attribute, _: attribute.name != "connection_stats")


def worker(stats: dict[str, Any] | None = None, **more: object) -> dict[str, Any]:
    return {
        "pid": 7, "state": "ready", "generation": 2, "load": 3, "age": 2.5, "stats": stats, **more,
    }  # fmt: skip


async def test_each_figure_of_a_server_is_told_with_the_name_of_its_worker() -> None:
    stats = await stats_of_a_server(5)
    families = read({"parent": {}, "workers": {"worker-1": worker(stats), "worker-2": worker(stats)}})
    assert samples(families["muxlink_streams"]) == {
        ("muxlink_streams_total", ("worker-1",)): 5.0,
        ("muxlink_streams_total", ("worker-2",)): 5.0,
    }
    assert (
        samples(families["muxlink_received_bytes"])["muxlink_received_bytes_total", ("worker-1",)]
        == stats["bytes_received"]
    )
    assert samples(families["muxlink_connections"]) == {
        ("muxlink_connections", ("worker-1", "ready")): 1.0,
        ("muxlink_connections", ("worker-2", "ready")): 1.0,
    }
    quantiles = [each.labels["quantile"] for each in families["muxlink_round_trip_seconds"].samples]
    assert quantiles[:4] == ["0.5", "0.9", "0.99", "1.0"]


async def test_nothing_that_a_server_counts_is_forgotten() -> None:
    stats = await stats_of_a_server(1)
    told = {field.name for field in attrs.fields(ServerStats)} - {"connection_stats"}
    assert stats.keys() == told
    for number, (name, value) in enumerate(sorted(stats.items()), 1_000_001):
        if isinstance(value, (int, float)):
            stats[name] = number
    stats["connections_ended"], stats["refusals"] = {"": 77}, {"max_streams": 78}
    written = text({"workers": {"w": worker(stats)}})
    for name, value in stats.items():
        if isinstance(value, (int, float)):
            assert f" {value}\n" in written, name
    assert 'muxlink_connections_ended_total{worker="w",reason="none"} 77\n' in written
    assert 'muxlink_refusals_total{worker="w",limit="max_streams"} 78\n' in written
    assert 'muxlink_server_state{worker="w",state="serving"} 1\n' in written


async def test_what_only_grows_is_a_counter_and_all_else_is_not() -> None:
    stats = await stats_of_a_server(1) | {"connections_ended": {"TransportLost": 1}, "refusals": {"max_streams": 1}}
    families = read(
        {"parent": {"restarts": 1, "workers_wanted": 2, "workers_ready": 1}, "workers": {"w": worker(stats)}}
    )
    assert {name for name, family in families.items() if family.type == "counter"} == {
        "muxlink_restarts", "muxlink_connections_accepted", "muxlink_connections_refused",
        "muxlink_connections_ended", "muxlink_streams", "muxlink_streams_refused", "muxlink_received_bytes",
        "muxlink_sent_bytes", "muxlink_refusals",
    }  # fmt: skip
    assert {family.type for family in families.values()} == {"counter", "gauge", "summary"}
    assert {family.unit for family in families.values()} == {"", "bytes", "seconds"}
    assert all(name.startswith("muxlink_") and family.documentation for name, family in families.items())
    assert {label for family in families.values() for each in family.samples for label in each.labels} == {
        "worker", "state", "reason", "limit", "quantile",
    }  # fmt: skip


def test_the_parents_figures_have_no_worker() -> None:
    families = read({"parent": {"workers_wanted": 4, "workers_ready": 3, "restarts": 7, "age": 1.5}, "workers": {}})
    assert {name: family.samples[0].value for name, family in families.items()} == {
        "muxlink_workers_wanted": 4.0, "muxlink_workers_ready": 3.0, "muxlink_restarts": 7.0,
        "muxlink_uptime_seconds": 1.5,
    }  # fmt: skip
    assert [each.labels for family in families.values() for each in family.samples] == [{}] * 4


def test_a_worker_that_gives_no_figures_is_there_all_the_same() -> None:
    families = read({"parent": {}, "workers": {"worker-1": worker(None, state="hung")}})
    assert samples(families["muxlink_worker_state"]) == {("muxlink_worker_state", ("worker-1", "hung")): 1.0}
    assert samples(families["muxlink_worker_age_seconds"]) == {("muxlink_worker_age_seconds", ("worker-1",)): 2.5}
    assert "muxlink_streams" not in families


@pytest.mark.parametrize("name", ['two "quotes"', "a\nline", "back\\slash", "\\n", "é€", "a,b={}"])
def test_a_label_may_hold_anything(name: str) -> None:
    families = read({"parent": {}, "workers": {name: worker({"connections_ended": {name: 1}})}})
    [sample] = families["muxlink_connections_ended"].samples
    assert sample.labels == {"worker": name, "reason": name}


def test_of_nothing_at_all_the_text_is_whole() -> None:
    assert text({}) == "# EOF\n"
    assert read({"parent": {}, "workers": {}}) == {}
