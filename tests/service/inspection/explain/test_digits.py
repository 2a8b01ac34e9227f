"""Maps lie on the digit, wherever on a canvas it is; run as a module, this writes the table of docs/explain.md."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from export.pipeline.export import export_checkpoint
from export.predictor import Predictor
from models.checkpoint.directory import CheckpointConfig, save_checkpoint
from models.checkpoint.samples import SAMPLES_FILE, VerificationImages, save_samples
from models.images.normalize import Normalize
from service.inspection.explain.explanation import Explainer
from service.inspection.explain.maps import positive
from service.inspection.explain.methods import METHODS
from tests.conftest import make_spec
from tests.service.inspection.explain.networks import NETWORKS

PAGE = Path(__file__).parents[4] / "docs" / "explain.md"
SIZE, DIGIT, IMAGES = 64, 28, 200
TRAINED, EPOCHS, BATCH = 10_000, 3, 64
NOISE = 0.2  # up to this part of the range: SmoothGrad asks for noisy images, which the network should know


def read_digits(data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28), and labels."""
    raw = data / "MNIST/raw"
    images = np.frombuffer((raw / f"{split}-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((raw / f"{split}-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    return images.reshape(-1, DIGIT, DIGIT), labels.astype(np.int64)


def placed(digits: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Canvases uint8 (N, 64, 64, 1), and True where each has its digit."""
    canvases = np.zeros((len(digits), SIZE, SIZE, 1), np.uint8)
    inside = np.zeros((len(digits), SIZE, SIZE), bool)
    for index, (top, left) in enumerate(random.integers(0, SIZE - DIGIT + 1, (len(digits), 2))):
        box = slice(top, top + DIGIT), slice(left, left + DIGIT)
        canvases[index, *box, 0] = digits[index]
        inside[index][box] = True
    return canvases, inside


def trained(data: Path, folder: Path) -> Predictor:
    """A network that finds digits, exported."""
    config = CheckpointConfig(
        model=NETWORKS + "DigitFinder",
        options={},
        classes=tuple(map(str, range(10))),
        input=make_spec(SIZE, 1, mean=(0.025,), std=(0.15,)),
        metrics={},
        dataset={"name": "mnist"},
    )
    normalize, random = Normalize(config.input), np.random.default_rng(0)
    digits, labels = (one[:TRAINED] for one in read_digits(data, "train"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = config.build_network().train()
        optimizer = torch.optim.AdamW(network.parameters())
        steps = EPOCHS * (TRAINED // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        for step in range(steps):
            if step % (TRAINED // BATCH) == 0:
                order = random.permutation(TRAINED)
            part = order[:BATCH]
            order = order[BATCH:]
            x = normalize(torch.from_numpy(placed(digits[part], random)[0]))
            x = x + torch.randn(x.shape) * torch.rand(len(x), 1, 1, 1) * NOISE / config.input.std[0]
            loss = functional.cross_entropy(network(x), torch.from_numpy(labels[part]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    save_checkpoint(folder / "digits", config, network.state_dict())
    images, _ = placed(digits[:9], random)
    samples = VerificationImages(images, labels[:9], tuple(images[..., 0]), labels[:9])
    save_samples(folder / "digits" / SAMPLES_FILE, samples)
    return Predictor.open(export_checkpoint(folder / "digits", out=folder / "artifacts", formats=("onnx",)))


def shares(model: Predictor, data: Path, method: str) -> np.ndarray:
    """For each image the part of the weight of its map's heaviest tenth that lies on the digit."""
    canvases, inside = placed(read_digits(data, "t10k")[0][:IMAGES], np.random.default_rng(1))
    found = []
    for canvas, box in zip(canvases, inside, strict=True):
        explainer = Explainer(model, canvas)
        weights = positive(explainer.explain(METHODS[method], explainer.predicted).values).ravel()
        tenth = np.argsort(-weights, kind="stable")[: weights.size // 10]
        found.append(weights[tenth][box.ravel()[tenth]].sum() / max(weights[tenth].sum(), 1e-9))
    return np.array(found)


@pytest.fixture(scope="module")
def digit_finder(shared_data, tmp_path_factory):
    return trained(shared_data, tmp_path_factory.mktemp("digits"))


@pytest.mark.acceptance
@pytest.mark.parametrize("method", METHODS)
def test_the_heaviest_tenth_lies_on_the_digit(digit_finder, shared_data, method):
    assert (shares(digit_finder, shared_data, method) > 0.5).mean() >= 0.9


def test_every_method_is_in_the_table_of_the_docs():
    table = PAGE.read_text().partition("| method | images |")[2]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == list(METHODS)
    assert all(float(row[1].removesuffix(" %")) >= 90 for row in rows)


if __name__ == "__main__":
    rows = ["| method | images | mean weight on the digit |", "| --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as directory:
        model = trained(Path(sys.argv[1]), Path(directory))
        for name in METHODS:
            on_digit = shares(model, Path(sys.argv[1]), name)
            rows.append(f"| `{name}` | {(on_digit > 0.5).mean():.1%} | {on_digit.mean():.1%} |".replace("%", " %"))
    PAGE.write_text(PAGE.read_text().partition("| method | images |")[0] + "\n".join(rows) + "\n")
