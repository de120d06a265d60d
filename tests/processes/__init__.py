"""``muxlink serve --workers N`` as real processes, which are killed, signalled, stopped and reloaded under load."""
