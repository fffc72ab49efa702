"""Write the bill of materials of a built layer as CycloneDX 1.6 JSON: ``python sbom.py FOLDER NAME VERSION FILE``.

Names, versions and licences come from each package's metadata. The file has no time and no serial number, so the same layer
produces the same bytes.
"""

import json
import re
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

folder, name, version, file = sys.argv[1:]


def purl(package: str, release: str) -> str:
    """Return the package URL of a Python package.

    Parameters
    ----------
    package
        The package's name.
    release
        The package's version.
    """
    return f"pkg:pypi/{package.lower().replace('_', '-')}@{release}"


def licence(found: Distribution) -> dict[str, object]:
    """Return a package's licence as an SPDX expression if it states one, else the name that it states.

    Parameters
    ----------
    found
        The installed package.
    """
    stated = found.metadata.json
    if expression := stated.get("license_expression"):
        return {"expression": expression}
    return {"license": {"name": stated["license"]}}


def bundled(file: Path) -> dict[str, object]:
    """Return the component for a bundled JavaScript file: Swagger UI in Powertools.

    Parameters
    ----------
    file
        The JavaScript file, which contains its version.
    """
    (release,) = re.findall(r'PACKAGE_VERSION:"([\w.-]+)"', file.read_text(encoding="utf-8"))
    reference = f"pkg:npm/swagger-ui-dist@{release}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": "swagger-ui-dist",
        "version": release,
        "purl": reference,
        "licenses": [{"expression": "Apache-2.0"}],
    }


components = sorted(
    [
        {
            "type": "library",
            "bom-ref": purl(found.name, found.version),
            "name": found.name,
            "version": found.version,
            "purl": purl(found.name, found.version),
            "licenses": [licence(found)],
        }
        for found in distributions(path=[folder])
    ]
    + [bundled(file) for file in Path(folder).rglob("swagger-ui-bundle*.js")],
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
