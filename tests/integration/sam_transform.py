"""Run in the SAM CLI's environment: turns each line ``{"template": …, "parameters": …}`` into what CloudFormation would see."""

import contextlib
import json
import sys

from samtranslator.translator.transform import transform

PACKAGED = "s3://bucket/key"
"""Where `sam package` would have put code; the transform takes no local folder."""


class NoManagedPolicies:
    """Policies are written as documents or ARNs here, never by the name of one that AWS manages."""

    def load(self) -> dict[str, str]:
        return {}


for line in sys.stdin:
    asked = json.loads(line)
    for resource in asked["template"]["Resources"].values():
        for name in {"CodeUri", "ContentUri"} & set(resource.get("Properties", {})):
            resource["Properties"][name] = PACKAGED
    try:
        with contextlib.redirect_stdout(sys.stderr):
            translated = transform(asked["template"], asked["parameters"], NoManagedPolicies())
    except Exception as error:
        translated = {"error": repr(error)}
    print(json.dumps(translated), flush=True)
