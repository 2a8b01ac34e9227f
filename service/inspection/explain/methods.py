"""The methods by name: what each needs, and where it comes from."""

from dataclasses import dataclass

from service.errors import UnknownParameter


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: as it is asked for.
        title: as papers write it.
        layer: it explains the value of a layer; the others explain the pixels.
        gradients: it needs torch and the weights.
        samples: default number of random masks, noisy images or steps; 0 where the method has no such number.
        source: the paper, with the equation.
    """

    name: str
    title: str
    layer: bool
    gradients: bool
    source: str
    samples: int = 0


_METHODS = (
    Method("cam", "CAM", True, False, "Zhou et al., Learning Deep Features for ... Localization (2016), eq. 2"),
    Method("scorecam", "Score-CAM", True, False, "Wang et al., Score-CAM (2020), algorithm 1"),
    Method("ablationcam", "Ablation-CAM", True, False, "Desai and Ramaswamy, Ablation-CAM (2020), eq. 3"),
    Method("eigencam", "Eigen-CAM", True, False, "Muhammad and Yeasin, Eigen-CAM (2020), eq. 3"),
    Method("occlusion", "occlusion", False, False, "Zeiler and Fergus, Visualizing ... (2014), sec. 4.2"),
    Method("rise", "RISE", False, False, "Petsiuk et al., RISE (2018), eq. 6", 1000),
    Method("gradcam", "Grad-CAM", True, True, "Selvaraju et al., Grad-CAM (2017), eq. 1 and 2"),
    Method("gradcam++", "Grad-CAM++", True, True, "Chattopadhay et al., Grad-CAM++ (2018), eq. 5 and 19"),
    Method("layercam", "LayerCAM", True, True, "Jiang et al., LayerCAM (2021), eq. 5 and 6"),
    Method("saliency", "saliency", False, True, "Simonyan et al., Deep Inside Convolutional Networks (2014), sec. 3.1"),
    Method("smoothgrad", "SmoothGrad", False, True, "Smilkov et al., SmoothGrad (2017), sec. 3", 50),
    Method(
        "integrated_gradients",
        "integrated gradients",
        False,
        True,
        "Sundararajan et al., Axiomatic Attribution for Deep Networks (2017), eq. 1",
        50,
    ),
)  # fmt: skip
METHODS = {method.name: method for method in _METHODS}
MAX_SAMPLES = 10_000


def find_method(name: str) -> Method:
    """The method of this name.

    Raises:
        UnknownParameter: there is none.
    """
    if name not in METHODS:
        raise UnknownParameter(f"method is {name[:40]!r}; wanted one of {', '.join(METHODS)}")
    return METHODS[name]
