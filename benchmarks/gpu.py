"""On a GPU: every form of the deployable graph of ResNet-18 and -50 at 224, beside its own matrix rate, and trainings.

    python -m benchmarks.gpu --mnist ../shared/data --cifar10 cifar10-jpeg > tables.md

Needs torch, torchvision, safetensors, numpy and Pillow; ONNX Runtime is measured if its CUDA provider loads. Trainings
whose images are not given are left out. The script itself can be tried where there is no GPU:
`--device cpu --size 64 --batches 1,4 --networks resnet18 --mnist ../shared/data --epochs 1`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.deployable import Deployable
from models.checkpoint import Checkpoint, CheckpointConfig
from models.geometry import node_table
from models.inputs import InputSpec
from models.tensors import put_tensors
from training.evaluation import Evaluation, logits_of
from training.learner import forward_of
from training.loop import fit
from training.plan import build, make_plan
from training.report import silent
from training.state import seeded

Forward = Callable[[Tensor], Tensor]  # uint8 (N, H, W, C) on the device to probabilities (N, K)

# Network, images, epochs, and what is wanted of them; recipes are the default ones but for the batch.
TRAININGS = (
    ("lenet", "mnist", 10, "99.2 % in 5 s"),
    ("resnet18", "cifar10", 20, "94 % in 60 s"),
    ("resnet18", "cifar10", 50, "95 % in 150 s"),
)
TRAINING_BATCH = 512


def checkpoint_of(name: str, size: int) -> Checkpoint:
    """Random weights; speed does not depend on them."""
    half = (0.5,) * 3
    square = {"height": size, "width": size, "resize": (size, size)}
    spec = InputSpec(mode="RGB", **square, background=(0, 0, 0), mean=half, std=half)
    config = CheckpointConfig(model=name, classes=tuple(map(str, range(1000))), input=spec)
    torch.manual_seed(0)
    return Checkpoint(config, config.build_network().eval())


def forms(checkpoint: Checkpoint, device: str, half: bool) -> Iterator[tuple[str, Callable[[], Forward]]]:
    """Names, and what makes each; autocast to half precision is part of the graph."""
    deployable, spec = Deployable(checkpoint).to(device), checkpoint.config.input
    example = torch.zeros(2, *spec.shape, dtype=torch.uint8, device=device)

    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = deployable

        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            with torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16):
                probabilities, logits = self.inner(image)
            return probabilities.float(), logits.float()

    module = Half().eval() if half else deployable
    dynamic = ({0: torch.export.Dim("batch")},)

    def first(run: Callable[[Tensor], tuple[Tensor, ...]]) -> Forward:
        return lambda images: run(images)[0]

    def traced() -> Forward:
        return first(torch.jit.freeze(torch.jit.trace(module, example, check_trace=False)))

    def exported() -> Forward:
        return first(torch.export.export(module, (example,), dynamic_shapes=dynamic).module())

    def compiled_ahead() -> Forward:
        program = torch.export.export(module, (example,), dynamic_shapes=dynamic)
        folder = tempfile.mkdtemp()
        path = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
        return first(torch._inductor.aoti_load_package(path))

    def onnx_runtime() -> Forward:
        from export.engine_onnx import OnnxEngine
        from export.onnx_file import write_onnx

        path = Path(tempfile.mkdtemp()) / "model.onnx"
        checkpoint.network.cpu()
        write_onnx(checkpoint, node_table(checkpoint.network, spec), path)
        checkpoint.network.to(device)
        if half:
            from export.reduced import write_fp16

            write_fp16(path, path.with_name("half.onnx"))
            path = path.with_name("half.onnx")
        engine = OnnxEngine(path, device="cuda" if device == "cuda" else "cpu")
        return lambda images: torch.from_numpy(engine.run(images.cpu().numpy())[0])

    yield "eager", lambda: first(module)
    yield "TorchScript", traced
    yield ".pt2", exported
    yield "AOTInductor", compiled_ahead
    yield "ONNX Runtime (copies included)", onnx_runtime


def rate(run: Callable[[], object], device: str, *, seconds: float = 1.0) -> float:
    """Runs a second, after a warm-up of three."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        run()
    wait()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        run()
        count += 1
        if count % 8 == 0:
            wait()
    wait()
    return count / (time.perf_counter() - began)


def matrix_rate(device: str, half: bool) -> float:
    """Floating-point operations a second of a large matrix product."""
    side = 8192 if device == "cuda" else 1024
    dtype = torch.float32 if not half else torch.float16 if device == "cuda" else torch.bfloat16
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 * rate(lambda: a @ b, device)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--networks", default="resnet18,resnet50")
    parser.add_argument("--batches", default="1,8,32,128,512")
    parser.add_argument("--mnist", type=Path, help="folder with torchvision's MNIST files")
    parser.add_argument("--cifar10", type=Path, help="folder with train/ and test/ of class folders")
    parser.add_argument("--epochs", type=int, help="of every training, to try the script")
    given = parser.parse_args()
    machine = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(f"{machine}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, {given.size}x{given.size}\n")
    print(
        "| network | precision | form | batch | images/s | of the matrix rate | largest difference |\n"
        + "| --- " * 7
        + "|"
    )
    for name in given.networks.split(","):
        checkpoint = checkpoint_of(name, given.size)
        macs = sum(node.macs for node in node_table(checkpoint.network, checkpoint.config.input))
        for half in (False, True):
            peak = matrix_rate(given.device, half)
            for form, make in forms(checkpoint, given.device, half):
                row = f"| {name} | {'half' if half else 'fp32'} | {form} |"
                try:
                    run = make()
                    for batch in map(int, given.batches.split(",")):
                        print(
                            f"{row} {batch} | {_measured(run, checkpoint, batch, given.device, macs, peak)} |",
                            flush=True,
                        )
                except Exception as error:  # of any of them; the other forms are measured all the same
                    print(f"{row} | {str(error).splitlines()[0][:90]} | | |", flush=True)
    places = {"mnist": given.mnist, "cifar10": given.cifar10}
    print("\n| network | images | epochs | wanted | test accuracy | training | images/s |\n" + "| --- " * 7 + "|")
    for name, dataset, epochs, wanted in TRAININGS:
        place = places[dataset]
        if place is not None:
            epochs = given.epochs or epochs
            measured = _trained(name, dataset, place, epochs, given.device)
            print(f"| {name} | {dataset} | {epochs} | {wanted} | {measured} |", flush=True)


def _trained(model: str, dataset: str, place: Path, epochs: int, device_name: str) -> str:
    device, data = torch.device(device_name), str(place) if dataset == "cifar10" else dataset
    changes = {"epochs": epochs, "batch_size": TRAINING_BATCH, "device": device_name, "channels_last": True}
    plan = make_plan(model, data, data_dir=place, overrides=changes)
    with seeded(plan.recipe.seed, device):
        network = build(plan.config)
    with tempfile.TemporaryDirectory() as folder:
        result = fit(network, plan.data, plan.recipe, Path(folder), silent, spec=plan.config.input)
    put_tensors(network, result.weights)
    classify = forward_of(network.eval(), plan.config.input, device=device)
    accuracy = Evaluation.of(logits_of(classify, plan.data.test.to(device)).cpu(), plan.data.test.labels).accuracy
    seconds = sum(line.seconds for line in result.history)
    fastest = max(line.images_per_s for line in result.history)
    return f"{accuracy:.2%} | {seconds:.1f} s | {fastest:,.0f}"


def _measured(run: Forward, checkpoint: Checkpoint, batch: int, device: str, macs: int, peak: float) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *checkpoint.config.input.shape), dtype=np.uint8)
    images = torch.from_numpy(pixels).to(device)
    with torch.inference_mode():
        wanted = Deployable(checkpoint).to(device)(images[:8])[0].cpu()
        difference = float((run(images)[:8].cpu() - wanted).abs().max())
        images_per_s = batch * rate(lambda: run(images), device)
    return f"{images_per_s:,.0f} | {images_per_s * 2 * macs / peak:.1%} | {difference:.1e}"


if __name__ == "__main__":
    main()
