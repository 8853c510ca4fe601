"""Attachments as arguments of BAML functions: images, PDFs and audio as media, and the names and texts of all.

BAML fetches media by their URLs itself, on its own threads (`media_url_handler` in baml_src/clients.baml). What comes
as base64 passes through Python, and holds up all other replies for a moment (`Running.copying`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from baml_py import Audio, Image, Pdf
from pydantic import BaseModel

from bridge.media_types import AUDIOS, IMAGES, PDFS, TEXTS
from bridge.model import Attachment, Opened


class Kind(NamedTuple):
    """A class of media: the types of attachments that it holds, and how it is made of one."""

    types: Collection[str]
    by_url: Callable[[str, str], Any]
    by_content: Callable[[str, str], Any]

    def make(self, opened: Opened) -> Any:
        """Media of an attachment."""
        kind = opened.attachment.type
        return self.by_url(opened.url, kind) if opened.base64 is None else self.by_content(kind, opened.base64)


# Their stubs in baml-py 0.226.3 lack the type that `from_url` takes.
_KINDS: Mapping[type, Kind] = {
    Image: Kind(IMAGES, lambda url, kind: Image.from_url(url, kind), Image.from_base64),  # type: ignore[call-arg]
    Pdf: Kind(PDFS, lambda url, _: Pdf.from_url(url), lambda _, content: Pdf.from_base64(content)),
    Audio: Kind(AUDIOS, lambda url, kind: Audio.from_url(url, kind), Audio.from_base64),  # type: ignore[call-arg]
}
# The parameters that a question's attachments fill, if they are of media, and the one of all their names and texts.
MEDIA: Mapping[str, type] = {"images": Image, "pdfs": Pdf, "audios": Audio}
ALL = "attachments"

SAMPLES = (
    Opened(Attachment("a.png", None, IMAGES[0]), "http://localhost/"),
    Opened(Attachment("a.pdf", None, PDFS[0]), "http://localhost/"),
    Opened(Attachment("a.mp3", None, AUDIOS[0]), "http://localhost/"),
    Opened(Attachment("a.txt", None, TEXTS[0]), text="text"),
)


def is_filled(name: str, hint: Any) -> bool:
    """Whether a question's attachments fill the parameter of this name and type."""
    if name in MEDIA:
        return kind_of(hint) is _KINDS[MEDIA[name]]
    return name == ALL and _class_in(hint, BaseModel) is not None


def kind_of(hint: Any) -> Kind | None:
    """The kind of media in a type such as `list[Image]`; None if there is none."""
    return next((kind for media, kind in _KINDS.items() if _class_in(hint, media) is not None), None)


def accepted(name: str, hint: Any) -> tuple[str, ...]:
    """The types of attachments that a parameter reads."""
    if name == ALL:
        cls = _class_in(hint, BaseModel)
        return TEXTS if cls is not None and "text" in cls.model_fields else ()
    kind = kind_of(hint)
    return tuple(kind.types) if kind is not None else ()


def values(hint: Any, opened: Sequence[Opened]) -> list[Any]:
    """What a parameter gets of attachments: media, or objects with a `name`, a `type` and the `text` of a text file."""
    if (kind := kind_of(hint)) is not None:
        return [kind.make(one) for one in opened if one.attachment.type in kind.types]
    return [{"name": one.attachment.name, "type": one.attachment.type, "text": one.text} for one in opened]


def _class_in(hint: Any, cls: type) -> type[Any] | None:
    if isinstance(hint, type) and issubclass(hint, cls):
        return hint
    return next((found for part in get_args(hint) if (found := _class_in(part, cls)) is not None), None)
