"""What the tests share: a clock that jumps, and raw HTTP/2 frames."""
