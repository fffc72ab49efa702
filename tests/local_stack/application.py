"""The functions of the SAM application after ``sam build``, with the template's references resolved."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .aws import Aws
from .runtime import ROOT, MissingPrerequisiteError

_REFERENCE = re.compile(r"\$\{([^}!]+)\}")
_ARNS = {"Table": ("dynamodb", "table/"), "Queue": ("sqs", ""), "Key": ("kms", "key/")}
"""By the suffix of a resource's name: its service, and the prefix of its name in the ARN."""
PARAMETERS: Mapping[str, str] = {"CerberusUrl": "https://localhost", "CerberusAccountId": Aws.CERBERUS_ACCOUNT}
"""Values for the parameters without a default. The local stack replaces the URL."""


@dataclass(frozen=True)
class Function:
    """A function of the application."""

    name: str
    """The logical ID."""
    role_arn: str
    artifact: Path
    handler: str
    layers: tuple[Path, ...]
    environment: Mapping[str, str]
    """Its variables, including those that Lambda derives from its properties."""
    statements: tuple[dict[str, Any], ...]
    """The statements of its role's policy, without those for Lambda itself."""
    timeout: int
    """The timeout in seconds."""
    events: tuple[Path, ...]
    """Its files in ``events/``."""

    def event(self, number: int = 0) -> Any:
        """Read an event."""
        return json.loads(self.events[number].read_text())


class Application:
    """The application in ``template.yaml`` with parameter values.

    Parameters
    ----------
    parameters
        Values by name; the others have the template's default.
    region
        The AWS region.
    root
        The root of the repository.
    attributes
        Attributes of resources that a test created, for example ``{"SharedCacheKey.Arn": …}``.

    Raises
    ------
    MissingPrerequisiteError
        The application is not built.
    """

    functions: dict[str, Function]
    """The functions whose condition is true, by logical ID, in the template's order."""

    def __init__(
        self,
        parameters: Mapping[str, str] = PARAMETERS,
        region: str = "us-west-2",
        root: Path = ROOT,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        self._build = root / ".aws-sam" / "build"
        template = self._build / "template.yaml"
        if not template.exists():
            raise MissingPrerequisiteError("the application is not built. Run `make build`")
        self._template: dict[str, Any] = yaml.safe_load(template.read_text())
        self._values: dict[str, str] = {
            **{name: str(each.get("Default", "")) for name, each in self._template.get("Parameters", {}).items()},
            **{"AWS::Partition": "aws", "AWS::Region": region, "AWS::AccountId": Aws.FUNCTION_ACCOUNT},
            **{"AWS::URLSuffix": "amazonaws.com", "AWS::StackName": "cerberus-auth"},
            **parameters,
            **(attributes or {}),
        }
        self.functions = {
            name: self._function(name, root / "events")
            for name, resource in self._template["Resources"].items()
            if resource["Type"] == "AWS::Serverless::Function" and self._holds(resource.get("Condition"))
        }

    def _function(self, name: str, events: Path) -> Function:
        shared = self._template.get("Globals", {}).get("Function", {})
        own = self._template["Resources"][name]["Properties"]
        properties = {**shared, **own}
        log_format = properties.get("LoggingConfig", {}).get("LogFormat", "Text")
        environment = {
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": properties.get("MemorySize", 128),
            "AWS_LAMBDA_LOG_FORMAT": log_format,
            **({"AWS_LAMBDA_LOG_LEVEL": "INFO"} if log_format == "JSON" else {}),
            **shared.get("Environment", {}).get("Variables", {}),
            **own.get("Environment", {}).get("Variables", {}),
        }
        policies = [self._policy(policy) for policy in self._resolved(own.get("Policies", []))]
        # Events are named after the source folder. In the built template, CodeUri is the artifact.
        source = re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Function")).lower()
        return Function(
            name=name,
            role_arn=f"arn:aws:iam::{Aws.FUNCTION_ACCOUNT}:role/{name}",
            artifact=self._artifact(properties["CodeUri"]),
            handler=properties["Handler"],
            layers=tuple(self._layer(layer) for layer in [*shared.get("Layers", []), *own.get("Layers", [])]),
            environment={key: str(value) for key, value in self._resolved(environment).items()},
            statements=tuple(statement for policy in policies for statement in policy["Statement"]),
            timeout=int(self._resolved(properties.get("Timeout", 3))),
            events=tuple(sorted(events.glob(f"{source}*.json"))),
        )

    def properties(self, name: str) -> dict[str, Any]:
        """Return a resource's properties with their references resolved."""
        resolved: dict[str, Any] = self._resolved(self._template["Resources"][name]["Properties"])
        return resolved

    def _policy(self, policy: Any) -> dict[str, Any]:
        """Return the document of an inline policy or of one of the template's managed policies."""
        if isinstance(policy, dict):
            return policy
        if policy == "AWS::NoValue":
            return {"Statement": []}
        document: dict[str, Any] = self.properties(policy)["PolicyDocument"]
        return document

    def _holds(self, condition: str | None) -> bool:
        if condition is None:
            return True
        (operator, arguments), *_ = self._template["Conditions"][condition].items()
        if operator == "Fn::Equals":
            one, other = self._resolved(arguments)
            return bool(one == other)
        if operator in ("Fn::And", "Fn::Or"):
            held = [self._holds(argument["Condition"]) for argument in arguments]
            return all(held) if operator == "Fn::And" else any(held)
        raise ValueError(f"The template uses {operator} in a condition. Add it to application.py")

    def _artifact(self, uri: str) -> Path:
        artifact = self._build / uri
        if not artifact.is_dir():
            raise MissingPrerequisiteError(f"the build is incomplete: {uri} is missing. Run `make build`")
        return artifact

    def _layer(self, layer: Any) -> Path:
        resource = self._template["Resources"][self._resolved(layer)]
        return self._artifact(resource["Properties"]["ContentUri"]) / "python"

    def _value(self, name: str) -> str:
        resource, _, attribute = name.partition(".")
        if attribute == "Arn" and resource.endswith("Role"):
            return f"arn:aws:iam::{Aws.FUNCTION_ACCOUNT}:role/{resource.removesuffix('Role')}"
        for suffix, (service, kind) in _ARNS.items():
            if attribute == "Arn" and resource.endswith(suffix) and name not in self._values:
                return f"arn:aws:{service}:{self._values['AWS::Region']}:{Aws.FUNCTION_ACCOUNT}:{kind}{resource}"
        return self._values.get(name, name)

    def _resolved(self, value: Any) -> Any:
        """Resolve intrinsic functions.

        Raises
        ------
        ValueError
            An intrinsic function is not supported.
        """
        if isinstance(value, list):
            return [self._resolved(item) for item in value]
        if not isinstance(value, dict):
            return value
        for name, argument in value.items():
            if name == "Ref":
                return self._value(argument)
            if name == "Fn::GetAtt":
                return self._value(argument if isinstance(argument, str) else ".".join(argument))
            if name == "Fn::If":
                condition, then, otherwise = argument
                return self._resolved(then if self._holds(condition) else otherwise)
            if name == "Fn::Sub" and isinstance(argument, str):
                return _REFERENCE.sub(lambda match: self._value(match[1]), argument)
            if name.startswith("Fn::"):
                raise ValueError(f"The template uses an unsupported form of {name}. Add it to application.py")
        return {name: self._resolved(item) for name, item in value.items()}
