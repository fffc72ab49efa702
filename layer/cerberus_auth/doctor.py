"""The doctor: run each step of reading a secret, and report which step fails, why, and how to fix it.

``cerberus-auth doctor`` runs it on a command line. The sample function ``functions/diagnose`` runs it in Lambda, with the role
and the network of a function. The findings contain no secrets.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ._version import __version__
from .auth import CerberusAuth
from .authentication.principal import role_arn
from .authentication.wire import CLIENT_HEADERS, read_refusal
from .aws.calls import AwsRefusal, connect, credentials_refused
from .client import CerberusClient
from .deadline import Deadline
from .errors import (
    AccessDenied,
    AuthenticationFailed,
    BlockedAtEdge,
    CerberusError,
    ConfigurationError,
    DeadlineExceeded,
    SecretNotFound,
    TokenRefused,
)
from .http.connection import Connection, Names
from .http.proxy import proxy_for, proxy_url
from .http.retry import reason
from .http.transport import Transport
from .settings import Settings
from .sharing.item import Item, StoreFailure
from .sharing.table import TableStore

if TYPE_CHECKING:
    from .auth import LambdaContext
    from .aws.calls import Aws
    from .http.transport import Response

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"

_PROBE_PATH = "app/cerberus-auth-doctor/probe"  # does not exist: 403 and 404 prove that Cerberus accepts the token
_SUCCESS_MESSAGES = {
    "sts:AssumeRole": "Assumed the role",
    "auth request": "Cerberus accepted the principal",
    "kms:Decrypt": "Decrypted the auth response",
}
_BOXES_SHOWN = 20
_ISOLATED_SETTINGS = {
    "CERBERUS_SHARED_CACHE_TABLE": "",
    "CERBERUS_SHARED_CACHE_KEY": "",
    "CERBERUS_PREFETCH": "off",
    "CERBERUS_RENEWAL": "inline",
}
_UNKNOWN_ROLE = "<execution role>"  # the placeholder in an error of aws.temporary
_LAYER_FOLDER = "/opt/python"  # Lambda extracts layers here
_WIDTH = 100  # columns of the text output
_MESSAGE_COLUMN = 35
_INDENT = 10


@dataclass(frozen=True)
class Finding:
    """The result of a step.

    Attributes
    ----------
    step : str
        The name of the step, such as ``kms:Decrypt``.
    status : str
        ``ok``, ``FAILED`` or ``skipped``.
    seconds : float
        The time that the step took.
    message : str
        What the step found, or why it failed and what to do.
    fix : tuple of str
        Policy statements (JSON) to add and variables (``NAME=value``) to set, ready to copy.
    """

    step: str
    status: str
    seconds: float
    message: str
    fix: tuple[str, ...] = ()


@dataclass
class _Step:
    message: str = ""
    fix: list[str] = field(default_factory=list)
    skipped: bool = False
    seconds: float | None = None


class _Failed(Exception):
    """A step failed for a reason for which there is no ``CerberusError``."""


class Doctor:
    """Check the steps of reading a secret. The timeouts in the settings limit the time of each step.

    Parameters
    ----------
    environ : mapping of str to str, optional
        The settings. ``os.environ`` by default. AWS credentials always come from the process.
    path : str
        The path of a secret to read. By default, the doctor requests a path that does not exist.
    on_finding : callable
        Called with each ``Finding`` as soon as its step ends.
    context : LambdaContext, optional
        The context of the handler, if a Lambda function runs the doctor. The doctor checks its remaining time.

    Examples
    --------
    >>> findings = Doctor(path="app/orders/db").examine()  # doctest: +SKIP
    >>> [finding.step for finding in findings if finding.status == FAILED]  # doctest: +SKIP
    ['kms:Decrypt']
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        path: str = "",
        on_finding: Callable[[Finding], object] = lambda finding: None,
        context: LambdaContext | None = None,
    ) -> None:
        self._remaining_seconds = None if context is None else context.get_remaining_time_in_millis() / 1000
        self._environ = os.environ if environ is None else environ
        self._path = path
        self._on_finding = on_finding
        self._findings: list[Finding] = []
        self._failed_steps: set[str] = set()

    def examine(self) -> list[Finding]:
        """Run all steps.

        Returns
        -------
        list of Finding
            The findings, in the order of the steps.
        """
        settings = self._settings()
        if settings is not None:
            self._runtime(settings)
            transport = Transport(settings)
            aws = self._credentials(settings, transport)
            try:
                self._identity(settings, aws)
                self._network(settings, transport)
                self._authentication(settings, transport, aws)
            finally:
                transport.close()
                if aws is not None:
                    aws.close()
        return self._findings

    @contextmanager
    def _step(self, name: str, needs: str = "") -> Iterator[_Step]:
        """Time a step and record its finding.

        Parameters
        ----------
        name : str
            The name of the step.
        needs : str
            Names of earlier steps, separated by spaces. If one has failed, ``skipped`` is set and the block must do nothing.
        """
        step, began = _Step(), time.monotonic()
        status = OK
        if missing := [need for need in needs.split() if need in self._failed_steps]:
            step.skipped, step.message = True, f"Not run because {' and '.join(missing)} failed"
        try:
            yield step
        except CerberusError as error:
            status, step.message = FAILED, f"{type(error).__name__}: {error}"
        except StoreFailure as error:
            status, step.message = FAILED, str(error)
        except AwsRefusal as refusal:
            status = FAILED
            step.message = str(
                credentials_refused(refusal)
                or f"{refusal.service} refused ({refusal.code}). Check the AWS credentials."
            )
        except _Failed as failure:
            status, step.message = FAILED, str(failure)
        if status == FAILED:
            self._failed_steps.add(name)
            step.message, statements = _extract_statements(step.message)
            step.fix += statements
        elif step.skipped:
            status = SKIPPED
        seconds = time.monotonic() - began if step.seconds is None else step.seconds
        finding = Finding(name, status, seconds, step.message, tuple(step.fix))
        self._findings.append(finding)
        self._on_finding(finding)

    def _settings(self) -> Settings | None:
        settings: Settings | None = None
        with self._step("settings") as step:
            settings = Settings.from_env(self._environ)
            principal = ", ".join(settings.iam_role_arns) or settings.assume_role_arn or "the execution role"
            step.message = (
                f"{settings.url}, method {settings.auth_method}, as {principal}, in {', '.join(settings.regions)}"
            )
        return settings

    def _runtime(self, settings: Settings) -> None:
        with self._step("runtime") as step:
            if "AWS_LAMBDA_FUNCTION_NAME" not in self._environ:
                step.skipped, step.message = True, "This is not a Lambda function"
                return
            if os.path.isdir(_LAYER_FOLDER) and _LAYER_FOLDER not in sys.path:
                python_path = self._environ.get("PYTHONPATH", "")
                step.fix.append(":".join(filter(None, [f"PYTHONPATH={_LAYER_FOLDER}", python_path])))
                raise _Failed(
                    f"PYTHONPATH does not contain {_LAYER_FOLDER}, so the function does not find the layer. Remove the "
                    f"variable, or set it to the value below."
                )
            if self._remaining_seconds is not None and self._remaining_seconds < settings.timeout:
                raise _Failed(
                    f"The function has {self._remaining_seconds:.1f} s left, less than CERBERUS_TIMEOUT "
                    f"({settings.timeout:g} s): Lambda ends the invocation before an error is raised. Set the timeout of the "
                    f"function to {settings.timeout + 5:g} s."
                )
            left = "" if self._remaining_seconds is None else f", {self._remaining_seconds:.1f} s left"
            step.message = f"Python {sys.version_info.major}.{sys.version_info.minor}{left}"

    def _credentials(self, settings: Settings, transport: Transport) -> Aws | None:
        aws: Aws | None = None
        with self._step("credentials") as step:
            aws = connect(settings, transport)
            try:
                found = aws.credentials(settings.aws_region, Deadline(settings.timeout))
            except ConfigurationError as error:
                if _UNKNOWN_ROLE not in str(error):
                    raise
                raise _Failed(str(error).replace(_UNKNOWN_ROLE, self._execution_role(settings, transport))) from None
            kind = "Temporary" if found.session_token else "Long-lived"
            step.message = f"{kind} credentials{' of the assumed role' * bool(settings.assume_role_arn)}"
        return aws

    def _execution_role(self, settings: Settings, transport: Transport) -> str:
        """Return the ARN of the role that assumes ``CERBERUS_ASSUME_ROLE_ARN``, for the trust policy."""
        own = connect(Settings.from_env({**self._environ, "CERBERUS_ASSUME_ROLE_ARN": ""}), transport)
        try:
            return role_arn(own.caller_identity(settings.aws_region, Deadline(settings.timeout)))
        except (CerberusError, AwsRefusal):
            return _UNKNOWN_ROLE
        finally:
            own.close()

    def _identity(self, settings: Settings, aws: Aws | None) -> None:
        with self._step("identity", "credentials") as step:
            if step.skipped or aws is None:
                return
            try:
                own = role_arn(aws.caller_identity(settings.aws_region, Deadline(settings.timeout)))
            except AwsRefusal:
                raise
            except CerberusError as error:
                if not settings.iam_role_arns:
                    raise
                step.skipped = True  # the settings name the principal, so STS is not needed
                step.message = f"STS did not respond ({type(error).__name__}), but CERBERUS_IAM_ROLE_ARN names the role"
                return
            step.message = own
            named = settings.iam_role_arns
            if named and own.startswith("arn:") and not any(_is_same_role(own, name) for name in named):
                step.fix.append(f"CERBERUS_IAM_ROLE_ARN={own}")
                raise _Failed(
                    f"CERBERUS_IAM_ROLE_ARN is {', '.join(named)}, but the current role is {own}: it cannot decrypt a response "
                    f"for another role. Set the variable to the value below. If the role has a path, insert the path."
                )

    def _network(self, settings: Settings, transport: Transport) -> None:
        url = urlsplit(settings.url)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        proxy = proxy_for(settings, host, port) if url.scheme == "https" else None
        first = proxy_url(proxy) if proxy else url
        target, target_port = first.hostname or "", first.port or (80 if proxy else port)
        through = " (HTTPS_PROXY)" if proxy else ""
        variable = "HTTPS_PROXY" if proxy else "CERBERUS_URL"

        with self._step("dns") as step:
            try:
                found = sorted(
                    {str(each[4][0]) for each in socket.getaddrinfo(target, target_port, type=socket.SOCK_STREAM)}
                )
            except (OSError, UnicodeError) as error:
                raise _Failed(
                    f"Cannot resolve {target}{through} ({reason(error)}). Check the host in {variable}. In a VPC, check the "
                    f"DNS settings and private hosted zones."
                ) from None
            step.message = f"{target}{through} resolves to {', '.join(found)}"

        with self._step("tcp", "dns") as step:
            if not step.skipped:
                try:
                    socket.create_connection((target, target_port), settings.connect_timeout).close()
                except OSError as error:
                    why = "no response" if isinstance(error, TimeoutError) else reason(error)
                    raise _Failed(
                        f"Cannot connect to {target}:{target_port}{through} ({why}). Check the port in {variable}, the routes "
                        f"of the subnet (NAT gateway, peering), and the security groups of both sides."
                    ) from None
                step.message = f"Connected to {target}:{target_port}{through}"

        with self._step("tls", "dns tcp") as step:
            if url.scheme != "https":
                step.skipped, step.message = True, "CERBERUS_URL is plain http on a loopback host"
            elif not step.skipped:
                step.message = _handshake(host, port, transport, proxy, settings.connect_timeout)

        with self._step("http", "dns tcp tls") as step:
            if not step.skipped:
                # `/` redirects to the dashboard.
                step.message = _health(_get(settings, transport, "/healthcheck"), host) + _version(settings, transport)

    def _authentication(self, settings: Settings, transport: Transport, aws: Aws | None) -> None:
        """Authenticate with the code that functions use, without the shared cache."""
        needs = "credentials dns tcp tls http"
        environment = {name: value for name, value in self._environ.items() if name != "AWS_LAMBDA_MAX_CONCURRENCY"}
        auth: CerberusAuth | None = None
        failure: CerberusError | None = None
        try:
            auth = CerberusAuth(Settings.from_env({**environment, **_ISOLATED_SETTINGS}))
            auth.invalidate()
            if not (self._failed_steps & set(needs.split())) and not settings.token:
                auth.token()
        except CerberusError as error:  # in Lambda, CerberusAuth() loads the certificates
            failure = error
        authentication = auth.authentications[-1] if auth is not None and auth.authentications else None
        step_seconds: dict[str, float] = {}
        for each in authentication.steps if authentication else ():
            step_seconds[each.name] = step_seconds.get(each.name, 0) + each.seconds
        failed_step = ""
        if failure is not None:
            at = failure.attempts[-1].step if isinstance(failure, AuthenticationFailed) else failure.step
            failed_step = at if at in ("kms:Decrypt", "sts:AssumeRole") else "auth request"
        for name in ("sts:AssumeRole", "auth request", "kms:Decrypt"):
            if name == "sts:AssumeRole" and name not in step_seconds:
                continue
            with self._step(name, f"{needs} authentication") as step:
                step.seconds = step_seconds.get(name, 0)
                if name == failed_step and failure is not None:
                    self._failed_steps.add("authentication")
                    raise failure
                if settings.token:
                    step.skipped, step.message = True, "Not needed because CERBERUS_TOKEN is set"
                elif not step.skipped:
                    step.skipped = name not in step_seconds
                    step.message = _SUCCESS_MESSAGES[name] if name in step_seconds else "Not used by this method"
        try:
            self._token_use(auth)
            self._boxes(settings, transport, auth)
            self._sharing(settings, authentication.principal if authentication else "", aws)
        finally:
            if auth is not None:
                auth.close()

    def _token_use(self, auth: CerberusAuth | None) -> None:
        with self._step("token use", "credentials dns tcp tls http authentication") as step:
            if step.skipped or auth is None:
                return
            try:
                data = CerberusClient(auth).read(self._path or _PROBE_PATH)
                step.message = f"Read {self._path}: {len(data)} keys"
            except (AccessDenied, SecretNotFound):
                if self._path:
                    raise
                step.message = "Cerberus accepted the token"
            except TokenRefused:
                self._failed_steps.add("token")
                raise

    def _boxes(self, settings: Settings, transport: Transport, auth: CerberusAuth | None) -> None:
        """Show the boxes that the principal can read, because a missing box explains most failed reads."""
        with self._step("boxes", "credentials dns tcp tls http authentication token") as step:
            if step.skipped or auth is None:
                return
            response = _get(settings, transport, "/v2/safe-deposit-box", auth.token())
            boxes = _json(response)
            if response.status != 200 or not isinstance(boxes, list):
                raise _Failed(
                    f"Cerberus returned no list of safe deposit boxes ({response.status}). Check the log of Cerberus."
                )
            found = sorted(
                path.strip("/")
                for box in boxes
                if isinstance(box, dict) and isinstance(path := box.get("path"), str) and path.isprintable()
            )
            more = f" and {len(found) - _BOXES_SHOWN} more" if len(found) > _BOXES_SHOWN else ""
            step.message = f"This principal can read {', '.join(found[:_BOXES_SHOWN]) or 'no safe deposit box'}{more}"

    def _sharing(self, settings: Settings, principal: str, aws: Aws | None) -> None:
        principal_arn = principal or next(iter(settings.iam_role_arns), "") or settings.assume_role_arn
        with self._step("shared table", "credentials") as step:
            if not settings.shared_cache_table:
                step.skipped, step.message = True, "CERBERUS_SHARED_CACHE_TABLE is not set"
            elif not step.skipped and aws is not None:
                store = TableStore(
                    aws, settings.shared_cache_table, principal_arn, "doctor", Deadline(settings.timeout)
                )
                store.swap(store.get(), Item(expires=time.time() + 60))
                step.message = f"Read and wrote {settings.shared_cache_table}"
        with self._step("shared key", "credentials") as step:
            key = settings.shared_cache_key
            if not key:
                step.skipped, step.message = True, "CERBERUS_SHARED_CACHE_KEY is not set"
            elif not step.skipped and aws is not None:
                context = {"url": settings.url, "principal": principal_arn, "path": "doctor"}
                try:
                    sealed = aws.seal(b"doctor", key, context, Deadline(settings.timeout))
                    aws.unseal(sealed, key, context, Deadline(settings.timeout))
                except AwsRefusal as refusal:
                    if credentials_refused(refusal):
                        raise
                    raise _Failed(_key_advice(refusal, key, principal_arn)) from None
                step.message = "Encrypted and decrypted with the key"


def _key_advice(refusal: AwsRefusal, key: str, principal: str) -> str:
    if not refusal.code.startswith("AccessDenied"):
        return (
            f"{refusal.service} cannot use CERBERUS_SHARED_CACHE_KEY ({refusal.code}). Check that the key is enabled."
        )
    statement = {
        "Effect": "Allow",
        "Action": ["kms:Encrypt", "kms:Decrypt"],
        "Resource": key,
        "Condition": {"StringEquals": {"kms:EncryptionContext:principal": principal}},
    }
    return (
        f"{refusal.service} does not let the role use CERBERUS_SHARED_CACHE_KEY ({refusal.code}). Add to the role, unless the "
        f"policy of the key allows it: {json.dumps(statement)}"
    )


def _get(settings: Settings, transport: Transport, path: str, token: str = "") -> Response:
    """Send one GET request to Cerberus, and return the response whatever its status is."""
    headers = {**CLIENT_HEADERS, "X-Cerberus-Token": token} if token else CLIENT_HEADERS
    return transport.request(
        "Cerberus",
        "GET",
        settings.url + path,
        Deadline(settings.timeout),
        headers=lambda: headers,
        transient=lambda response: "",
    )


def _json(response: Response) -> Any:
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError):
        return None


def _health(response: Response, host: str) -> str:
    """Return a message about a response to ``/healthcheck``. Responses below 500 prove that the host is reachable.

    Raises
    ------
    BlockedAtEdge
        A firewall in front of Cerberus blocked the request.
    _Failed
        Cerberus is down, or the load balancer in front of it has no healthy instance.
    """
    fields = _json(response)
    status = fields.get("status") if isinstance(fields, dict) else None
    if status == "UP":
        return "Cerberus is up"
    if status == "DOWN":
        raise _Failed(
            f"Cerberus reports DOWN ({response.status}): its database is unavailable. Until it is available again, Cerberus "
            f"rejects all tokens and authentications. Tell the operator of Cerberus."
        )
    if isinstance(refusal := read_refusal(response, "/healthcheck"), BlockedAtEdge):
        raise refusal
    if response.status >= 500:
        raise _Failed(
            f"{host} returned a response that is not from Cerberus ({response.status}): a load balancer without a healthy "
            f"instance, or a proxy. Tell the operator of Cerberus."
        )
    return f"{host} responds ({response.status}), but without the health of Cerberus. Check the host in CERBERUS_URL"


def _version(settings: Settings, transport: Transport) -> str:
    """Return the version of Cerberus to append to a message. Empty if Cerberus does not return it."""
    try:
        fields = _json(_get(settings, transport, "/info"))
    except CerberusError:
        return ""
    build = fields.get("build") if isinstance(fields, dict) else None
    version = build.get("version") if isinstance(build, dict) else None
    return f", version {version}" if isinstance(version, str) and re.fullmatch(r"[\w.+-]{1,40}", version) else ""


def _handshake(host: str, port: int, transport: Transport, proxy: str | None, timeout: float) -> str:
    """Make a TLS handshake as functions do, through a proxy if there is one, and return a message about it.

    Raises
    ------
    ConfigurationError
        The certificate files of the settings are not valid.
    _Failed
        The handshake failed.
    """
    connection = Connection(host, port, Deadline(timeout), transport.tls_context(), proxy, Names())
    try:
        connection.connect()
        return f"{connection.tls_version()}, trusted certificate"
    except ssl.SSLCertVerificationError as error:
        advice = "Check the host in CERBERUS_URL."
        if "self-signed" in error.verify_message or "issuer" in error.verify_message:
            advice = (
                "For a private certificate authority, set AWS_CA_BUNDLE to a file with its certificate. The file replaces the "
                "public certificate authorities."
            )
        elif "expired" in error.verify_message:
            advice = "Ask the operator of Cerberus to renew it."
        raise _Failed(f"The certificate of {host} is not trusted ({error.verify_message}). {advice}") from None
    except ssl.SSLError as error:
        raise _Failed(
            f"{host}:{port} does not support TLS 1.2 or newer ({reason(error)}). Check the port in CERBERUS_URL."
        ) from None
    except (OSError, DeadlineExceeded) as error:
        why = "no response" if isinstance(error, TimeoutError | DeadlineExceeded) else reason(error)
        raise _Failed(
            f"The TLS handshake with {host}:{port} failed ({why}). Check HTTPS_PROXY, NO_PROXY and the firewalls."
        ) from None
    finally:
        connection.close()


def _is_same_role(own: str, named: str) -> bool:
    """Return whether a role ARN from STS, which has no path, is the same role as an ARN of the settings."""
    account, _, name = own.partition(":role/")
    named_account, _, named_path = role_arn(named).partition(":role/")
    return (account, name) == (named_account, named_path.rpartition("/")[2]) or own == named


def _extract_statements(text: str) -> tuple[str, list[str]]:
    """Return a text with references instead of its policy statements, and the statements, indented and without duplicates."""
    decoder = json.JSONDecoder()
    parts: list[str | int] = []  # text, or the index of a statement
    statements: list[str] = []
    position = 0
    while (start := text.find('{"Effect"', position)) >= 0:
        statement, end = decoder.raw_decode(text, start)
        formatted = json.dumps(statement, indent=2)
        if formatted not in statements:
            statements.append(formatted)
        parts += [text[position:start], statements.index(formatted)]
        position = end
    parts.append(text[position:])
    message = "".join(
        part if isinstance(part, str) else f"{_statement_title(part, len(statements))} below" for part in parts
    )
    return message, statements


def _statement_title(index: int, count: int) -> str:
    return "the policy statement" if count == 1 else f"policy statement {index + 1}"


def report(findings: list[Finding]) -> dict[str, Any]:
    """Return findings as JSON-compatible values.

    Parameters
    ----------
    findings : list of Finding
        The result of ``Doctor.examine``.

    Returns
    -------
    dict
        ``ok`` (bool), ``version`` (str) and ``findings``, a list of dicts with ``step``, ``status``, ``milliseconds``,
        ``message`` and ``fix``.
    """
    rows = [
        {
            "step": finding.step,
            "status": finding.status,
            "milliseconds": round(1000 * finding.seconds, 1),
            "message": finding.message,
            "fix": list(finding.fix),
        }
        for finding in findings
    ]
    return {"ok": all(each.status != FAILED for each in findings), "version": __version__, "findings": rows}


def format_finding(finding: Finding) -> str:
    """Return a finding as text, wrapped at 100 columns. Long names and the fixes are not wrapped.

    Parameters
    ----------
    finding : Finding
        One result of ``Doctor.examine``.

    Returns
    -------
    str
        One or more lines, without a final newline.
    """
    milliseconds = f"{1000 * finding.seconds:7.0f} ms" if finding.status != SKIPPED else ""
    prefix = f"{finding.status:8}{finding.step:15}{milliseconds:10}  "
    longest = max(map(len, finding.message.split()), default=0)
    indent = " " * (_MESSAGE_COLUMN if longest <= _WIDTH - _MESSAGE_COLUMN else _INDENT)
    lines = []
    for number, paragraph in enumerate(finding.message.splitlines() or [""]):
        lines += textwrap.wrap(
            paragraph,
            _WIDTH,
            initial_indent=indent if number else prefix,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [prefix]
    statements = [each for each in finding.fix if each.startswith("{")]
    for each in finding.fix:
        title = "Set this variable:"
        if each in statements:
            name = _statement_title(statements.index(each), len(statements))
            title = f"{name[0].upper()}{name[1:]} to add:"
        lines += [" " * _INDENT + title, *(" " * (_INDENT + 2) + row for row in each.splitlines())]
    return "\n".join(line.rstrip() for line in lines)
