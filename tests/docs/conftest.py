"""What the tests of docs/deploy.md share."""

import pytest

from tests.docs.deploy_page import Deployed, deploy, write_photos


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """The network whose images are resized and cropped, with photographs."""
    return deploy(tmp_path_factory.getbasetemp(), "cropped", write_photos(tmp_path_factory.mktemp("photos")))
