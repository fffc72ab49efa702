"""The SAM application as ``sam build`` left it: its functions, with the template's references resolved."""

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
"""By the end of a resource's name: its service, and what stands before its name in its ARN."""
PARAMETERS: Mapping[str, str] = {"CerberusUrl": "https://localhost", "CerberusAccountId": Aws.CERBERUS_ACCOUNT}
"""Those without a default. The URL is a placeholder: the stack has its own."""


@dataclass(frozen=True)
class Function:
    """One function of the application."""

    name: str
    """Its logical ID."""
    role_arn: str
    artifact: Path
    handler: str
    layers: tuple[Path, ...]
    environment: Mapping[str, str]
    """Its variables, and those that Lambda makes of its properties."""
    statements: tuple[dict[str, Any], ...]
    """Its role's policy, beyond what Lambda needs to run it."""
    timeout: int
    """Seconds."""
    events: tuple[Path, ...]
    """The files in ``events/`` that are meant for it."""

    def event(self, number: int = 0) -> Any:
        """Read one of its events."""
        return json.loads(self.events[number].read_text())


class Application:
    """What ``template.yaml`` declares, with these values for its parameters.

    :param parameters: by name; the others have the template's default.
    :param attributes: of resources that a test made, as ``{"SharedCacheKey.Arn": …}``.
    :param root: the repository.
    :raises MissingPrerequisiteError: it is not built.
    """

    functions: dict[str, Function]
    """By logical ID, in the template's order: those whose condition holds."""

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
            raise MissingPrerequisiteError("the functions are not built: run `make build`")
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
        # The folder of its source names its events; in the built template CodeUri is the artifact.
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
        """Give the properties of a resource, with the references in them resolved."""
        resolved: dict[str, Any] = self._resolved(self._template["Resources"][name]["Properties"])
        return resolved

    def _policy(self, policy: Any) -> dict[str, Any]:
        """Give the document of a policy: one of the function's own, a managed one of the template, or none."""
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
        raise ValueError(f"the template uses {operator} in a condition, which is not known here")

    def _artifact(self, uri: str) -> Path:
        artifact = self._build / uri
        if not artifact.is_dir():
            raise MissingPrerequisiteError(f"the build is not complete, {uri} is missing: run `make build`")
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
        """Resolve the intrinsic functions.

        :raises ValueError: one that no function's properties have needed so far.
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
                raise ValueError(f"the template uses {name} in a form that is not known here")
        return {name: self._resolved(item) for name, item in value.items()}
