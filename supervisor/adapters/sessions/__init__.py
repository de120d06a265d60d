"""requests' sessions: the rooms behind :mod:`supervisor.adapters.requests`."""
