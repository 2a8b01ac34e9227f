"""A job on a Ray cluster of two nodes gives the rows of a job on one machine, whatever dies meanwhile."""

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import convscope
from service.batch import ray_runner
from service.batch.job import Job, MaxErrors, Request, TooManyErrors
from service.batch.network import Opening, Wanted
from service.batch.ray_runner import Cluster, Pool, WorkersDied, _cpus_beside_gpu, _room, for_cluster, run_on_ray
from tests.service.batch.conftest import read_rows, write_tar
from tests.service.batch.ray_cluster import ROOT, SETTINGS, running_cluster

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='pip install -e ".[ray]"')
BLOCK, COPIES = 16, 3
ROWS = 2 * COPIES * 180


def request(source, out, artifact, **changes):
    opening, wanted = Opening(artifact=Path(artifact), threads=1), Wanted(top_k=3)
    fields = {"block_rows": BLOCK, "batch_size": 8, "processes": 1, **changes}
    return Request(source=str(source), out=str(out), opening=opening, wanted=wanted, **fields)


def on_ray(address, *arguments, tell=lambda record: None, **changes):
    cluster = Cluster(address=address, concurrency=(2, 2))
    asked, device = for_cluster(request(*arguments, **changes), cluster)
    return run_on_ray(Job(asked), cluster, device, tell)


def locally(*arguments, tell=lambda record: None, **changes):
    return Job(request(*arguments, **changes)).run(tell)


class Interrupted(Exception):
    pass


class After:
    """A listener that acts once, when some blocks are done."""

    def __init__(self, blocks, act):
        self.left, self.act, self.acted = blocks, act, False

    def __call__(self, record):
        self.left -= 1
        if self.left == 0:
            self.act()
            self.acted = True


def interrupt():
    raise Interrupted


def count(out):
    """Blocks that are done."""
    return len(list(out.glob("_job/blocks/*.json")))


@pytest.fixture(scope="module")
def tars(tmp_path_factory, digits_folder, files):
    """Two shards of many blocks, so that each of two workers has one of them for some seconds."""
    folder = tmp_path_factory.mktemp("tars")
    for name in ("a", "b"):
        write_tar(folder / f"{name}.tar", files * COPIES, digits_folder)
    return folder / "*.tar"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tars, lenet_artifact):
    """The rows of a job on one machine that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "rows.parquet"
    locally(tars, out, lenet_artifact)
    return read_rows(out)


@pytest.fixture(scope="module")
def cluster():
    """A head and a second node."""
    with pytest.MonkeyPatch.context() as patch, running_cluster() as found:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield found


@pytest.fixture
def begins_together(monkeypatch):
    """No shard is given before all workers that were asked for are ready."""

    def welcome(pool, opened, real=Pool._welcome):
        real(pool, opened)
        while pool._opening and not pool._stillborn:
            real(pool, next(iter(pool._opening)))

    monkeypatch.setattr(Pool, "_welcome", welcome)


@needs_ray
def test_a_cluster_gives_the_rows_of_one_machine(cluster, tars, tmp_path, lenet_artifact, whole, begins_together):
    out = tmp_path / "rows.parquet"
    done = on_ray(cluster.address, tars, out, lenet_artifact)
    assert done.statistics.rows == done.rows_now == ROWS and done.seconds.network > 0
    assert read_rows(out) == whole


@needs_ray
def test_a_killed_worker_loses_nothing(cluster, tars, tmp_path, lenet_artifact, whole, begins_together, capfd):
    out = tmp_path / "rows.parquet"
    kill = After(5, lambda: cluster.nodes[0].workers()[0].kill())
    done = on_ray(cluster.address, tars, out, lenet_artifact, tell=kill)
    assert kill.acted and done.statistics.rows == done.rows_now == ROWS
    assert read_rows(out) == whole
    assert "died, shard" in capfd.readouterr().err


@needs_ray
def test_a_killed_node_loses_nothing(cluster, tars, tmp_path, lenet_artifact, whole, begins_together, capfd):
    out = tmp_path / "rows.parquet"
    kill = After(5, cluster.nodes[1].kill)
    try:
        done = on_ray(cluster.address, tars, out, lenet_artifact, tell=kill)
    finally:
        cluster.add_node()
    assert kill.acted and done.statistics.rows == done.rows_now == ROWS
    assert read_rows(out) == whole
    assert "died, shard" in capfd.readouterr().err


@needs_ray
def test_jobs_go_on_from_a_killed_driver_to_one_machine_and_back(cluster, tars, tmp_path, lenet_artifact, whole):
    out = tmp_path / "rows.parquet"
    code = f"from {__name__} import on_ray; on_ray(*{(cluster.address, str(tars), str(out), str(lenet_artifact))})"
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while count(out) < 5:
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.01)
    driver.kill()
    driver.communicate()
    with pytest.raises(Interrupted):
        locally(tars, out, lenet_artifact, resume=True, tell=After(count(out) + 3, interrupt))
    done = on_ray(cluster.address, tars, out, lenet_artifact, resume=True, batch_size=5)
    assert 0 < done.rows_now < ROWS == done.statistics.rows
    assert read_rows(out) == whole
    assert locally(tars, out, lenet_artifact, resume=True).rows_now == 0


@needs_ray
@pytest.mark.acceptance
def test_rows_with_errors_are_counted_stop_the_job_and_are_tried_again(
    cluster, digits_folder, tmp_path, lenet_artifact
):
    source, out, plain = tmp_path / "images", tmp_path / "rows.jsonl", tmp_path / "plain.jsonl"
    shutil.copytree(digits_folder, source)
    locally(source, plain, lenet_artifact)
    broken = {path: path.read_bytes() for path in sorted(source.rglob("*.png"))[:40:2]}
    for path in broken:
        path.write_bytes(b"")
    with pytest.raises(TooManyErrors, match="rows have errors, more than --max-errors; stopped, --resume goes on"):
        on_ray(cluster.address, source, out, lenet_artifact, max_errors=MaxErrors(count=10))
    for path, content in broken.items():
        path.write_bytes(content)
    done = on_ray(cluster.address, source, out, lenet_artifact, retry_failed=True)
    assert done.statistics.rows == len(plain.read_text().splitlines()) and not done.statistics.failed
    assert out.read_text() == plain.read_text()


@dataclass(frozen=True)
class DeadlyShard:
    """Ends the process that reads it."""

    def entries(self, needed):
        os.kill(os.getpid(), signal.SIGKILL)
        yield  # pragma: no cover


@needs_ray
@pytest.mark.acceptance
def test_a_shard_that_ends_workers_ends_the_job(cluster, tars, tmp_path, lenet_artifact, monkeypatch):
    monkeypatch.setattr(ray_runner, "_TRIES", 2)
    monkeypatch.setattr("service.batch.sources.tar.TarSource.shards", lambda *anything: iter([DeadlyShard()]))
    with pytest.raises(WorkersDied, match=r"2 workers died in turn at shard 0; the last one, on .*; stopped, --resume"):
        on_ray(cluster.address, tars, tmp_path / "rows.parquet", lenet_artifact)


@needs_ray
@pytest.mark.parametrize("kind", ["folder", "tar", "list"])
def test_a_node_without_the_files_is_named(kind, cluster, digits_folder, tars, tmp_path, lenet_artifact, monkeypatch):
    listed = tmp_path / "list.txt"
    listed.write_text(f"missing.png\n{digits_folder / '0' / '0000.png'}\n")
    source = {"folder": digits_folder, "tar": tars, "list": listed}[kind]

    def path_in(shard, real=ray_runner._path_in):
        found = real(shard)
        assert (found == "") == (kind == "list")  # whose first image is not there for the driver either
        return f"/elsewhere{found}"

    monkeypatch.setattr(ray_runner, "_path_in", path_in)
    with pytest.raises(ValueError, match=r"the node .* has no /elsewhere.*; local files must have the same path on"):
        on_ray(cluster.address, source, tmp_path / "rows.parquet", lenet_artifact)


def test_without_ray_the_error_names_the_extra(monkeypatch, run, tmp_path, digits_folder, lenet_artifact):
    monkeypatch.setattr(ray_runner, "find_spec", lambda name: None)
    words = ("--artifact", lenet_artifact, "--out", tmp_path / "rows.jsonl")
    for option in (("--engine", "ray"), ("--runner", "ray", "--engine", "onnxruntime")):
        found = run("batch", digits_folder, *words, *option)
        assert found.status == 1 and 'pip install -e ".[ray]"' in found.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-gpus", "1"), "--num-gpus goes with --engine ray or --runner ray"),
        (("--engine", "ray", "--concurrency", "many"), "--concurrency is many; wanted N or MIN,MAX, each at least 1"),
        (("--engine", "ray", "--concurrency", "4,2"), "--concurrency is 4,2; wanted N or MIN,MAX, each at least 1"),
        (("--engine", "ray", "--num-gpus", "1.5"), "--num-gpus is 1.5; above 1 it must be a whole number"),
        (("--engine", "ray", "--device", "cuda"), "--device cuda needs --num-gpus on a Ray cluster"),
        (("--engine", "ray", "--num-gpus", "1", "--device", "cpu"), "--num-gpus is 1.0, but --device is cpu"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, batch, digits_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_runner, "check_installed", lambda: None)
    found = batch(digits_folder, *options)
    assert found.status != 0 and message in " ".join(found.err.split())
    assert not list(tmp_path.iterdir())


def test_workers_get_a_share_of_the_cpus_beside_a_gpu_and_fill_the_cluster():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 99.0}},
    ]
    assert [_cpus_beside_gpu(nodes, gpus) for gpus in (0, 1, 0.5, 2)] == [1, 4, 2, 8]
    assert _room(nodes, 1, 0) == (24, 24) and _room(nodes, 2, 0.5) == (8, 8) and _room(nodes, 1, 8) == (1, 1)


def test_the_manifest_for_kubernetes_runs_a_command_that_the_parser_takes(monkeypatch, capsys):
    text = (ROOT / "docs" / "batch.md").read_text()
    (manifest,) = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    spec = yaml.safe_load(manifest)["spec"]
    monkeypatch.setattr(ray_runner, "check_installed", lambda: None)
    with pytest.raises(SystemExit):
        convscope.main(shlex.split(spec["entrypoint"])[1:])
    assert "/models/resnet18-pets is not an artifact" in capsys.readouterr().err
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        assert [one["name"] for one in pod["volumes"]] == [one["name"] for one in pod["containers"][0]["volumeMounts"]]
