"""How tests run, itself tested: a test that leaves something behind fails."""

import pytest

HEAD = """
import asyncio, gc, logging, socket
import pytest
from hypothesis import given, strategies as st

log = logging.getLogger("muxlink.somewhere")

async def forever():
    await asyncio.get_running_loop().create_future()
"""


def run(pytester: pytest.Pytester, source: str) -> pytest.RunResult:
    pytester.makepyfile(HEAD + source)
    return pytester.runpytest_inprocess("-p", "tests.conftest", "-p", "no:timeout", "-W", "error", "--strict-markers")


@pytest.mark.parametrize(
    "body",
    [
        "await asyncio.sleep(0); assert asyncio.get_running_loop().get_debug()",
        "task = asyncio.create_task(forever()); await asyncio.sleep(0); task.cancel(); await asyncio.wait([task])",
        "log.warning('a warning is not an error')",
    ],
)
def test_a_clean_async_test_passes(pytester: pytest.Pytester, body: str) -> None:
    run(pytester, f"async def test_it(): {body}").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("assert False, 'as it should'", "*as it should*"),
        ("task = asyncio.create_task(forever(), name='left-behind')", "*still pending at the end:*left-behind*"),
        ("asyncio.get_running_loop().call_soon(int, 'x'); await asyncio.sleep(0)", "*exception handler was told*"),
        ("asyncio.create_task(fail()); await asyncio.sleep(0); await asyncio.sleep(0)", "*never retrieved*"),
        ("await asyncio.start_server(print, '127.0.0.1', 0)", "*ResourceWarning*unclosed*"),
        ("socket.socket()", "*ResourceWarning*unclosed*"),
        ("forever()", "*never awaited*"),
        pytest.param(
            "log.error('boom %d', 7)",
            "*logged an unannounced error: boom 7*",
            marks=pytest.mark.logs_errors("^boom 7$"),  # This process logs it, so this test announces it.
        ),
    ],
)
def test_an_async_test_that_leaves_something_behind_fails(pytester: pytest.Pytester, body: str, complaint: str) -> None:
    result = run(pytester, f"async def fail(): raise ValueError\nasync def test_it(): {body}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([complaint])


def test_a_destroyed_pending_task_fails_the_test(pytester: pytest.Pytester) -> None:
    source = """
async def test_it():
    async def lost():
        await asyncio.Future()
    asyncio.create_task(lost())
    await asyncio.sleep(0)
    gc.collect()
"""
    result = run(pytester, source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Task was destroyed but it is pending*"])


def test_markers_choose_the_loop(pytester: pytest.Pytester) -> None:
    source = """
@pytest.mark.virtual_time
async def test_virtual():
    await asyncio.sleep(86400)
    assert asyncio.get_running_loop().time() == 86400

@pytest.mark.bulk
async def test_bulk():
    assert not asyncio.get_running_loop().get_debug()
"""
    run(pytester, source).assert_outcomes(passed=2)


def test_an_async_test_takes_fixtures_parameters_and_examples(pytester: pytest.Pytester) -> None:
    source = """
@pytest.mark.parametrize("number", [1, 2])
async def test_parameters(number, tmp_path):
    assert number and tmp_path.exists()

@given(st.integers())
async def test_examples(number):
    await asyncio.sleep(0)
    assert number == int(number)

@pytest.mark.xfail(strict=True)
@given(st.integers())
async def test_wrong_example(number):
    assert number < 100

class TestGroup:
    async def test_method(self):
        await asyncio.sleep(0)
"""
    run(pytester, source).assert_outcomes(passed=4, xfailed=1)


@pytest.mark.logs_errors("boom", "crash", "whatever")
def test_announced_errors_are_allowed_and_must_come(pytester: pytest.Pytester) -> None:
    source = """
@pytest.mark.logs_errors("boom", "crash")
async def test_both():
    log.error("boom"); log.critical("crash")

@pytest.mark.logs_errors()
def test_any():
    log.error("whatever")

@pytest.mark.logs_errors("boom")
def test_another_comes():
    log.error("crash")

@pytest.mark.logs_errors("never")
def test_none_comes():
    pass
"""
    result = run(pytester, source)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*unannounced error: crash*", "*not logged: boom*", "*not logged: never*"])
