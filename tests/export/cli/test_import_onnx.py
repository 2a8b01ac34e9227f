"""`convscope import-onnx` from the command line to a running server: what it takes, and how it fails: one line and a
status."""

import io
import json
from pathlib import Path

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from PIL import Image
from sklearn.datasets import load_sample_image

from export.artifact.manifest import INDEPENDENT_SCORES, read_manifest
from models.errors import UserError
from models.images.input_spec import InputSpec
from tests.export.onnx_import.onnx_models import CLASSES, small
from tests.real_server import running_server

SOFTMAX = helper.make_node("Softmax", ["scores"], ["p"], axis=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return small(tmp_path / "net.onnx", end=[SOFTMAX])


def arguments(model: Path, **changes: str | None) -> list[str]:
    given: dict[str, str | None] = {
        "classes": ",".join(CLASSES),
        "mean": "imagenet",
        "std": "imagenet",
        "out": str(model.parent / "artifacts"),
        **changes,
    }
    return [str(model), *(word for flag, value in given.items() if value is not None for word in (f"--{flag}", value))]


def test_every_verb_works_on_what_was_imported(run, model: Path) -> None:
    status, out, err = run("import-onnx", *arguments(model))
    assert (status, err) == (0, "")
    artifact = model.parent / "artifacts/net/1"
    assert f"artifact: {artifact}\nnext: convscope serve {artifact}\n" in out
    assert "5 layers, 10 classes" in out
    picture = model.parent / "flower.png"
    Image.fromarray(load_sample_image("flower.jpg")[:200, :200]).save(picture)
    assert run("verify", artifact)[0] == 0
    assert "net:1: onnx for 16x16 RGB" in run("summary", artifact)[1]
    assert run("evaluate", artifact, "--data", "digits")[0] == 0
    assert run("inspect", artifact, picture, "--out", model.parent / "sheet.png")[0] == 0
    status, out, _ = run("classify", picture, "--artifact", artifact, "--json", "--top-k", 10)
    found = {row["label"]: row["probability"] for row in json.loads(out)["predictions"]}
    pixels = np.asarray(Image.open(picture).resize((16, 16), Image.Resampling.BILINEAR), np.float64) / 255
    x = ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    assert [found[label] for label in CLASSES] == pytest.approx(session.run(None, {"x": x})[0][0], abs=1e-5)


def test_a_server_classifies_and_shows_the_layers(run, model: Path) -> None:
    assert run("import-onnx", *arguments(model))[0] == 0
    Image.fromarray(load_sample_image("china.jpg")).save(picture := io.BytesIO(), "PNG")
    with running_server(model.parent / "artifacts", model.parent / "log") as server:
        body = picture.getvalue()
        classified = httpx.post(f"{server.url}/v1/classify?top_k=10", content=body).json()
        maps = httpx.post(f"{server.url}/v1/models/net/feature-maps?layers=conv,relu", content=body).json()
        graph = httpx.get(f"{server.url}/v1/models/net/graph").json()
    probabilities = {row["label"]: row["probability"] for row in classified["results"][0]["predictions"]}
    shown = {row["label"]: row["probability"] for row in maps["predictions"]}
    assert shown == pytest.approx({label: probabilities[label] for label in shown}, abs=1e-6)
    conv, relu = (np.array(layer["values"]) for layer in maps["layers"])
    np.testing.assert_allclose(relu, conv.clip(min=0), atol=1e-6)
    assert maps["served"]["maximum_difference"] < 1e-6
    assert [node["name"] for node in graph["nodes"]] == ["conv", "relu", "pool", "flatten", "fc"]
    assert graph["network"] == "onnx"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"mean": "0", "std": "1/255"}, {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "resize": (16, 16), "crop": None}),
        ({"mean": "0.5,-0.25,1e-1", "std": "0.5"}, {"mean": (0.5, -0.25, 0.1), "std": (0.5,) * 3}),
        ({"resize": "20"}, {"resize": 20, "crop": (16, 16)}),
        ({"resize": "20x24", "crop": "16"}, {"resize": (20, 24), "crop": (16, 16)}),
        ({"input": "16x16", "resize": "16x16"}, {"resize": (16, 16), "crop": None}),
        ({"resize": "16"}, {"resize": 16, "crop": (16, 16)}),
        ({"interpolation": "bicubic", "background": "7"}, {"interpolation": "bicubic", "background": (7,) * 3}),
    ],
)
def test_flags_make_the_input_specification(
    run, model: Path, changes: dict[str, str], wanted: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(file, *, spec: InputSpec, **_) -> None:
        raise UserError({key: getattr(spec, key) for key in wanted})

    monkeypatch.setattr("export.onnx_import.importer.import_model", told)
    assert run("import-onnx", *arguments(model, **changes)) == (1, "", f"convscope: {wanted}\n")


def test_names_from_a_file_may_have_commas_and_blank_ends(run, model: Path) -> None:
    names = ["tench, Tinca tinca", "café", *CLASSES[2:]]
    (model.parent / "names.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(names).encode() + b"\r\n\n")
    assert run("import-onnx", *arguments(model, classes=str(model.parent / "names.txt"), name="other"))[0] == 0
    assert read_manifest(model.parent / "artifacts/other/1").classes == tuple(names)


def test_names_may_be_a_dictionary(run, model: Path) -> None:
    (model.parent / "names.txt").write_text(str({index: f"class {index}, 'x'" for index in range(10)}))
    assert run("import-onnx", *arguments(model, classes=str(model.parent / "names.txt")))[0] == 0
    assert read_manifest(model.parent / "artifacts/net/1").classes == tuple(f"class {i}, 'x'" for i in range(10))


def test_names_come_from_the_files_metadata(run, model: Path) -> None:
    with_names = onnx.load(model)
    with_names.metadata_props.add(key="names", value=str({index: f"class [{index}]" for index in range(10)}))
    onnx.save(with_names, model)
    status, out, _ = run("import-onnx", *arguments(model, classes=None))
    assert status == 0
    assert out.startswith("class names are those in the file's metadata: class [0], class [1]")
    assert read_manifest(model.parent / "artifacts/net/1").classes == tuple(f"class [{i}]" for i in range(10))
    assert run("import-onnx", *arguments(model))[0] == 0  # --classes decides
    assert read_manifest(model.parent / "artifacts/net/2").classes == tuple(CLASSES)


def test_another_number_of_names_in_the_metadata_is_refused(run, model: Path) -> None:
    with_names = onnx.load(model)
    with_names.metadata_props.add(key="labels", value='["a", "b"]')
    onnx.save(with_names, model)
    assert_refused(run("import-onnx", *arguments(model, classes=None)), 1, "10 scores, but its metadata has 2 names")


def test_blue_first_is_recorded_and_refused_for_grey(run, model: Path) -> None:
    assert run("import-onnx", *arguments(model, **{"channel-order": "bgr"}))[0] == 0
    assert read_manifest(model.parent / "artifacts/net/1").options["channel_order"] == "BGR"
    grey = small(model.parent / "grey.onnx", image=("n", 1, 16, 16))
    refused = run("import-onnx", *arguments(grey, mean="0", std="1", **{"channel-order": "bgr"}))
    assert_refused(refused, 1, "takes grey images, which have no channel order")


def test_independent_scores_are_called_so_everywhere(run, tmp_path: Path) -> None:
    model = small(tmp_path / "net.onnx", end=[helper.make_node("Sigmoid", ["scores"], ["p"])])
    assert f"\n{INDEPENDENT_SCORES}\n" in run("import-onnx", *arguments(model))[1]
    artifact, picture = tmp_path / "artifacts/net/1", tmp_path / "flower.png"
    Image.fromarray(load_sample_image("flower.jpg")).save(picture)
    status, out, err = run("classify", picture, "--artifact", artifact, "--json", "--top-k", 10)
    assert (status, err) == (0, "")
    assert json.loads(out)["notes"] == [INDEPENDENT_SCORES]
    assert sum(row["probability"] for row in json.loads(out)["predictions"]) > 1.5
    assert INDEPENDENT_SCORES in run("classify", picture, "--artifact", artifact)[2]
    with running_server(tmp_path / "artifacts", tmp_path / "log") as server:
        result = httpx.post(f"{server.url}/v1/classify", content=picture.read_bytes()).json()["results"][0]
        described = httpx.get(f"{server.url}/v1/models/net").json()
    assert result["notes"] == [INDEPENDENT_SCORES]
    assert described["scores"] == "independent"


def assert_refused(outcome: tuple[int, str, str], status: int, says: str) -> None:
    assert outcome[0] == status
    assert outcome[2].startswith("convscope: ") and outcome[2].count("\n") == 1, outcome[2]
    assert says in outcome[2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mean": None}, "--mean"),
        ({"std": None}, "--std"),
        ({"classes": None}, "--classes"),
        ({"classes": "names.txt"}, "--classes is 'names.txt'; wanted a text file that exists"),
        ({"classes": "a,,b"}, "--classes: name 2 of 3 is empty"),
        ({"mean": "image-net"}, "--mean is 'image-net'; wanted imagenet, or numbers"),
        ({"std": "1/0"}, "--std is '1/0'; wanted imagenet, or numbers"),
        ({"std": "0"}, "every value must be above 0"),
        ({"mean": "0.5,0.5"}, "mean has 2 values; mode RGB needs 3"),
        ({"resize": "8"}, "resize 8 is smaller than the crop 16x16"),
        ({"resize": "0"}, "--resize is '0'; wanted HEIGHTxWIDTH or one number"),
        ({"resize": "20", "crop": "12"}, "do not end at 16x16"),
        ({"input": "16 x 16"}, "--input is '16 x 16'; wanted HEIGHTxWIDTH"),
        ({"background": "256"}, "--background is 256; it must be 0 to 255"),
        ({"image-limit-pixels": "0"}, "--image-limit-pixels is 0; it must be at least 1"),
        ({"name": "a/b"}, "'a/b' cannot be an artifact's name"),
        ({"mode": "BGR"}, "BGR"),
    ],
)
def test_bad_arguments_end_with_status_2(run, model: Path, changes: dict[str, str | None], says: str) -> None:
    assert_refused(run("import-onnx", *arguments(model, **changes)), 2, says)
    assert not (model.parent / "artifacts").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": "cat,dog"}, "gives 10 scores, but --classes has 2 names"),
        ({"input": "32"}, "takes 16x16 images, not 32x32"),
        ({"mode": "L"}, "takes 3 channels, which is --mode RGB, not L"),
        ({"output": "relu"}, "has no output 'relu'; it has p"),
        ({"images": "nowhere"}, "nowhere is neither an image file nor a folder"),
    ],
)
def test_what_does_not_fit_the_file_ends_with_status_1(run, model: Path, changes: dict[str, str], says: str) -> None:
    assert_refused(run("import-onnx", *arguments(model, **changes)), 1, says)
    assert not (model.parent / "artifacts").exists()


def test_a_file_that_is_not_there_ends_with_status_1(run, tmp_path: Path) -> None:
    assert_refused(run("import-onnx", *arguments(tmp_path / "nothing.onnx")), 1, "nothing.onnx")


def test_a_damaged_image_is_named(run, model: Path) -> None:
    folder = model.parent / "images"
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert_refused(run("import-onnx", *arguments(model, images=str(folder))), 1, "bad.png: the image header is damaged")


def test_the_graph_is_the_original_within_our_frame(run, model: Path) -> None:
    assert run("import-onnx", *arguments(model))[0] == 0
    theirs, ours = (onnx.load(path).graph for path in (model, model.parent / "artifacts/net/1/model.onnx"))
    kept = {value for node in ours.node for value in node.output}
    assert {value for node in theirs.node for value in node.output} <= kept
    assert {t.name: t.raw_data for t in theirs.initializer} == {t.name: t.raw_data for t in ours.initializer}
