"""Both engines agree with the trained network at every batch size, and every way of breaking an export is caught."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.engines.onnxruntime import OnnxEngine
from export.engines.protocol import Engine, Run
from export.engines.torch import TorchScriptEngine
from export.verify.parity import BATCHES, ParityError, compare
from export.verify.reference import reference
from export.writers.deployable import Deployable
from models.checkpoint.directory import load_checkpoint
from models.checkpoint.samples import load_samples
from models.images.decode import Floats, Pixels, preprocess_image, to_pil
from tests.conftest import Exported, digit_images


@pytest.fixture(scope="module")
def images(lenet_checkpoint: Path) -> Pixels:
    return load_samples(lenet_checkpoint / "samples.npz").images


@pytest.fixture(scope="module")
def lenet(lenet_checkpoint: Path) -> Run:
    return reference(load_checkpoint(lenet_checkpoint))


def test_the_documented_batch_sizes_are_compared() -> None:
    assert BATCHES == (1, 2, 7, 64, 256)


@pytest.mark.parametrize(("engine", "file"), [(OnnxEngine, "model.onnx"), (TorchScriptEngine, "model.ts")])
@pytest.mark.parametrize("batch", BATCHES)
def test_engines_agree_with_the_trained_network(
    exported: Exported, engine: Callable[..., Engine], file: str, batch: int
) -> None:
    checkpoint = load_checkpoint(exported.checkpoint)
    spec = checkpoint.config.input
    images = np.stack([preprocess_image(to_pil(image), spec) for image in digit_images(spec.channels, batch)])
    x = (torch.from_numpy(images).float() / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    with torch.no_grad():
        logits = checkpoint.network(x.permute(0, 3, 1, 2))
        wanted = (logits / checkpoint.config.temperature).softmax(1)
    probabilities, found = engine(exported.artifact / file, device="cpu").run(images)
    assert probabilities.dtype == found.dtype == np.float32
    np.testing.assert_allclose(probabilities, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)
    assert batch < 7 or len(set(wanted.argmax(1).tolist())) > 1, "one class for all would prove little"


def test_the_report_has_what_was_measured(lenet: Run, images: Pixels) -> None:
    def shifted(batch: Pixels) -> tuple[Floats, Floats]:
        probabilities, logits = lenet(batch)
        probabilities = probabilities.copy()
        probabilities[:, 0] += 4e-6
        return probabilities, logits

    parity = compare(shifted, lenet, images)
    assert (parity.images, parity.batches, parity.limit, parity.top1_agreement) == (80, (1, 2, 7, 64, 256), 1e-5, 1.0)
    assert parity.maximum_difference == pytest.approx(4e-6, rel=0.2)
    assert parity.mean_difference == pytest.approx(4e-6, rel=0.2)


@pytest.mark.parametrize(("difference", "passes"), [(9e-6, True), (1.2e-5, False)])
@pytest.mark.parametrize("place", [0, 63, 64, 79])
def test_one_image_beyond_the_limit_is_enough(
    lenet: Run, images: Pixels, difference: float, passes: bool, place: int
) -> None:
    def off(batch: Pixels) -> tuple[Floats, Floats]:
        probabilities, logits = lenet(batch)
        hit = (batch == images[place]).all(axis=(1, 2, 3))
        return probabilities + (difference * hit[:, None]).astype(np.float32), logits

    if passes:
        compare(off, lenet, images)
    else:
        with pytest.raises(ParityError, match=rf"at batch 1 image {place} differs by 1.\d+e-05 .*limit 1e-05.*1 of 80"):
            compare(off, lenet, images)


def test_the_last_of_many_images_is_compared_and_named(lenet: Run, images: Pixels) -> None:
    many = np.resize(images, (500, *images.shape[1:]))
    many[-1] = 255 - many[-1]

    def off(batch: Pixels) -> tuple[Floats, Floats]:
        probabilities, logits = lenet(batch)
        hit = (batch == many[-1]).all(axis=(1, 2, 3))
        return probabilities + hit[:, None].astype(np.float32), logits

    assert compare(lenet, lenet, many).images == 500
    with pytest.raises(ParityError, match="at batch 1 image 499 differs by 1 "):
        compare(off, lenet, many)


def test_a_file_that_takes_one_image_runs_them_one_by_one(
    lenet_artifact: Path, lenet: Run, images: Pixels, tmp_path: Path
) -> None:
    model = onnx.load(lenet_artifact / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "model.onnx")
    assert compare(OnnxEngine(tmp_path / "model.onnx", device="cpu").run, lenet, images).images == len(images)


def test_a_batch_frozen_at_one_row_is_caught(lenet: Run, images: Pixels) -> None:
    with pytest.raises(ParityError, match="at batch 2 2 images gave 1 rows: the batch is frozen"):
        compare(lambda batch: lenet(batch[:1]), lenet, images)


def test_a_missing_class_is_caught(lenet: Run, images: Pixels) -> None:
    with pytest.raises(ParityError, match=r"the output is \(80, 9\); the trained network gives \(80, 10\)"):
        compare(lambda batch: (lenet(batch)[0][:, :9], lenet(batch)[1][:, :9]), lenet, images)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda rows, logits: (rows.astype(np.float16), logits),
            "the file gives float16 probabilities and float32 logits",
        ),
        (
            lambda rows, logits: (rows, logits.astype(np.float64)),
            "the file gives float32 probabilities and float64 logits",
        ),
        (lambda rows, logits: (rows, logits[:, :9]), r"probabilities are \(1, 10\), and logits \(1, 9\)"),
    ],
)
def test_another_type_or_shape_is_caught(change: Any, says: str, lenet: Run, images: Pixels) -> None:
    with pytest.raises(ParityError, match=f"at batch 1 .*{says}"):
        compare(lambda batch: change(*lenet(batch)), lenet, images)


def test_numbers_that_are_none_are_caught(lenet: Run, images: Pixels) -> None:
    with pytest.raises(ParityError, match="image 0 differs by inf"):
        compare(lambda batch: (lenet(batch)[0] * np.float32("nan"), lenet(batch)[1]), lenet, images)


def test_another_first_class_is_caught_even_within_the_limit(images: Pixels) -> None:
    def tie(first: int) -> Run:
        row = np.full(10, 0.1, np.float32)
        row[first] += 1e-6
        return lambda batch: (np.tile(row, (len(batch), 1)), np.tile(row, (len(batch), 1)))

    with pytest.raises(ParityError, match="at batch 1 image 0 is of another class"):
        compare(tie(3), tie(4), images)


def test_the_deployable_graph_is_in_evaluation_mode_whatever_the_network_was_in(lenet_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(lenet_checkpoint)
    checkpoint.network.train()
    assert not any(module.training for module in Deployable(checkpoint).modules())
