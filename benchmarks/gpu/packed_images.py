"""MNIST and CIFAR-10 as portable files: gzipped IDX files, and the unchanged archive of class folders."""

import gzip
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from models.files import atomic_write

ARCHIVE = "cifar10-jpeg.tar.gz"


def pack_images(data: Path, folder: Path) -> None:
    """Writes the images of a data folder with `MNIST/raw` and `cifar10-jpeg.tar.gz` into `folder`.

    Raises:
        FileNotFoundError: one of them is missing.
    """
    raw = sorted((data / "MNIST" / "raw").glob("*-ubyte"))
    if len(raw) != 4 or not (data / ARCHIVE).is_file():
        raise FileNotFoundError(f"{data} does not have {ARCHIVE} and the four files of MNIST/raw")
    shutil.copyfile(data / ARCHIVE, folder / ARCHIVE)
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for path in raw:
        (folder / "MNIST" / "raw" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def unpack_images(folder: Path, out: Path) -> Iterator[Path]:
    """Unpacks what `pack_images` wrote, in torchvision's layout, and yields each new file or folder of `out`."""
    for packed in sorted(folder.rglob("*.gz")):
        plain = out / packed.relative_to(folder).with_name(packed.name.removesuffix(".gz").removesuffix(".tar"))
        if plain.exists():
            continue
        plain.parent.mkdir(parents=True, exist_ok=True)
        if packed.name.endswith(".tar.gz"):
            with tempfile.TemporaryDirectory(dir=out, prefix=".") as scratch:
                with tarfile.open(packed) as archive:
                    archive.extractall(scratch, filter="data")
                Path(scratch, plain.name).rename(plain)
        else:
            with atomic_write(plain) as temporary, gzip.open(packed) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target)
        yield plain
