"""Packages and images for a GPU host without a network, in parts small enough to carry there one by one.

    python -m benchmarks.gpu.packages collect --out PARTS --data ../shared/data --onnxruntime-gpu
    python -m benchmarks.gpu.packages install PARTS/serve PARTS/data --target SITE --data-out DATA
    PYTHONPATH=$PWD/SITE python -m convscope ...

`collect` needs a network; `install` runs on the host with the standard library and pip alone. `PARTS/README.md` lists
the parts and how to bring them.
"""

import argparse
import importlib.util
import json
import operator
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu.packed_images import pack_images, unpack_images
from benchmarks.gpu.parts import PartError, check_part, cut, find_parts, join, new_part, pieces_in

ROOT = Path(__file__).parents[2]
CONSTRAINTS = f"--constraint={ROOT / 'constraints.txt'}"
GPU_PART = "onnxruntime-gpu"
# Left to the host: large or compiled packages that work in any version. Small pure wheels travel in the version of
# constraints.txt even where the host has another, as PYTHONPATH puts them first. The host has the CPU build of ONNX
# Runtime; the GPU build has its own parts, and loads the CUDA libraries that come with the host's torch.
HOST_HAS = (
    *("aiohttp", "frozenlist", "markupsafe", "matplotlib", "ml-dtypes", "mpmath", "multidict", "numpy", "onnx"),
    *("onnxruntime-gpu", "onnxscript", "pillow", "propcache", "protobuf", "psutil", "pyarrow", "pyyaml"),
    *("safetensors", "scikit-learn", "sympy", "torch", "torchvision", "uvloop", "yarl"),
)
_README = """# Parts for a GPU host without a network

| part | MB | holds |
| --- | --- | --- |
{rows}

Bring `serve` first, and `data` with it if both fit. From the folder of the checkout, on the host:

    python3 -m benchmarks.gpu.packages install PARTS/serve PARTS/data --target SITE --data-out DATA
    export PYTHONPATH=$PWD/SITE

ONNX Runtime for CUDA is wanted only where its own speed is measured; the host's build runs on the CPU. Bring its parts
one by one, in any order, each with

    python3 -m benchmarks.gpu.packages install PARTS/onnxruntime-gpu-1 --target SITE --keep FOLDER

which installs it once all are in FOLDER. `sha256sum -c --ignore-missing SHA256SUMS` checks a part by hand.
"""
_HOLDS = {
    "serve": "wheels of what convscope needs and the host lacks",
    "data": "MNIST, and CIFAR-10 as JPEG files",
    GPU_PART: "a piece of the wheel of ONNX Runtime for CUDA",
}
_VERSION_MARKER = re.compile(r"python_(?:full_)?version\s*(<=|>=|==|!=|<|>)\s*['\"](\d+(?:\.\d+)*)")
_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    ">": operator.gt,
}


class PackagesError(RuntimeError):
    """Packages that cannot be collected or installed; the message says why."""


def collect(
    out: Path, *, python: str, platform: str, data: Path | None, onnxruntime_gpu: bool, limit_bytes: int
) -> list[Path]:
    """Writes parts for a host of that Python and platform, and a README.md that lists all in `out`.

    Args:
        data: folder with `MNIST/raw` and `cifar10-jpeg.tar.gz`, for the part `data`; None omits the part.
        onnxruntime_gpu: add the parts of ONNX Runtime for CUDA.
        limit_bytes: maximum size of a part.

    Raises:
        PackagesError: pip finds no set of wheels.
        FileNotFoundError: an image file is missing.
        PartError: a part is too large.
    """
    host = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *_platforms(platform)]
    with new_part(out / "serve", limit_bytes) as folder:
        _pip("download", "--no-deps", f"--dest={folder}", *host, *_closure(own_requirements(), host, python))
    if data is not None:
        with new_part(out / "data", limit_bytes) as folder:
            pack_images(data, folder)
    if onnxruntime_gpu:
        for stale in out.glob(f"{GPU_PART}-*"):
            shutil.rmtree(stale)
        with tempfile.TemporaryDirectory() as scratch:
            _pip("download", "--no-deps", f"--dest={scratch}", *host, CONSTRAINTS, GPU_PART)
            (wheel,) = Path(scratch).glob("*.whl")
            cut(recompress(wheel, Path(scratch, "smaller")), out, GPU_PART, limit_bytes=limit_bytes)
    parts = sorted(find_parts(out), key=lambda part: (list(_HOLDS).index(_kind(part)), part.name))
    rows = "\n".join(f"| `{part.name}` | {_size(part) / 1e6:.1f} | {_HOLDS[_kind(part)]} |" for part in parts)
    (out / "README.md").write_text(_README.format(rows=rows), "utf-8")
    return parts


def own_requirements() -> list[str]:
    """The dependencies in pyproject.toml without those that the host has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [line for line in project["dependencies"] if _name(line) not in HOST_HAS]


def depends_on_running_python(requirement: str, python: str) -> bool:
    """True if a marker of the requirement holds for only one of the running Python and `python`, such as "3.12".

    pip evaluates markers for the Python that runs it, regardless of `--python-version`.
    """
    versions = tuple(map(int, python.split("."))), sys.version_info[:2]
    markers = [
        (_COMPARE[sign], tuple(map(int, than.split(".")))) for sign, than in _VERSION_MARKER.findall(requirement)
    ]
    return any(compare(versions[0], than) != compare(versions[1], than) for compare, than in markers)


def recompress(wheel: Path, folder: Path) -> Path:
    """Repacks the wheel with LZMA, which pip also reads, in a new folder; onnxruntime-gpu becomes a fifth smaller."""
    folder.mkdir()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(folder / wheel.name, "w") as target:
        for entry in source.infolist():
            target.writestr(entry, source.read(entry), compress_type=zipfile.ZIP_LZMA)
    return folder / wheel.name


def install(
    parts: Sequence[Path],
    target: Path,
    *,
    keep: Path | None = None,
    data_out: Path | None = None,
    tell: Callable[[str], None] = print,
) -> Path:
    """Installs the wheels of parts into a folder for PYTHONPATH and unpacks their images; skips existing ones.

    Args:
        parts: parts, or folders of parts.
        keep: folder that collects the pieces of a split wheel across calls; without it all are needed at once.
        data_out: folder for the images, in torchvision's layout; without it they stay packed.
        tell: receives a line for each completed step, and for incomplete wheels.

    Returns:
        `target`.

    Raises:
        PackagesError: pip fails, or `target` has another version of a package.
        PartError: a part is missing or damaged.
    """
    folders = [folder for path in parts for folder in find_parts(path)]
    for folder in folders:
        check_part(folder)
    _install_wheels([wheel for folder in folders for wheel in sorted(folder.glob("*.whl"))], target, tell)
    if data_out is not None:
        for folder in folders:
            for plain in unpack_images(folder, data_out):
                tell(f"unpacked {plain}")
    if keep is not None:
        for folder in folders:
            if pieces_in([folder]):
                shutil.copytree(folder, keep / folder.name, dirs_exist_ok=True)
        folders = sorted(keep.glob("*"))
    for name, pieces in pieces_in(folders).items():
        if _is_installed(name, target):
            continue
        if missing := [str(number) for number, piece in pieces.items() if piece is None]:
            lack = f"{name} lacks part {', '.join(missing)} of {len(pieces)}"
            if keep is None:
                raise PartError(lack)
            tell(f"{lack}; the others wait in {keep}")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            _install_wheels([join([piece for piece in pieces.values() if piece], Path(scratch))], target, tell)
    return target


def _kind(part: Path) -> str:
    return GPU_PART if part.name.startswith(GPU_PART) else part.name


def _size(part: Path) -> int:
    return sum(path.stat().st_size for path in part.rglob("*") if path.is_file())


def _platforms(newest: str) -> list[str]:
    # pip takes each name literally; older glibc also has tags named after years.
    match = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", newest)
    if match is None:
        return [f"--platform={newest}"]
    names = [f"manylinux_2_{minor}" for minor in range(int(match[1]), 4, -1)]
    return [f"--platform={name}_{match[2]}" for name in (*names, "manylinux2014", "manylinux2010", "manylinux1")]


def _closure(requirements: Sequence[str], host: Sequence[str], python: str) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        report, target = Path(scratch, "report.json"), Path(scratch, "target")
        dry = ("--dry-run", "--ignore-installed", f"--report={report}", f"--target={target}")
        _pip("install", *dry, *host, CONSTRAINTS, *requirements)
        found = [item["metadata"] for item in json.loads(report.read_text("utf-8"))["install"]]
    needs = {line for each in found for line in each.get("requires_dist", ()) if not re.search(r"\bextra\b", line)}
    if odd := sorted(line for line in needs if depends_on_running_python(line, python)):
        raise PackagesError(f"collect must run on Python {python}, or else pip misreads {', '.join(odd)}")
    return [f"{each['name']}=={each['version']}" for each in found if _name(each["name"]) not in HOST_HAS]


def _pip(verb: str, *words: str) -> None:
    command = [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PackagesError(f"pip {verb} failed: {(done.stderr.strip().splitlines() or ['it does not say why'])[-1]}")


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def _install_wheels(wheels: Sequence[Path], target: Path, tell: Callable[[str], None]) -> None:
    new = [wheel for wheel in wheels if not _is_installed(wheel.name, target)]
    if not new:
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
        site = Path(scratch, "site")
        offline = ("--isolated", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir")
        _pip("install", *offline, f"--target={site}", *map(str, new))
        # pip would not merge packages that share a folder; the metadata that marks a package as installed comes last.
        for ignore in (shutil.ignore_patterns("*.dist-info"), None):
            shutil.copytree(site, target, ignore=ignore, copy_function=shutil.move, dirs_exist_ok=True)
    _link_cuda_libraries(target)
    tell(f"installed {', '.join(wheel.name for wheel in new) if len(new) < 3 else f'{len(new)} wheels'} in {target}")


def _is_installed(wheel: str, target: Path) -> bool:
    name, version = wheel.split("-")[:2]
    for path in target.glob("*.dist-info"):
        there, its_version = path.name.removesuffix(".dist-info").rsplit("-", 1)
        if _name(there) == _name(name):
            if its_version != version:
                raise PackagesError(f"{target} has {name} {its_version}, not {version}; choose another --target")
            return True
    return False


def _link_cuda_libraries(target: Path) -> None:
    # onnxruntime.preload_dlls looks for them in `nvidia` beside its own package; they come with the host's torch.
    spec = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    holders = [place for place in places if any(place.glob("cu*/lib"))]
    if (target / "onnxruntime").exists() and holders and not (target / "nvidia").exists():
        (target / "nvidia").symlink_to(holders[0].resolve())


def main() -> None:
    """Runs one verb; exits with 1 and a one-line reason if it fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    collecting = verbs.add_parser("collect", help="write parts, where there is a network")
    collecting.add_argument("--out", type=Path, required=True, help="folder of the parts")
    collecting.add_argument("--python", default="3.12", help="the host's Python")
    collecting.add_argument("--platform", default="manylinux_2_39_x86_64", help="the host's newest platform tag")
    collecting.add_argument("--data", type=Path, help="folder with MNIST/raw and cifar10-jpeg.tar.gz")
    collecting.add_argument("--onnxruntime-gpu", action="store_true", help="add ONNX Runtime for CUDA")
    collecting.add_argument("--part-mb", type=float, default=60, help="most that a part may hold, in 10**6 bytes")
    installing = verbs.add_parser("install", help="install parts, on the host")
    installing.add_argument("parts", type=Path, nargs="+", help="parts, or folders of parts")
    installing.add_argument("--target", type=Path, required=True, help="folder for PYTHONPATH")
    installing.add_argument("--keep", type=Path, help="folder in which pieces of a cut wheel wait for the others")
    installing.add_argument("--data-out", type=Path, help="folder for the images")
    given = vars(parser.parse_args())
    try:
        if given.pop("verb") == "collect":
            limit_bytes = int(given.pop("part_mb") * 1e6)
            for part in collect(**given, limit_bytes=limit_bytes):
                print(f"{_size(part) / 1e6:6.1f} MB  {part}")
        else:
            install(**given)
    except (PackagesError, PartError, OSError) as error:
        sys.exit(f"packages: {error}")


if __name__ == "__main__":
    main()
