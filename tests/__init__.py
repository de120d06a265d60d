"""The tests: they mirror the two packages; support/ holds what they share."""
