"""The lab in a real browser; torch and numpy work the same numbers out."""

import json
import re
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.in_process import digit, encoded

TIMEOUT_MS = 15_000
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
TEXTBOOK = {
    "Cross-correlation": [[19, 25], [37, 43]],
    "Convolution": [[5, 11], [23, 29]],  # with the kernel [[3, 2], [1, 0]]
    "Two channels": [[56, 72], [104, 120]],
    "Stride": [[14, 22], [46, 54]],
    "Max pooling": [[4, 5], [7, 8]],
    "Three filters": [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]],
    "Edges": [[0, 1, 0, 0, 0, -1, 0]] * 6,
}
X = np.round(np.random.default_rng(0).normal(size=(2, 7, 9)), 3)
K = np.round(np.random.default_rng(1).normal(size=(3, 2, 3, 2)), 3)
# As the page names it, and as torch does.
MODES = {"zeros": "constant", "reflect": "reflect", "edge": "replicate"}


@pytest.fixture
def open_lab(browser, server):
    """Opens the lab at an address: a preset, and changes to it."""
    contexts = []

    def start(lab="Cross-correlation", **options):
        context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)
        contexts.append(context)
        context.add_init_script("localStorage.setItem('convscope-tour', 'done')")
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(f"{server.url}/#{urlencode({'tab': 'lab', 'lab': lab})}")
        page.locator(".lab-input td").first.wait_for()
        return page

    yield start
    for context in contexts:
        context.close()


@pytest.fixture
def lab(open_lab):
    page = open_lab()
    yield page
    assert page.complaints == []


def numbers(page, name="output"):
    return np.array(json.loads(page.locator(f"textarea[name={name}]").input_value()))


def paste(page, name, array):
    area = page.locator(f"textarea[name={name}]")
    if not area.is_visible():
        page.locator("#panel-lab summary").click()
    area.fill(array if isinstance(array, str) else json.dumps(array.tolist()))
    area.blur()


def choose(page, **settings):
    """Sets controls by their labels."""
    panel = page.locator("#panel-lab")
    for label, value in settings.items():
        name = label.replace("_", " ")
        if panel.get_by_role("combobox", name=name, exact=True).count():
            panel.get_by_role("combobox", name=name, exact=True).select_option(str(value))
        else:
            panel.get_by_role("spinbutton", name=name, exact=True).fill(str(value))
            page.keyboard.press("Tab")


def cells(page, pane):
    texts = page.locator(f".lab-{pane} td").all_inner_texts()
    return [float(text.replace(MINUS, "-")) for text in texts]


def test_textbook_examples_give_the_textbooks_numbers(lab):
    for preset, wanted in TEXTBOOK.items():
        choose(lab, Example=preset)
        assert numbers(lab).tolist() == wanted
        assert cells(lab, "output") == np.ravel(wanted).tolist()


def test_convolutions_are_those_of_torch(lab):
    paste(lab, "input", X)
    paste(lab, "kernel", K)
    x, kernel = torch.tensor(X)[None], torch.tensor(K)
    for stride, padding, dilation, mode in [
        (1, "valid", 1, "zeros"), (2, 1, 1, "reflect"), (1, 2, 2, "edge"),
        (3, "full", 1, "zeros"), (1, "same", 2, "zeros"),
    ]:  # fmt: skip
        choose(lab, stride=stride, padding=padding, dilation=dilation)
        if padding != "valid":
            choose(lab, **{"with": mode})
        for name, weights in (("cross-correlation", kernel), ("convolution", kernel.flip(2, 3))):
            choose(lab, Operation=name)
            if padding == "same":
                wanted = functional.conv2d(x, weights, padding="same", dilation=dilation)
            else:
                reach = [dilation * (size - 1) for size in kernel.shape[2:]] if padding == "full" else [0, 0]
                down, across = reach if isinstance(padding, str) else (padding, padding)
                padded = functional.pad(x, (across, across, down, down), mode=MODES[mode])
                wanted = functional.conv2d(padded, weights, stride=stride, dilation=dilation)
            np.testing.assert_allclose(numbers(lab), wanted[0], rtol=1e-5, atol=1e-6)


def test_pooling_is_that_of_torch(lab):
    paste(lab, "input", X)
    x = torch.tensor(X)[None]
    choose(lab, Operation="max pooling", stride=2, padding=1, Window=3)
    np.testing.assert_allclose(numbers(lab), functional.max_pool2d(x, 3, 2, 1)[0])
    choose(lab, Operation="average pooling")
    np.testing.assert_allclose(numbers(lab), functional.avg_pool2d(x, 3, 2, 1)[0], rtol=1e-6)
    choose(lab, Operation="adaptive average pooling", output_size=4)
    np.testing.assert_allclose(numbers(lab), functional.adaptive_avg_pool2d(x, 4)[0], rtol=1e-6)
    choose(lab, Operation="adaptive max pooling", output_size=5)
    np.testing.assert_allclose(numbers(lab), functional.adaptive_max_pool2d(x, 5)[0])
    assert "Pooling has none" in lab.locator("#panel-lab").inner_text()


def test_signals_are_convolved_as_numpy_does(open_lab):
    page = open_lab("Moving average*mode.zeros")
    signal = numbers(page, "input")
    for kernel in ("boxcar", "Gaussian", "exponential"):
        choose(page, Kernel=kernel)
        weights = numbers(page, "kernel")
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        for mode in ("same", "full", "valid"):
            choose(page, padding=mode)
            np.testing.assert_allclose(
                numbers(page).ravel(), np.convolve(signal.ravel(), weights.ravel(), mode), atol=1e-5
            )
    assert page.locator("#panel-lab > canvas").is_visible()


def test_the_formulas_contain_the_numbers(open_lab):
    text = open_lab("Stride halves a map*channels.2*filters.3").locator(".lab-facts").first.inner_text()
    formula = f"\u230a(8 + 2 {TIMES} 1 {MINUS} 1 {TIMES} (3 {MINUS} 1) {MINUS} 1) / 2\u230b + 1 = 4"
    assert text.count(formula) == 1  # rows and columns are alike
    assert f"3 {TIMES} 2 {TIMES} 3 {TIMES} 3 = 54" in text
    assert f"128 {TIMES} 48 = 6,144, 114 times as many" in text


def test_rows_and_columns_have_a_formula_each_where_they_differ(open_lab):
    page = open_lab("Edges")
    text = page.locator(".lab-facts").first.inner_text()
    assert re.search(r"rows: .*\(6 .* = 6\ncolumns: .*\(8 .* = 7", text)
    assert page.locator(".lab-input h2").inner_text() == f"Input 6 {TIMES} 8"


def test_the_caption_is_that_of_the_setting(open_lab):
    page = open_lab("Stride halves a map")
    assert "4 of 8 remain" in page.inner_text(".lab-note")
    assert page.locator(".lab-input h2").inner_text() == f"Input 8 {TIMES} 8, padded to 10 {TIMES} 10"
    choose(page, stride=1)
    assert page.inner_text(".lab-note") == "Changed from the example."
    choose(page, stride=2)
    assert "4 of 8 remain" in page.inner_text(".lab-note")


def test_numbers_count_while_they_are_typed_and_wrong_ones_are_replaced_afterwards(open_lab):
    page = open_lab("Padding")
    size = page.get_by_role("spinbutton", name="dilation")
    size.fill("2")
    assert page.locator(".lab-input h2").inner_text() == f"Input 4 {TIMES} 4, padded to 8 {TIMES} 8"
    for wrong, kept in (("99", "6"), ("", "6"), ("0", "1")):
        size.fill(wrong)
        assert size.input_value() == wrong
        page.keyboard.press("Tab")
        assert size.input_value() == kept
        assert f"becomes {kept}: whole numbers from 1 to 6 fit" in page.inner_text(".lab-note")


def test_an_output_shows_its_window_and_its_arithmetic(lab):
    lab.locator(".lab-output td").nth(1).hover()
    equation = lab.locator(".lab-equation")
    assert f"1 {TIMES} 0 + 2 {TIMES} 1 + 4 {TIMES} 2 + 5 {TIMES} 3 = 25" in equation.inner_text()
    assert lab.locator(".lab-input .lab-tap").all_inner_texts() == ["1", "2", "4", "5"]
    assert cells(lab, "products") == [0, 2, 8, 15]
    lab.locator(".lab-output td").nth(1).focus()
    lab.keyboard.press("ArrowDown")
    assert equation.inner_text().endswith("= 43")
    lab.get_by_role("button", name="Back", exact=True).click()
    assert equation.inner_text().endswith("= 37")
    lab.get_by_role("button", name="Step", exact=True).click()
    lab.get_by_role("button", name="Step", exact=True).click()
    assert equation.inner_text().endswith("= 19")


def test_the_kernel_slides_by_itself_unless_movement_is_unwanted(open_lab):
    page = open_lab()
    page.get_by_role("button", name="Play").click()
    page.locator(".lab-equation:has-text('= 25')").wait_for()
    page.get_by_role("button", name="Pause").click()
    calm = open_lab(reduced_motion="reduce")
    assert calm.get_by_role("button", name="Play").count() == 0
    calm.get_by_role("button", name="Step", exact=True).click()
    assert calm.locator(".lab-equation").inner_text().endswith("= 25")


def test_cells_are_edited(lab):
    lab.locator(".lab-kernel td").first.click()
    lab.keyboard.type("-1.5")
    lab.keyboard.press("Enter")
    lab.locator(f".lab-kernel td:has-text('{MINUS}1.5')").wait_for()
    assert numbers(lab, "kernel").tolist() == [[-1.5, 1], [2, 3]]
    lab.keyboard.press("ArrowRight")
    lab.keyboard.type("10")
    lab.keyboard.press("Tab")
    lab.locator(".lab-kernel td:has-text('10')").wait_for()
    assert numbers(lab).tolist() == [[28, 41.5], [68.5, 82]]
    paste(lab, "input", "1 2 3\n4 5 6\n\n1 1 1\n2 2")
    assert "equally many" in lab.locator(".lab-complaint").inner_text()


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_gradient_descent_finds_the_edge_detector(open_lab, motion):
    page = open_lab("Edges", reduced_motion=motion)
    page.get_by_role("button", name="Learn", exact=True).click()
    page.locator(".lab-fact:has-text('this is the kernel')").wait_for()
    assert cells(page, "learned") == [1, -1]
    assert (
        float(re.search(r"loss (\S+):", page.locator(".lab-fact [role=status]").inner_text())[1].replace(MINUS, "-"))
        < 1e-10
    )
    assert page.locator(".lab-fact canvas").is_visible()
    assert page.complaints == []


def test_the_current_image_and_a_kernel_of_the_model(open_lab, lenet_artifact):
    page = open_lab("Sobel")
    assert "Draw or choose an image" in page.locator(".lab-note").inner_text()
    page.set_input_files("#file", {"name": "d.png", "mimeType": "image/png", "buffer": encoded(digit(3))})
    page.locator(f".lab-input h2:has-text('28 {TIMES} 28')").wait_for()
    image = numbers(page, "input")
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])[None, None].double()
    wanted = functional.conv2d(torch.tensor(image)[None, None], sobel, padding=1)[0, 0]
    np.testing.assert_allclose(numbers(page), wanted, atol=1e-5)
    choose(page, Kernel="of the model")
    page.get_by_role("spinbutton", name="filter").wait_for()
    choose(page, layer="0", filter=2)
    answer = page.request.get(re.sub("#.*", "", page.url) + "v1/models/lenet/layers/conv1/kernels").json()
    wanted = np.array(answer["weights"][2][0])
    for _ in range(100):
        if numbers(page, "kernel").shape == wanted.shape and np.allclose(numbers(page, "kernel"), wanted, atol=1e-6):
            break
        page.wait_for_timeout(50)
    np.testing.assert_allclose(numbers(page, "kernel"), wanted, atol=1e-6)
    weight = torch.tensor(answer["weights"][2])[None].double()
    wanted = functional.conv2d(
        torch.tensor(image)[None, None], weight, torch.tensor(answer["bias"][2:3]).double(), padding=2
    )
    np.testing.assert_allclose(numbers(page), wanted[0, 0], atol=1e-5)
    assert page.complaints == []


def test_the_address_keeps_the_example_and_the_changes(lab):
    choose(lab, Example="Padding")
    choose(lab, dilation=2)
    expected = numbers(lab).tolist()
    lab.reload()
    lab.locator(".lab-input td").first.wait_for()
    assert numbers(lab).tolist() == expected
    lab.go_back()
    lab.locator(".lab-note:has-text('four products')").wait_for()
    assert numbers(lab).tolist() == TEXTBOOK["Cross-correlation"]


def test_a_window_that_does_not_fit_is_explained(lab):
    choose(lab, dilation=3)
    assert "no output" in lab.locator(".lab-equation").inner_text()


def test_the_lab_fits_a_phone(lab):
    lab.set_viewport_size({"width": 375, "height": 740})
    for preset in ("Three filters", "Gaussian", "Sobel", "Edges"):
        choose(lab, Example=preset)
        assert lab.evaluate("document.documentElement.scrollWidth") <= 375
        assert lab.locator(".lab-input table").first.bounding_box()["width"] <= 375


def test_own_numbers_stay_while_another_view_is_shown(lab):
    paste(lab, "input", X)
    paste(lab, "kernel", K)
    before = numbers(lab).tolist()
    lab.get_by_role("tab", name="Layers").click()
    lab.get_by_role("tab", name="Lab").click()
    assert numbers(lab).tolist() == before
    assert numbers(lab, "kernel").tolist() == K.tolist()
