"""What all tests share."""

from __future__ import annotations

import functools
import gc

import botocore.loaders
import botocore.session

# The sessions of a process share what they read of botocore's service descriptions: to parse these for each new session
# took a quarter of the time that the tests need.
botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)


def pytest_collection_finish() -> None:
    """Exempt what all modules hold from garbage collection: to traverse it again and again took a tenth of the time."""
    gc.collect()
    gc.freeze()
