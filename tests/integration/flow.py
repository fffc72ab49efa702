"""A function that does everything, says everything, and shows all that it holds: for a test to look through.

Reads one JSON object a line from the standard input, ``{"environment": {…}, "read": path}``, and does all that the package
does with a secret in that environment. Every log is at its most talkative, every error is shown with all its frames' locals.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import http.client
import importlib
import json
import logging
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import botocore.loaders
import botocore.session

logging.basicConfig(level=0, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s %(args)s")
logging.captureWarnings(True)
warnings.simplefilter("always")


PASSWORD = ("password", "of", "the", "proxy")  # in parts: a traceback shows lines of this file


@dataclasses.dataclass
class Database:
    """What the secret does not fit."""

    user: str


class Context:
    """The handler's."""

    function_name = memory_limit_in_mb = invoked_function_arn = aws_request_id = "1"

    def get_remaining_time_in_millis(self) -> int:
        return 4000


def show(error: BaseException) -> None:
    """All that an error tells to whoever prints it, logs it, or reports it with the locals of every frame.

    An error of requests itself keeps frames of urllib3 and http.client, which hold what they send: SECURITY.md says so.
    """
    print(repr(error), str(error), error.args, vars(error))
    traceback.print_exception(error, file=sys.stdout)
    if type(error).__module__.partition(".")[0] != "requests":
        print(*traceback.TracebackException.from_exception(error, capture_locals=True).format(), sep="")
    for attempt in getattr(error, "attempts", ()):
        show(attempt.error)


def safe(call: Callable[[Any], object], value: object) -> object:
    """The result, or the name of what was raised."""
    try:
        return call(value)
    except Exception as error:
        return type(error).__name__


def show_objects() -> None:
    """In every form, each object of this package that lives."""
    gc.collect()
    for each in gc.get_objects():
        if str(type(each).__module__).startswith("cerberus_auth."):
            for form in (repr, str, format, pickle.dumps, copy.copy, copy.deepcopy):
                print(type(each).__name__, form.__name__, safe(form, each))


def do(path: str) -> None:
    """All that there is to do with one secret. Fails where an environment does not let it; that is shown too."""
    import requests
    from aws_lambda_powertools import Logger, Metrics

    from cerberus_auth import CerberusAuth, CerberusClient, Settings, compat
    from cerberus_auth.doctor import Doctor, format_finding, report
    from cerberus_auth.powertools import CerberusMiddleware, CerberusProvider

    auth = CerberusAuth(Settings.from_env())
    client = CerberusClient(auth)
    url = f"{os.environ['CERBERUS_URL']}/v1/secret/{path}"
    metrics = Metrics(namespace="Orders", service="orders")
    middleware = CerberusMiddleware(auth, metrics=metrics, logger=Logger(service="orders", level="DEBUG"))

    @metrics.log_metrics
    @middleware.client
    def handler(event: object, context: Context, cerberus: CerberusClient) -> int:
        return len(cerberus.read(path))

    def doctor() -> None:
        findings = Doctor(path=path).examine()
        print(json.dumps(report(findings)), *map(format_finding, findings), sep="\n")

    class Refused(Exception):
        """What a database raises."""

    def connect(secret: object) -> None:
        del secret  # this frame is not the package's
        raise Refused

    box = path.rpartition("/")[0]
    other = compat.CerberusClient(os.environ["CERBERUS_URL"])
    steps: list[Callable[[], object]] = [
        lambda: len(auth.token()),
        lambda: len(client.read(path, max_age=60)),
        lambda: len(client.read_all(box)),
        lambda: requests.get(url, auth=auth, timeout=(1, 2)).status_code,
        lambda: len(client.read(path, max_age=0)),
        lambda: len(client.read(path, fresh=True)),
        lambda: len(client.read_version(path, "CURRENT")),
        lambda: len(client.versions(path)),
        lambda: len(client.list(box)),
        lambda: len(client.read_many([path, f"{path}-not-there"])),
        lambda: len(client.read_file(path)),
        lambda: client.read(path, model=Database),
        lambda: client.with_secret(path, connect, refused=Refused),
        lambda: Settings.from_env({**os.environ, "CERBERUS_TIMEOUT": "soon"}),
        lambda: Settings.from_env({**os.environ, "HTTPS_PROXY": f"socks5://u:{'-'.join(PASSWORD)}@h"}),
        lambda: handler({}, Context()),
        lambda: len(CerberusProvider(client).get(path, transform="json")),
        lambda: len(other.get_secrets_data(path)),
        lambda: other.get_secret(path, "pasword"),
        doctor,
        lambda: auth.close(revoke=True),
    ]
    for step in steps:
        # Whoever sets this has every header of requests and boto3 printed, but none of this package's own.
        own = steps.index(step) != 3 and os.environ.get("CERBERUS_AWS_CLIENT") != "sdk"
        http.client.HTTPConnection.debuglevel = int(own)
        try:
            print(step())
        except Exception as error:
            show(error)
    show_objects()
    print(auth.authentications)
    auth.close()


def prepare() -> None:
    """Load what is not this package, and leave those objects out of what ``show_objects`` looks through again and again."""
    for name in ("boto3", "requests", "aws_lambda_powertools", "aws_lambda_powertools.utilities.parameters"):
        importlib.import_module(name)
    # As in the tests' own process: see conftest.
    botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)
    assert not any(name.partition(".")[0] == "cerberus_auth" for name in sys.modules)
    gc.collect()
    gc.freeze()


def main() -> None:
    prepare()
    for line in sys.stdin:
        given = json.loads(line)
        for name in list(os.environ):
            if name.startswith(("AWS_", "CERBERUS_")):
                del os.environ[name]
        os.environ |= given["environment"]
        do(given["read"])
        leaked = {value for name, value in os.environ.items() if given["environment"].get(name) != value}
        print("os.environ:", leaked)
        print("done", flush=True)


if __name__ == "__main__":
    main()
