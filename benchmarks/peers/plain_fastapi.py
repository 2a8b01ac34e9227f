"""FastAPI as users commonly write it: an upload, decoded and run in a pool thread, answered as JSON."""

from typing import Annotated, Any

from fastapi import FastAPI, File
from model import Model, best

_model = Model()
app = FastAPI()


@app.post("/classify")
def classify(image: Annotated[bytes, File()]) -> list[dict[str, Any]]:
    """An image as a form's file in, the five most probable classes out."""
    return best(_model.run(_model.decode(image)[None])[0])


@app.get("/ready")
def ready() -> str:
    """Answers once the session is open."""
    return "ready"
