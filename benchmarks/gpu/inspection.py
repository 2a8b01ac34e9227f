"""Section (c): feature maps, classification beside them, loading and unloading, and a GPU that is full or missing."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from benchmarks.gpu.failures import without_gpu
from benchmarks.gpu.full_memory import full_memory
from benchmarks.gpu.host import gpu_used_mb
from benchmarks.gpu.load import Load, load
from benchmarks.gpu.messages import classify_message, feature_maps_message
from benchmarks.gpu.networks import INSPECTED, artifacts, photographs, precisions_for
from benchmarks.gpu.options import Options
from benchmarks.gpu.report import Budget, Cell, Report
from benchmarks.gpu.server import HOST, Server, problems_in, serving

ONE_LAYER = "layer4.1.relu_1"
STAGES = "layer1.1.relu_1,layer2.1.relu_1,layer3.1.relu_1,layer4.1.relu_1"
_SECONDS = 1.5
_WARM_UP_S = 0.5
_CYCLES, _QUICK_CYCLES, _FIRST = 50, 6, 2  # loads and unloads; memory is read after the first ones


def run(report: Report, budget: Budget, options: Options) -> None:
    """Measures on one server of ResNet-18, and then starts others that find no GPU."""
    precisions = precisions_for(options)
    made = artifacts(("lenet", INSPECTED), options.work, precisions)
    if made.failed:
        raise RuntimeError("; ".join(f"{name}: {why}" for name, why in made.failed.items()))
    network = made.made[INSPECTED].parent
    log = options.work / "inspection.log"
    precision = "fp32" if made.lacking(precisions[-1]) else precisions[-1]
    settings = {"engine": "torchscript", "device": options.device, "precision": precision, "allow_loading": True}
    largest = 8 if options.quick else 64  # a fixed size skips the measurement at every load
    with serving(network, log, max_batch_size=largest, timeout_s=min(90.0, budget.left_s), **settings) as server:
        _feature_maps(report, budget, server, network.name, options)
        report.section("Memory and failures", ("check", "result", "before", "after", "unit"))
        name = network.name
        _guarded(report, budget, "full GPU memory", 15, lambda: full_memory(report, server, name, options))
        _guarded(report, budget, "loads and unloads", 10, lambda: _cycles(report, budget, server, name, options))
    if problems := problems_in(log):
        report.note(f"{len(problems)} warnings or errors in the server's log, the last: {problems[-1]}")
    _guarded(report, budget, "no GPU", 15, lambda: without_gpu(report, made.made["lenet"].parent, options))


def _guarded(report: Report, budget: Budget, name: str, seconds: float, check: Callable[[], None]) -> None:
    if not budget.enough(seconds):
        report.skipped(name, budget)
        return
    try:
        check()
    except Exception as error:  # a failed check does not stop the others
        report.error(name, error=error)


def _feature_maps(report: Report, budget: Budget, server: Server, model: str, options: Options) -> None:
    columns = ("request", "beside", "connections", "requests/s", "p50 ms", "p99 ms", "statuses")
    report.section(f"Feature maps of ResNet-18 at 224 as npz, JPEG 640x480, on {options.device}", columns)
    files = photographs(8, 1)
    one, stages = ([feature_maps_message(file, model, layers) for file in files] for layers in (ONE_LAYER, STAGES))
    classify = [classify_message(file, model) for file in files]

    def measure(messages: Sequence[bytes], connections: int, seconds: float = _SECONDS) -> Load:
        return load(HOST, server.port, messages, connections=connections, seconds=seconds, processes=1)

    def row(name: str, beside: str, connections: int, found: Load) -> None:
        cells: tuple[Cell, ...] = (found.requests_per_s, found.p50_ms, found.p99_ms, _shown(found.statuses))
        report.row(name, beside, connections, *cells)

    measure(one, 1, 0.5)  # the first inspection opens the session with extra outputs
    row("feature maps, one layer", "", 1, measure(one, 1))
    row("feature maps, four stages", "", 1, measure(stages, 1))
    for connections in (1, 8):
        if not budget.enough(8):
            report.skipped(f"classification beside inspection, {connections} connections", budget)
            return
        row("classification", "", connections, measure(classify, connections))
        with ThreadPoolExecutor(1) as pool:  # begins before and ends after
            inspecting = pool.submit(measure, stages, 1, _SECONDS + 2.0)
            row("classification", "constant inspection", connections, measure(classify, connections))
            row("feature maps, four stages", f"classification, {connections} connections", 1, inspecting.result())


def _cycles(report: Report, budget: Budget, server: Server, model: str, options: Options) -> None:
    """Loads and unloads the model, and classifies after each load; stops early when time runs short."""
    image, wanted = photographs(1, 2)[0], _QUICK_CYCLES if options.quick else _CYCLES
    statuses: Counter[str] = Counter()
    before, done, own = _memory(server), 0, budget.part(0.4)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while done < wanted and own.left_s:
            for action in ("unload", "load"):
                statuses[f"{action} {client.post(f'/v2/repository/models/{model}/{action}').status_code}"] += 1
            statuses[f"classify {client.post(f'/v1/classify?model={model}', content=image).status_code}"] += 1
            done += 1
            if done == _FIRST:
                before = _memory(server)
    name = f"{done} loads and unloads"
    for unit, was, now in zip(("server's resident MB", "GPU MB in use"), before, _memory(server), strict=True):
        report.row(name, _shown(statuses), was, now, f"{unit}, after {_FIRST} and after {done}")


def _memory(server: Server) -> tuple[float, float | str]:
    used = gpu_used_mb()
    return server.resident_mb(), "no GPU" if used is None else used


def _shown(counts: Counter[str] | dict[int, int]) -> str:
    return ", ".join(f"{key}: {count}" for key, count in counts.items()) or "none"
