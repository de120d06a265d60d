"""Traces of messages: taken, kept in files, filtered, drawn, merged and replayed."""
