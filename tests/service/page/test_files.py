"""The page's files as they travel: without comments, compressed, and not sent twice."""

import gzip
import re
from importlib.resources import files
from pathlib import Path

PAGE = Path(str(files("service.page")))
SENT = sorted(path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.suffix in (".css", ".js"))
SCRIPTS = [name for name in SENT if name.endswith(".js")]


def test_each_file_travels_compressed_and_once(client):
    """A client that has a file gets 304, and one that knows no gzip gets the same file."""
    with client:
        for path in ["/", *(f"/page/{name}" for name in SENT)]:
            with client.stream("GET", path, headers={"accept-encoding": "gzip"}) as answer:
                compressed = b"".join(answer.iter_raw())
            assert answer.headers["content-encoding"] == "gzip"
            assert "accept-encoding" in answer.headers["vary"].lower()
            plain = client.get(path, headers={"accept-encoding": "identity"})
            assert "content-encoding" not in plain.headers
            assert gzip.decompress(compressed) == plain.content
            known = client.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (known.status_code, known.content) == (304, b"")


def test_comments_stay_at_home(client):
    """The browser reads the scripts in the other tests; here, the comments of the sources are gone from them."""
    with client:
        for name in SCRIPTS:
            source = (PAGE / name).read_text("utf-8")
            sent = client.get(f"/page/{name}").text
            assert source.startswith("// ")
            assert source.splitlines()[0] not in sent
            assert len(sent) < len(source)


def test_no_template_lies_within_another():
    """The minifier takes the inner text of nested template literals for code, and drops its spaces."""
    nested = re.compile(r"`[^`]*\$\{[^}`]*`")
    assert nested.search('`a ${b ? `, ${c}` : ""}`')
    assert [name for name in SCRIPTS if nested.search((PAGE / name).read_text("utf-8"))] == []
