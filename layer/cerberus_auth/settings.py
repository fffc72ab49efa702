"""The settings, read from environment variables and validated."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from .errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Self

# The principals and partitions that Cerberus accepts. IAM limits the characters of a role's name and path.
_PARTITIONS = ("aws", "aws-cn")
_PRINCIPAL = re.compile(
    r"arn:([a-z-]+):(?:iam::\d{12}:(?:(?:role|user)/[\x21-\x7e]{1,576}|root)|sts::\d{12}:assumed-role/[\w+=,.@-]+/[\w+=,.@-]+)"
)
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d{1,2}")
# Compiled at first use: each takes 0.1 ms, and few functions need them.
_LOOPBACK = r"(?a:127(\.(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)){3})"  # other spellings go to DNS
MAX_SECONDS = 86_400  # of a setting, and of a caller's timeout

_TABLE_NAME = r"[A-Za-z0-9_.-]{3,255}"  # DynamoDB Developer Guide, "Naming rules"
_KEY_ARN = r"(?a:arn:([a-z-]+):kms:[a-z0-9-]+:\d{12}:key/[\w-]+)"
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
    """The settings of this package. Immutable, comparable and hashable. The repr masks the token and the proxy.

    Use ``Settings.from_env()`` to read them from the environment.

    Parameters
    ----------
    url : str
        The URL of Cerberus: https, or http on a loopback host.
    auth_method : str
        ``kms``, ``sts`` or ``auto``. ``auto`` uses KMS, and STS where KMS authentication is not possible.
    iam_role_arns : iterable of str
        The ARNs of the principals to try, in order. Empty: discover the execution role.
    assume_role_arn : str
        The ARN of a role to assume and authenticate as. Empty: none.
    region : str
        The AWS region in which Cerberus encrypts the auth response and KMS decrypts it.
    fallback_regions : iterable of str
        The regions to try next, in order.
    kms_account_id : str
        The AWS account of Cerberus, 12 digits. A response that a key of another account encrypted is rejected.
    token : str
        A Cerberus token to use. With one, the package never authenticates.
    timeout : float
        Seconds for a whole call, such as ``token()``.
    connect_timeout, read_timeout : float
        Seconds to connect, and to wait for data, for one request.
    max_attempts : int
        How many times one request is sent at most, 1 to 10.
    expiry_margin : float
        Seconds before the end of a token's lease in which the token is not used. A tenth of the lease at most.
    max_age : float
        Seconds for which a secret is fresh. 0: read it from Cerberus every time.
    stale_if_error : float
        Seconds after ``max_age`` in which a secret can be served while Cerberus is out of reach. 0: never.
    shared_cache_table : str
        The name of the DynamoDB table that the containers of a role share, in the function's account and region. Empty: none.
    shared_cache_key : str
        The ARN of the KMS key that encrypts STS tokens and secrets in the table. Empty: only KMS responses are shared.
    max_concurrency : int
        The number of processes that Lambda starts in one environment. More than 1: the processes share a file.
    prefetch : str
        ``off``, ``init`` (authenticate during initialization), or secret paths separated by commas (read these too).
    renewal : str
        ``inline``, or ``extension`` to renew tokens and secrets in an internal Lambda extension.
    aws_client : str
        ``signed``, ``sdk`` or ``auto``: how AWS is called.
    aws_region : str
        The AWS region of the function. ``region`` by default.
    function_name : str
        The name of the Lambda function. Empty outside Lambda.
    endpoints : mapping of str to str, optional
        Endpoint URLs by AWS service: ``kms``, ``sts``, ``lambda``, ``dynamodb``, or ``""`` for all services.
    ca_bundles : iterable of str
        Paths of certificate files to trust instead of the public certificate authorities.
    proxy : str
        The URL of the proxy for https.
    no_proxy : str
        The hosts to reach without the proxy, separated by commas.
    profile : str
        The name of the AWS profile. Empty: none.

    Raises
    ------
    ConfigurationError
        At least one setting is not valid. The text lists all problems.

    Examples
    --------
    >>> settings = Settings(url="https://cerberus.example.com", region="us-west-2")
    >>> settings.timeout
    10
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
            "iam_role_arns": _as_tuple(iam_role_arns),
            "assume_role_arn": assume_role_arn,
            "region": region or aws_region,
            "fallback_regions": _as_tuple(fallback_regions),
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
            "ca_bundles": _as_tuple(ca_bundles),
            "proxy": proxy,
            "no_proxy": no_proxy,
            "profile": profile,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if problems := self._problems():
            # Error reporters send the locals of this frame.
            del url, token, proxy, endpoints, values, value
            raise ConfigurationError(" ".join(problems))

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, url: str | None = None) -> Self:
        """Read the settings from the ``CERBERUS_`` variables and those of AWS.

        Parameters
        ----------
        environ : mapping of str to str, optional
            The variables. ``os.environ`` by default.
        url : str, optional
            Used instead of ``CERBERUS_URL``.

        Returns
        -------
        Settings

        Raises
        ------
        ConfigurationError
            At least one variable is missing or not valid. The text lists all problems.
        """
        env = os.environ if environ is None else environ
        values, problems = _read_environment(env, url)
        del env, environ, url  # error reporters send the locals of this frame
        try:
            settings = cls(**values)
        except ConfigurationError as error:
            problems.append(str(error))
        else:
            if not problems:
                return settings
        finally:
            del values
        raise ConfigurationError(" ".join(problems))

    @property
    def prefetch_paths(self) -> tuple[str, ...]:
        """The paths of the secrets to read during initialization."""
        if self.prefetch.lower() in ("off", "init"):
            return ()
        return tuple(path for each in self.prefetch.split(",") if (path := each.strip()))

    @property
    def regions(self) -> tuple[str, ...]:
        """The region and the fallback regions, in order, without duplicates."""
        return tuple(dict.fromkeys((self.region, *self.fallback_regions)))

    @property
    def shares(self) -> bool:
        """Whether other containers, or other processes of this environment, use the same tokens."""
        return bool(self.shared_cache_table) or self.max_concurrency > 1

    @property
    def principal(self) -> str:
        """The ARN of the principal that authenticates. Empty if the settings do not name exactly one."""
        return self.assume_role_arn or (self.iam_role_arns[0] if len(self.iam_role_arns) == 1 else "")

    def endpoint(self, service: str) -> str | None:
        """Return the endpoint URL that is set for an AWS service, or ``None``."""
        endpoints = dict(self.endpoints)
        return endpoints.get(service) or endpoints.get("")

    def _problems(self) -> list[str]:
        problems = [*_url_problems("CERBERUS_URL", self.url, required=True)]
        for service, url in self.endpoints:
            problems += _url_problems(f"AWS_ENDPOINT_URL_{service.upper()}".rstrip("_"), url)
        if self.auth_method not in ("auto", "kms", "sts"):
            problems.append(f"CERBERUS_AUTH_METHOD must be kms, sts or auto, not {self.auth_method[:40]!r}.")
        if self.aws_client not in ("auto", "signed", "sdk"):
            problems.append(f"CERBERUS_AWS_CLIENT must be signed, sdk or auto, not {self.aws_client[:40]!r}.")
        for path in self.prefetch_paths:
            if "/" not in path.strip("/"):
                problems.append(
                    f"CERBERUS_PREFETCH must be init, off, or secret paths separated by commas, not {path[:40]!r}."
                )
        if self.renewal not in ("inline", "extension"):
            problems.append(f"CERBERUS_RENEWAL must be extension or inline, not {self.renewal[:40]!r}.")
        home = partition(self.region)
        for name, arn in (
            *(("CERBERUS_IAM_ROLE_ARN", arn) for arn in self.iam_role_arns),
            *(("CERBERUS_ASSUME_ROLE_ARN", arn) for arn in filter(None, [self.assume_role_arn])),
        ):
            matched = _PRINCIPAL.fullmatch(arn)
            if matched is None or (name == "CERBERUS_ASSUME_ROLE_ARN" and ":role/" not in arn):
                is_of_sam = name == "CERBERUS_IAM_ROLE_ARN" and (":lambda:" in arn or ":" not in arn)
                problems.append(
                    f"{name} must be a role ARN, arn:aws:iam::<account>:role/<name>, not {arn[:100]!r}."
                    + " sam local does not resolve !GetAtt and !Ref of a role. Run CERBERUS_IAM_ROLE_ARN= sam local invoke."
                    * is_of_sam
                )
            elif matched[1] not in _PARTITIONS:
                problems.append(f"{name} is in partition {matched[1]}. Cerberus supports only aws and aws-cn.")
            elif self.region and matched[1] != home:
                problems.append(
                    f"{name} is in partition {matched[1]}, but {self.region} is in {home}. Use one partition."
                )
        if not self.region and not self.token:
            problems.append("The AWS region is not set. Set CERBERUS_REGION or AWS_REGION.")
        for name, regions in (
            ("CERBERUS_REGION", (self.region, self.aws_region)),
            ("CERBERUS_FALLBACK_REGIONS", self.fallback_regions),
        ):
            for region in filter(None, dict.fromkeys(regions)):
                if not _REGION.fullmatch(region):
                    problems.append(f"{name} must name a region such as us-west-2, not {region[:40]!r}.")
                elif region.startswith(("us-gov-", "us-iso", "eu-iso", "eusc-")):
                    problems.append(
                        f"{name}: {region} is in a partition that Cerberus does not support. Use a region of aws or aws-cn."
                    )
                elif partition(region) != home:
                    problems.append(
                        f"{name}: {region} is in partition {partition(region)}, but {self.region} is in {home}. "
                        f"Use one partition."
                    )
        if self.kms_account_id and not re.fullmatch(r"\d{12}", self.kms_account_id, re.ASCII):
            problems.append(
                f"CERBERUS_KMS_ACCOUNT_ID must be an AWS account ID of 12 digits, not {self.kms_account_id[:40]!r}."
            )
        problems += self._sharing_problems(home)
        if not all("!" <= character <= "~" for character in self.token):
            problems.append(
                "CERBERUS_TOKEN contains characters that an HTTP header cannot carry. Copy the token again."
            )
        for name in ("timeout", "connect_timeout", "read_timeout"):
            if not 0 < getattr(self, name) <= MAX_SECONDS:
                problems.append(
                    f"CERBERUS_{name.upper()} must be more than 0 and at most {MAX_SECONDS} s, not {getattr(self, name)}."
                )
        for name in ("expiry_margin", "max_age", "stale_if_error"):
            if not 0 <= getattr(self, name) <= MAX_SECONDS:
                problems.append(
                    f"CERBERUS_{name.upper()} must be from 0 to {MAX_SECONDS} s, not {getattr(self, name)}."
                )
        if not 1 <= self.max_attempts <= 10:
            problems.append(f"CERBERUS_MAX_ATTEMPTS must be from 1 to 10, not {self.max_attempts}.")
        for path in self.ca_bundles:
            if not os.path.exists(path):
                problems.append(
                    f"AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE: {path} does not exist. Set it to a certificate file."
                )
        if self.proxy and not _is_proxy_url(self.proxy):
            problems.append("HTTPS_PROXY must be an http:// URL: http://[user:password@]host:port, percent-encoded.")
        return problems

    def _sharing_problems(self, home: str) -> list[str]:
        table, key = self.shared_cache_table, self.shared_cache_key
        problems = []
        if table and not re.fullmatch(_TABLE_NAME, table):
            problems.append(f"CERBERUS_SHARED_CACHE_TABLE must be the name of a DynamoDB table, not {table[:100]!r}.")
        if table and not self.kms_account_id and self.auth_method != "sts":
            problems.append(
                "CERBERUS_SHARED_CACHE_TABLE requires CERBERUS_KMS_ACCOUNT_ID. Set it to the AWS account of Cerberus, so that "
                "the function can reject forged responses in the table."
            )
        if key and not table:
            problems.append(
                "CERBERUS_SHARED_CACHE_KEY requires CERBERUS_SHARED_CACHE_TABLE. Set the table or remove the key."
            )
        if key and ((matched := re.fullmatch(_KEY_ARN, key)) is None or (self.region and matched[1] != home)):
            problems.append(
                f"CERBERUS_SHARED_CACHE_KEY must be the ARN of a KMS key in partition {home}, not {key[:100]!r}."
            )
        return problems

    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Settings are immutable")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and other._fields() == self._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __reduce__(self) -> str:
        raise TypeError("Settings cannot be pickled because they can hold a token. Use Settings.from_env() instead.")

    def __repr__(self) -> str:
        hidden = {name: "***" for name in ("token", "proxy") if getattr(self, name)}
        for name in ("url", "endpoints"):  # an invalid URL can hold a password
            if set("@?#") & set(str(getattr(self, name))):
                hidden[name] = "***"
        return f"Settings({', '.join(f'{name}={hidden.get(name, getattr(self, name))!r}' for name in self.__slots__)})"


def _read_environment(env: Mapping[str, str], url: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of ``Settings``, and the problems. Never raise: the locals of this frame hold secrets."""
    problems: list[str] = []

    def text(*names: str, default: str = "") -> str:
        return next((value for name in names if (value := env.get(name, "").strip())), default)

    def values_of(name: str) -> tuple[str, ...]:
        return tuple(part for each in env.get(name, "").split(",") if (part := each.strip()))

    def number(name: str, default: float) -> float:
        given = text(name)
        try:
            return float(given) if given else default
        except ValueError:
            problems.append(f"{name} must be a number of seconds, not {given[:40]!r}.")
            return default

    def integer(name: str, default: int) -> int:
        given = text(name)
        if given and not _is_integer(given):
            problems.append(f"{name} must be an integer, not {given[:40]!r}.")
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
        iam_role_arns=values_of("CERBERUS_IAM_ROLE_ARN"),
        assume_role_arn=text("CERBERUS_ASSUME_ROLE_ARN"),
        region=text("CERBERUS_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
        fallback_regions=values_of("CERBERUS_FALLBACK_REGIONS"),
        kms_account_id=text("CERBERUS_KMS_ACCOUNT_ID"),
        token=text("CERBERUS_TOKEN"),
        timeout=number("CERBERUS_TIMEOUT", 10),
        connect_timeout=number("CERBERUS_CONNECT_TIMEOUT", 2),
        read_timeout=number("CERBERUS_READ_TIMEOUT", 5),
        max_attempts=integer("CERBERUS_MAX_ATTEMPTS", 3),
        expiry_margin=number("CERBERUS_EXPIRY_MARGIN", 60),
        max_age=number("CERBERUS_MAX_AGE", 300),
        stale_if_error=number("CERBERUS_STALE_IF_ERROR", 3600),
        shared_cache_table=text("CERBERUS_SHARED_CACHE_TABLE"),
        shared_cache_key=text("CERBERUS_SHARED_CACHE_KEY"),
        max_concurrency=int(processes) if _is_integer(processes) else 1,
        prefetch=text("CERBERUS_PREFETCH", default="off"),
        renewal=text("CERBERUS_RENEWAL", default="inline").lower(),
        aws_client=text("CERBERUS_AWS_CLIENT", default="auto").lower(),
        aws_region=text("AWS_REGION", "AWS_DEFAULT_REGION", "CERBERUS_REGION"),
        function_name=text("AWS_LAMBDA_FUNCTION_NAME"),
        endpoints={} if ignored else {service: text(name) for service, name in names.items() if text(name)},
        ca_bundles=dict.fromkeys(path for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE") if (path := text(name))),
        # The lower-case spelling has priority, as in urllib, requests and botocore.
        proxy=text("https_proxy", "HTTPS_PROXY"),
        no_proxy=text("no_proxy", "NO_PROXY"),
        profile=text("AWS_PROFILE"),
    )
    return values, problems


def unknown_variables(environ: Iterable[str]) -> dict[str, str]:
    """Return the ``CERBERUS_`` variables that are not settings.

    Parameters
    ----------
    environ : iterable of str
        The names of all variables.

    Returns
    -------
    dict of str to str
        For each unknown variable the most similar name of a setting, or ``""`` if none is similar.
    """
    unknown = [name for name in environ if name.startswith("CERBERUS_") and name not in _VARIABLES]
    if not unknown:
        return {}
    from difflib import get_close_matches  # imported only for a wrong name

    near = {name: get_close_matches(name, _VARIABLES, 1) for name in unknown}
    return {name: found[0] if found else "" for name, found in near.items()}


def partition(region: str) -> str:
    """Return the AWS partition of a region, ``aws`` or ``aws-cn``."""
    return "aws-cn" if region.startswith("cn-") else "aws"


def is_loopback(host: str) -> bool:
    """Return whether a host name or IP address is a loopback address."""
    host = host.lower()
    if not host.startswith("127."):
        return host in ("localhost", "::1")
    return re.fullmatch(_LOOPBACK, host) is not None


def _url_problems(name: str, url: str, required: bool = False) -> list[str]:
    if not url:
        return [f"{name} is not set. Set it to the https:// URL of Cerberus."] if required else []
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return [f"{name} is not a valid URL. Set it to an https:// URL."]
    if not re.fullmatch(r"[\x21-\x7e]+", url) or not host or parts.scheme not in ("https", "http"):
        return [f"{name} must be an https:// URL with a host."]
    if required and parts.path.strip("/"):
        return [f"{name} must not have a path. Remove {parts.path[:60]!r}."]
    if parts.username is not None or parts.query or parts.fragment:
        return [f"{name} must not have a user, query or fragment."]
    if parts.scheme == "http" and not is_loopback(host):
        return [f"{name} must use https. Plain http is allowed for loopback hosts only, not for {host}."]
    return []


def _is_proxy_url(url: str) -> bool:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        return parts.scheme == "http" and bool(parts.hostname) and url.isascii() and (parts.port or 80) > 0
    except ValueError:
        return False


def _is_integer(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _as_tuple(values: Iterable[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)
