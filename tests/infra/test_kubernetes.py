"""infra/kubernetes and infra/terraform, read by the programs that they are for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from infra.bootstrap import HERE
from ununennium.config import RunConfig

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
KUBERNETES = ROOT / "infra" / "kubernetes"
TERRAFORM = ROOT / "infra" / "terraform"
JOB, CPU_JOB = KUBERNETES / "gpu-job.json", KUBERNETES / "cpu-job.json"


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(w) for w in command], capture_output=True, text=True, timeout=120, check=False, **options
    )


def kustomize(folder: Path) -> list[dict[str, Any]]:
    """What ``kubectl apply -k`` would apply."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    done = run("kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def validate(resources: list[dict[str, Any]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Kubernetes' own schemas; unknown fields are errors."""
    file = folder / "resources.yaml"
    file.write_text(yaml.safe_dump_all(resources))
    return run(BIN / "kubernetes-validate", "--strict", "--no-warn", file)


def job_of(pool: Path, **variables: Any) -> dict[str, Any]:
    """The job that Prefect's worker makes of a pool's template for a run, with the defaults of its form."""
    from prefect.utilities.templating import apply_values

    template = json.loads(pool.read_text())["base_job_template"]
    form = template["variables"]["properties"]
    values = {name: field["default"] for name, field in form.items() if field.get("default") is not None} | variables
    manifest: dict[str, Any] = apply_values(template["job_configuration"]["job_manifest"], values)
    manifest["metadata"]["name"] = "job"
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [
        {"name": name, "value": value} for name, value in container["env"].items()
    ]  # as the worker does
    return manifest


def jobs_of(jobset: dict[str, Any]) -> list[dict[str, Any]]:
    """The jobs that the JobSet controller makes."""
    return [
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": each["name"]}, "spec": each["template"]["spec"]}
        for each in jobset["spec"]["replicatedJobs"]
    ]


def pods(resources: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod's metadata and spec."""
    for resource in resources:
        if "template" in resource.get("spec", {}):
            yield resource["metadata"]["name"], resource["spec"]["template"]


@pytest.fixture(scope="module")
def base() -> list[dict[str, Any]]:
    return kustomize(KUBERNETES)


@pytest.fixture(scope="module")
def training() -> list[dict[str, Any]]:
    """The training on several machines; its JobSet as the jobs that come of it."""
    found = kustomize(KUBERNETES / "training")
    return [job for each in found for job in (jobs_of(each) if each["kind"] == "JobSet" else [each])]


def test_kubernetes_takes_every_resource(
    base: list[dict[str, Any]], training: list[dict[str, Any]], tmp_path: Path
) -> None:
    done = validate([*base, *training, job_of(JOB), job_of(CPU_JOB)], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed") == len(base) + len(training) + 2


def test_a_wrong_field_is_found(tmp_path: Path) -> None:
    job = job_of(JOB)
    job["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    assert validate([job], tmp_path).returncode != 0


def test_no_pod_is_more_than_pod_security_allows(base: list[dict[str, Any]], training: list[dict[str, Any]]) -> None:
    found = list(pods([*base, *training, job_of(JOB), job_of(CPU_JOB)]))
    assert [name for name, _ in found] == ["server", "worker", "setup", "prepare", "node", "job", "job"]
    for name, pod in found:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            context = container["securityContext"]
            assert not context["allowPrivilegeEscalation"], name
            assert context["readOnlyRootFilesystem"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert {mount["name"] for mount in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}
            assert container["image"] == "ununennium:0.1.0", name
        # Only the worker speaks to the cluster.
        assert (name == "worker") == spec.get("automountServiceAccountToken", True), name


def test_secrets_are_mounted_and_never_values(base: list[dict[str, Any]], training: list[dict[str, Any]]) -> None:
    mounted = {
        name: {each["secret"]["secretName"] for each in pod["spec"]["volumes"] if "secret" in each}
        for name, pod in pods([*base, *training, job_of(JOB)])
    }
    assert mounted == {
        "server": {"server-secrets"},
        "worker": {"api-secrets"},
        "setup": {"api-secrets"},
        "prepare": {"storage-secrets"},
        "node": {"storage-secrets"},
        "job": {"storage-secrets"},
    }
    assert not [each for each in [*base, *training] if each["kind"] == "Secret"]
    role = next(each for each in base if each["kind"] == "Role")
    assert not {"secrets", "*"} & {resource for rule in role["rules"] for resource in rule["resources"]}


def test_the_password_of_the_api_is_no_text_in_the_jobs_of_runs(base: list[dict[str, Any]]) -> None:
    worker = next(pod for name, pod in pods(base) if name == "worker")
    environment = {each["name"]: each.get("value") for each in worker["spec"]["containers"][0]["env"]}
    prefix = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_"
    secret = next(each["secret"] for each in worker["spec"]["volumes"] if "secret" in each)
    assert environment[f"{prefix}NAME"] == secret["secretName"]
    assert environment[f"{prefix}KEY"] == "API_AUTH"


def test_nothing_is_reachable_but_what_a_policy_names(
    base: list[dict[str, Any]], training: list[dict[str, Any]]
) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in base if each["kind"] == "NetworkPolicy"}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    there = {pod["metadata"]["labels"]["app.kubernetes.io/name"] for _, pod in pods([*base, *training, job_of(JOB)])}
    named = set()
    for policy in policies.values():
        for selector in _selectors(policy):
            named |= set(selector.get("matchLabels", {}).values())
            named |= {value for each in selector.get("matchExpressions", []) for value in each["values"]}
    assert named == there == {"server", "worker", "setup", "run", "rank"}


def test_a_drain_takes_one_pod_at_a_time_of_each_deployment(base: list[dict[str, Any]]) -> None:
    budgets = [each["spec"] for each in base if each["kind"] == "PodDisruptionBudget"]
    chosen = [each["selector"] for each in budgets]
    assert chosen == [each["spec"]["selector"] for each in base if each["kind"] == "Deployment"]
    assert {each["maxUnavailable"] for each in budgets} == {1}  # 0 would keep a node with one worker for ever


def test_the_workers_are_ready_while_they_poll(base: list[dict[str, Any]]) -> None:
    data = {each["metadata"]["name"]: each["data"] for each in base if each["kind"] == "ConfigMap"}
    worker = next(pod for name, pod in pods(base) if name == "worker")
    ports = set()
    for container in worker["spec"]["containers"]:
        given = {
            key: value for each in container["envFrom"] for key, value in data[each["configMapRef"]["name"]].items()
        }
        (port,) = container["ports"]
        assert port["containerPort"] == int(given.get("PREFECT_WORKER_WEBSERVER_PORT", 8080))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"] == {"path": "/health", "port": port["name"]}
        assert "--with-healthcheck" in container["args"]
        ports.add(port["containerPort"])
    assert len(ports) == 2


def _selectors(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "podSelector" in value:
            yield value["podSelector"]
        for each in value.values():
            yield from _selectors(each)
    elif isinstance(value, list):
        for each in value:
            yield from _selectors(each)


def deployed(base: list[dict[str, Any]], folder: Path, config: str | None = None) -> list[dict[str, Any]]:
    """The deployments that the script of the job ``setup`` hands to ``prefect deploy``."""
    setup = next(pod for name, pod in pods(base) if name == "setup")
    script = str(setup["spec"]["containers"][0]["args"][-1])
    kept = [
        line for line in script.splitlines() if not line.startswith(("python -m infra.bootstrap", "prefect deploy"))
    ]
    assert len(kept) == len(script.splitlines()) - 2
    if config is not None:
        (folder / "run.yaml").write_text(config)
    here = "\n".join(kept).replace("/etc/ununennium/run", str(folder)).replace("/tmp/prefect.yaml", "/dev/stdout")
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = run("sh", "-ec", here, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = yaml.safe_load(done.stdout)["deployments"]
    return found


def flow(deployment: dict[str, Any]) -> str:
    return str(deployment["entrypoint"]).rpartition(":")[2]


def storage(deployment: dict[str, Any]) -> str | None:
    parameters = deployment.get("parameters", {})
    found: str | None = parameters.get("config", parameters).get("storage")
    return found


def active(deployments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with storage and an active schedule; the sweep over crashed runs uses no storage."""
    scheduled = [each for each in deployments if any(schedule["active"] for schedule in each.get("schedules", []))]
    assert {flow(each) for each in scheduled if storage(each) is None} == {"sweep"}
    return [each for each in scheduled if storage(each) is not None]


def test_a_worker_serves_each_pool_that_setup_makes(base: list[dict[str, Any]], tmp_path: Path) -> None:
    containers = {name: pod["spec"]["containers"] for name, pod in pods(base)}
    served = [each["args"][each["args"].index("--pool") + 1] for each in containers["worker"]]
    assert served == [JOB.stem, CPU_JOB.stem]
    script = containers["setup"][0]["args"][-1]
    assert all(f"--pool {file.relative_to(ROOT)}" in script for file in (JOB, CPU_JOB))
    assert {each["work_pool"]["name"] for each in deployed(base, tmp_path)} == set(served)


def test_only_a_training_asks_for_a_gpu(base: list[dict[str, Any]], tmp_path: Path) -> None:
    """correctness 112: what does not train waits for no GPU, and holds none."""
    found = deployed(base, tmp_path)
    assert {flow(each) for each in found} >= {"retrain", "evaluate", "predict", "watch", "rollback", "resume"}
    for each in found:
        pool = each["work_pool"]
        job = job_of(KUBERNETES / f"{pool['name']}.json", **pool["job_variables"])
        resources = job["spec"]["template"]["spec"]["containers"][0]["resources"]
        assert ("nvidia.com/gpu" in resources["limits"]) == (flow(each) == "retrain"), each["name"]
        if flow(each) != "retrain":
            assert (resources["requests"], resources["limits"]["memory"]) == ({"cpu": "1", "memory": "2Gi"}, "8Gi")


def test_no_schedule_is_active_without_storage_that_runs_share(base: list[dict[str, Any]], tmp_path: Path) -> None:
    """correctness 112: with a folder of its own, each run would find an empty registry."""
    assert storage(deployed(base, tmp_path)[0]) == "storage"
    assert active(deployed(base, tmp_path)) == []
    own = (KUBERNETES / "training" / "run.yaml").read_text().replace("name: atlanta-buildings", "name: roofs")
    relative = own.replace("storage: s3://ununennium/storage", "storage: storage")
    assert relative != own
    assert active(deployed(base, tmp_path, relative)) == []
    found = deployed(base, tmp_path, own)
    assert {flow(each) for each in active(found)} == {"retrain", "evaluate", "watch"}
    assert {storage(each) for each in found if flow(each) not in ("resume", "sweep")} == {"s3://ununennium/storage"}
    maps = next(each["parameters"]["config"] for each in found if flow(each) == "predict")
    assert maps["output"] == "s3://ununennium/storage/maps"
    assert maps["model"] == "roofs"
    assert maps["images"] == ["/srv/ununennium/examples/atlanta/data/atlanta_pan_05m.tif"]
    assert "atlanta-buildings" not in json.dumps(found)
    devices = {flow(each): each["parameters"]["config"]["trainer"]["device"] for each in active(found)}
    assert devices["retrain"] == "cuda"
    assert devices["evaluate"] == "auto"
    for each in found:
        if flow(each) in ("retrain", "evaluate", "watch"):
            RunConfig.model_validate(each["parameters"]["config"])


def test_the_example_of_an_overlay_gives_the_server_its_database_and_setup_a_run(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    shutil.copytree(ROOT / "infra" / "kubernetes-example", tmp_path / "mine")
    shutil.copy(KUBERNETES / "training" / "run.yaml", tmp_path / "mine" / "run.yaml")
    found = kustomize(tmp_path / "mine")
    (tmp_path / "checked").mkdir()
    done = validate(found, tmp_path / "checked")
    assert done.returncode == 0, done.stdout + done.stderr
    data = {each["metadata"]["name"]: each["data"] for each in found if each["kind"] == "ConfigMap"}
    server = next(pod for name, pod in pods(found) if name == "server")["spec"]["containers"][0]
    given = data[server["envFrom"][0]["configMapRef"]["name"]]
    assert given["DATABASE_TLS"] == "verify-full"
    assert "PREFECT_UI_API_URL" in given  # merged, and not replaced
    setup = next(pod for name, pod in pods(found) if name == "setup")["spec"]
    (run_map,) = (each["configMap"] for each in setup["volumes"] if each["name"] == "run")
    assert run_map["optional"]
    assert active(deployed(found, tmp_path, data[run_map["name"]]["run.yaml"]))
    images = {each["image"] for _, pod in pods(found) for each in pod["spec"]["containers"]}
    assert images == {"registry.example.org/eo/ununennium:0.1.0"}
    policy = next(each for each in found if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "server")
    assert {"to": [{"ipBlock": {"cidr": "10.0.5.4/32"}}], "ports": [{"protocol": "TCP", "port": 5432}]} in (
        policy["spec"]["egress"]
    )


def test_no_environment_holds_a_secret(base: list[dict[str, Any]], training: list[dict[str, Any]]) -> None:
    """Names of secrets may stand there, and files of secrets; never their values."""
    held = {each["metadata"]["name"]: each["data"] for each in base if each["kind"] == "ConfigMap"}
    values = [(name, value) for data in held.values() for name, value in data.items()]
    for _, pod in pods([*base, *training, job_of(JOB), job_of(CPU_JOB)]):
        for container in pod["spec"]["containers"]:
            values += [(each["name"], each.get("value", "")) for each in container.get("env", [])]
            assert {each["configMapRef"]["name"] for each in container.get("envFrom", [])} <= held.keys()
    for name, value in values:
        pointer = name.endswith(("_SECRET_NAME", "_SECRET_KEY")) or name == "SECRETS_FOLDER"
        assert pointer or not re.search(r"PASSW|SECRET|TOKEN|ACCESS_KEY|AUTH|CONNECTION_URL", name), name
        assert not re.search(r"://[^/]*@", value), name


def test_as_many_machines_meet_as_there_are(training: list[dict[str, Any]]) -> None:
    config = next(each for each in training if each["kind"] == "ConfigMap")
    node = next(each for each in training if each["metadata"]["name"] == "node")
    container = node["spec"]["template"]["spec"]["containers"][0]
    assert f"--nnodes {node['spec']['parallelism']} " in container["args"][-1]
    assert node["spec"]["completions"] == node["spec"]["parallelism"]
    assert "--rdzv-endpoint training-node-0-0.training:29400" in container["args"][-1]  # JobSet's name of the first pod
    config_file = next(each["configMap"]["name"] for each in node["spec"]["template"]["spec"]["volumes"][:1])
    assert config_file == config["metadata"]["name"]
    described = RunConfig.model_validate(yaml.safe_load(config["data"]["run.yaml"]))
    assert str(described.launcher.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert described.storage.startswith("s3://")


def test_the_machines_train_the_sample_run() -> None:
    sample = RunConfig.load(ROOT / "examples" / "atlanta" / "run.yaml").model_dump()
    theirs = RunConfig.load(KUBERNETES / "training" / "run.yaml").model_dump()
    (scene,), (their_scene,) = sample["data"].pop("scenes"), theirs["data"].pop("scenes")
    for key in ("image", "label"):
        assert scene[key] == their_scene[key].replace("/srv/ununennium", str(ROOT))
    assert theirs["trainer"].pop("device") == "cuda"
    sample["trainer"].pop("device")
    for key in ("storage", "launcher"):
        del sample[key], theirs[key]
    assert theirs == sample


def test_terraform_is_formatted_and_a_mutation_is_found(tmp_path: Path) -> None:
    if shutil.which("terraform") is None:
        pytest.skip("needs terraform")
    done = run("terraform", "fmt", "-check", "-diff", TERRAFORM)
    assert done.returncode == 0, done.stdout + done.stderr
    mutated = (TERRAFORM / "main.tf").read_text().replace("  for_each ", "for_each ", 1)
    (tmp_path / "main.tf").write_text(mutated)
    assert run("terraform", "fmt", "-check", tmp_path).returncode == 3


def test_terraform_makes_what_bootstrap_makes() -> None:
    text = (TERRAFORM / "main.tf").read_text()
    parsed = hcl2.loads(text)
    (values,) = parsed["locals"]
    assert {name.strip('"') for name in values["pools"] if not name.startswith("__")} == {
        *(file.stem for file in (HERE / "work-pools").glob("*.json")),
        JOB.stem,
        CPU_JOB.stem,
    }
    for file in [*(HERE / "work-pools").glob("*.json"), JOB, CPU_JOB, HERE / "automations.yaml"]:
        assert f'file("${{path.module}}/../{file.relative_to(HERE)}")' in text
    for automation in yaml.safe_load((HERE / "automations.yaml").read_text())["automations"]:
        trigger = set(automation["trigger"]) - {"type"}
        assert trigger == {"posture", "match", "for_each", "after", "expect", "threshold", "within"}, "see main.tf"


def test_the_files_keep_to_the_schemas_of_what_reads_them(tmp_path: Path) -> None:
    compose = ROOT / "infra" / "compose" / "compose.yaml"
    check = (BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    done = run(*check, compose)
    assert done.returncode == 0, done.stdout
    (tmp_path / "compose.yaml").write_text(compose.read_text().replace("stop_grace_period", "stop_grace", 1))
    assert run(*check, tmp_path / "compose.yaml").returncode == 1
    for file in [*(HERE / "work-pools").glob("*.json"), JOB, CPU_JOB]:  # the form that the UI makes of a pool
        schema = tmp_path / file.name
        schema.write_text(json.dumps(json.loads(file.read_text())["base_job_template"]["variables"]))
        done = run(BIN / "check-jsonschema", "--check-metaschema", schema)
        assert done.returncode == 0, done.stdout
