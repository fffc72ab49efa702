"""The doctor: walks the way to a secret step by step, times each, and for the step that fails says why and what mends it.

``python -m cerberus_auth doctor`` runs it where it stands; ``functions/diagnose`` runs it as a function, with that
function's role and network. What it says holds no secret.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from ._version import __version__
from .auth import CerberusAuth
from .authentication.principal import role_arn
from .aws.calls import AwsRefusal, connect, credentials_refused
from .client import CerberusClient
from .deadline import Deadline
from .errors import AccessDenied, AuthenticationFailed, CerberusError, SecretNotFound
from .http.proxy import proxy_for, proxy_url, tunnel_headers
from .http.retry import reason
from .http.transport import Transport
from .settings import Settings
from .sharing.item import Item, StoreFailure
from .sharing.table import TableStore

if TYPE_CHECKING:
    from .aws.calls import Aws

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"

_PROBE = (
    "app/cerberus-auth-doctor/probe"  # nobody's: that it may not be read, or is not there, shows a token that is taken
)
_DONE = {
    "sts:AssumeRole": "the role is assumed",
    "auth request": "Cerberus knows the principal",
    "kms:Decrypt": "the answer is decrypted",
}
_NOT_SHARED = {"CERBERUS_SHARED_CACHE_TABLE": "", "CERBERUS_PREFETCH": "off", "CERBERUS_RENEWAL": "inline"}


@dataclass(frozen=True)
class Finding:
    """What became of a step.

    Attributes
    ----------
    status
        ``ok``, ``FAILED`` or ``skipped``.
    seconds
        That it took.
    said
        What was found, or why it failed.
    mend
        Policy statements as JSON, and settings as ``NAME=value``, to add as they stand.
    """

    step: str
    status: str
    seconds: float
    said: str
    mend: tuple[str, ...] = ()


@dataclass
class _Step:
    said: str = ""
    mend: list[str] = field(default_factory=list)
    skipped: bool = False
    seconds: float | None = None


class _Failed(Exception):
    """A step failed for a reason that no ``CerberusError`` tells."""


class Doctor:
    """Examines an environment. Takes as long as that environment's settings allow: some tens of seconds at most.

    Parameters
    ----------
    environ
        Settings; the process's by default. Credentials are always the process's.
    path
        A secret to read with the token; by default one that is not there is asked for.
    tell
        Called with each finding as soon as it is there.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        path: str = "",
        tell: Callable[[Finding], object] = lambda finding: None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._path = path
        self._tell = tell
        self._findings: list[Finding] = []
        self._failed: set[str] = set()

    def examine(self) -> list[Finding]:
        """The findings, in the order of the steps."""
        settings = self._settings()
        if settings is not None:
            transport = Transport(settings)
            aws = self._credentials(settings, transport)
            try:
                self._identity(settings, aws)
                self._network(settings, transport)
                self._authentication(settings, aws)
            finally:
                transport.close()
                if aws is not None:
                    aws.close()
        return self._findings

    @contextmanager
    def _step(self, name: str, needs: str = "") -> Iterator[_Step]:
        """Time a step and take down what becomes of it. One whose need has failed is to be skipped by ``step.skipped``."""
        step, began = _Step(), time.monotonic()
        status = OK
        if missing := [need for need in needs.split() if need in self._failed]:
            step.skipped, step.said = True, f"for want of {' and '.join(missing)}"
        try:
            yield step
        except CerberusError as error:
            status, step.said = FAILED, f"{type(error).__name__}: {error}"
        except StoreFailure as error:
            status, step.said = FAILED, str(error)
        except AwsRefusal as refusal:
            status = FAILED
            step.said = str(credentials_refused(refusal) or f"{refusal.service} refuses ({refusal.code})")
        except _Failed as failure:
            status, step.said = FAILED, str(failure)
        if status == FAILED:
            self._failed.add(name)
            step.mend += _statements(step.said)
        elif step.skipped:
            status = SKIPPED
        seconds = time.monotonic() - began if step.seconds is None else step.seconds
        finding = Finding(name, status, seconds, step.said, tuple(step.mend))
        self._findings.append(finding)
        self._tell(finding)

    def _settings(self) -> Settings | None:
        settings: Settings | None = None
        with self._step("settings") as step:
            settings = Settings.from_env(self._environ)
            who = ", ".join(settings.iam_role_arns) or settings.assume_role_arn or "a role to be discovered"
            step.said = f"{settings.url}, method {settings.auth_method}, as {who}, in {', '.join(settings.regions)}"
        return settings

    def _credentials(self, settings: Settings, transport: Transport) -> Aws | None:
        aws: Aws | None = None
        with self._step("credentials") as step:
            aws = connect(settings, transport)
            found = aws.credentials(settings.aws_region, Deadline(settings.timeout))
            kind = "temporary" if found.session_token else "long-lived"
            step.said = f"{kind} credentials{' of the role assumed' * bool(settings.assume_role_arn)}"
        return aws

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
                step.skipped = True  # nobody needs STS where the settings say who one is
                step.said = f"STS does not say who this is, and need not: {type(error).__name__}"
                return
            step.said = own
            named = settings.iam_role_arns
            if named and own.startswith("arn:") and not any(_is_same(own, name) for name in named):
                step.mend.append(f"CERBERUS_IAM_ROLE_ARN={own}")
                raise _Failed(
                    f"this runs as {own}, and CERBERUS_IAM_ROLE_ARN names {', '.join(named)}: Cerberus would encrypt for a "
                    f"role that this one cannot decrypt as (if the role has a path, put that into the ARN)"
                )

    def _network(self, settings: Settings, transport: Transport) -> None:
        url = urlsplit(settings.url)
        host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
        proxy = proxy_for(settings, host, port) if url.scheme == "https" else None
        first = proxy_url(proxy) if proxy else url
        target, target_port = first.hostname or "", first.port or (80 if proxy else port)
        through = " (HTTPS_PROXY)" if proxy else ""

        with self._step("dns") as step:
            try:
                found = sorted(
                    {str(each[4][0]) for each in socket.getaddrinfo(target, target_port, type=socket.SOCK_STREAM)}
                )
            except (OSError, UnicodeError) as error:
                raise _Failed(
                    f"{target}{through} has no address ({reason(error)}): see the name in "
                    f"{'HTTPS_PROXY' if proxy else 'CERBERUS_URL'}, and in a VPC its DNS settings and private hosted zones"
                ) from None
            step.said = f"{target}{through} is {', '.join(found)}"

        with self._step("tcp", "dns") as step:
            if not step.skipped:
                try:
                    socket.create_connection((target, target_port), settings.connect_timeout).close()
                except OSError as error:
                    why = "no answer" if isinstance(error, TimeoutError) else reason(error)
                    raise _Failed(
                        f"no connection to {target}:{target_port}{through} ({why}): see the port in the URL, and the way "
                        f"there: subnet's route (NAT, peering), security group's egress, the other side's ingress"
                    ) from None
                step.said = f"{target}:{target_port}{through} takes connections"

        with self._step("tls", "dns tcp") as step:
            if url.scheme != "https":
                step.skipped, step.said = True, "plain http, on this host"
            elif not step.skipped:
                step.said = _handshake(host, port, transport, first if proxy else None, settings.connect_timeout)

        with self._step("http", "dns tcp tls") as step:
            if not step.skipped:
                answer = transport.request(
                    "Cerberus", "GET", f"{settings.url}/", Deadline(settings.timeout), headers=lambda: {}
                )
                step.said = f"Cerberus' host answers ({answer.status})"

    def _authentication(self, settings: Settings, aws: Aws | None) -> None:
        """From here on by the package itself, as a function does it; without what a fleet shares."""
        needs = "credentials dns tcp tls http"
        environment = {name: value for name, value in self._environ.items() if name != "AWS_LAMBDA_MAX_CONCURRENCY"}
        auth = CerberusAuth(Settings.from_env({**environment, **_NOT_SHARED}))
        auth.invalidate()
        failure: CerberusError | None = None
        if not (self._failed & set(needs.split())) and not settings.token:
            try:
                auth.token()
            except CerberusError as error:
                failure = error
        done = auth.authentications[-1] if auth.authentications else None
        spent: dict[str, float] = {}
        for each in done.steps if done else ():
            spent[each.name] = spent.get(each.name, 0) + each.seconds
        broken = ""
        if failure is not None:
            at = failure.attempts[-1].step if isinstance(failure, AuthenticationFailed) else failure.step
            broken = at if at in ("kms:Decrypt", "sts:AssumeRole") else "auth request"
        for name in ("sts:AssumeRole", "auth request", "kms:Decrypt"):
            if name == "sts:AssumeRole" and name not in spent:
                continue
            with self._step(name, f"{needs} auth") as step:
                step.seconds = spent.get(name, 0)
                if name == broken and failure is not None:
                    self._failed.add("auth")
                    raise failure
                if settings.token:
                    step.skipped, step.said = True, "CERBERUS_TOKEN is set: nothing authenticates"
                elif not step.skipped:
                    step.skipped = name not in spent
                    step.said = _DONE[name] if name in spent else "not by this method"
        try:
            self._use(auth)
            self._table(settings, done.principal if done else "", aws)
        finally:
            auth.close()

    def _use(self, auth: CerberusAuth) -> None:
        with self._step("token use", "credentials dns tcp tls http auth") as step:
            if step.skipped:
                return
            try:
                data = CerberusClient(auth).read(self._path or _PROBE)
                step.said = f"read {self._path}: {len(data)} keys"
            except (AccessDenied, SecretNotFound):
                if self._path:
                    raise
                step.said = "Cerberus takes the token"

    def _table(self, settings: Settings, principal: str, aws: Aws | None) -> None:
        with self._step("shared table", "credentials") as step:
            if not settings.shared_cache_table:
                step.skipped, step.said = True, "CERBERUS_SHARED_CACHE_TABLE is not set"
            elif not step.skipped and aws is not None:
                owner = principal or next(iter(settings.iam_role_arns), "") or settings.assume_role_arn
                store = TableStore(aws, settings.shared_cache_table, owner, "doctor", Deadline(settings.timeout))
                store.swap(store.get(), Item("", 0, time.time() + 60))
                step.said = f"{settings.shared_cache_table} can be read and written"


def _handshake(host: str, port: int, transport: Transport, proxy: SplitResult | None, timeout: float) -> str:
    """Speak TLS with a host, and nothing else; tells of what was agreed.

    Raises
    ------
    ConfigurationError
        The authorities of the settings cannot be used.
    """
    context = transport.tls_context()
    if proxy is None:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPSConnection(
            proxy.hostname or "", proxy.port or 80, timeout=timeout, context=context
        )
        connection.set_tunnel(host, port, tunnel_headers(proxy))
    try:
        connection.connect()
        version = connection.sock.version() if isinstance(connection.sock, ssl.SSLSocket) else "TLS"
        return f"{version}, the certificate is trusted"
    except ssl.SSLCertVerificationError as error:
        advice = "see the host in CERBERUS_URL"
        if "self-signed" in error.verify_message or "issuer" in error.verify_message:
            advice = (
                "for a private authority, put its certificate into a file (with the public ones, which that file replaces) and "
                "set AWS_CA_BUNDLE to that file"
            )
        elif "expired" in error.verify_message:
            advice = "the operator of Cerberus has to renew it"
        raise _Failed(f"the certificate of {host} is not trusted ({error.verify_message}): {advice}") from None
    except ssl.SSLError as error:
        raise _Failed(
            f"{host}:{port} does not speak TLS 1.2 or newer ({reason(error)}): see the port in CERBERUS_URL"
        ) from None
    except OSError as error:
        refused = re.match(r"Tunnel connection failed: (\d{3})", str(error))
        why = f"the proxy answers {refused[1]}" if refused else reason(error)
        raise _Failed(f"no TLS with {host}:{port} ({why}): see HTTPS_PROXY, NO_PROXY and what stands between") from None
    finally:
        connection.close()


def _is_same(own: str, named: str) -> bool:
    """Whether a role as STS knows it, without its path, is one as the settings name it."""
    account, _, name = own.partition(":role/")
    named_account, _, named_path = role_arn(named).partition(":role/")
    return (account, name) == (named_account, named_path.rpartition("/")[2]) or own == named


def _statements(text: str) -> list[str]:
    """The policy statements in an error's text."""
    found = []
    for match in re.finditer(r'\{"Effect"', text):
        statement, _ = json.JSONDecoder().raw_decode(text, match.start())
        if (written := json.dumps(statement, indent=2)) not in found:
            found.append(written)
    return found


def report(findings: list[Finding]) -> dict[str, Any]:
    """For machines: ``{"ok": bool, "version": str, "findings": [{"step", "status", "milliseconds", "said", "mend"}]}``."""
    rows = []
    for finding in findings:
        fields = asdict(finding)
        fields["milliseconds"] = round(1000 * fields.pop("seconds"), 1)
        rows.append(fields)
    return {"ok": all(each.status != FAILED for each in findings), "version": __version__, "findings": rows}


def line(finding: Finding) -> str:
    """For people: a line, and below it what mends the step."""
    taken = f"{1000 * finding.seconds:7.0f} ms" if finding.status != SKIPPED else " " * 10
    text = f"{finding.status:8}{finding.step:15}{taken}  {finding.said}"
    for each in finding.mend:
        text += "\n" + "\n".join(f"{'':10}{row}" for row in ["add:", *(f"  {row}" for row in each.splitlines())])
    return text
