"""The version of what this package writes, in a module of its own: whoever plans jobs needs it, and loads no writer."""

WRITER_VERSION = "3"
"""Part of every result UID: changes whenever the same inputs would give other bytes."""
