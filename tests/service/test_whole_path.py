"""Train, export, serve, ask: the served answers are those of the checkpoint, image by image."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import MNIST
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from export.pipeline.export import export_checkpoint
from models.checkpoint.directory import load_checkpoint
from tests.in_process import client_for, encoded
from tests.real_server import running_server
from training.data.datasets import load_dataset
from training.data.options import DataOptions
from training.run.plan import TrainingRequest
from training.run.train import train_checkpoint

FAST, WHOLE = 100, 1000


def images_of(dataset: str, data_dir: Path | None, count: int) -> np.ndarray:
    """The first test images as they are in the data set, uint8 (N, H, W)."""
    if dataset == "mnist":
        return MNIST(data_dir, train=False).data[:count].numpy()
    return load_dataset(dataset).test.images[:count]


def eager(directory: Path, pictures: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The trained network on the pictures, by torch and torchvision alone: classes, and layers of the first 10."""
    checkpoint = load_checkpoint(directory)
    spec, network = checkpoint.config.input, checkpoint.network
    resized = [np.asarray(Image.fromarray(p).resize((spec.width, spec.height), Image.BILINEAR)) for p in pictures]
    x = (torch.from_numpy(np.stack(resized))[:, None].float() / 255 - spec.mean[0]) / spec.std[0]
    names = get_graph_node_names(network)[1][1:]
    extractor = create_feature_extractor(network, train_return_nodes=names, eval_return_nodes=names).eval()
    with torch.no_grad():
        layers = {name: value.numpy() for name, value in extractor(x[:10]).items()}
        return network(x).argmax(1).numpy(), layers


def check(run: Path, pictures: np.ndarray, tmp_path: Path) -> None:
    artifact = export_checkpoint(run, out=tmp_path / "artifacts")
    classes, layers = eager(run, pictures)
    files = [encoded(picture) for picture in pictures]
    with running_server(artifact, tmp_path / "log") as server, httpx.Client(base_url=server.url) as client:
        in_process = client_for(artifact, engine="torchscript")  # whose requests come one by one
        for asked, threads in ((client, 8), (in_process, 1)):

            def ask(data, asked=asked):
                return asked.post("/v1/classify", content=data).json()["results"][0]["predictions"][0]["index"]

            with ThreadPoolExecutor(threads) as pool:
                assert list(pool.map(ask, files)) == classes.tolist()
            for index in range(10):
                path = f"/v1/models/{run.name}/feature-maps?format=npz"
                with np.load(io.BytesIO(asked.post(path, content=files[index]).content)) as found:
                    assert set(found.files) == {"probabilities", *layers}
                    for name, value in layers.items():
                        np.testing.assert_allclose(found[name], value[index], atol=1e-4)


@pytest.mark.usefixtures("without_pictures")
def test_digits_are_served_as_they_were_learnt(tmp_path):
    run = train_checkpoint(TrainingRequest("lenet", "digits", overrides={"epochs": 6}), out=tmp_path / "lenet-digits")
    check(run, images_of("digits", None, FAST), tmp_path)


@pytest.mark.acceptance
def test_the_first_thousand_mnist_images_are_served_as_they_were_learnt(shared_data, tmp_path):
    run = train_checkpoint(
        TrainingRequest("lenet", "mnist", data_options=DataOptions(data_dir=shared_data)), out=tmp_path / "lenet-mnist"
    )
    assert load_checkpoint(run).config.metrics["test"]["accuracy"] >= 0.99
    check(run, images_of("mnist", shared_data, WHOLE), tmp_path)
