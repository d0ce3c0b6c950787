"""Writes what a release is made of, as CycloneDX 1.5 (JSON), from Cargo.lock and what cargo says of it.

    python3 tests/sbom.py > tidewatch.cdx.json

Needs nothing but cargo and python3. The same commit gives the same bytes: no time and no random number is in it. Fails if
a component lacks its licence, its hash or its origin: a list with holes is none.
"""

import json
import subprocess
import sys
import tomllib
import uuid

TARGET = "x86_64-unknown-linux-gnu"


def cargo(*args):
    done = subprocess.run(["cargo", *args], check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def built(metadata):
    """Returns the ids of everything that goes into the program, or builds it: what only tests use is left out."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    seen, todo = set(), [metadata["resolve"]["root"]]
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        for dep in nodes[one]["deps"]:
            if any(kind["kind"] != "dev" for kind in dep["dep_kinds"]):
                todo.append(dep["pkg"])
    return seen, nodes


def licences(package):
    # Some old ones write "MIT/Apache-2.0", which is no expression.
    expression = (package["license"] or "").replace("/", " OR ")
    return [{"expression": expression}] if expression else []


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def main():
    metadata = cargo("metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET)
    with open("Cargo.lock", "rb") as file:
        locked = tomllib.load(file)["package"]
    hashes = {(one["name"], one["version"]): one.get("checksum") for one in locked}
    packages = {package["id"]: package for package in metadata["packages"]}
    root = metadata["resolve"]["root"]
    ids, nodes = built(metadata)
    components, holes = [], []
    for package in sorted((packages[one] for one in ids - {root}), key=purl):
        checksum = hashes.get((package["name"], package["version"]))
        component = {
            "type": "library",
            "bom-ref": purl(package),
            "name": package["name"],
            "version": package["version"],
            "purl": purl(package),
            "licenses": licences(package),
            "hashes": [{"alg": "SHA-256", "content": checksum}] if checksum else [],
        }
        if not (package["source"] or "").endswith("github.com/rust-lang/crates.io-index"):
            holes.append(f"{purl(package)} is from {package['source']}")
        holes += [f"{purl(package)} has no {hole}" for hole in ("licenses", "hashes") if not component[hole]]
        components.append(component)
    if holes:
        sys.exit("\n".join(holes))
    ref = {one: purl(packages[one]) for one in ids}
    dependencies = [
        {"ref": ref[one], "dependsOn": sorted(ref[dep["pkg"]] for dep in nodes[one]["deps"] if dep["pkg"] in ids)}
        for one in sorted(ids, key=ref.get)
    ]
    program = packages[root]
    text = json.dumps(components)
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, purl(program) + text)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": purl(program),
                "name": program["name"],
                "version": program["version"],
                "purl": purl(program),
                "licenses": licences(program),
            }
        },
        "components": components,
        "dependencies": dependencies,
    }
    json.dump(bom, sys.stdout, indent=1)
    print()


main()
