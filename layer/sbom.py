"""Writes what a built layer holds as CycloneDX 1.6 JSON: ``python sbom.py FOLDER NAME VERSION FILE``.

Names, versions and licences are those of each package's own metadata. Neither time nor serial number: the same layer gives the
same bytes.
"""

import json
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

folder, name, version, file = sys.argv[1:]


def purl(package: str, release: str) -> str:
    """A package's name among all of the world's."""
    return f"pkg:pypi/{package.lower().replace('_', '-')}@{release}"


def licence(found: Distribution) -> dict[str, object]:
    """As an expression of SPDX where the package gives one, else in its own words."""
    stated = found.metadata.json
    if expression := stated.get("license_expression"):
        return {"expression": expression}
    return {"license": {"name": stated["license"]}}


components = sorted(
    (
        {
            "type": "library",
            "bom-ref": purl(found.name, found.version),
            "name": found.name,
            "version": found.version,
            "purl": purl(found.name, found.version),
            "licenses": [licence(found)],
        }
        for found in distributions(path=[folder])
    ),
    key=lambda component: str(component["name"]).lower(),
)
bom = {
    "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "version": 1,
    "metadata": {
        "component": {"type": "application", "bom-ref": name, "name": name, "version": version},
    },
    "components": components,
}
Path(file).parent.mkdir(parents=True, exist_ok=True)
Path(file).write_text(json.dumps(bom, indent=2) + "\n")
