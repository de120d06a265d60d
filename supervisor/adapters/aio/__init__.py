"""aioh2's interface: the rooms behind :mod:`supervisor.adapters.aioh2`."""
