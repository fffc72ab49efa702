"""The command line: ``cerberus-auth``, and ``python -m cerberus_auth``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .auth import CerberusAuth
from .client import CerberusClient
from .errors import CerberusError

if TYPE_CHECKING:
    from .doctor import Finding

OK, FAILED, INTERRUPTED = 0, 1, 130
"""Exit codes; argparse ends the process with 2 after an error of usage."""

_EPILOG = (
    "Settings come from the environment: CERBERUS_URL and others. Exit codes: 0 success, 1 failure, 2 wrong usage."
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.command is _read and sys.stdout.isatty() and not chosen.show:
        parser.error("read does not print a secret to a terminal. Add --show, or redirect the output")
    try:
        code: int = chosen.command(chosen)
    except CerberusError as error:
        failure = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(failure) if chosen.json else f"{failure['error']}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON, errors too")
    parser = argparse.ArgumentParser(
        prog="cerberus-auth", description="Read from Cerberus as this AWS principal.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"cerberus-auth {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(command: Any, name: str, description: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=description[0].lower() + description[1:], description=f"{description}.", parents=[shared]
        )
        added.set_defaults(command=command)
        return added

    doctor = add(_doctor, "doctor", "Check each step on the way to a secret, and say how to fix the one that fails")
    doctor.add_argument("--read", metavar="PATH", default="", help="a secret to read: category/box/path")
    read = add(_read, "read", "Read a secret from Cerberus, past every cache")
    read.add_argument("path", metavar="PATH", help="category/box/path")
    read.add_argument("--show", action="store_true", help="print the values to a terminal too")
    names = add(_list, "list", "List the names below a path, or the safe deposit boxes that this principal can read")
    names.add_argument("path", metavar="PATH", nargs="?", default="", help="category/box, or a path in it")
    token = add(_token, "token", "Authenticate, and print the token if asked to")
    token.add_argument("--show", action="store_true", help="print the token; otherwise nothing is printed")
    forget = add(_forget, "forget", "Make each container of the fleet read a path anew, for example after a leak")
    forget.add_argument("path", metavar="PATH", help="category/box/path")
    return parser


def _doctor(chosen: argparse.Namespace) -> int:
    from . import doctor  # not where another command runs

    def tell(finding: Finding) -> None:
        if not chosen.json:
            print(doctor.line(finding), flush=True)

    findings = doctor.Doctor(path=chosen.read, tell=tell).examine()
    if chosen.json:
        print(json.dumps(doctor.report(findings), indent=2))
    return FAILED if any(finding.status == doctor.FAILED for finding in findings) else OK


def _read(chosen: argparse.Namespace) -> int:
    secret = CerberusClient().read(chosen.path, max_age=0)
    if chosen.json:
        print(json.dumps(secret, indent=2))
    else:
        for key, value in secret.items():
            is_line = isinstance(value, str) and value.isprintable()
            print(f"{key}={value if is_line else json.dumps(value)}")
    return OK


def _list(chosen: argparse.Namespace) -> int:
    client = CerberusClient()
    names = client.list(chosen.path, max_age=0) if chosen.path else client.boxes()
    if chosen.json:
        print(json.dumps(names, indent=2))
    else:
        for name in names:
            print(name)
    return OK


def _token(chosen: argparse.Namespace) -> int:
    token = CerberusAuth().token()
    if chosen.show:
        print(json.dumps({"token": token}) if chosen.json else token)
    return OK


def _forget(chosen: argparse.Namespace) -> int:
    auth = CerberusAuth()
    principal = CerberusClient(auth).forget_shared(chosen.path)
    settings = auth.settings
    if chosen.json:
        done = {
            "path": chosen.path,
            "principal": principal,
            "table": settings.shared_cache_table,
            "max_age": settings.max_age,
            "stale_if_error": settings.stale_if_error,
        }
        print(json.dumps(done, indent=2))
    else:
        print(
            f"Removed the shared copies of {chosen.path} from {settings.shared_cache_table}, for {principal}.\n"
            f"Each container reads it from Cerberus at its next look, within {settings.max_age:g} s (CERBERUS_MAX_AGE).\n"
            f"While Cerberus is out of reach, a container serves its own copy for up to {settings.stale_if_error:g} s more "
            f"(CERBERUS_STALE_IF_ERROR)."
        )
    return OK


if __name__ == "__main__":
    sys.exit(main())
