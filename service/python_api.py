"""The Python API: a model in this process, for scripts and notebooks; `import convscope` offers it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from export.artifact.directory import find_versions
from export.artifact.formats import EngineName, PrecisionName
from export.artifact.manifest import STORE_PREFIX, Manifest
from export.engines.cuda import Device
from export.predictor import Image, Predictor
from models.errors import UserError
from models.results import Result
from service.inspection.compare import Comparison, compare
from service.inspection.explain.explanation import Explainer, class_index
from service.inspection.explain.methods import find_method
from service.inspection.feature_maps import inspect_image, select_nodes
from service.inspection.kernels import Kernels, layer_kernels
from service.inspection.references.index import ChannelReferences, image_normality, open_index
from service.inspection.references.normal import Normality
from service.inspection.units import extractor_of, inspect_unit
from service.notebook_views import ExplanationView, LayerValues, Summary, UnitView

if TYPE_CHECKING:
    from training.evaluate.evaluation import Evaluation

ARTIFACTS = Path("artifacts")  # where `name` and `name:version` are looked for


def load(
    artifact: str | Path,
    *,
    engine: EngineName = "auto",
    precision: PrecisionName = "fp32",
    device: Device = "auto",
    threads: int = 0,
) -> "Model":
    """Opens an artifact for classification and inspection in this process.

    Args:
        artifact: a directory of `convscope export`, its name's folder for the newest version, `NAME` or `NAME:VERSION`
            in the folder `artifacts`, or `bentoml:NAME:VERSION`.
        engine: `onnxruntime`, `torchscript`, or `auto`, which follows `convscope bench --use` where it was run.
        precision: fp32, fp16, bf16 or int8, where the artifact has a file of it.
        device: `cpu`, `cuda`, or `auto`, which takes CUDA where it works.
        threads: of one run; 0 leaves the number to the engine.

    Raises:
        ArtifactError: there is no such artifact, or a file of it was changed.
        EngineError: there is no such file, or the device is not there.
    """
    return Model(Predictor.open(_find(artifact), engine=engine, precision=precision, device=device, threads=threads))


def train(
    network: str,
    data: str | Path,
    *,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    size: int | None = None,
    weights: str | None = None,
    **recipe: Any,
) -> "Run":
    """Trains a network as `convscope train` does, and writes its checkpoint directory.

    Args:
        network: a name of `convscope summary`, a classifier of torchvision, or `module:callable`.
        data: `digits`, `stripes`, `mnist`, `fashion-mnist`, `cifar10`, or a folder of class folders.
        out: the checkpoint directory; `runs/NETWORK-DATA` by default.
        data_dir: searched first for data files.
        size: height and width of the input; by default those the network is made for.
        weights: initial weights; random by default.
        recipe: settings of the training that differ from the default recipe, such as `epochs=5`; see
            `training.recipes.recipe.Recipe`.

    Raises:
        ConvscopeError: an unknown name, a value out of range, or data that are absent or damaged.
    """
    from training.data.options import DataOptions
    from training.run.plan import TrainingRequest
    from training.run.train import train_checkpoint

    request = TrainingRequest(
        network,
        str(data),
        data_options=DataOptions(data_dir=None if data_dir is None else Path(data_dir)),
        size=size,
        overrides=recipe,
        weights=weights,
    )
    return Run(train_checkpoint(request, out=None if out is None else Path(out)))


def export(
    run: "str | Path | Run",
    *,
    out: str | Path = ARTIFACTS,
    name: str | None = None,
    formats: Sequence[str] = ("onnx", "torchscript"),
    precisions: Sequence[str] = ("fp32",),
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
) -> "Model":
    """Exports a checkpoint directory as `convscope export` does: verified files, published as the next version.

    Args:
        run: the directory, or what `train` returned.
        out: the folder of artifacts.
        name: the artifact's; by default the directory's.
        formats: of onnx, torchscript, pt2 and aoti.
        precisions: of fp32, fp16, bf16 and int8; all below fp32 need `data`.
        data: the data set that the network was trained on, for accuracies and for the ranges of int8.
        data_dir: searched first for data files.

    Returns:
        The artifact, opened; `manifest` has the parity, the accuracy and the speed of every file.

    Raises:
        ConvscopeError: no checkpoint, or a file differs from the network, in which case nothing is published.
    """
    from export.pipeline.data import load_export_data
    from export.pipeline.export import export_checkpoint
    from models.checkpoint.directory import read_config
    from training.data.options import SourceOptions

    directory = run.directory if isinstance(run, Run) else Path(run)
    options = SourceOptions(data_dir=None if data_dir is None else Path(data_dir))
    images = None if data is None else load_export_data(str(data), read_config(directory), options)
    path = export_checkpoint(directory, out=Path(out), name=name, formats=formats, precisions=precisions, data=images)
    return load(path)


def evaluate(
    subject: "str | Path | Run | Model", data: str | Path, *, data_dir: str | Path | None = None, skip_bad: bool = False
) -> "Evaluation":
    """Measures a checkpoint or an artifact on the test split of a data set, as `convscope evaluate` does.

    Args:
        subject: a checkpoint directory, an artifact, or what `train`, `export` or `load` returned.
        data: see `train`; it may have some of the network's classes alone.
        data_dir: searched first for data files.
        skip_bad: leave damaged files of a folder out.

    Returns:
        Accuracy, loss, calibration, confusion matrix, and the scores of every class.

    Raises:
        ConvscopeError: neither a checkpoint nor an artifact, or data that do not fit.
    """
    from export.pipeline.data import load_test, open_model
    from training.data.options import SourceOptions
    from training.evaluate.evaluation import Evaluation, logits_of

    if isinstance(subject, Model):
        subject = subject.predictor.directory
    opened = open_model(subject.directory if isinstance(subject, Run) else _find(subject))
    options = SourceOptions(data_dir=None if data_dir is None else Path(data_dir))
    test = load_test(str(data), opened.network, options, skip_bad=skip_bad).images
    logits = logits_of(lambda images: opened.run(images.numpy())[1], test)
    return Evaluation.of(logits, test.labels, temperature=opened.network.temperature)


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        directory: its checkpoint.
    """

    directory: Path

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Accuracy, loss and calibration by split, as config.json has them."""
        from models.checkpoint.directory import read_config

        return read_config(self.directory).metrics


class Model:
    """One artifact, opened.

    Attributes:
        predictor: what runs it.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest: name, version, classes, input, node table, and how every file was verified."""
        return self.predictor.manifest

    @overload
    def classify(self, images: Image, *, top_k: int | None = None) -> Result: ...
    @overload
    def classify(self, images: list[Image] | tuple[Image, ...], *, top_k: int | None = None) -> list[Result]: ...
    def classify(
        self, images: Image | list[Image] | tuple[Image, ...], *, top_k: int | None = None
    ) -> Result | list[Result]:
        """Classifies one image or several.

        Args:
            images: a path, a file's bytes, a Pillow image or a uint8 array (H, W), (H, W, 1) or (H, W, 3) of any size;
                or a list of such.
            top_k: predictions for each image, at most one a class; five if None.

        Returns:
            A result, or for a list one for each image in its order. An image that cannot be read or decoded has an
            `error` in place of predictions.
        """
        if top_k is not None and top_k < 1:
            raise UserError(f"top_k is {top_k}; it must be at least 1")
        if isinstance(images, list | tuple):
            return self.predictor.classify(images, top_k=top_k)
        return self.predictor.classify([images], top_k=top_k)[0]

    def feature_maps(self, image: Image, layers: str = "*") -> "LayerValues":
        """Shows what layers of the exported ONNX file make of one image.

        Args:
            image: see `classify`.
            layers: comma-separated names or globs, such as `conv1,layer1.*`.

        Returns:
            float32 arrays by layer name, (C, H, W) or (K,), in the network's order; a notebook draws them.

        Raises:
            UnknownLayer: no layer has such a name; the message lists the nearest.
            NotInspectable: the artifact has no ONNX file.
            ImageError, OSError: the image cannot be decoded or read.
        """
        pixels = self.predictor.decode(image)
        nodes = select_nodes(self.predictor, [name.strip() for name in layers.split(",")])
        return LayerValues(pixels, inspect_image(self.predictor, pixels, nodes))

    def unit(self, image: Image, layer: str, index: int | Sequence[int]) -> "UnitView":
        """Shows the arithmetic of one number inside the exported ONNX file: inputs, weights, products and bias.

        Args:
            image: see `classify`.
            layer: a layer's name, `input`, `image` or `probabilities`, or the source of another unit's term.
            index: (channel, row, column) in a feature map, or an element's number in a vector.

        Returns:
            The unit; prints as text, also in a notebook. Its `unit.arithmetic` has the terms as arrays.

        Raises:
            UnknownLayer, UnknownUnit: no such layer or position; the message lists the nearest or the range.
            NotInspectable: the artifact has no ONNX file.
            ImageError, OSError: the image cannot be decoded or read.
        """
        place = (index,) if isinstance(index, int) else tuple(index)
        return UnitView(inspect_unit(self.predictor, self.predictor.decode(image), layer, place))

    def references(self, layer: str, channel: int) -> ChannelReferences:
        """Shows the images of a data set that excite a channel most; `convscope index` finds them.

        Args:
            layer: a layer's name.
            channel: from 0.

        Returns:
            Crops with their values, labels and positions, and the classes that the channel responds to; a notebook
            draws them.

        Raises:
            UnknownLayer, UnknownUnit: no such layer or channel.
            NoReferences: the artifact has no reference images, or they cannot be used.
        """
        return open_index(self.predictor).channel(layer, channel)

    def normality(self, image: Image) -> list[Normality]:
        """Says how far an image lies outside of what is normal, layer by layer; `convscope index` finds out what is.

        Args:
            image: see `classify`.

        Raises:
            NoReferences: the artifact has no reference images, or they cannot be used.
            ImageError, OSError: the image cannot be decoded or read.
        """
        open_index(self.predictor)
        return image_normality(self.predictor, self.predictor.decode(image))

    def compare(self, *images: Image, model: "Model | None" = None, layers: str = "*") -> Comparison:
        """Compares two images in this model, or one image in this and another model, layer by layer.

        Args:
            images: two; or one, with `model`.
            model: the other model; layers are matched by name and shape.
            layers: comma-separated names or globs.

        Raises:
            UserError: another number of images.
            UnknownLayer, NotInspectable, ImageError, OSError: see `feature_maps`.
        """
        if len(images) != (2 if model is None else 1):
            raise UserError(f"{len(images)} images were given; give two, or one and another model")
        second = model or self
        extractor_of(second.predictor)
        nodes = select_nodes(self.predictor, [name.strip() for name in layers.split(",")])
        first = self.predictor, self.predictor.decode(images[0])
        return compare(first, (second.predictor, second.predictor.decode(images[-1])), nodes)

    def kernels(self, layer: str, *, effective: bool = False) -> Kernels:
        """Reads the weights and the bias of a layer from the exported ONNX file; a notebook draws them.

        Args:
            layer: a layer's name, or `LAYER:VALUE` for a value inside a layer.
            effective: fold the batch norm behind the layer into them.

        Raises:
            UnknownLayer, NoKernels: no such layer, or it has no weights; the message lists those that have.
            NotInspectable: the artifact has no ONNX file.
        """
        return layer_kernels(self.predictor, layer, effective=effective)

    def explain(
        self,
        image: Image,
        *,
        method: str | None = None,
        class_name: str | int | None = None,
        layer: str | None = None,
        samples: int | None = None,
        seed: int = 0,
        evaluate: bool = False,
    ) -> "ExplanationView":
        """Shows which places of an image speak for a class.

        Args:
            image: see `classify`.
            method: one of `convscope explain`, such as `gradcam` or `rise`; Grad-CAM by default where torch and the
                weights are there, else a method without gradients.
            class_name: a class by name or index; the predicted one if None.
            layer: whose value is explained, for methods that explain one; by default the last with a grid.
            samples: random masks, noisy images or steps, for methods that have them.
            seed: of random numbers; the same seed gives the same map.
            evaluate: measure how far the map can be trusted.

        Raises:
            UnknownParameter: no such method or class, or an option that the method does not have.
            UnknownLayer: a layer that will not do; the message lists those that will.
            NotInspectable: the method does not work for this network.
            ImageError, OSError: the image cannot be decoded or read.
        """
        pixels = self.predictor.decode(image)
        explainer = Explainer(self.predictor, pixels)
        index = explainer.predicted if class_name is None else class_index(self.manifest.classes, str(class_name))
        chosen = find_method(method) if method else explainer.default_method()
        found = explainer.explain(chosen, index, layer=layer, samples=samples, seed=seed, evaluate=evaluate)
        return ExplanationView(pixels, self.manifest.classes[index], found)

    def summary(self) -> "Summary":
        """Lists the layers with shapes, parameters, multiply-accumulates and receptive fields."""
        return Summary(f"{self.predictor.label}: {self.manifest.model}", self.manifest.nodes)

    def __repr__(self) -> str:
        spec, engine = self.manifest.input, self.predictor.engine
        return (
            f"<convscope model {self.predictor.label}: {self.manifest.model}, {len(self.manifest.classes)} classes, "
            f"{spec.height}x{spec.width} {spec.mode}, {engine.file} on {engine.name} ({engine.device})>"
        )


def _find(artifact: str | Path) -> Path:
    """The path of `artifact`; a name that is no path is looked for among the artifacts."""
    path = Path(artifact)
    if str(artifact).startswith(STORE_PREFIX) or path.exists() or "/" in str(artifact):
        return path
    name, _, version = str(artifact).partition(":")
    found = ARTIFACTS / name / version if version else ARTIFACTS / name
    return found if find_versions(found) else path
