"""Long proofs: all of MNIST's test set from every kind of source, 20 kills, and memory that does not grow."""

import os
import random
import signal
import subprocess
import time

import httpx
import psutil
import pytest
import torch
from PIL import Image
from torchvision.datasets import MNIST

from models.checkpoint.directory import load_checkpoint
from tests.service.batch.conftest import BATCH, by_key, decoding_processes, read_rows, write_parquet, write_tar

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def mnist(tmp_path_factory, shared_data):
    """The 10,000 test images as PNG files in class folders."""
    folder, images = tmp_path_factory.mktemp("mnist"), MNIST(shared_data, train=False)
    for number, (image, label) in enumerate(images):
        (folder / str(label)).mkdir(exist_ok=True)
        image.save(folder / str(label) / f"{number:05}.png")
    return folder


@pytest.fixture(scope="module")
def labels(mnist, lenet_checkpoint):
    """What the checkpoint's network says of each, in torch."""
    found = load_checkpoint(lenet_checkpoint)
    spec, network, wanted = found.config.input, found.network.eval(), {}
    files = sorted(mnist.rglob("*.png"))
    for start in range(0, len(files), 500):
        part = files[start : start + 500]
        pixels = torch.stack(
            [torch.frombuffer(bytearray(Image.open(path).tobytes()), dtype=torch.uint8) for path in part]
        )
        x = (pixels.view(-1, 1, 28, 28) / 255 - spec.mean[0]) / spec.std[0]
        with torch.inference_mode():
            best = network(x).argmax(1).tolist()
        wanted |= {path.relative_to(mnist).as_posix(): str(label) for path, label in zip(part, best, strict=True)}
    return wanted


def classify(source, artifact, out, *words):
    command = [*BATCH, source, "--artifact", artifact, "--out", out, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def whole(mnist, lenet_artifact, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "rows.parquet"
    classify(mnist, lenet_artifact, out)
    return read_rows(out)


@pytest.mark.parametrize("kind", ["list", "tar", "parquet"])
def test_mnist_gives_the_same_rows_from_every_kind_of_source(kind, mnist, labels, whole, lenet_artifact, tmp_path):
    files = sorted(mnist.rglob("*.png"))
    if kind == "list":
        source = mnist / "all.txt"
        source.write_text("".join(f"{path.relative_to(mnist)}\n" for path in files))
    else:
        source = (write_tar if kind == "tar" else write_parquet)(tmp_path / f"mnist.{kind}", files, mnist)
    classify(source, lenet_artifact, tmp_path / "rows.parquet")
    rows = [{name: row[name] for name in whole[0]} for row in read_rows(tmp_path / "rows.parquet")]
    assert rows == whole
    assert {row["key"]: row["label"] for row in rows} == labels


def test_mnist_on_a_server(mnist, whole, server):
    rows, choice = by_key(whole), random.Random(0)
    with httpx.Client(base_url=server.url) as client:
        for key in choice.sample(sorted(rows), 500):
            answer = client.post("/v1/classify?top_k=5", content=(mnist / key).read_bytes()).json()
            first = answer["results"][0]["predictions"][0]
            assert (first["label"], first["probability"]) == (
                rows[key]["label"],
                pytest.approx(rows[key]["probability"], abs=1e-5),
            )


@pytest.mark.parametrize("victims", ["group", "decoder"])
def test_ten_kills_each_lose_nothing(victims, mnist, whole, lenet_artifact, tmp_path):
    out, choice = tmp_path / "rows.parquet", random.Random(victims)
    words = [*BATCH, mnist, "--artifact", lenet_artifact, "--out", out, "--resume"]
    killed = 0
    while killed < 10:
        if victims == "decoder" or not killed % 3:
            subprocess.run(["rm", "-rf", out], check=True)
        process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(choice.uniform(0.5, 4.0))
        if process.poll() is not None:
            continue
        if victims == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            decoders = decoding_processes(process.pid)
            for one in decoders[:1]:
                one.kill()
        killed += 1
        assert process.wait() in (0, -signal.SIGKILL)
        if victims == "decoder":
            assert read_rows(out) == whole
    classify(mnist, lenet_artifact, out, "--resume")
    assert read_rows(out) == whole


def test_memory_does_not_grow_with_the_source(mnist, lenet_artifact, tmp_path):
    peaks = []
    for copies in (1, 6):
        (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in sorted(mnist.rglob("*.png"))) * copies)
        words = [*BATCH, tmp_path / "list.txt", "--artifact", lenet_artifact, "--out", tmp_path / "rows.parquet"]
        process = subprocess.Popen([*words, *(["--overwrite"] if copies > 1 else [])], stdout=subprocess.DEVNULL)
        peak = 0
        while process.poll() is None:
            try:
                parent = psutil.Process(process.pid)
                each = [one.memory_full_info().pss for one in (parent, *parent.children(recursive=True))]
                peak = max(peak, sum(each))
            except psutil.Error:
                pass
            time.sleep(0.1)
        assert process.returncode == 0
        peaks.append(peak)
    assert peaks[1] <= 1.2 * peaks[0], peaks
