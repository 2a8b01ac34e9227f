"""The files in deploy/: they parse, fit the schemas, and name packages, settings, metrics and codes that there are."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from service.errors import STATUS
from service.settings import PREFIX, Settings
from service.telemetry.metrics import COUNTS, GAUGES, INTERNAL, OTHER_CODE

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OF_THE_COMMAND = {"bentoml", "cyclopts", "rich"}  # in the image, and not in a Bento


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def kind(name: str) -> dict:
    (found,) = (one for one in documents("kubernetes.yaml") if one["kind"] == name)
    return found


def rules() -> list[dict]:
    return [rule for group in documents("alerts.yaml")[0]["groups"] for rule in group["rules"]]


def test_the_image_has_the_packages_of_the_bento_and_of_the_command() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    packages = set(re.findall(r'^    "([^"]+)" ?\\?$', text, re.M))
    bento = yaml.safe_load((ROOT / "bentofile.cpu.yaml").read_text())["python"]["packages"]
    names = {Requirement(package).name for package in packages}
    assert packages >= set(bento) and names == {Requirement(package).name for package in bento} | OF_THE_COMMAND


def test_the_image_has_all_that_is_copied_and_nothing_else_is_sent() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for word in line.split()}
    allowed = set(re.findall(r"^!(\S+)", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.M))
    assert copied == allowed and all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "kubernetes.yaml"])
def test_every_setting_exists_and_takes_its_value(name: str) -> None:
    text = (DEPLOY / name).read_text()
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}[A-Z_]+", text)) <= known
    given = re.findall(rf'{PREFIX}([A-Z_]+)(?:=|: "|, value: ")([^\s"]+)', text)
    Settings(**{field.lower(): value for field, value in given})
    assert given


def test_the_pod_is_probed_at_our_paths_and_ends_after_every_answer() -> None:
    pod = kind("Deployment")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    settings = {one["name"]: one.get("value") for one in container["env"]}
    assert container["readinessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["ports"] == [{"name": "http", "containerPort": Settings().port}]
    least = float(settings["CONVSCOPE_DRAIN_S"]) + Settings().deadline_s
    assert pod["spec"]["terminationGracePeriodSeconds"] > least
    assert settings["CONVSCOPE_THREADS"] == container["resources"]["limits"]["cpu"]
    labels = pod["metadata"]["labels"].items()
    for selector in (
        kind("Deployment")["spec"]["selector"]["matchLabels"],
        kind("Service")["spec"]["selector"],
        kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels


def test_nothing_is_written_outside_of_volumes() -> None:
    (container,) = kind("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {one["mountPath"] for one in container["volumeMounts"]} == {"/artifacts", "/tmp"}
    composed = documents("compose.yaml")[0]["services"]["convscope"]
    assert composed["read_only"] and composed["tmpfs"] == ["/tmp"]
    for place in re.findall(r"(?:HOME|BENTOML_HOME)=(\S+)", (DEPLOY / "Dockerfile").read_text()):
        assert place.startswith("/tmp")


def test_the_manifests_fit_kubernetes_schemas() -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in documents("kubernetes.yaml"):
        validator.validate(document, validator.latest_version(), strict=True)


def test_the_alerts_ask_for_metrics_labels_and_codes_that_there_are() -> None:
    labels = {f"{one.name}_total": set(one.labels) for one in COUNTS if not one.buckets}
    labels |= {f"{one.name}_bucket": {*one.labels, "le"} for one in COUNTS if one.buckets}
    labels |= {one.name: set(one.labels) for one in GAUGES} | {"up": set()}
    codes = {error.code for error in STATUS} | {INTERNAL, OTHER_CODE}
    for rule in rules():
        expression = rule["expr"]
        names = re.findall(r"\bconvscope_\w+|\bup\b", expression)
        assert names and set(names) <= set(labels), expression
        asked = {word for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression) for word in re.split(r", *", group)}
        asked |= set(re.findall(r"(\w+)=~?\"", expression))
        assert asked <= {"job", "instance"} | {label for name in names for label in labels[name]}, expression
        for found in re.findall(r'code=~?"([^"]+)"', expression):
            assert set(found.split("|")) <= codes


def test_every_alert_is_tested_in_a_healthy_and_in_a_troubled_server() -> None:
    names = [rule["alert"] for rule in rules()]
    healthy, troubled = documents("alerts_test.yaml")[0]["tests"]
    assert sorted(one["alertname"] for one in healthy["alert_rule_test"]) == sorted(names)
    assert troubled["promql_expr_test"][0]["exp_samples"][0]["value"] == len(set(names)) == len(names)
    for rule in rules():
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("warning", "critical")


def test_promtool_agrees() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; Debian's package prometheus has it")
    for words in (["test", "rules", "alerts_test.yaml"], ["check", "config", "prometheus.yaml"]):
        done = subprocess.run([promtool, *words], cwd=DEPLOY, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
