import io

import numpy as np
import pytest
import torch
from PIL import Image

from export.artifact.manifest import read_manifest
from export.verify.reference import rebuild
from models.images.decode import decode_image
from tests.in_process import client_for, digit, encoded

PICTURE = encoded(np.kron(digit(), np.ones((5, 9), np.uint8)))  # 40 x 72


def ask(client, query, content=PICTURE):
    return client.post(f"/v1/models/lenet/unit?{query}", content=content)


def test_a_convolution_is_its_patch_times_the_trained_weights(client, lenet_artifact):
    manifest = read_manifest(lenet_artifact)
    network = rebuild(lenet_artifact, manifest).network
    answer = ask(client, "layer=conv1&channel=4&y=10&x=12").json()
    (terms,) = answer["terms"]
    pixels = decode_image(PICTURE, manifest.input)[..., 0] / 255
    patch = (pixels[8:13, 10:15] - manifest.input.mean[0]) / manifest.input.std[0]
    weights = network.conv1.weight[4, 0].detach().numpy()
    np.testing.assert_allclose(terms["values"], patch[np.newaxis], atol=1e-5)
    np.testing.assert_allclose(terms["weights"], weights[np.newaxis], atol=1e-6)
    np.testing.assert_allclose(terms["products"], (patch * weights)[np.newaxis], atol=1e-5)
    assert terms["source"] == "input"
    assert terms["axes"] == [[0], [8, 9, 10, 11, 12], [10, 11, 12, 13, 14]]
    assert terms["channel_sums"] == pytest.approx([float((patch * weights).sum())], abs=1e-5)
    assert answer["bias"] == pytest.approx(float(network.conv1.bias.detach()[4]))
    with torch.no_grad():
        x = torch.from_numpy((pixels - manifest.input.mean[0]) / manifest.input.std[0]).float()
        wanted = float(network.conv1(x[None, None])[0, 4, 10, 12])
    assert answer["value"] == pytest.approx(wanted, abs=1e-5)
    assert answer["served"] == pytest.approx(wanted, abs=1e-5)
    assert abs(answer["difference"]) < 1e-5


def test_the_receptive_field_is_given_in_the_input_and_in_the_picture(client):
    field = ask(client, "layer=conv1&channel=0&y=0&x=14").json()["receptive_field"]
    assert field["whole"] == {"top": -2, "left": 12, "bottom": 3, "right": 17}
    assert field["clipped"] == {"top": 0, "left": 12, "bottom": 3, "right": 17}
    # 40 x 72 becomes 28 x 28: a pixel of the input is 1.43 rows and 2.57 columns of the picture.
    assert field["picture"] == {"top": 0, "left": 30, "bottom": 5, "right": 44}
    assert ask(client, "layer=fc.0&index=3").json()["receptive_field"] is None


def test_the_picture_is_taken_as_its_orientation_shows_it(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(PICTURE)) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG", exif=exif)
    straight, turned = (ask(client, "layer=conv1&index=0,0,14", content=one) for one in (PICTURE, buffer.getvalue()))
    assert turned.json() == straight.json()


def test_an_index_means_the_same_as_channel_row_and_column(client):
    assert ask(client, "layer=conv2&index=3,1,2").json() == ask(client, "layer=conv2&channel=3&y=1&x=2").json()


def test_every_source_can_be_asked_for_until_the_pixels(client):
    layer, index, seen = "probabilities", [7], []
    while layer != "image":
        answer = ask(client, f"layer={layer}&index={','.join(map(str, index))}").json()
        assert abs(answer["difference"]) < 1e-4 * max(1, answer["largest"])
        seen.append(answer["op"])
        terms = answer["terms"][0]
        layer, index = terms["source"], [axis[len(axis) // 2] for axis in terms["axes"]]
    assert seen[0] == ""  # the softmax belongs to no layer
    assert [op for op in seen if op.startswith("Conv")] == ["Conv2d", "Conv2d"]
    pixel = ask(client, f"layer=image&index={','.join(map(str, index))}").json()
    assert pixel["terms"] == []
    assert float(pixel["value"]).is_integer()


@pytest.mark.parametrize(
    ("query", "status", "code", "part"),
    [
        ("", 400, "parameter_invalid", "layer is missing"),
        ("layer=conv1", 404, "unit_unknown", "give channel, y and x, or index"),
        ("layer=conv1&channel=0&y=1", 404, "unit_unknown", "give channel, y and x, or index"),
        ("layer=conv1&channel=0&y=1&x=1&index=0,1,1", 404, "unit_unknown", "or index"),
        ("layer=conv1&index=0,x,1", 400, "parameter_invalid", "whole numbers"),
        ("layer=conv1&index=0,-1,1", 400, "parameter_invalid", "whole numbers"),
        ("layer=conv1&index=", 400, "parameter_invalid", "one value"),
        ("layer=conv1&channel=-1&y=1&x=1", 400, "parameter_invalid", "channel is '-1'"),
        ("layer=conv1&index=6,0,0", 404, "unit_unknown", "0 to 5"),
        ("layer=conv1&index=0,0", 404, "unit_unknown", r"(6, 28, 28)"),
        ("layer=cnv1&index=0,0,0", 404, "layer_unknown", "conv1"),
        ("layer=conv1&index=0,0,0&form=json", 400, "parameter_invalid", "known are layer"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(client, query, status, code, part):
    answer = ask(client, query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert part in answer.json()["error"]["message"]


def test_bad_images_and_unknown_models_are_refused_as_elsewhere(client):
    assert ask(client, "layer=conv1&index=0,0,0", content=b"no image").status_code == 415
    assert ask(client, "layer=conv1&index=0,0,0", content=PICTURE[:60]).status_code == 400
    assert client.post("/v1/models/other/unit?layer=a&index=1", content=PICTURE).status_code == 404


def test_an_answer_has_a_limit(lenet_artifact):
    limited = client_for(lenet_artifact.parent.parent, inspection_limit_json_values=74)
    answer = ask(limited, "layer=conv1&index=0,0,0")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_values")
    assert "75 numbers; the limit is 74" in answer.json()["error"]["message"]
