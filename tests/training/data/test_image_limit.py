"""The limit of pixels is a flag of every command that decodes images, and counts what is decoded."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LIMIT = 1_000_000


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of 5.8 MP, of which 0.1 MP are decoded for small inputs."""
    root, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 128)):
        (root / name).mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(level, level + 128, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((2400, 2400)).save(root / name / f"{index}.jpg")
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG, which is decoded as a whole, in every class of a test split."""
    root = tmp_path_factory.mktemp("data") / "large"
    for index in range(10):
        (root / "test" / str(index)).mkdir(parents=True)
        Image.new("L", (1200, 1200), 20 * index).save(root / "test" / str(index) / "a.png")
    return root


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("memory_mb", [4096, 0])
def test_a_jpeg_over_the_limit_is_learnt_if_the_part_that_is_decoded_is_not(
    run, photos: Path, tmp_path: Path, memory_mb: int
) -> None:
    words = ("--size", 32, "--epochs", 1, "--batch-size", 4, "--memory-limit-mb", memory_mb, "--workers", 0)
    done = run("train", "lenet", "--data", photos, "--out", tmp_path / "run", *words, "--image-limit-pixels", LIMIT)
    assert done.status == 0, done.err
    with np.load(tmp_path / "run" / "samples.npz") as samples:
        assert samples["raw_000"].shape == (150, 150, 3)  # a sixteenth, from an eighth
    done = run("evaluate", tmp_path / "run", "--data", photos, *words[-4:], "--image-limit-pixels", LIMIT)
    assert done.status == 0, done.err


@pytest.mark.parametrize("memory_mb", [4096, 0])
@pytest.mark.parametrize("verb", ["evaluate", "verify", "index"])
def test_a_file_over_the_limit_is_named_with_the_flag(
    run, lenet_artifact: Path, large: Path, verb: str, memory_mb: int
) -> None:
    words = ("--data", large, "--memory-limit-mb", memory_mb, "--workers", 0, "--image-limit-pixels", LIMIT)
    done = run(verb, lenet_artifact, *words)
    assert done.status == 1 and "has 1.44 MP; the limit is 1 MP; --image-limit-pixels raises it" in done.err


def test_a_higher_limit_takes_them(run, lenet_artifact: Path, large: Path) -> None:
    assert run("evaluate", lenet_artifact, "--data", large, "--image-limit-pixels", 1_440_000).status == 0


@pytest.mark.parametrize(
    "words",
    [
        ("classify", "{image}", "--artifact", "{artifact}"),
        ("inspect", "{artifact}", "{image}", "--out", "a.png"),
        ("explain", "{artifact}", "{image}", "--method", "occlusion", "--out", "why"),
        ("unit", "{artifact}", "{image}", "conv1", "0,0,0"),
    ],
)
def test_the_verbs_for_one_image_have_the_limit_as_a_flag_and_as_a_setting(
    run, lenet_artifact: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [word.format(artifact=lenet_artifact, image=large / "test/0/a.png") for word in words]
    done = run(*given, "--image-limit-pixels", LIMIT)
    assert done.status == 1 and "the limit is 1 MP; --image-limit-pixels raises it" in done.err
    monkeypatch.setenv("CONVSCOPE_IMAGE_LIMIT_PIXELS", str(LIMIT))
    assert run(*given).status == 1
    assert run(*given, "--image-limit-pixels", 2 * LIMIT).status == 0


@pytest.mark.parametrize("verb", "train evaluate export verify index classify inspect explain unit serve".split())
def test_every_command_that_decodes_has_the_flag(run, verb: str) -> None:
    assert "--image-limit-pixels" in run(verb, "--help").out


def test_a_limit_of_nothing_and_one_for_a_server_are_usage_errors(run, lenet_artifact: Path) -> None:
    assert run("evaluate", lenet_artifact, "--data", "digits", "--image-limit-pixels", 0).status == 2
    assert run("unit", lenet_artifact, "a.png", "conv1", "0", "--image-limit-pixels", 0).status == 2
    assert run("classify", "a.png", "--url", "http://127.0.0.1:1", "--image-limit-pixels", 5).status == 2
