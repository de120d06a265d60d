"""The example of a replay tells its whole story."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent.parent


def test_the_example_of_a_race_is_captured_replayed_tested_and_fixed() -> None:
    """T6."""
    command = [sys.executable, "-W", "error", "-X", "dev", "-m", "examples.replay"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("Executing ")]
    assert (done.returncode, complaints) == (0, [])
    lines = done.stdout.splitlines()
    failed = "server-1/connection-1/stream-3: crashed: KeyError"
    assert lines[0] == "Two clients book the same seat at once: 200 by the window, reset with 2"
    assert [line.partition(":")[2].strip() for line in lines[1:3]] == [failed, failed]
    assert lines[3].startswith("The same messages: True, in ")
    assert lines[-3:] == [
        "1 test was written; with the bug it fails",
        "With the bug fixed it passes",
        "What the fix changes: 'Exited server-1/connection-1/stream-3 crashed: KeyError (KeyError)' becomes "
        "'Respond stream 3: 409, 11 bytes, 0 trailers'",
    ]
