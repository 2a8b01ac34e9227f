"""Which model a request means, by the name and version in it."""

from collections.abc import Mapping

from service.errors import UnknownModel, UnknownParameter
from service.http.requests import NUMBER
from service.serving.served_model import Entry


def split_name(name: str | None, version: str | None) -> tuple[str | None, str | None]:
    """Name and version, where the name may be `name:version`.

    Raises:
        UnknownParameter: that version and the other one differ.
    """
    if name is None or ":" not in name:
        return name, version
    name, _, inner = name.partition(":")
    if version is not None and version != inner:
        raise UnknownParameter(f"the model is asked for as {name}:{inner} and as version {version}")
    return name, inner


def look_up(entries: Mapping[str, Mapping[int, Entry]], name: str | None, version: str | None) -> Entry:
    """One of several entries; the newest version if none is given, the only model if no name is.

    Raises:
        UnknownModel, UnknownParameter: the message lists what there is.
    """
    if name is None:
        if len(entries) > 1:
            raise UnknownParameter(f"several models are served ({', '.join(sorted(entries))}); say model=NAME")
        (name,) = entries
    versions = entries.get(name)
    if versions is None:
        raise UnknownModel(f"no model is called {name[:100]!r}; served are {', '.join(sorted(entries))}")
    if version is not None and (not NUMBER.fullmatch(version) or int(version) not in versions):
        known = ", ".join(map(str, sorted(versions)))
        raise UnknownModel(f"{name} has no version {version[:20]!r}; served are {known}")
    return versions[max(versions) if version is None else int(version)]
