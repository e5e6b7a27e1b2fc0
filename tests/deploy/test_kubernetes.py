"""deploy/kubernetes: each manifest follows its schema, names what exists, is confined, and calls what ``sss`` has."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from fastapi.testclient import TestClient

from ingest.__main__ import command as worker
from siamese_search import __version__
from siamese_search.cli.ingest import ingest_command as ingest
from siamese_search.cli.main import command_of
from siamese_search.errors import EXIT_PARTIAL, EXIT_USAGE, UsageError
from siamese_search.gallery.qdrant.address import KEY_VARIABLE, check_encryption, parse_address
from siamese_search.gallery.qdrant.connection import OLDEST_VERSION
from siamese_search.settings import load_settings
from siamese_search.web.app import create_app
from siamese_search.web.options import ServeOptions
from siamese_search.web.security import METRICS_VARIABLE, VARIABLE, Security, is_loopback
from siamese_search.web.service import GalleryService

from .kube import KUBERNETES, Manifest, build, documents, follow, matches, templates, validate

Accepts = Callable[[list[str]], None]
DIRECTORIES = ["", "job", "job-gpu", "ray", "serve"]
SECRET = {"name": "qdrant-api-key", "key": "api-key"}
#: Of ``sss serve``: what visitors have to know.
SERVE_SECRET = {"name": "sss-serve-key", "key": "serve-key"}
METRICS_SECRET = {"name": "sss-serve-metrics-key", "key": "metrics-key"}
SECRETS = {VARIABLE: SERVE_SECRET, METRICS_VARIABLE: METRICS_SECRET}
Invalid = (jsonschema.ValidationError, kubernetes_validate.ValidationError)


@pytest.fixture(scope="module")
def everything() -> list[Manifest]:
    """What all kustomizations make."""
    return [one for name in DIRECTORIES for one in build(KUBERNETES / name)]


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    [found] = documents(KUBERNETES / "qdrant-values.yaml")
    return found


def the(everything: list[Manifest], kind: str, name: str) -> Manifest:
    [found] = [one for one in everything if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pods(everything: list[Manifest]) -> list[dict[str, Any]]:
    found = [template for one in everything for template in templates(one)]
    assert len(found) == 6  # worker, two jobs, Ray's head and workers, the web service
    return found


def containers(everything: list[Manifest]) -> list[dict[str, Any]]:
    return [one for pod in pods(everything) for one in pod["spec"]["containers"]]


def named(container: dict[str, Any], index: int = 0) -> list[str]:
    """A container's arguments, as Kubernetes hands them over in the pod of this index."""
    return [one.replace("$(JOB_COMPLETION_INDEX)", str(index)) for one in container["args"]]


# Schemas.


@pytest.mark.parametrize("name", DIRECTORIES)
def test_every_manifest_follows_the_schema_of_its_kind(name: str) -> None:
    follow("kustomization", documents(KUBERNETES / name / "kustomization.yaml")[0])
    made = build(KUBERNETES / name)
    assert made
    for one in made:
        validate(one)
    names = [(one["kind"], one["metadata"]["name"]) for one in made]
    assert len(set(names)) == len(names)


def test_every_file_is_used_and_tested() -> None:
    named_somewhere = {"README.md", "qdrant-values.yaml", "secret.example.yaml", "ray/Dockerfile"}
    for name in DIRECTORIES:
        named_somewhere.add(str(Path(name, "kustomization.yaml")))
        [own] = documents(KUBERNETES / name / "kustomization.yaml")
        files = [*own["resources"], *(file for one in own.get("configMapGenerator", []) for file in one["files"])]
        named_somewhere |= {str(Path(name, file)) for file in files if not file.startswith("..")}
    there = {str(path.relative_to(KUBERNETES)) for path in KUBERNETES.rglob("*") if path.is_file()}
    assert there == named_somewhere


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("Namespace", "labels:", "label:"),
        ("ServiceAccount", "automountServiceAccountToken: false", "automountServiceAccountToken: never"),
        ("PersistentVolumeClaim", "volumeName:", "volume:"),
        ("Deployment", "livenessProbe:", "livenessCheck:"),
        ("Deployment", "type: Recreate", "type: [Recreate]"),
        ("Service", "targetPort:", "target:"),
        ("Job", "backoffLimitPerIndex: 3", "backoffLimitPerIndex: three"),
        ("Job", "onExitCodes:", "onExitCode:"),
        ("NetworkPolicy", "podSelector:", "podsSelector:"),
        ("ConfigMap", "data:", "content:"),
        ("PodMonitor", "podMetricsEndpoints:", "endpoints:"),
        ("PodMonitor", "interval: 30s", "interval: 30 seconds"),
        ("PrometheusRule", "expr:", "expression:"),
        ("PrometheusRule", "for: 5m", "for: soon"),
        ("RayJob", "entrypoint:", "entryPoint:"),
        ("RayJob", "submissionMode: HTTPMode", "submissionMode: HTTP"),
        ("RayJob", "volumeMounts:", "volumesMounts:"),
        ("RayJob", "minReplicas: 1", "minReplicas: none"),
    ],
)
def test_the_schemas_notice_what_is_wrong(everything: list[Manifest], kind: str, good: str, bad: str) -> None:
    one = next(one for one in everything if one["kind"] == kind)
    text = yaml.safe_dump(one, sort_keys=False)
    assert good in text
    validate(yaml.safe_load(text))
    with pytest.raises(Invalid):
        validate(yaml.safe_load(text.replace(good, bad)))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("replicaCount:", "replicas:"),
        ("serviceMonitor:", "podMonitor:"),
        ("useUnprivilegedImage: true", "unprivileged: true"),
        ("size: 50Gi", "size: 50 GB"),
        ("secretKeyRef:", "secretRef:"),
        ("maxUnavailable: 1", "maxUnavailible: 1"),
        ("metrics_prefix:", "metric_prefix:"),
    ],
)
def test_helm_values_have_the_charts_names(values: dict[str, Any], good: str, bad: str) -> None:
    follow("qdrant-values", values)
    text = yaml.safe_dump(values)
    assert good in text
    with pytest.raises(jsonschema.ValidationError):
        follow("qdrant-values", yaml.safe_load(text.replace(good, bad)))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("name", DIRECTORIES)
def test_kustomize_makes_what_is_tested_here(name: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", str(KUBERNETES / name)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

    def by_name(made: list[Manifest]) -> dict[tuple[str, str], Manifest]:
        return {(one["kind"], one["metadata"]["name"]): one for one in made}

    assert by_name(list(yaml.safe_load_all(done.stdout))) == by_name(build(KUBERNETES / name))


# Commands.


def test_the_watching_worker(everything: list[Manifest], worker_accepts: Accepts) -> None:
    [container] = the(everything, "Deployment", "sss-worker")["spec"]["template"]["spec"]["containers"]
    arguments = named(container)
    worker_accepts(arguments)
    assert {"--watch", "--metrics-port=9464", "--metrics-host=0.0.0.0"} < set(arguments)
    assert container["ports"] == [{"name": "metrics", "containerPort": 9464}]
    assert "command" not in container  # the image's own: python -m ingest


def test_its_probes_read_the_file_that_it_writes(everything: list[Manifest], worker_accepts: Accepts) -> None:
    [container] = the(everything, "Deployment", "sss-worker")["spec"]["template"]["spec"]["containers"]
    [health] = [one.split("=")[1] for one in named(container) if one.startswith("--health-file=")]
    probes = {name: container[f"{name}Probe"]["exec"]["command"] for name in ("startup", "liveness", "readiness")}
    for command in probes.values():
        assert command[:3] == ["python", "-m", "ingest"]
        worker_accepts(command[3:])
        assert command[command.index("--check") + 1] == health
    # A store that is away is no reason to start the worker again, but one to call it not ready.
    assert {name for name, command in probes.items() if "--alive" in command} == {"startup", "liveness"}


@pytest.mark.parametrize("name", ["sss-ingest", "sss-ingest-gpu"])
def test_the_pods_of_a_job_are_all_shards(everything: list[Manifest], worker_accepts: Accepts, name: str) -> None:
    spec = the(everything, "Job", name)["spec"]
    assert spec["completionMode"] == "Indexed"
    [container] = spec["template"]["spec"]["containers"]
    assert "command" not in container
    shards = []
    for index in range(spec["completions"]):
        arguments = named(container, index)
        worker_accepts(arguments)
        context = worker.make_context("python -m ingest", list(arguments))
        shards.append(context.params["shard"])
        assert not context.params["watch"]
        assert not (context.params["prune"] and context.params["checksum"])
        context.close()
    assert shards == [f"{index}/{spec['completions']}" for index in range(spec["completions"])]
    assert 0 < spec["parallelism"] <= spec["completions"]


def test_what_an_exit_code_means_for_a_job(everything: list[Manifest]) -> None:
    spec = the(everything, "Job", "sss-ingest")["spec"]
    first, *rules = spec["podFailurePolicy"]["rules"]
    assert first == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    [container] = spec["template"]["spec"]["containers"]
    meant = {}
    for rule in rules:
        codes = rule["onExitCodes"]
        assert (codes["containerName"], codes["operator"]) == (container["name"], "In")
        meant |= dict.fromkeys(codes["values"], rule["action"])
    assert meant == {EXIT_USAGE: "FailJob", EXIT_PARTIAL: "FailIndex"}
    # Kubernetes demands these of a policy and of FailIndex.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["backoffLimitPerIndex"] > 0
    assert spec["maxFailedIndexes"] <= spec["completions"]


def test_the_gpu_variant_asks_for_one_and_runs_there(everything: list[Manifest]) -> None:
    spec = the(everything, "Job", "sss-ingest-gpu")["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"]
        == container["resources"]["requests"]["nvidia.com/gpu"]
        == "1"
    )
    assert container["image"].endswith("-cuda")
    assert "--device=cuda" in container["args"]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


@pytest.mark.skipif(
    "engine" not in {parameter.name for parameter in ingest.params}, reason="sss ingest has no --engine yet"
)
def test_ray_runs_sss_with_its_own_version(everything: list[Manifest], sss_accepts: Accepts, deploy: Path) -> None:
    spec = the(everything, "RayJob", "sss-ingest")["spec"]
    shell, option, script = shlex.split(spec["entrypoint"])
    assert (shell, option) == ("sh", "-c")
    change, run = [shlex.split(part) for part in script.split(" && ")]
    head, *workers = templates(the(everything, "RayJob", "sss-ingest"))
    for pod in (head, *workers):
        [container] = pod["spec"]["containers"]
        assert change == ["cd", mounted(pod, "settings")]
        assert container["image"] == f"siamese-search:{__version__}-ray"
    assert run[:2] == ["exec", "sss"]
    sss_accepts(run[2:])
    assert run[run.index("--engine") + 1] == "ray"
    text = (KUBERNETES / "ray" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM rayproject/ray:([\d.]+)-py3\d+$", text, re.M) == [spec["rayClusterSpec"]["rayVersion"]]
    project = tomllib.loads((deploy.parent / "pyproject.toml").read_text(encoding="utf-8"))
    copied = {name for line in re.findall(r"^COPY \S+ (.*)$", text, re.M) for name in line.split()[:-1]}
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert copied == {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *wheel["packages"],
    }
    extras = re.findall(r'"\.\[([\w,]+)\]"', text)[0].split(",")
    assert "ray" in extras
    assert set(extras) <= set(project["project"]["optional-dependencies"])


def test_the_web_service(everything: list[Manifest]) -> None:
    deployment = the(everything, "Deployment", "sss-serve")["spec"]
    pod = deployment["template"]
    [container] = pod["spec"]["containers"]
    assert container["command"] == ["sss", "serve"]
    # The command takes these arguments, and the server the address: with the key that the variable brings, only.
    context = command_of("serve").make_context("sss serve", list(container["args"]))
    port = context.params["port"]
    [key] = [one for one in container["env"] if one["name"] == VARIABLE]
    assert key["valueFrom"] == {"secretKeyRef": SERVE_SECRET}
    assert not is_loopback(context.params["host"])
    assert context.params["key_file"] is None
    # Undo and uploads are in the memory of one process.
    assert deployment["replicas"] == 1

    assert container["ports"] == [{"name": "http", "containerPort": port}]
    service = the(everything, "Service", "sss-serve")["spec"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["selector"]["app.kubernetes.io/component"] == "serve"
    assert [one["targetPort"] for one in service["ports"]] == ["http"]
    others = [one for one in pods(everything) if one is not pod]
    assert not any(service["selector"].items() <= one["metadata"]["labels"].items() for one in others)
    policy = the(everything, "NetworkPolicy", "sss-serve")["spec"]
    assert matches(policy["podSelector"], pod["metadata"]["labels"])
    assert not any(matches(policy["podSelector"], one["metadata"]["labels"]) for one in others)
    assert [one["port"] for rule in policy["ingress"] for one in rule["ports"]] == [port]


def test_the_web_service_answers_its_probes(everything: list[Manifest], tmp_path: Path) -> None:
    """As the kubelet asks: without the key, also where ``--allow-host`` names the ingress."""
    [container] = the(everything, "Deployment", "sss-serve")["spec"]["template"]["spec"]["containers"]
    options = ServeOptions(host="0.0.0.0", allow_host=("gallery.example.com",), store=tmp_path / "none")
    service = GalleryService(options)
    app = create_app(service, Security("a key that is long enough".replace(" ", "-")))
    # No gallery yet: alive, and not ready.
    wanted = {"startupProbe": 200, "livenessProbe": 200, "readinessProbe": 503}
    with TestClient(app, base_url="http://10.0.0.7:8000") as client:
        for name, status in wanted.items():
            probe = container[name]["httpGet"]
            assert probe["port"] == "http"
            headers = {one["name"]: one["value"] for one in probe["httpHeaders"]}
            assert client.get(probe["path"], headers=headers).status_code == status, name
            assert client.get(probe["path"]).status_code == 421  # by the pod's address: hence the header
    service.close()


# What they name exists.


def mounted(pod: dict[str, Any], volume: str) -> str:
    [container] = pod["spec"]["containers"]
    [path] = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == volume]
    return str(path)


def test_everything_that_is_named_is_there(everything: list[Manifest], values: dict[str, Any]) -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in everything}
    for pod in pods(everything):
        spec = pod["spec"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in there
        volumes = {one["name"]: one for one in spec["volumes"]}
        [container] = spec["containers"]
        assert {one["name"] for one in container["volumeMounts"]} == set(volumes)
        assert ("PersistentVolumeClaim", volumes["images"]["persistentVolumeClaim"]["claimName"]) in there
        assert ("ConfigMap", volumes["settings"]["configMap"]["name"]) in there
        for variable in container["env"]:
            source = variable.get("valueFrom", {})
            if "resourceFieldRef" in source:
                assert source["resourceFieldRef"]["containerName"] == container["name"]
                section, name = source["resourceFieldRef"]["resource"].split(".")
                assert name in container["resources"][section]
            if "secretKeyRef" in source:
                assert source["secretKeyRef"] == SECRETS.get(variable["name"], SECRET)
    assert values["apiKey"]["valueFrom"]["secretKeyRef"] == SECRET
    for example, secret in zip(
        documents(KUBERNETES / "secret.example.yaml"), (SECRET, SERVE_SECRET, METRICS_SECRET), strict=True
    ):
        validate(example)
        assert (example["metadata"]["name"], list(example["stringData"])) == (secret["name"], [secret["key"]])


def test_images_are_read_by_all_and_written_by_none(everything: list[Manifest]) -> None:
    assert the(everything, "PersistentVolumeClaim", "images")["spec"]["accessModes"] == ["ReadOnlyMany"]
    for pod in pods(everything):
        [volume] = [one for one in pod["spec"]["volumes"] if one["name"] == "images"]
        assert volume["persistentVolumeClaim"]["readOnly"] is True
        [container] = pod["spec"]["containers"]
        [mount] = [one for one in container["volumeMounts"] if one["name"] == "images"]
        assert mount["readOnly"] is True
        if "args" in container and "command" not in container:  # a worker, of the image's own entry point
            assert container["args"][:2] == [mount["mountPath"], "--source=images"]


def test_workers_of_our_image_are_this_version(everything: list[Manifest], deploy: Path) -> None:
    targets = re.findall(r" AS (\S+)$", (deploy / "Dockerfile").read_text(encoding="utf-8"), re.M)
    for container in containers(everything):
        name, version = container["image"].split(":")
        assert (name, version.partition("-")[0]) == ("siamese-search", __version__)
        assert version.partition("-")[2] in ("", "ray", *targets)


def test_qdrant_is_one_that_sss_takes(values: dict[str, Any]) -> None:
    found = re.fullmatch(r"v(\d+)\.(\d+)\.\d+", values["image"]["tag"])
    assert found
    assert (int(found[1]), int(found[2])) >= OLDEST_VERSION


# Settings, keys.


def test_the_settings_fit_the_nodes_and_are_those_of_compose(
    everything: list[Manifest], values: dict[str, Any], deploy: Path, tmp_path: Path
) -> None:
    shown = []
    for text in (
        the(everything, "ConfigMap", "sss-settings")["data"]["sss.toml"],
        (deploy / "cluster.toml").read_text(encoding="utf-8"),
    ):
        (tmp_path / "sss.toml").write_text(text)
        shown.append(load_settings(tmp_path, {}).server)
    assert shown[0] == shown[1]
    assert shown[0].shards % values["replicaCount"] == 0
    assert shown[0].replicas <= values["replicaCount"] - values["podDisruptionBudget"]["maxUnavailable"]
    assert values["config"]["cluster"]["enabled"] is True


def test_workers_find_their_settings_store_and_key(everything: list[Manifest], tmp_path: Path) -> None:
    (tmp_path / "sss.toml").write_text(the(everything, "ConfigMap", "sss-settings")["data"]["sss.toml"])
    for pod in pods(everything):
        [container] = pod["spec"]["containers"]
        plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        settings = load_settings(tmp_path, plain)
        address = parse_address(settings.store)
        assert (address.host, settings.server.replicas) == ("qdrant", 2)  # the release's name is the service's
        check_encryption(address, settings)
        with pytest.raises(UsageError, match="plain HTTP"):
            check_encryption(address, load_settings(tmp_path, {"SSS_STORE": settings.store}))
        assert container.get("workingDir", mounted(pod, "settings")) == mounted(pod, "settings")
        [key] = [one for one in container["env"] if one["name"] == KEY_VARIABLE]
        assert key["valueFrom"] == {"secretKeyRef": SECRET}


def test_no_manifest_holds_a_key(everything: list[Manifest]) -> None:
    for container in containers(everything):
        for variable in container["env"]:
            if re.search("KEY|TOKEN|PASSWORD|SECRET", variable["name"]):
                assert "value" not in variable
        assert not re.search("key|token|password", " ".join(container.get("args", [])), re.I)
    assert not [one for one in everything if one["kind"] == "Secret"]
    for example in documents(KUBERNETES / "secret.example.yaml"):
        assert set(example["stringData"].values()) == {""}


# Confinement.


def restricted(pod: dict[str, Any], container: dict[str, Any]) -> bool:
    """The pod security standard ``restricted`` (version 1.33), as far as ours use it."""
    allowed = {
        "configMap",
        "emptyDir",
        "persistentVolumeClaim",
        "secret",
        "projected",
        "downwardAPI",
        "ephemeral",
        "csi",
    }
    return (
        not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        and all(set(one) - {"name"} <= allowed for one in pod.get("volumes", []))
        and pod["securityContext"]["runAsNonRoot"] is True
        and pod["securityContext"].get("runAsUser", 1) > 0
        and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        and container["securityContext"]["allowPrivilegeEscalation"] is False
        and container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        and not container["securityContext"].get("privileged")
        and not any("hostPort" in one for one in container.get("ports", []))
    )


def test_every_pod_is_as_confined_as_its_namespace_demands(everything: list[Manifest], values: dict[str, Any]) -> None:
    [namespace] = [one for one in everything if one["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {one["metadata"]["namespace"] for one in everything if one is not namespace} == {
        namespace["metadata"]["name"]
    }
    for pod in pods(everything):
        [container] = pod["spec"]["containers"]
        assert restricted(pod["spec"], container)
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert mounted(pod, "tmp") == "/tmp"
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]) <= set(container["resources"]["limits"])
    chart = {**values["podSecurityContext"], "runAsNonRoot": values["containerSecurityContext"]["runAsNonRoot"]}
    assert restricted({"securityContext": chart}, {"securityContext": values["containerSecurityContext"]})
    assert values["containerSecurityContext"]["readOnlyRootFilesystem"] is True
    assert values["updateVolumeFsOwnership"] is False  # its init container runs as root


def test_policies_let_through_what_is_needed_and_cover_every_pod(everything: list[Manifest]) -> None:
    ours, qdrant = (the(everything, "NetworkPolicy", name)["spec"] for name in ("sss-worker", "qdrant"))
    node = {"app.kubernetes.io/name": "qdrant", "app.kubernetes.io/instance": "qdrant"}  # the chart's
    assert matches(qdrant["podSelector"], node)
    assert ours["policyTypes"] == ["Ingress", "Egress"]

    def open_ports(rules: list[dict[str, Any]], side: str, labels: dict[str, str]) -> set[int]:
        return {
            port["port"]
            for rule in rules
            for peer in rule[side]
            if "podSelector" in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], labels)
            for port in rule.get("ports", [])
        }

    for pod in pods(everything):
        labels = pod["metadata"]["labels"]
        assert matches(ours["podSelector"], labels)
        # REST and gRPC on both sides of the way, and not the peers' port.
        assert open_ports(ours["egress"], "to", node) == {6333, 6334}
        assert open_ports(qdrant["ingress"], "from", labels) == {6333, 6334}
    assert open_ports(qdrant["ingress"], "from", node) == {6333, 6335}
    assert open_ports(qdrant["ingress"], "from", {"app": "other"}) == set()


def test_prometheus_finds_the_metrics_of_every_worker(everything: list[Manifest]) -> None:
    monitor = the(everything, "PodMonitor", "sss-worker")["spec"]
    [endpoint] = monitor["podMetricsEndpoints"]
    served = 0
    for pod in pods(everything):
        assert matches(monitor["selector"], pod["metadata"]["labels"])
        [container] = pod["spec"]["containers"]
        for port in container.get("ports", []):
            if port["name"] == endpoint["port"]:
                assert f"--metrics-port={port['containerPort']}" in container["args"]
                served += 1
    assert served == 3  # the web service asks for its key there, too
    policy = the(everything, "NetworkPolicy", "sss-worker")["spec"]
    assert any(port["port"] == 9464 for rule in policy["ingress"] for port in rule.get("ports", []))


def test_prometheus_has_the_key_of_the_web_services_metrics(everything: list[Manifest]) -> None:
    pod = the(everything, "Deployment", "sss-serve")["spec"]["template"]
    [container] = pod["spec"]["containers"]
    [endpoint] = the(everything, "PodMonitor", "sss-serve")["spec"]["podMetricsEndpoints"]
    assert matches(the(everything, "PodMonitor", "sss-serve")["spec"]["selector"], pod["metadata"]["labels"])
    [port] = container["ports"]
    assert (port["name"], endpoint["path"]) == (endpoint["port"], "/metrics")
    [key] = [one["valueFrom"] for one in container["env"] if one["name"] == METRICS_VARIABLE]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": key["secretKeyRef"]}
    others = [
        one
        for one in pods(everything)
        if matches(the(everything, "PodMonitor", "sss-serve")["spec"]["selector"], one["metadata"]["labels"])
    ]
    assert [one["metadata"]["labels"] for one in others] == [pod["metadata"]["labels"]]
    policy = the(everything, "NetworkPolicy", "sss-serve")["spec"]
    let_in = {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for rule in policy["ingress"]
        if {"port": port["containerPort"], "protocol": "TCP"} in rule["ports"]
        for peer in rule["from"]
    }
    assert let_in == {"ingress-nginx", "monitoring"}


# The walk-through.


def simple_commands(words: list[str]) -> list[list[str]]:
    """The commands of a pipeline."""
    found: list[list[str]] = [[]]
    for word in words:
        if word in ("&&", "|"):
            found.append([])
        else:
            found[-1].append(word)
    return found


def test_the_walkthrough_names_what_exists(sss_accepts: Accepts, deploy: Path) -> None:
    text = (KUBERNETES / "README.md").read_text(encoding="utf-8")
    count = 0
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M):
        for line in block.splitlines():
            for words in simple_commands(shlex.split(line, comments=True)):
                if words[:1] == ["sss"]:
                    sss_accepts(words[1:])
                    count += 1
                if words[:1] == ["kubectl"] and "-k" in words:
                    assert (deploy.parent / words[words.index("-k") + 1] / "kustomization.yaml").is_file()
                if words[:2] == ["docker", "build"]:
                    assert (deploy.parent / words[words.index("-f") + 1]).is_file()
    assert count > 1
    for name in re.findall(r"`([\w/-]+\.(?:yaml|json|toml|md))`", text):
        assert (KUBERNETES / name).exists() or (deploy / name).exists() or (deploy.parent / name).exists(), name
