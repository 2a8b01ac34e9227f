"""LitServe with its batching: uploads are decoded one by one, stacked, run together and split again."""

import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from model import Model, best


class Classifier(litserve.LitAPI):
    """An image as a form's file in, the five most probable classes out."""

    def setup(self, device: str) -> None:
        """Opens the session, in the worker."""
        self.model = Model()

    def decode_request(self, request: Request) -> Any:
        """Decodes one upload."""
        return self.model.decode(request["image"].file.read())  # LitServe passes the parsed form

    def batch(self, inputs: list[Any]) -> Any:
        """Stacks images of one size."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """The probabilities of the whole batch."""
        return self.model.run(x)

    def unbatch(self, output: Any) -> Any:
        """Splits the batch into rows."""
        return list(output)

    def encode_response(self, output: Any) -> Any:
        """Encodes one answer."""
        return best(output)


if __name__ == "__main__":
    api = Classifier(max_batch_size=64, batch_timeout=0.001, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="error"
    )
