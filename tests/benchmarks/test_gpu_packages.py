"""Parts for a GPU host: what is cut and packed comes back, and what is missing or changed is named."""

import hashlib
import importlib
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu.packages import (
    HOST_HAS,
    PackagesError,
    depends_on_running_python,
    install,
    own_requirements,
    recompress,
)
from benchmarks.gpu.packed_images import pack_images
from benchmarks.gpu.parts import SUMS, PartError, cut, find_parts, join, new_part

LIMIT_BYTES = 1_000_000
RAW = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "train-images-idx3-ubyte", "train-labels-idx1-ubyte")


def make_wheel(folder: Path, name: str, version: str = "1.0", *, shared: str = "") -> Path:
    """A wheel with one module, in a folder that other wheels share if `shared` names it."""
    place = f"{shared}/{name}.py" if shared else f"{name}.py"
    info = f"{name}-{version}.dist-info"
    files = {
        place: f"VERSION = '{version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, content)
    return wheel


def wheel_part(folder: Path, *names: str, version: str = "1.0", shared: str = "") -> Path:
    with new_part(folder, LIMIT_BYTES) as content:
        for name in names:
            make_wheel(content, name, version, shared=shared)
    return folder


def cut_wheel(tmp_path: Path, name: str = "cutwheel") -> list[Path]:
    """Three parts of one wheel, in `tmp_path/parts`."""
    wheel = make_wheel(tmp_path, name)
    pieces = cut(wheel, tmp_path / "parts", "gpu", limit_bytes=wheel.stat().st_size // 3 + 1)
    assert [piece.parent.name for piece in pieces] == ["gpu-1", "gpu-2", "gpu-3"]
    return [piece.parent for piece in pieces]


def value_in(site: Path, statement: str) -> str:
    """Output of a fresh interpreter with the folder on its path."""
    run = subprocess.run([sys.executable, "-c", statement], cwd=site, capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.mark.parametrize("size, count", [(1, 1), (1000, 1), (1001, 2), (2500, 3)])
def test_a_cut_file_is_joined_to_the_same_bytes(tmp_path: Path, size: int, count: int) -> None:
    content = hashlib.shake_128(b"wheel").digest(size)
    (tmp_path / "a.whl").write_bytes(content)
    pieces = cut(tmp_path / "a.whl", tmp_path / "parts", "a", limit_bytes=1000)
    assert [piece.name for piece in pieces] == [f"a.whl.part-{n:02}-of-{count:02}" for n in range(1, count + 1)]
    (tmp_path / "joined").mkdir()
    assert join(pieces, tmp_path / "joined").read_bytes() == content


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    first, _, third = cut_wheel(tmp_path)
    with pytest.raises(PartError, match=r"cutwheel-1\.0-py3-none-any\.whl lacks part 2 of 3"):
        install([first, third], tmp_path / "site")


def test_parts_that_were_brought_one_by_one_wait_for_the_last(tmp_path: Path) -> None:
    told: list[str] = []
    for part in cut_wheel(tmp_path):
        install([part], tmp_path / "site", keep=tmp_path / "kept", tell=told.append)
    assert re.search("lacks part 2, 3 of 3", told[0])
    assert re.search("lacks part 3 of 3", told[1])
    assert len(told) == 3
    assert value_in(tmp_path / "site", "import cutwheel; print(cutwheel.VERSION)") == "1.0"


def test_a_part_alone_needs_no_others_once_its_wheel_is_installed(tmp_path: Path) -> None:
    parts = cut_wheel(tmp_path)
    install(parts, tmp_path / "site")
    told: list[str] = []
    install(parts[:1], tmp_path / "site", tell=told.append)
    assert told == []


@pytest.mark.parametrize("name", ["one-1.0-py3-none-any.whl", SUMS])
def test_a_changed_part_is_refused(tmp_path: Path, name: str) -> None:
    part = wheel_part(tmp_path / "serve", "one")
    content = bytearray((part / name).read_bytes())
    content[10] ^= 1
    (part / name).write_bytes(content)
    with pytest.raises(PartError, match=r"one-1\.0-py3-none-any\.whl is damaged: its SHA-256"):
        install([part], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_missing_file_of_a_part_is_named(tmp_path: Path) -> None:
    part = wheel_part(tmp_path / "serve", "one", "two")
    (part / "two-1.0-py3-none-any.whl").unlink()
    with pytest.raises(PartError, match=r"two-1\.0-py3-none-any\.whl is missing"):
        install([part], tmp_path / "site")


def test_pieces_of_different_cuts_are_not_joined(tmp_path: Path) -> None:
    parts = cut_wheel(tmp_path)
    other = bytes(reversed((piece := next(parts[1].glob("*.part-*"))).read_bytes()))
    whole = (parts[1] / SUMS).read_text().splitlines()[0]
    piece.write_bytes(other)
    (parts[1] / SUMS).write_text(f"{whole}\n{hashlib.sha256(other).hexdigest()}  {piece.name}\n")
    with pytest.raises(PartError, match="do not give the file that was cut"):
        install(parts, tmp_path / "site")


def test_a_folder_that_is_no_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PartError, match="is no part and holds none"):
        install([tmp_path], tmp_path / "site")


def test_a_part_over_the_limit_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(PartError, match=r"the part serve has 2\.0 MB; the limit is 1 MB"):
        with new_part(tmp_path / "serve", LIMIT_BYTES) as content:
            (content / "large.whl").write_bytes(bytes(2_000_000))
    assert list(tmp_path.iterdir()) == []


def test_wheels_are_installed_without_an_index_and_once(tmp_path: Path) -> None:
    part = wheel_part(tmp_path / "serve", "one", "two")
    told: list[str] = []
    for _ in range(2):
        assert install([tmp_path], tmp_path / "site", tell=told.append) == tmp_path / "site"
    assert len(told) == 1
    assert value_in(tmp_path / "site", "import one, two; print(one.VERSION, two.VERSION)") == "1.0 1.0"
    assert find_parts(tmp_path) == [part]


def test_wheels_of_later_parts_may_share_a_folder_with_those_of_earlier_ones(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        install([wheel_part(tmp_path / f"serve-{number}", name, shared="shared")], tmp_path / "site")
    assert value_in(tmp_path / "site", "import shared.one, shared.two; print(shared.two.VERSION)") == "1.0"


def test_another_version_in_the_target_is_refused(tmp_path: Path) -> None:
    install([wheel_part(tmp_path / "old", "one")], tmp_path / "site")
    with pytest.raises(PackagesError, match=r"has one 1\.0, not 2\.0; choose another --target"):
        install([wheel_part(tmp_path / "new", "one", version="2.0")], tmp_path / "site")


def test_a_recompressed_wheel_can_be_installed(tmp_path: Path) -> None:
    with new_part(tmp_path / "serve", LIMIT_BYTES) as content:
        recompress(make_wheel(tmp_path, "one"), tmp_path / "smaller").rename(content / "one-1.0-py3-none-any.whl")
    install([tmp_path / "serve"], tmp_path / "site")
    assert value_in(tmp_path / "site", "import one; print(one.VERSION)") == "1.0"


def test_cuda_libraries_of_the_host_lie_beside_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "host" / "nvidia" / "cu13" / "lib").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "host")])
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    importlib.invalidate_caches()
    install([wheel_part(tmp_path / "gpu", "onnxruntime_gpu", shared="onnxruntime")], tmp_path / "site")
    assert (tmp_path / "site" / "nvidia" / "cu13" / "lib").is_dir()


def test_images_come_back_as_they_were_packed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "MNIST" / "raw").mkdir(parents=True)
    for name in RAW:
        (data / "MNIST" / "raw" / name).write_bytes(name.encode() * 100)
    image = b"jpeg"
    with tarfile.open(data / "cifar10-jpeg.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("cifar10-jpeg/train/cat/0000.jpg")
        entry.size = len(image)
        archive.addfile(entry, io.BytesIO(image))
    with new_part(tmp_path / "parts" / "data", LIMIT_BYTES) as content:
        pack_images(data, content)
    told: list[str] = []
    for _ in range(2):
        install([tmp_path / "parts"], tmp_path / "site", data_out=tmp_path / "out", tell=told.append)
    assert len(told) == 5
    for name in RAW:
        assert (tmp_path / "out" / "MNIST" / "raw" / name).read_bytes() == name.encode() * 100
    assert (tmp_path / "out" / "cifar10-jpeg" / "train" / "cat" / "0000.jpg").read_bytes() == image
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["MNIST", "cifar10-jpeg"]


def test_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"does not have cifar10-jpeg\.tar\.gz and the four files of MNIST/raw"):
        pack_images(tmp_path, tmp_path)


def test_requirements_are_the_projects_own_without_those_of_the_host() -> None:
    names = {re.split(r"[\[>;]", line)[0].lower().replace("_", "-") for line in own_requirements()}
    assert {"bentoml", "starlette", "orjson", "pydantic-settings"} <= names
    assert not names & set(HOST_HAS)
    assert list(HOST_HAS) == sorted(HOST_HAS)


@pytest.mark.parametrize(
    "marker, depends",
    [
        ("python_version < '4'", False),
        ("python_version >= '3.99'", True),
        ('platform_system == "Linux"', False),
        ("python_full_version < '3.0.1'", False),
    ],
)
def test_a_marker_that_the_running_python_reads_otherwise_is_found(marker: str, depends: bool) -> None:
    assert depends_on_running_python(f"tomli>=1.1 ; {marker}", "3.99") is depends


def test_the_command_fails_in_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks.gpu.packages", "install", "nowhere", "--target", str(tmp_path / "site")]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == f"packages: nowhere is no part and holds none: {SUMS} is missing\n"
