"""What all tests share."""

from __future__ import annotations

import functools

import botocore.loaders
import botocore.session

# The sessions of a process share what they read of botocore's service descriptions: to parse these for each new session
# took a quarter of the time that the tests need.
botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)
