"""The manifests as a cluster would get them: a small kustomize for what ours use of it, and their schemas."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

Manifest = dict[str, Any]

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"
#: What deploy/kubernetes/README.md asks for (backoffLimitPerIndex), and the newest whose schema is installed.
VERSIONS = ("1.33", kubernetes_validate.latest_version())
_CUSTOM = {"PodMonitor": "pod-monitor", "PrometheusRule": "prometheus-rule", "RayJob": "ray-job"}


def documents(path: Path) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]


def build(directory: Path) -> list[Manifest]:
    """What ``kubectl kustomize`` makes of a directory."""
    [own] = documents(directory / "kustomization.yaml")
    found: list[Manifest] = []
    for name in own["resources"]:
        path = (directory / name).resolve()
        found += build(path) if path.is_dir() else documents(path)
    for one in own.get("configMapGenerator", []):
        metadata = {"name": one["name"], **one.get("options", {})}
        data = {name: (directory / name).read_text(encoding="utf-8") for name in one["files"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for one in own.get("patches", []):
        [target] = [
            each
            for each in found
            if (each["kind"], each["metadata"]["name"]) == (one["target"]["kind"], one["target"]["name"])
        ]
        for operation in yaml.safe_load(one["patch"]):
            _patch(target, operation)
    for one in found:
        if one["kind"] != "Namespace":
            one["metadata"]["namespace"] = own["namespace"]
    return found


def _patch(target: Manifest, operation: dict[str, Any]) -> None:
    """RFC 6902's add and replace."""
    assert set(operation) == {"op", "path", "value"}
    *parents, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
    place: Any = target
    for step in parents:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if isinstance(place, list):
        assert (operation["op"], last) == ("add", "-")
        place.append(operation["value"])
    else:
        assert operation["op"] in ("add", "replace")
        assert (last in place) == (operation["op"] == "replace"), operation["path"]
        place[last] = operation["value"]


def validate(manifest: Manifest) -> None:
    """Raises where a manifest does not follow the schema of its kind; unknown fields are errors."""
    if manifest["kind"] in _CUSTOM:
        follow(_CUSTOM[manifest["kind"]], manifest)
        for template in templates(manifest):
            pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
            pod["metadata"] = {"name": "checked", **pod.get("metadata", {})}
            validate(pod)
        return
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


def follow(schema: str, document: Any) -> None:
    """Raises where a document does not follow one of the schemas beside this file."""
    jsonschema.validate(document, json.loads((SCHEMAS / f"{schema}.json").read_text(encoding="utf-8")))


def templates(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The pod templates in a manifest."""
    if manifest["kind"] in ("Deployment", "Job"):
        yield manifest["spec"]["template"]
    if manifest["kind"] == "RayJob":
        cluster = manifest["spec"]["rayClusterSpec"]
        yield cluster["headGroupSpec"]["template"]
        yield from (group["template"] for group in cluster["workerGroupSpecs"])


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector (of matchLabels only) takes these labels."""
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()
