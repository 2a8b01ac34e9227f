import pytest
import torch

from models.graph.node_table import node_table
from models.networks.registry import build_network
from service.inspection.channels import check_size
from service.settings import Settings, SettingsError, read_settings, to_environment
from tests.conftest import make_spec


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CONVSCOPE_WORKERS", "0", r"CONVSCOPE_WORKERS: .*greater than or equal to 1 \(got '0'\)"),
        ("CONVSCOPE_PORT", "http", r"CONVSCOPE_PORT: .*valid integer.* \(got 'http'\)"),
        ("CONVSCOPE_ENGINE", "tensorrt", r"CONVSCOPE_ENGINE: .*'onnxruntime'"),
        ("CONVSCOPE_WORKER", "2", r"CONVSCOPE_WORKER is not a setting; known are .*CONVSCOPE_WORKERS"),
        ("CONVSCOPE_QUEUE_SIZE", "10", r"images_per_request is 256, which a queue_size of 10 never admits"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        read_settings()


@pytest.mark.parametrize("token", ["hunter2", "hunter two and three", "hünter-zwei-und-drei", "hunter2hunter2 "])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(monkeypatch, token):
    monkeypatch.setenv("CONVSCOPE_TOKEN", token)
    with pytest.raises(SettingsError, match="CONVSCOPE_TOKEN") as caught:
        read_settings()
    assert "nter" not in str(caught.value)


def test_another_process_reads_the_same_settings(monkeypatch, tmp_path):
    settings = read_settings(artifacts=tmp_path, workers=3, device="cpu", token="a-long-secret", deadline_s=1.5)
    for name, value in to_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert read_settings() == settings


def test_what_is_given_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("CONVSCOPE_PORT", "4000")
    assert read_settings(port=None).port == 4000
    assert read_settings(port=5000).port == 5000


def test_cores_are_divided_among_the_workers():
    assert read_settings(workers=200).threads_per_run == 1
    assert read_settings(workers=200, threads=4).threads_per_run == 4


@pytest.mark.parametrize("images", [1, 2])
def test_all_layers_of_resnet18_at_224_fit_the_default_limit(images):
    with torch.device("meta"):
        network = build_network("resnet18", channels=3, height=224, width=224, classes=1000)
    nodes = node_table(network, make_spec(224, 3))
    check_size(nodes, Settings().limit("inspection_limit_values"), "choose some", images=images)
