"""What messages hold besides their summaries."""

import json

from actors.commands import Respond, SendData
from actors.messages import BytesArrived, DataArrived, HeadersArrived
from supervisor.tracing.payloads import payload_of, plain


def test_headers_bodies_and_trailers_come_out_with_their_size_and_can_be_written_as_json() -> None:
    found, size = payload_of(Respond(1, [(b":status", b"200")], memoryview(b"\xffx"), [(b"a", b"\xe9")]))
    assert size == 10 + 2 + 2
    assert found is not None
    assert json.loads(json.dumps(plain(found))) == {
        "headers": [[":status", "200"]], "body": "/3g=", "trailers": [["a", "é"]],
    }  # fmt: skip


def test_a_buffer_that_is_used_again_does_not_change_what_was_kept() -> None:
    buffer = bytearray(b"first")
    found, _ = payload_of(SendData(1, memoryview(buffer)))
    buffer[:] = b"other"
    assert found == {"body": b"first"}


def test_what_has_no_payload_of_its_own_has_none() -> None:
    assert payload_of(BytesArrived(b"frames")) == (None, 0)
    assert payload_of(DataArrived(b"", ended=True)) == (None, 0)
    assert payload_of(HeadersArrived([], ended=True)) == (None, 0)
