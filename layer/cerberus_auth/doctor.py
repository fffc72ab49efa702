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
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

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
    SecretNotFound,
    TokenRefused,
)
from .http.proxy import proxy_for, proxy_url, tunnel_headers
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

_PROBE = (
    "app/cerberus-auth-doctor/probe"  # nobody's: that it may not be read, or is not there, shows a token that is taken
)
_DONE = {
    "sts:AssumeRole": "the role is assumed",
    "auth request": "Cerberus knows the principal",
    "kms:Decrypt": "the answer is decrypted",
}
_BOXES_SHOWN = 20
_NOT_SHARED = {
    "CERBERUS_SHARED_CACHE_TABLE": "",
    "CERBERUS_SHARED_CACHE_KEY": "",
    "CERBERUS_PREFETCH": "off",
    "CERBERUS_RENEWAL": "inline",
}
_UNKNOWN_ROLE = "<execution role>"  # in the advice of aws.temporary
_LAYERS = "/opt/python"  # where Lambda unpacks them


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
    context
        The handler's, where a function runs this: its timeout is checked.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        path: str = "",
        tell: Callable[[Finding], object] = lambda finding: None,
        context: LambdaContext | None = None,
    ) -> None:
        self._left = None if context is None else context.get_remaining_time_in_millis() / 1000
        self._environ = os.environ if environ is None else environ
        self._path = path
        self._tell = tell
        self._findings: list[Finding] = []
        self._failed: set[str] = set()

    def examine(self) -> list[Finding]:
        """The findings, in the order of the steps."""
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

    def _runtime(self, settings: Settings) -> None:
        with self._step("runtime") as step:
            if "AWS_LAMBDA_FUNCTION_NAME" not in self._environ:
                step.skipped, step.said = True, "this is not a Lambda function"
                return
            if os.path.isdir(_LAYERS) and _LAYERS not in sys.path:
                hiding = self._environ.get("PYTHONPATH", "")
                step.mend.append(":".join(filter(None, [f"PYTHONPATH={_LAYERS}", hiding])))
                raise _Failed(
                    f"PYTHONPATH hides {_LAYERS}: functions with it do not find the layer. Remove it, or add that"
                )
            if self._left is not None and self._left < settings.timeout:
                raise _Failed(
                    f"{self._left:.1f} s are left of the function's timeout, less than CERBERUS_TIMEOUT ({settings.timeout:g} "
                    f"s): Lambda ends an invocation before an error is raised. Set Timeout to {settings.timeout + 5:g} s"
                )
            left = "" if self._left is None else f", {self._left:.1f} s are left"
            step.said = f"Python {sys.version_info.major}.{sys.version_info.minor}{left}"

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
            kind = "temporary" if found.session_token else "long-lived"
            step.said = f"{kind} credentials{' of the role assumed' * bool(settings.assume_role_arn)}"
        return aws

    def _execution_role(self, settings: Settings, transport: Transport) -> str:
        """The role that assumes ``CERBERUS_ASSUME_ROLE_ARN``, for the policy of that one."""
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
                # Not `/`, which redirects to the dashboard.
                step.said = _health(_get(settings, transport, "/healthcheck"), host) + _version(settings, transport)

    def _authentication(self, settings: Settings, transport: Transport, aws: Aws | None) -> None:
        """From here on by the package itself, as a function does it; without what a fleet shares."""
        needs = "credentials dns tcp tls http"
        environment = {name: value for name, value in self._environ.items() if name != "AWS_LAMBDA_MAX_CONCURRENCY"}
        auth: CerberusAuth | None = None
        failure: CerberusError | None = None
        try:
            auth = CerberusAuth(Settings.from_env({**environment, **_NOT_SHARED}))
            auth.invalidate()
            if not (self._failed & set(needs.split())) and not settings.token:
                auth.token()
        except CerberusError as error:  # of making it too: in Lambda it loads the certificates at once
            failure = error
        done = auth.authentications[-1] if auth is not None and auth.authentications else None
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
            self._boxes(settings, transport, auth)
            self._sharing(settings, done.principal if done else "", aws)
        finally:
            if auth is not None:
                auth.close()

    def _use(self, auth: CerberusAuth | None) -> None:
        with self._step("token use", "credentials dns tcp tls http auth") as step:
            if step.skipped or auth is None:
                return
            try:
                data = CerberusClient(auth).read(self._path or _PROBE)
                step.said = f"read {self._path}: {len(data)} keys"
            except (AccessDenied, SecretNotFound):
                if self._path:
                    raise
                step.said = "Cerberus takes the token"
            except TokenRefused:
                self._failed.add("token")
                raise

    def _boxes(self, settings: Settings, transport: Transport, auth: CerberusAuth | None) -> None:
        """Show what this principal may read, which explains most reads that fail."""
        with self._step("boxes", "credentials dns tcp tls http auth token") as step:
            if step.skipped or auth is None:
                return
            response = _get(settings, transport, "/v2/safe-deposit-box", auth.token())
            boxes = _json(response)
            if response.status != 200 or not isinstance(boxes, list):
                raise _Failed(
                    f"Cerberus returned {response.status} for the list of safe deposit boxes. Check its log for the reason."
                )
            found = sorted(
                path.strip("/")
                for box in boxes
                if isinstance(box, dict) and isinstance(path := box.get("path"), str) and path.isprintable()
            )
            more = f" and {len(found) - _BOXES_SHOWN} more" if len(found) > _BOXES_SHOWN else ""
            step.said = f"this principal can read {', '.join(found[:_BOXES_SHOWN]) or 'no safe deposit box'}{more}"

    def _sharing(self, settings: Settings, principal: str, aws: Aws | None) -> None:
        owner = principal or next(iter(settings.iam_role_arns), "") or settings.assume_role_arn
        with self._step("shared table", "credentials") as step:
            if not settings.shared_cache_table:
                step.skipped, step.said = True, "CERBERUS_SHARED_CACHE_TABLE is not set"
            elif not step.skipped and aws is not None:
                store = TableStore(aws, settings.shared_cache_table, owner, "doctor", Deadline(settings.timeout))
                store.swap(store.get(), Item(expires=time.time() + 60))
                step.said = f"{settings.shared_cache_table} can be read and written"
        with self._step("shared key", "credentials") as step:
            key = settings.shared_cache_key
            if not key:
                step.skipped, step.said = True, "CERBERUS_SHARED_CACHE_KEY is not set"
            elif not step.skipped and aws is not None:
                context = {"url": settings.url, "principal": owner, "path": "doctor"}
                try:
                    sealed = aws.seal(b"doctor", key, context, Deadline(settings.timeout))
                    aws.unseal(sealed, key, context, Deadline(settings.timeout))
                except AwsRefusal as refusal:
                    if credentials_refused(refusal):
                        raise
                    raise _Failed(_sealing_advice(refusal, key, owner)) from None
                step.said = "it seals and opens"


def _sealing_advice(refusal: AwsRefusal, key: str, principal: str) -> str:
    if not refusal.code.startswith("AccessDenied"):
        return f"{refusal.service} cannot use CERBERUS_SHARED_CACHE_KEY ({refusal.code}). Check that the key is enabled"
    statement = {
        "Effect": "Allow",
        "Action": ["kms:Encrypt", "kms:Decrypt"],
        "Resource": key,
        "Condition": {"StringEquals": {"kms:EncryptionContext:principal": principal}},
    }
    return (
        f"{refusal.service} refuses ({refusal.code}). Add to the function's role, unless the key's own policy allows it: "
        f"{json.dumps(statement)}"
    )


def _get(settings: Settings, transport: Transport, path: str, token: str = "") -> Response:
    """Send one GET request to Cerberus, and return the answer whatever its status is."""
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
    """Tell what an answer to ``/healthcheck`` says. Any answer proves that the host is there.

    Raises
    ------
    BlockedAtEdge
        A firewall in front of it blocks the request.
    _Failed
        Cerberus is down, or what is in front of it has no Cerberus to pass the request to.
    """
    fields = _json(response)
    status = fields.get("status") if isinstance(fields, dict) else None
    if status == "UP":
        return "Cerberus is up"
    if status == "DOWN":
        raise _Failed(
            f"Cerberus reports DOWN ({response.status}): its database is unavailable. Until it is back, Cerberus rejects "
            f"every token and every authentication. Tell the operator of Cerberus."
        )
    if isinstance(refusal := read_refusal(response, "/healthcheck"), BlockedAtEdge):
        raise refusal
    if response.status >= 500:
        raise _Failed(
            f"{host} returned {response.status}, not in the format of Cerberus: a load balancer without a healthy "
            f"instance, or a proxy. Tell the operator of Cerberus."
        )
    return f"{host} answers ({response.status}), but not with the health of a Cerberus: check the host in CERBERUS_URL"


def _version(settings: Settings, transport: Transport) -> str:
    """The version of the service, for the end of a sentence; empty where it does not say."""
    try:
        fields = _json(_get(settings, transport, "/info"))
    except CerberusError:
        return ""
    build = fields.get("build") if isinstance(fields, dict) else None
    version = build.get("version") if isinstance(build, dict) else None
    return f", version {version}" if isinstance(version, str) and re.fullmatch(r"[\w.+-]{1,40}", version) else ""


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
    connection.set_debuglevel(0)  # whoever sets that of http.client's class has the proxy's password printed
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
