"""Settings, read once from the environment and checked all together."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from .errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Self

# A principal as Cerberus takes it; partitions that it knows (contract page). A role's name and path: IAM's reference.
_PARTITIONS = ("aws", "aws-cn")
_PRINCIPAL = re.compile(
    r"arn:([a-z-]+):(?:iam::\d{12}:(?:(?:role|user)/[\x21-\x7e]{1,576}|root)|sts::\d{12}:assumed-role/[\w+=,.@-]+/[\w+=,.@-]+)"
)
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d{1,2}")
# These are compiled when they are first used: each takes a tenth of a millisecond, and few functions need them.
_LOOPBACK = r"(?a:127(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3})"  # any other goes to DNS
_MAX_SECONDS = 86_400

_TABLE = r"[A-Za-z0-9_.-]{3,255}"  # DynamoDB Developer Guide, "Naming rules"
_SEALING_KEY = r"(?a:arn:([a-z-]+):kms:[a-z0-9-]+:\d{12}:key/[\w-]+)"
_VARIABLES = frozenset(
    {
        "CERBERUS_ASSUME_ROLE_ARN",
        "CERBERUS_AUTH_METHOD",
        "CERBERUS_AWS_CLIENT",
        "CERBERUS_CONNECT_TIMEOUT",
        "CERBERUS_EXPIRY_MARGIN",
        "CERBERUS_FALLBACK_REGIONS",
        "CERBERUS_IAM_ROLE_ARN",
        "CERBERUS_KMS_ACCOUNT_ID",
        "CERBERUS_MAX_AGE",
        "CERBERUS_MAX_ATTEMPTS",
        "CERBERUS_PREFETCH",
        "CERBERUS_READ_TIMEOUT",
        "CERBERUS_REGION",
        "CERBERUS_RENEWAL",
        "CERBERUS_SHARED_CACHE_KEY",
        "CERBERUS_SHARED_CACHE_TABLE",
        "CERBERUS_STALE_IF_ERROR",
        "CERBERUS_TIMEOUT",
        "CERBERUS_TOKEN",
        "CERBERUS_URL",
    }
)
_ENDPOINT_SERVICES = ("kms", "sts", "lambda", "dynamodb")


class Settings:
    """Everything that steers an authentication. Immutable, comparable, hashable; the token does not show in its repr.

    Parameters
    ----------
    url
        Where Cerberus is: https, or http on a loopback host.
    auth_method
        ``kms``, ``sts``, or ``auto``: KMS, and STS where the service has KMS authentication switched off.
    iam_role_arns
        The principals to try, in order; empty to discover the execution role.
    assume_role_arn
        A role to assume first and authenticate as; empty for none.
    region, fallback_regions
        Where the response is encrypted and decrypted, and where else to try, in order.
    kms_account_id
        Twelve digits: refuse a response encrypted by a key of any other account.
    token
        Use this token and never authenticate.
    timeout, connect_timeout, read_timeout
        Seconds: for a whole ``token()``, and for one request.
    max_attempts
        How often one request may be sent.
    expiry_margin
        Seconds at the end of a lease in which its token is no longer handed out; at most a tenth of the lease.
    max_age
        Seconds for which a secret that was read is fresh; 0 to read every time.
    stale_if_error
        Seconds past ``max_age`` for which it is served while Cerberus is out of reach; 0 for never.
    prefetch
        ``init``: authenticate while the function initialises; paths separated by commas: also read these secrets; ``off``.
    shared_cache_table
        The DynamoDB table of the fleet's shared cache, in the function's own account and region; empty for none.
    shared_cache_key
        The ARN of the KMS key that seals what STS gives in clear; empty: only KMS responses are shared.
    max_concurrency
        Processes that Lambda forks in one environment, which then share; 1 for none.
    renewal
        ``extension``: renew in an internal Lambda extension; ``inline``.
    aws_client
        ``signed``, ``sdk`` or ``auto``.
    aws_region
        Where the function itself runs; ``region`` unless given.
    function_name
        The Lambda function, whose configuration knows its role; empty outside Lambda.
    endpoints
        URLs to call AWS services under, by service (``kms``, ``sts``, ``lambda``, ``dynamodb``), ``""`` for all.
    ca_bundles
        Files of certificate authorities to trust in place of the public ones.
    proxy, no_proxy
        The proxy for https, and the hosts to reach without it, by comma.

    Raises
    ------
    ConfigurationError
        Lists every problem found.
    """

    __slots__ = (
        "assume_role_arn",
        "auth_method",
        "aws_client",
        "aws_region",
        "ca_bundles",
        "connect_timeout",
        "endpoints",
        "expiry_margin",
        "fallback_regions",
        "function_name",
        "iam_role_arns",
        "kms_account_id",
        "max_age",
        "max_attempts",
        "max_concurrency",
        "no_proxy",
        "prefetch",
        "profile",
        "proxy",
        "read_timeout",
        "region",
        "renewal",
        "shared_cache_key",
        "shared_cache_table",
        "stale_if_error",
        "timeout",
        "token",
        "url",
    )

    url: str
    auth_method: str
    iam_role_arns: tuple[str, ...]
    assume_role_arn: str
    region: str
    fallback_regions: tuple[str, ...]
    kms_account_id: str
    token: str
    timeout: float
    connect_timeout: float
    read_timeout: float
    max_attempts: int
    expiry_margin: float
    max_age: float
    stale_if_error: float
    shared_cache_table: str
    shared_cache_key: str
    max_concurrency: int
    prefetch: str
    renewal: str
    aws_client: str
    aws_region: str
    function_name: str
    endpoints: tuple[tuple[str, str], ...]
    ca_bundles: tuple[str, ...]
    proxy: str
    no_proxy: str
    profile: str

    def __init__(
        self,
        *,
        url: str,
        auth_method: str = "auto",
        iam_role_arns: Iterable[str] = (),
        assume_role_arn: str = "",
        region: str = "",
        fallback_regions: Iterable[str] = (),
        kms_account_id: str = "",
        token: str = "",
        timeout: float = 10,
        connect_timeout: float = 2,
        read_timeout: float = 5,
        max_attempts: int = 3,
        expiry_margin: float = 60,
        max_age: float = 300,
        stale_if_error: float = 3600,
        shared_cache_table: str = "",
        shared_cache_key: str = "",
        max_concurrency: int = 1,
        prefetch: str = "off",
        renewal: str = "inline",
        aws_client: str = "auto",
        aws_region: str = "",
        function_name: str = "",
        endpoints: Mapping[str, str] | None = None,
        ca_bundles: Iterable[str] = (),
        proxy: str = "",
        no_proxy: str = "",
        profile: str = "",
    ) -> None:
        values: dict[str, object] = {
            "url": (url or "").rstrip("/"),
            "auth_method": auth_method,
            "iam_role_arns": _several(iam_role_arns),
            "assume_role_arn": assume_role_arn,
            "region": region or aws_region,
            "fallback_regions": _several(fallback_regions),
            "kms_account_id": kms_account_id,
            "token": token,
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
            "max_attempts": max_attempts,
            "expiry_margin": expiry_margin,
            "max_age": max_age,
            "stale_if_error": stale_if_error,
            "shared_cache_table": shared_cache_table,
            "shared_cache_key": shared_cache_key,
            "max_concurrency": max_concurrency,
            "prefetch": prefetch,
            "renewal": renewal,
            "aws_client": aws_client,
            "aws_region": aws_region or region,
            "function_name": function_name,
            "endpoints": tuple(sorted((endpoints or {}).items())),
            "ca_bundles": _several(ca_bundles),
            "proxy": proxy,
            "no_proxy": no_proxy,
            "profile": profile,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if found := self._problems():
            # An error reporter sends the locals of this frame.
            del url, token, proxy, endpoints, values, value
            raise ConfigurationError("; ".join(found))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, url: str | None = None) -> Self:
        """Read the variables of README's table, and AWS's own.

        Parameters
        ----------
        environ
            In place of the process's environment.
        url
            In place of ``CERBERUS_URL``.

        Raises
        ------
        ConfigurationError
            Names every problem at once.
        """
        env = os.environ if environ is None else environ
        values, problems = _read(env, url)
        del env, environ, url  # an error reporter sends the locals of this frame
        try:
            settings = cls(**values)
        except ConfigurationError as error:
            problems.append(str(error))
        else:
            if not problems:
                return settings
        finally:
            del values
        raise ConfigurationError("; ".join(problems))

    @property
    def prefetch_paths(self) -> tuple[str, ...]:
        """The secrets to read while the function initialises."""
        if self.prefetch.lower() in ("off", "init"):
            return ()
        return tuple(path for each in self.prefetch.split(",") if (path := each.strip()))

    @property
    def regions(self) -> tuple[str, ...]:
        """The region, and after it the fallback regions, each once."""
        return tuple(dict.fromkeys((self.region, *self.fallback_regions)))

    @property
    def shares(self) -> bool:
        """Whether tokens are shared with a fleet, or with the processes of one environment."""
        return bool(self.shared_cache_table) or self.max_concurrency > 1

    @property
    def principal(self) -> str:
        """Who authenticates, as far as the settings tell; empty where they do not."""
        return self.assume_role_arn or (self.iam_role_arns[0] if len(self.iam_role_arns) == 1 else "")

    def endpoint(self, service: str) -> str | None:
        """The URL to call an AWS service under, if one is set for it or for all."""
        endpoints = dict(self.endpoints)
        return endpoints.get(service) or endpoints.get("")

    def _problems(self) -> list[str]:
        found = [*_url_problems("CERBERUS_URL", self.url, required=True)]
        for service, url in self.endpoints:
            found += _url_problems(f"AWS_ENDPOINT_URL_{service.upper()}".rstrip("_"), url)
        if self.auth_method not in ("auto", "kms", "sts"):
            found.append(f"CERBERUS_AUTH_METHOD must be kms, sts or auto, not {self.auth_method[:40]!r}")
        if self.aws_client not in ("auto", "signed", "sdk"):
            found.append(f"CERBERUS_AWS_CLIENT must be signed, sdk or auto, not {self.aws_client[:40]!r}")
        for path in self.prefetch_paths:
            if "/" not in path.strip("/"):
                found.append(f"CERBERUS_PREFETCH must be init, off, or paths separated by commas, not {path[:40]!r}")
        if self.renewal not in ("inline", "extension"):
            found.append(f"CERBERUS_RENEWAL must be extension or inline, not {self.renewal[:40]!r}")
        home = partition(self.region)
        for name, arn in (
            *(("CERBERUS_IAM_ROLE_ARN", arn) for arn in self.iam_role_arns),
            *(("CERBERUS_ASSUME_ROLE_ARN", arn) for arn in filter(None, [self.assume_role_arn])),
        ):
            matched = _PRINCIPAL.fullmatch(arn)
            if matched is None or (name == "CERBERUS_ASSUME_ROLE_ARN" and ":role/" not in arn):
                found.append(f"{name} must be a role's ARN, arn:aws:iam::<account>:role/<name>, not {arn[:100]!r}")
            elif matched[1] not in _PARTITIONS:
                found.append(f"{name} is of partition {matched[1]}; Cerberus knows only aws and aws-cn")
            elif self.region and matched[1] != home:
                found.append(
                    f"{name} is of partition {matched[1]}, and {self.region} is of {home}: they share no KMS key"
                )
        if not self.region and not self.token:
            found.append("no region: set CERBERUS_REGION or AWS_REGION")
        for name, regions in (
            ("CERBERUS_REGION", (self.region, self.aws_region)),
            ("CERBERUS_FALLBACK_REGIONS", self.fallback_regions),
        ):
            for region in filter(None, dict.fromkeys(regions)):
                if not _REGION.fullmatch(region):
                    found.append(f"{name} must name regions such as us-west-2, not {region[:40]!r}")
                elif region.startswith(("us-gov-", "us-iso", "eu-iso", "eusc-")):
                    found.append(
                        f"{name}: {region} is of a partition that Cerberus does not know; it knows only aws and aws-cn"
                    )
                elif partition(region) != home:
                    found.append(
                        f"{name}: {region} is of partition {partition(region)}, and {self.region} is of {home}"
                    )
        if self.kms_account_id and not re.fullmatch(r"\d{12}", self.kms_account_id, re.ASCII):
            found.append(f"CERBERUS_KMS_ACCOUNT_ID must be twelve digits, not {self.kms_account_id[:40]!r}")
        found += self._sharing_problems(home)
        if not all("!" <= character <= "~" for character in self.token):
            found.append("CERBERUS_TOKEN has characters that no header may carry")
        for name in ("timeout", "connect_timeout", "read_timeout"):
            if not 0 < getattr(self, name) <= _MAX_SECONDS:
                found.append(
                    f"CERBERUS_{name.upper()} must be more than 0 and at most {_MAX_SECONDS} s, not {getattr(self, name)}"
                )
        for name in ("expiry_margin", "max_age", "stale_if_error"):
            if not 0 <= getattr(self, name) <= _MAX_SECONDS:
                found.append(f"CERBERUS_{name.upper()} must be from 0 to {_MAX_SECONDS} s, not {getattr(self, name)}")
        if not 1 <= self.max_attempts <= 10:
            found.append(f"CERBERUS_MAX_ATTEMPTS must be from 1 to 10, not {self.max_attempts}")
        for path in self.ca_bundles:
            if not os.path.exists(path):
                found.append(f"AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE names no file: {path}")
        if self.proxy and not _is_proxy(self.proxy):
            found.append("HTTPS_PROXY must be an http:// proxy: http://[user:password@]host:port, percent-encoded")
        return found

    def _sharing_problems(self, home: str) -> list[str]:
        table, key = self.shared_cache_table, self.shared_cache_key
        found = []
        if table and not re.fullmatch(_TABLE, table):
            found.append(f"CERBERUS_SHARED_CACHE_TABLE must be a DynamoDB table's name, not {table[:100]!r}")
        if table and not self.kms_account_id and self.auth_method != "sts":
            found.append(
                "CERBERUS_SHARED_CACHE_TABLE needs CERBERUS_KMS_ACCOUNT_ID, the account of Cerberus: without it nobody could "
                "tell a response that somebody else put into the table"
            )
        if key and not table:
            found.append("CERBERUS_SHARED_CACHE_KEY is of no use without CERBERUS_SHARED_CACHE_TABLE: remove it")
        if key and ((matched := re.fullmatch(_SEALING_KEY, key)) is None or (self.region and matched[1] != home)):
            found.append(
                f"CERBERUS_SHARED_CACHE_KEY must be the ARN of a KMS key in partition {home}, not {key[:100]!r}"
            )
        return found

    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Settings are immutable")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and other._fields() == self._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __reduce__(self) -> str:
        raise TypeError("Settings can hold a token and are not written anywhere: read them from the environment again")

    def __repr__(self) -> str:
        hidden = {name: "***" for name in ("token", "proxy") if getattr(self, name)}
        for name in ("url", "endpoints"):  # which may hold a password; then they are refused
            if set("@?#") & set(str(getattr(self, name))):
                hidden[name] = "***"
        return f"Settings({', '.join(f'{name}={hidden.get(name, getattr(self, name))!r}' for name in self.__slots__)})"


def _read(env: Mapping[str, str], url: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of ``Settings``, and what is wrong with the variables. Raises nothing: its frame has secrets."""
    problems: list[str] = []

    def text(*names: str, default: str = "") -> str:
        return next((value for name in names if (value := env.get(name, "").strip())), default)

    def several(name: str) -> tuple[str, ...]:
        return tuple(part for each in env.get(name, "").split(",") if (part := each.strip()))

    def number(name: str, default: float) -> float:
        given = text(name)
        try:
            return float(given) if given else default
        except ValueError:
            problems.append(f"{name} must be a number of seconds, not {given[:40]!r}")
            return default

    def whole(name: str, default: int) -> int:
        given = text(name)
        if given and not _is_number(given):
            problems.append(f"{name} must be a whole number, not {given[:40]!r}")
            return default
        return int(given) if given else default

    names = {
        "": "AWS_ENDPOINT_URL",
        **{service: f"AWS_ENDPOINT_URL_{service.upper()}" for service in _ENDPOINT_SERVICES},
    }
    processes = text("AWS_LAMBDA_MAX_CONCURRENCY")
    ignored = text("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").lower() == "true"
    values: dict[str, Any] = dict(
        url=text("CERBERUS_URL") if url is None else url,
        auth_method=text("CERBERUS_AUTH_METHOD", default="auto").lower(),
        iam_role_arns=several("CERBERUS_IAM_ROLE_ARN"),
        assume_role_arn=text("CERBERUS_ASSUME_ROLE_ARN"),
        region=text("CERBERUS_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
        fallback_regions=several("CERBERUS_FALLBACK_REGIONS"),
        kms_account_id=text("CERBERUS_KMS_ACCOUNT_ID"),
        token=text("CERBERUS_TOKEN"),
        timeout=number("CERBERUS_TIMEOUT", 10),
        connect_timeout=number("CERBERUS_CONNECT_TIMEOUT", 2),
        read_timeout=number("CERBERUS_READ_TIMEOUT", 5),
        max_attempts=whole("CERBERUS_MAX_ATTEMPTS", 3),
        expiry_margin=number("CERBERUS_EXPIRY_MARGIN", 60),
        max_age=number("CERBERUS_MAX_AGE", 300),
        stale_if_error=number("CERBERUS_STALE_IF_ERROR", 3600),
        shared_cache_table=text("CERBERUS_SHARED_CACHE_TABLE"),
        shared_cache_key=text("CERBERUS_SHARED_CACHE_KEY"),
        max_concurrency=int(processes) if _is_number(processes) else 1,
        prefetch=text("CERBERUS_PREFETCH", default="off"),
        renewal=text("CERBERUS_RENEWAL", default="inline").lower(),
        aws_client=text("CERBERUS_AWS_CLIENT", default="auto").lower(),
        aws_region=text("AWS_REGION", "AWS_DEFAULT_REGION", "CERBERUS_REGION"),
        function_name=text("AWS_LAMBDA_FUNCTION_NAME"),
        endpoints={} if ignored else {service: text(name) for service, name in names.items() if text(name)},
        ca_bundles=dict.fromkeys(path for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE") if (path := text(name))),
        # Of two spellings the lower-case one, as in urllib, requests and botocore.
        proxy=text("https_proxy", "HTTPS_PROXY"),
        no_proxy=text("no_proxy", "NO_PROXY"),
        profile=text("AWS_PROFILE"),
    )
    return values, problems


def unknown_variables(environ: Iterable[str]) -> dict[str, str]:
    """Return the names that begin with ``CERBERUS_`` and are no setting's, with the nearest name of a setting, or ""."""
    unknown = [name for name in environ if name.startswith("CERBERUS_") and name not in _VARIABLES]
    if not unknown:
        return {}
    from difflib import get_close_matches  # not where all names are right

    near = {name: get_close_matches(name, _VARIABLES, 1) for name in unknown}
    return {name: found[0] if found else "" for name, found in near.items()}


def partition(region: str) -> str:
    """The AWS partition of a region, of the two that Cerberus knows."""
    return "aws-cn" if region.startswith("cn-") else "aws"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, by its name or address."""
    host = host.lower()
    if not host.startswith("127."):
        return host in ("localhost", "::1")
    return re.fullmatch(_LOOPBACK, host) is not None


def _url_problems(name: str, url: str, required: bool = False) -> list[str]:
    if not url:
        return [f"{name} is not set: give it Cerberus' address, https://…"] if required else []
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return [f"{name} is not a URL"]
    if not re.fullmatch(r"[\x21-\x7e]+", url) or not host or parts.scheme not in ("https", "http"):
        return [f"{name} must be an https:// address with a host"]
    if required and parts.path.strip("/"):
        return [f"{name} must have no path: remove {parts.path[:60]!r}"]
    if parts.username is not None or parts.query or parts.fragment:
        return [f"{name} must have no user, query or fragment"]
    if parts.scheme == "http" and not is_loopback(host):
        return [f"{name} must be https: plain http is for a loopback host only, not {host}"]
    return []


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        return parts.scheme == "http" and bool(parts.hostname) and url.isascii() and (parts.port or 80) > 0
    except ValueError:
        return False


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _several(values: Iterable[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)
