"""Errors that are in muxlink's tree and are what old programs catch."""

from __future__ import annotations

import copy
import http.client
import inspect
import pickle
import socket
import ssl
import zlib

import pytest

from actors import errors
from actors.errors import LinkError, Outcome
from supervisor.adapters.blocking import errors as blocking_errors
from supervisor.adapters.blocking.errors import HTTP20Error, translated

OURS = [
    each
    for _, each in inspect.getmembers(blocking_errors, inspect.isclass)
    if issubclass(each, HTTP20Error) and each.__module__ == blocking_errors.__name__
]
NEEDS_CODE = (errors.StreamReset, errors.GoAway)


def made(kind: type[LinkError], cause: BaseException | None = None) -> LinkError:
    facts = {"code": 7} if issubclass(kind, NEEDS_CODE) else {}
    return kind.because("what went wrong", cause, outcome=Outcome.MAYBE_PROCESSED, **facts)


@pytest.mark.parametrize("kind", OURS)
def test_each_keeps_its_message_and_facts_however_it_is_carried(kind: type[HTTP20Error]) -> None:
    error = made(kind)
    for each in (
        error,
        error.with_outcome(Outcome.MAYBE_PROCESSED),
        copy.copy(error),
        pickle.loads(pickle.dumps(error)),  # noqa: S301  (our own)
    ):
        assert type(each) is kind
        assert str(each) == "what went wrong"
        assert each.outcome is Outcome.MAYBE_PROCESSED
        assert vars(each) == vars(error)


@pytest.mark.parametrize(
    ("kind", "cause", "caught"),
    [
        (errors.Misuse, None, http.client.HTTPException),
        (errors.InvalidHeaders, None, ValueError),
        (errors.Closed, None, ValueError),
        (errors.LimitReached, None, http.client.HTTPException),
        (errors.DeadlineExceeded, None, TimeoutError),
        (errors.StreamReset, None, http.client.HTTPException),
        (errors.GoAway, None, ConnectionError),
        (errors.ProtocolViolation, None, http.client.BadStatusLine),
        (errors.ConnectFailed, None, ConnectionError),
        (errors.ConnectFailed, ConnectionRefusedError(), ConnectionRefusedError),
        (errors.ConnectFailed, socket.gaierror(), socket.gaierror),
        (errors.ConnectFailed, TimeoutError(), TimeoutError),
        (errors.TlsFailed, None, ssl.SSLError),
        (errors.TlsFailed, ssl.SSLCertVerificationError(), ssl.CertificateError),
        (errors.TransportLost, None, http.client.RemoteDisconnected),
        (errors.TransportLost, None, ConnectionResetError),
        (errors.PingTimeout, None, TimeoutError),
    ],
)
def test_each_of_our_errors_is_caught_as_what_it_was_in_old_programs(
    kind: type[LinkError], cause: BaseException | None, caught: type[Exception]
) -> None:
    error = translated(made(kind, cause))
    for each in (kind, caught, HTTP20Error, http.client.HTTPException):
        assert isinstance(error, each)
    assert str(error) == "what went wrong"
    assert error.outcome is Outcome.MAYBE_PROCESSED
    assert error.__cause__ is cause


def test_what_is_translated_already_keeps_its_class() -> None:
    assert type(translated(blocking_errors.ReadTimedOut("late"))) is blocking_errors.ReadTimedOut
    assert issubclass(blocking_errors.UndecodableBody, zlib.error)
