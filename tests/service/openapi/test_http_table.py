"""The table of routes in docs/http.md, which is made from the declared ones; run as a module, this writes it."""

import tempfile
from pathlib import Path

from service.asgi.application import build_application
from service.errors import STATUS, Unauthorized
from service.openapi.document import statuses
from service.serving.version_catalog import VersionCatalog
from service.settings import read_settings

PAGE = Path(__file__).parents[3] / "docs" / "http.md"


def table(artifacts: Path) -> str:
    """One row a route, as a server with CONVSCOPE_ALLOW_LOADING has them."""
    settings = read_settings(artifacts=artifacts, allow_loading=True)
    rows = ["| route | purpose | parameters | answers | errors | public |", "| --- | --- | --- | --- | --- | --- |"]
    for route in sorted(build_application(VersionCatalog(settings), settings).routes, key=lambda route: route.path):
        parameters = [one["name"] for one in route.parameters if one["in"] != "path"]
        errors = [status for status in statuses(route) if status != STATUS[Unauthorized]]
        cells = (
            f"`{route.method} {route.path}`",
            route.title,
            ", ".join(f"`{name}`" for name in parameters),
            ", ".join(f"`{media_type}`" for media_type in route.answers),
            ", ".join(map(str, errors)),
            "yes" if route.public else "",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def text_before(page: str) -> str:
    return page.partition("| route |")[0]


def test_the_table_in_the_docs_is_that_of_the_declared_routes(tmp_path: Path) -> None:
    page = PAGE.read_text()
    assert page == text_before(page) + table(tmp_path), "run: python -m tests.service.openapi.test_http_table"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        PAGE.write_text(text_before(PAGE.read_text()) + table(Path(directory)))
