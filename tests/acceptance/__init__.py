"""A suite that runs against any Cerberus and only reads. See ``python -m acceptance --help``."""
