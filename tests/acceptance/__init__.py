"""Acceptance checks against any Cerberus, read-only. See ``python -m acceptance --help``."""
