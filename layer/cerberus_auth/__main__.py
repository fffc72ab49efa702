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
"""Exit codes. After wrong usage, argparse exits with 2."""

_EXIT_CODES = """\
exit codes:
  0    success
  1    failure
  2    wrong usage
  130  interrupted (Ctrl-C)
"""

_EPILOG = f"""\
Settings come from environment variables. CERBERUS_URL is required.
Errors are printed to standard error. "cerberus-auth COMMAND --help" shows the options of a command.

{_EXIT_CODES}
examples:
  cerberus-auth doctor --read app/orders/db
  cerberus-auth read app/orders/db --json > secret.json
  cerberus-auth list app/orders
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : list of str, optional
        The arguments of the command line. ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        The exit code.
    """
    options = _parser().parse_args(arguments)
    if options.command is _read and sys.stdout.isatty() and not options.show:
        options.parser.error("a secret is not printed to a terminal. Add --show, or redirect the output")
    try:
        code: int = options.command(options)
    except CerberusError as error:
        failure = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(failure) if options.json else f"{failure['error']}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print the result as JSON, and errors too")
    parser = argparse.ArgumentParser(
        prog="cerberus-auth",
        description="Read secrets from Cerberus as the current AWS principal, and find out why that fails.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cerberus-auth {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")

    def add(command: Any, name: str, summary: str, details: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary[0].lower() + summary[1:],
            description=f"{summary}.\n{details}".rstrip(),
            epilog=_EXIT_CODES,
            parents=[shared],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=command, parser=added)
        return added

    doctor = add(
        _doctor,
        "doctor",
        "Check each step of reading a secret, and show how to fix a failed step",
        "Exits with 1 if a step failed. The output contains no secrets.",
    )
    doctor.add_argument("--read", metavar="PATH", default="", help="also read this secret: category/box/path")
    read = add(
        _read,
        "read",
        "Read a secret from Cerberus, not from a cache",
        "Prints one KEY=VALUE line for each key. Refuses to print to a terminal without --show.",
    )
    read.add_argument("path", metavar="PATH", help="the path of the secret: category/box/path")
    read.add_argument("--show", action="store_true", help="print the values even to a terminal")
    names = add(
        _list,
        "list",
        "List the names below a path, or the safe deposit boxes of this principal",
        "Without PATH, lists the safe deposit boxes that this principal can read.",
    )
    names.add_argument("path", metavar="PATH", nargs="?", default="", help="category/box, or a path in a box")
    token = add(_token, "token", "Authenticate, and print the token with --show", "Prints nothing without --show.")
    token.add_argument("--show", action="store_true", help="print the token")
    forget = add(
        _forget,
        "forget",
        "Remove a path from the shared cache, for example after a leak",
        "The containers of this role then read the path from Cerberus again.\n"
        "Requires CERBERUS_SHARED_CACHE_TABLE and CERBERUS_SHARED_CACHE_KEY.",
    )
    forget.add_argument("path", metavar="PATH", help="the path to remove: category/box/path")
    return parser


def _doctor(options: argparse.Namespace) -> int:
    from . import doctor  # loaded for this command only

    def show(finding: Finding) -> None:
        if not options.json:
            print(doctor.format_finding(finding), flush=True)

    findings = doctor.Doctor(path=options.read, on_finding=show).examine()
    if options.json:
        print(json.dumps(doctor.report(findings), indent=2))
    return FAILED if any(finding.status == doctor.FAILED for finding in findings) else OK


def _read(options: argparse.Namespace) -> int:
    secret = CerberusClient().read(options.path, max_age=0)
    if options.json:
        print(json.dumps(secret, indent=2))
    else:
        for key, value in secret.items():
            is_line = isinstance(value, str) and value.isprintable()
            print(f"{key}={value if is_line else json.dumps(value)}")
    return OK


def _list(options: argparse.Namespace) -> int:
    client = CerberusClient()
    names = client.list(options.path, max_age=0) if options.path else client.boxes()
    if options.json:
        print(json.dumps(names, indent=2))
    else:
        for name in names:
            print(name)
    return OK


def _token(options: argparse.Namespace) -> int:
    token = CerberusAuth().token()
    if options.show:
        print(json.dumps({"token": token}) if options.json else token)
    return OK


def _forget(options: argparse.Namespace) -> int:
    auth = CerberusAuth()
    principal = CerberusClient(auth).forget_shared(options.path)
    settings = auth.settings
    if options.json:
        result = {
            "path": options.path,
            "principal": principal,
            "table": settings.shared_cache_table,
            "max_age": settings.max_age,
            "stale_if_error": settings.stale_if_error,
        }
        print(json.dumps(result, indent=2))
    else:
        print(
            f"Removed the shared copies of {options.path} for {principal} from table {settings.shared_cache_table}.\n"
            f"Running containers read the path from Cerberus again within {settings.max_age:g} s (CERBERUS_MAX_AGE).\n"
            f"While Cerberus is out of reach, they can serve their own copy for {settings.stale_if_error:g} s more "
            f"(CERBERUS_STALE_IF_ERROR)."
        )
    return OK


if __name__ == "__main__":
    sys.exit(main())
