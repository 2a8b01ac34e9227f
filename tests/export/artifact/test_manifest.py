"""An artifact is whole, numbered and hashed: damage is named by file, and nothing half-written is ever found."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.artifact.directory import file_entry, find_versions, newest_version, publish, stage_artifact
from export.artifact.manifest import ArtifactError, FileEntry, Manifest, check_files, check_name, read_manifest
from export.verify.verification import verify_artifact
from models.graph.node import Node
from tests.conftest import make_spec

MANIFEST = Manifest(
    name="net",
    version=0,
    classes=("a", "b"),
    input=make_spec(),
    temperature=1.5,
    model="lenet",
    options={"hidden": [84]},
    nodes=(Node(name="conv1", op="Conv2d", parents=("input",), shape=(6, 28, 28), kernel=(5, 5), value="conv1"),),
    files={},
    metrics={"test": {"accuracy": 0.5}},
    dataset={"name": "digits"},
    revision=None,
    versions={"torch": "2"},
)
FILES = ("manifest.json", "model.onnx", "model.ts", "weights.safetensors", "golden.npz")


def export(root: Path, name: str = "net") -> Path:
    """A small artifact by the same way as a real one."""
    with stage_artifact(root, name) as staging:
        (staging.path / "model.onnx").write_bytes(os.urandom(64))
        return publish(
            staging, replace(MANIFEST, name=name, files={"model.onnx": file_entry(staging.path / "model.onnx")})
        )


def write_manifest(directory: Path, content: Any) -> None:
    (directory / "manifest.json").write_text(json.dumps(content))


def test_a_manifest_survives_json() -> None:
    manifest = replace(MANIFEST, files={"model.onnx": FileEntry(sha256="ab", size_bytes=3, parity={"images": 4})})
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_a_manifest_from_before_rows_had_a_start_gets_them(lenet_artifact: Path) -> None:
    content = json.loads((lenet_artifact / "manifest.json").read_text())
    for row in content["nodes"]:
        del row["start"]
    older = rehashed(**content)
    assert Manifest.from_json(older) == read_manifest(lenet_artifact)


def test_the_manifest_lists_every_file_with_its_size(lenet_artifact: Path) -> None:
    manifest = read_manifest(lenet_artifact)
    assert {*manifest.files, "manifest.json"} == set(os.listdir(lenet_artifact)) == set(FILES)
    for name, entry in manifest.files.items():
        assert entry.size_bytes == (lenet_artifact / name).stat().st_size
        assert bool(entry.parity) == name.startswith("model.")
    assert (manifest.name, manifest.version) == ("lenet", 1)
    check_files(lenet_artifact, manifest)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("place", [0.001, 0.5, 0.999])
def test_a_flipped_byte_in_any_file_is_named(copy: Path, file: str, place: float) -> None:
    content = bytearray((copy / file).read_bytes())
    content[int(place * len(content))] ^= 1
    (copy / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"/{file}: "):
        verify_artifact(copy)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(ArtifactError, match=f"/{file} does not exist"):
        verify_artifact(copy)


@pytest.mark.parametrize("key", [key for key in MANIFEST.to_json() if key != "sha256"])
def test_a_change_to_any_key_of_the_manifest_is_noticed(key: str) -> None:
    content = {**MANIFEST.to_json(), key: "other"}
    with pytest.raises(ValueError, match=r"it was changed|schema is 'other'"):
        Manifest.from_json(content)


def rehashed(**changes: Any) -> dict[str, Any]:
    """A manifest with changes that its hash knows of."""
    content = {key: value for key, value in {**MANIFEST.to_json(), **changes}.items() if key != "sha256"}
    content = {key: value for key, value in content.items() if value is not ...}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {**content, "sha256": hashlib.sha256(canonical.encode()).hexdigest()}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schema": 2}, "schema is 2; this version reads 1"),
        ({"colour": 1}, "unexpected keyword argument 'colour'"),
        ({"classes": ...}, "the key 'classes' is missing"),
        ({"model": ...}, "missing 1 required.*'model'"),
        ({"files": {"../x": {"sha256": "", "size_bytes": 1}}}, "'../x' is not a plain file name"),
        ({"files": {"/etc/passwd": {"sha256": "", "size_bytes": 1}}}, "'/etc/passwd' is not a plain file name"),
        ({"files": {".hidden": {"sha256": "", "size_bytes": 1}}}, "'.hidden' is not a plain file name"),
        ({"files": {"a": {"sha256": ""}}}, "missing 1 required.*'size_bytes'"),
        ({"files": []}, "has no attribute 'items'"),
        ({"nodes": [{"name": "a"}]}, "node table: "),
        ({"input": None}, "."),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    write_manifest(tmp_path, rehashed(**changes))
    with pytest.raises(ArtifactError, match=f"manifest.json: .*{says}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b'"x"', b"null", b"\xff\xfe\x00"])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest.json: "):
        read_manifest(tmp_path)


def test_no_artifact_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest.json does not exist; .* is not an artifact"):
        read_manifest(tmp_path)


def test_versions_count_up_even_past_a_damaged_one(tmp_path: Path) -> None:
    assert [export(tmp_path).name for _ in range(3)] == ["1", "2", "3"]
    shutil.rmtree(tmp_path / "net" / "1")
    (tmp_path / "net" / "3" / "manifest.json").unlink()
    made = export(tmp_path)
    assert made.name == "4"
    assert read_manifest(made).version == 4


def test_parallel_exports_take_different_versions(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: export(tmp_path), range(24)))
    assert sorted(int(path.name) for path in made) == list(range(1, 25))
    for path in made:
        manifest = read_manifest(path)
        assert manifest.version == int(path.name)
        check_files(path, manifest)
    assert len(os.listdir(tmp_path / "net")) == 24


def test_a_number_that_another_export_took_meanwhile_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "net" / "1").mkdir(parents=True)
    iterdir, looks = Path.iterdir, []

    def look(folder: Path) -> Iterator[Path]:
        looks.append(folder)
        return iter(()) if len(looks) == 1 else iterdir(folder)  # the first look is before the other was there

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "iterdir", look)
        with stage_artifact(tmp_path, "net") as staging:
            assert staging.version == 2
            assert publish(staging, MANIFEST).name == "2"
    assert looks[:2] == [tmp_path / "net"] * 2
    assert read_manifest(tmp_path / "net" / "2").version == 2


def test_a_reserved_number_is_no_artifact_and_is_given_back(tmp_path: Path) -> None:
    export(tmp_path)
    with pytest.raises(ValueError, match="stop"), stage_artifact(tmp_path, "net") as staging:
        assert staging.version == 2 and (tmp_path / "net" / "2").is_dir()
        assert find_versions(tmp_path) == [tmp_path / "net" / "1"]
        raise ValueError("stop")
    assert export(tmp_path).name == "2"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_export_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error, match="stop"), stage_artifact(tmp_path, "net") as staging:
        (staging.path / "model.onnx").touch()
        raise error("stop")
    assert os.listdir(tmp_path) == []


def test_an_export_that_fails_leaves_earlier_versions(tmp_path: Path) -> None:
    export(tmp_path)
    with pytest.raises(ValueError, match="stop"), stage_artifact(tmp_path, "net"):
        raise ValueError("stop")
    assert os.listdir(tmp_path / "net") == ["1"]


def test_a_half_written_artifact_is_never_found(tmp_path: Path) -> None:
    with stage_artifact(tmp_path, "net") as staging:
        (staging.path / "model.onnx").touch()
        (staging.path / "manifest.json").write_text("{}")
        for place in (tmp_path, tmp_path / "net"):
            assert find_versions(place) == []
    (tmp_path / "net" / "1").mkdir(parents=True)  # a copy that has not come to its manifest
    assert find_versions(tmp_path) == find_versions(tmp_path / "net") == []


def test_versions_are_found_in_the_order_of_numbers(tmp_path: Path) -> None:
    made = [export(tmp_path) for _ in range(11)]
    other = export(tmp_path, "another")
    assert find_versions(tmp_path) == [other, *made]
    assert find_versions(tmp_path / "net") == made
    assert find_versions(made[3]) == [made[3]]
    assert newest_version(tmp_path / "net") == made[-1]
    assert newest_version(made[3]) == made[3]


def test_a_name_of_digits_is_found_again(tmp_path: Path) -> None:
    made = export(tmp_path, "2024")
    assert find_versions(tmp_path) == [made]


def test_the_newest_of_several_names_is_not_guessed(tmp_path: Path) -> None:
    export(tmp_path, "one"), export(tmp_path, "two")
    with pytest.raises(ArtifactError, match=r"holds several artifacts \(one, two\); name one"):
        newest_version(tmp_path)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_where_there_is_no_artifact_there_is_no_newest(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(ArtifactError, match=r"x is not an artifact: no manifest.json in it"):
        newest_version(tmp_path / "x")


@pytest.mark.parametrize("name", ["a", "LeNet-5_v1.0", "9", "a" * 100])
def test_names_of_letters_digits_and_marks_are_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a/b", "a b", "é", "a" * 101, "a\n", "a:1"])
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be an artifact's name; use letters, digits"):
        check_name(name)
    with pytest.raises(ValueError, match="cannot be an artifact's name"), stage_artifact(tmp_path, name):
        pass
    assert os.listdir(tmp_path) == []
