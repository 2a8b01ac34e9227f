"""docs/tutorial.md: its commands are read as they stand there, and its figures are worked out again."""

import math
import re
import shlex
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convscope import build_app
from export.cli.subject import summarize
from models.networks.registry import build_network
from training.data.builtin import load_digits, load_stripes

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/tutorial.md").read_text()
PLAIN = re.sub(r"\s+", " ", TEXT).translate({0xD7: "*", 0x2212: "-"})  # on one line, with ASCII's times and minus
STEPS = re.split(r"^## ", TEXT, flags=re.M)[1:]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S)
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
CONSOLE = [line for language, text in BLOCKS if not language for line in text.splitlines()]
INLINE = re.findall(r"`(convscope \w+[^`]*)`", TEXT)
COMMANDS = [line[2:] for line in CONSOLE if line.startswith("$ convscope ")] + INLINE
PAGE = ROOT / "service/page"
DIGITS, STRIPES = load_digits(), load_stripes()
TEST = len(DIGITS.test.labels)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def built(name: str, **others: int) -> nn.Module:
    return build_network(name, **{"channels": 1, "height": 28, "width": 28, "classes": 10, **others})


def slid(image: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """The output of a kernel without padding, worked out by torch."""
    arrays = (torch.tensor(array, dtype=torch.float64)[None, None] for array in (image, kernel))
    return nn.functional.conv2d(*arrays, stride=stride)[0, 0].numpy()


def shown(command: str) -> list[str]:
    """The lines that the page shows as what a command prints."""
    after = CONSOLE[CONSOLE.index(f"$ {command}") + 1 :]
    ends = [index for index, line in enumerate(after) if line.startswith("$ ")]
    return after[: ends[0] if ends else None]


def test_there_are_ten_steps_each_with_something_to_do_and_an_answered_question():
    assert [step.split(".")[0] for step in STEPS] == [str(number) for number in range(1, 11)]
    for step in STEPS:
        assert "```" in step
        question = r"<details><summary><b>Question:</b> .*?\?</summary>\n\n.+?\n</details>\n"
        assert len(re.findall(question, step, re.S)) == 1
    assert max(map(len, TEXT.splitlines())) <= 130


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_read_as_it_stands_there(command):
    words = shlex.split(command)[1:]
    build_app(words[0]).parse_args(words, exit_on_error=False, print_error=False)


def test_the_commands_name_what_earlier_ones_write():
    there = {"runs/lenet-digits", "artifacts/lenet-digits"}  # the demo's
    for command in COMMANDS:
        verb, *words = shlex.split(command)[1:]
        if verb == "train":
            where = words[words.index("--out") + 1] if "--out" in words else f"runs/{words[0]}-{words[2]}"
            there.add(where)
        elif verb == "export":
            assert words[0] in there
            there.add(words[0].replace("runs", "artifacts"))
        elif verb in ("evaluate", "verify", "unit", "explain", "index", "inspect"):
            assert words[0] in there, command


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!http:)([^)]+)\)", TEXT):
        assert (ROOT / "docs" / target).is_file(), target
    tabs = dict.fromkeys(re.findall(r'data-tab="(\w+)"', (PAGE / "index.html").read_text()))
    for link in re.findall(r"127\.0\.0\.1:3000/#([^)]*)\)", TEXT):
        parts = dict(part.split("=") for part in link.split("&"))
        assert parts["tab"] in tabs
    assert {tab for tab in tabs if tab.title() in re.findall(r"(\w+) tab\b", PLAIN)} == set(tabs)


def test_the_lab_has_the_examples_that_are_named():
    examples = (PAGE / "views/lab/presets.js").read_text().partition("PRESETS = {")[2].partition("\n};")[0].lower()
    for name in ("edges", "convolution", "padding", "stride", "max pooling"):
        assert re.search(rf"^  .*{name}.*: \[|\[\".*{name}", examples, re.M), name
        assert f"on {name}" in PLAIN.lower()


def test_every_request_has_a_route():
    rows = re.findall(r"^\| `POST (\S+)` \|[^|]*\|([^|]*)\|", (ROOT / "docs/http.md").read_text(), re.M)
    routes = {path: set(re.findall(r"`(\w+)`", parameters)) for path, parameters in rows}
    asked = re.findall(r"'http://127\.0\.0\.1:3000(/\S+)\?(\S+)'", TEXT)
    assert len(asked) == sum(line.startswith("$ curl ") for line in CONSOLE)
    for path, query in asked:
        assert {part.split("=")[0] for part in query.split("&")} <= routes[path]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_prints_what_stands_beneath_it(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(StringIO()) as printed:
        exec(program, {})
    assert printed.getvalue() == "".join(f"{line}\n" for line in re.findall(r"^# (.*)$", program, re.M))


def test_every_calculation_in_the_text_is_right():
    text = PLAIN.replace("ln 2", "log(2)").replace("⌈", "ceil(").replace("⌉", ")")
    calculations = re.findall(r"((?:log|ceil|[-+*/(),.\d]| (?=[-+*/(\dc]))*[\d)]) = (-?[\d,.]*\d)", text)
    assert len(calculations) == 8
    for terms, result in calculations:
        decimals = len(result.partition(".")[2])
        value = eval(terms.strip().replace(",", ""), {"log": math.log, "ceil": math.ceil})
        assert f"{value:,.{decimals}f}" == result, terms


def test_the_outputs_of_the_lab_are_the_convolutions():
    numbers, kernel = np.arange(9).reshape(3, 3), np.arange(4).reshape(2, 2)
    outputs = {
        "cross": slid(numbers, kernel),
        "flip": slid(numbers, kernel[::-1, ::-1].copy()),
        "stride": slid(np.arange(1, 17).reshape(4, 4), np.ones((2, 2)), stride=2),
        "max": np.lib.stride_tricks.sliding_window_view(numbers, (2, 2)).max((2, 3)),
    }
    for name, output in outputs.items():
        assert str(output.astype(int).tolist()) in TEXT, name


def test_the_edge_kernel_is_learned_in_as_many_steps():
    image = np.tile([1, 1, 0, 0, 0, 0, 1, 1], (6, 1)).astype(float)
    target = slid(image, np.array([[1, -1]]))
    assert sorted(set(target.flat)) == [-1, 0, 1]
    windows = np.lib.stride_tricks.sliding_window_view(image, (1, 2)).reshape(-1, 2)
    curvature = 2 * windows.T @ windows / len(windows)
    rate = float(f"{1 / np.linalg.eigvalsh(curvature).max():.3g}")
    kernel, losses = np.zeros(2), [float((target**2).mean())]
    while losses[-1] > 1e-12 * losses[0]:
        off = windows @ kernel - target.ravel()
        kernel -= rate * 2 * windows.T @ off / len(windows)
        losses.append(float(((windows @ kernel - target.ravel()) ** 2).mean()))
    np.testing.assert_allclose(kernel, [1, -1], atol=1e-5)
    assert "[1, -1] after about 60 steps" in PLAIN
    assert round(len(losses) - 1, -1) == 60


def test_layers_have_the_sizes_and_parameters_that_are_given():
    first, second = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
    dense = nn.Linear(784, 6 * 784)
    assert count(first) == (1 * 5 * 5 + 1) * 6 == 156
    assert f"{round(count(dense) / count(first)):,} times as many" in PLAIN
    assert "x".join(map(str, second(torch.zeros(6, 14, 14)).shape)) == "16x10x10"
    assert f"so 16x10x10, and (6 * 5 * 5 + 1) * 16 = {count(second):,} parameters" in PLAIN
    for n, k, p, s in [(28, 5, 0, 1), (28, 5, 2, 1), (28, 5, 2, 2), (14, 5, 0, 1)]:
        assert nn.Conv2d(1, 1, k, s, p)(torch.zeros(1, n, n)).shape[1] == (n + 2 * p - k) // s + 1


def test_a_stripe_and_its_negative_move_the_sum_by_opposite_amounts_and_relu_ends_that():
    image = torch.tensor(np.asarray(STRIPES.test.images)[:200, None] / 255, dtype=torch.float32)

    def spread(name: str) -> float:
        torch.manual_seed(0)
        network = built(name, height=8, width=8, classes=2)
        with torch.no_grad():
            return float((network(image) + network(1 - image)).std(0).max())

    for depth in (1, 2):
        assert spread(f"stripes_conv{depth}") < 1e-6 < 1e-3 < spread(f"stripes_conv{depth}_relu")


def test_the_stripe_networks_have_as_many_parameters_and_guessing_that_loss():
    found = {depth: count(built(f"stripes_conv{depth}", height=8, width=8, classes=2)) for depth in (1, 2)}
    assert found == {depth: count(built(f"stripes_conv{depth}_relu", height=8, width=8, classes=2)) for depth in (1, 2)}
    assert f"Both networks have {found[1]} parameters" in PLAIN
    assert f"stripes_conv1, {found[1]} parameters, on cpu" in TEXT
    assert f"`stripes_conv2`, {found[2]} parameters" in PLAIN


def test_the_splits_are_the_data_sets():
    for data in (DIGITS, STRIPES):
        learned = len(data.train.labels)
        held = round(learned * 0.1)
        assert f": {learned - held:,} train, {held:,} validation, {len(data.test.labels):,} test" in TEXT
    train = len(DIGITS.train.labels) - round(len(DIGITS.train.labels) * 0.1)
    assert f"30 * ⌈{train:,} / 32⌉ = " in PLAIN
    assert f"one of 144 is {100 / 144:.2f} points" in PLAIN


def test_the_recipe_is_the_default(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = "convscope train simple_cnn --data digits --print-recipe"
    words = shlex.split(command)[1:]
    build_app(words[0])(words, exit_on_error=False, print_error=False)
    printed = capsys.readouterr().out.splitlines()
    assert shown(command)
    assert set(shown(command)) <= set(printed)
    assert shown(command) == ['  "epochs": 30,', '  "batch_size": 32,']


def test_the_compared_networks_have_these_figures():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) % \| (\d+) \|$", TEXT, re.M)
    assert [row[0] for row in rows] == ["mlp", "lenet"]
    for name, parameters, macs, accuracy, mistakes in rows:
        assert parameters == f"{count(built(name)):,}"
        found = summarize(name, size=None, channels=None, classes=10)
        assert found.caption == f"{parameters} parameters, {macs} multiply-accumulates an image"
        assert accuracy == f"{1 - int(mistakes) / TEST:.2%}".rstrip("%")
    assert f"mistakes in {TEST}" in TEXT
    assert f"99.44 % of {TEST} are two mistakes" in PLAIN
    assert f"{1 - 2 / TEST:.2%}" == "99.44%"


@pytest.mark.parametrize("name", ["simple_cnn", "resnet20"])
def test_the_rows_of_the_summaries_are_printed(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    words = ["summary", name]
    build_app(words[0])(words, exit_on_error=False, print_error=False)

    def cells(line: str) -> str:
        return "|".join(cell.strip() for cell in line.split("│"))

    printed = {cells(line) for line in capsys.readouterr().out.splitlines()}
    rows = shown(f"convscope summary {name}")
    assert len(rows) >= 4
    for row in rows:
        assert cells(row) in printed, row


def test_the_networks_have_as_many_parameters_as_training_says():
    for name, parameters in re.findall(r"^(\w+), ([\d,]+) parameters, on cpu in bf16; digits", TEXT, re.M):
        assert parameters == f"{count(built(name)):,}"


def test_a_field_grows_by_the_rule_and_lenets_are_these():
    field, step, found = 1, 1, []
    for kernel, stride in [(5, 1), (2, 2), (5, 1), (2, 2)]:
        field, step = field + (kernel - 1) * step, step * stride
        found.append(f"{field}x{field}")
    assert f"{', '.join(found[:-1])} and {found[-1]}" in PLAIN
    nodes = summarize("lenet", size=None, channels=None, classes=10).nodes
    fields = dict.fromkeys("x".join(map(str, node.receptive_field)) for node in nodes if node.receptive_field)
    assert list(fields) == found


def test_calibration_adds_up():
    for temperature, share in [(1, "0.881"), (0.786, "0.927")]:
        assert f"{torch.tensor([2.0, 0.0]).div(temperature).softmax(0)[0]:.3f}" == share
        assert share in PLAIN
    eights = int((DIGITS.test.labels == 8).sum())
    row = f"│ 8     │     {eights} │  {33 / eights:.1%} │     {33 / 38:.1%} │ {2 * 33 / (eights + 38):.1%} │"
    assert row in TEXT
    assert f"94.3 % of {eights}, 33 eights, which are 86.8 % of 38 answers; five are wrong" in PLAIN
    assert f"96.66% correct of {TEST}" in TEXT


def test_the_weights_are_that_many_bytes():
    weights = count(built("lenet"))
    assert f"The {weights:,} weights of 4 bytes are {4 * weights:,} bytes of each file" in PLAIN


def test_the_unit_adds_up():
    lines = shown("convscope unit artifacts/lenet-digits runs/lenet-digits/example.png conv1 2,0,5")
    rows = [[column.split() for column in line.split("|")] for line in lines if "|" in line]
    assert [[len(column) for column in row[:2]] for row in rows] == [[5, 5]] * 5
    values = np.array([[0 if value == "." else float(value) for value in row[0]] for row in rows])
    weights = np.array([[float(value) for value in row[1]] for row in rows])
    for row, products in zip(rows, values * weights, strict=True):
        assert float(row[2][0]) == pytest.approx(products[0], abs=1e-3)
    seen = weights[values != 0]
    assert f"the {len(seen)} weights on it add up to {seen.sum():.3f}" in PLAIN
    bias, result = (float(re.search(rf"{word} (-?[\d.]+)", "\n".join(lines))[1]) for word in ("bias", "result"))
    assert (values * weights).sum() + bias == pytest.approx(result, abs=2e-3)
    assert f"-0.942 * {seen.sum():.3f} - {-bias:.3f} = {result:.2f}" in PLAIN


def test_black_has_that_value():
    assert "Black is (0 - 0.3056) / 0.3244 = -0.942" in PLAIN
    large = [Image.fromarray(image).resize((28, 28), Image.Resampling.BILINEAR) for image in DIGITS.train.images]
    shares = np.stack(large) / 255  # with the validation images, which the network's figures are without
    assert (shares.mean(), shares.std()) == pytest.approx((0.3056, 0.3244), abs=2e-3)


def test_lenet_has_as_many_channels_as_were_indexed():
    nodes = summarize("lenet", size=None, channels=None, classes=10).nodes
    assert f"{TEST} images for each of {sum(node.shape[0] for node in nodes)} channels in {len(nodes)} layers" in PLAIN
