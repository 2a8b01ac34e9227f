import io

import numpy as np
import pytest
from PIL import Image

from export.artifact.manifest import read_manifest
from export.verify.reference import rebuild
from tests.in_process import client_for


@pytest.fixture(scope="module")
def conv1(lenet_artifact):
    return rebuild(lenet_artifact, read_manifest(lenet_artifact)).network.conv1


def ask(client, query="", layer="conv1", **headers):
    return client.get(f"/v1/models/lenet/layers/{layer}/kernels{query}", headers=headers)


def test_json_and_npz_have_the_trained_weights(client, conv1):
    answer = ask(client).json()
    assert answer["shape"] == [6, 1, 5, 5]
    np.testing.assert_array_equal(np.float32(answer["weights"]), conv1.weight.detach().numpy())
    np.testing.assert_array_equal(np.float32(answer["bias"]), conv1.bias.detach().numpy())
    with np.load(io.BytesIO(ask(client, "?format=npz").content)) as arrays:
        np.testing.assert_array_equal(arrays["weights"], conv1.weight.detach().numpy())


def test_the_picture_is_red_where_weights_are_positive_and_blue_where_negative(client, conv1):
    picture = Image.open(io.BytesIO(ask(client, "?format=png").content)).convert("RGB")
    weights = conv1.weight.detach().numpy()
    factor = picture.height // (6 * 6 - 1)
    for output, row, column in np.ndindex(6, 5, 5):
        red, _, blue = picture.getpixel((column * factor, (output * 6 + row) * factor))
        weight = weights[output, 0, row, column] / np.abs(weights).max()
        assert red - blue == pytest.approx(255 * weight, abs=1.5)


def test_one_output_alone(client, conv1):
    answer = ask(client, "?output=4").json()
    np.testing.assert_array_equal(np.float32(answer["weights"]), conv1.weight.detach().numpy()[4:5])
    assert len(answer["bias"]) == 1


def test_a_client_that_has_the_answer_is_told_so(client):
    first = ask(client)
    again = ask(client, **{"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert ask(client, "?output=1", **{"if-none-match": first.headers["etag"]}).status_code == 200


@pytest.mark.parametrize(
    ("query", "layer", "status", "code"),
    [
        ("?output=6", "conv1", 400, "parameter_invalid"),
        ("?effective=yes", "conv1", 400, "parameter_invalid"),
        ("?format=gif", "conv1", 400, "parameter_invalid"),
        ("?channel=1", "conv1", 400, "parameter_invalid"),
        ("", "relu", 404, "no_kernels"),
        ("", "conv9", 404, "layer_unknown"),
    ],
)
def test_what_cannot_be_answered_is_refused(client, query, layer, status, code):
    answer = ask(client, query, layer)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_large_kernels_have_a_limit_in_json(lenet_artifact):
    limited = client_for(lenet_artifact.parent.parent, inspection_limit_json_values=149)
    answer = ask(limited)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_values")
    assert "150 weights; the limit is 149" in answer.json()["error"]["message"]
    assert ask(limited, "?output=0").status_code == 200
    assert ask(limited, "?format=npz").status_code == 200


def test_the_graph_says_where_to_draw_and_answers_304(client):
    first = client.get("/v1/models/lenet/graph")
    nodes = {node["name"]: node for node in first.json()["nodes"]}
    assert [(node["row"], node["lane"]) for node in nodes.values()] == [
        (place, 0) for place in range(1, len(nodes) + 1)
    ]
    assert nodes["conv1"]["center"] == [0, 0]
    assert (nodes["fc.0"]["module"], nodes["fc.0"]["center"]) == ("fc", None)
    again = client.get("/v1/models/lenet/graph", headers={"if-none-match": f'W/{first.headers["etag"]}, "other"'})
    assert again.status_code == 304
