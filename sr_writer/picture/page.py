"""A result on one page (A4) as a PDF: whose it is, pictures, findings and numbers, limits of use, who made it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, Final

from reportlab.lib.colors import Color
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.platypus import (
    BaseDocTemplate,
    Flowable,
    Frame,
    Image,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
    TableStyle,
)

from sr_writer.picture.captions import NOT_DETECTED, Caption, Colour
from sr_writer.picture.identity_text import certain_text, names_of
from sr_writer.picture.painting import series_words
from sr_writer.picture.scene import Scene
from sr_writer.picture.typefaces import BOLD, REGULAR, characters, typeset, typeset_all
from sr_writer.picture.views import View, overview

_MARGIN: Final = 36.0
_FOOT: Final = 62.0
_WIDTH: Final = A4[0] - 2 * _MARGIN
_MOST_HIGH: Final = 190.0  # of the pictures
_LETTERS: Final = 12  # larger ones than in pictures that are looked at by themselves


@dataclass(frozen=True)
class _Setting:
    """How large the letters of the findings are [points], and whether every number has a line of its own."""

    size: float
    apart: bool = False


_SETTINGS: Final = (_Setting(9, apart=True), _Setting(9), _Setting(8), _Setting(7))
"""From the roomiest to the tightest: the first that makes one page is taken."""
_MOST_COLOURS: Final = 3  # of one finding
_DARK: Final = Color(0.1, 0.11, 0.14)
_GREY: Final = Color(0.38, 0.4, 0.44)
_LINE: Final = Color(0.8, 0.82, 0.85)
_SHADE: Final = Color(0.95, 0.955, 0.965)
_WARNING: Final = Color(0.62, 0.29, 0.0)


@dataclass(frozen=True)
class Imprint:
    """Who made a page, and when.

    Parameters
    ----------
    made
        "2026-03-04 22:30", in the zone of the study.
    lines
        Model, digest and software, in words.
    """

    made: str
    lines: tuple[str, ...]


def page_of(scene: Scene, imprint: Imprint) -> bytes:
    """Return a result as a PDF, the same bytes for the same input.

    It is one page as long as the findings fit in letters of 7 points or more; what does not goes on to further pages,
    each of which says whose it is.
    """
    for face in (REGULAR, BOLD):
        characters(face)
    views = overview(scene, _LETTERS)
    for setting in _SETTINGS:
        content, pages = _built(scene, imprint, views, setting, 1)
        if pages == 1:
            return content
    # Twice, so that each page can say how many there are
    return _built(scene, imprint, views, setting, pages)[0]


def _built(scene: Scene, imprint: Imprint, views: Sequence[View], setting: _Setting, pages: int) -> tuple[bytes, int]:
    buffer = BytesIO()
    document = BaseDocTemplate(
        buffer,
        pagesize=A4,
        title=scene.title,
        author=scene.author,
        invariant=1,
        pageCompression=1,
        lang="en",
    )
    frame = Frame(_MARGIN, _FOOT, _WIDTH, A4[1] - _FOOT - _MARGIN, 0, 0, 0, 0)
    furniture = partial(_furnish, scene=scene, imprint=imprint, pages=pages)
    document.addPageTemplates(PageTemplate(frames=[frame], onPage=furniture))
    document.build(list(_story(scene, imprint, views, setting)))
    return buffer.getvalue(), int(document.page)


def _style(size: float, face: str = REGULAR, color: Color = _DARK, **more: Any) -> ParagraphStyle:  # noqa: ANN401
    return ParagraphStyle(
        f"{face}{size}{color}", fontName=face, fontSize=size, leading=size * 1.28, textColor=color, **more
    )


def _story(scene: Scene, imprint: Imprint, views: Sequence[View], setting: _Setting) -> Iterator[Flowable]:
    yield _heading(scene, imprint)
    yield Spacer(0, 6)
    yield _identity(scene)
    yield Spacer(0, 8)
    yield _pictures(views)
    yield Spacer(0, 8)
    yield _findings(scene.captions, setting)
    limits = [
        Paragraph(typeset(words), _style(setting.size, bulletFontName=REGULAR, leftIndent=9), bulletText="-")
        for words in (*scene.limits, *scene.earlier)
    ]
    if limits:
        yield Paragraph("Limits of use", _style(setting.size + 1, BOLD, spaceBefore=8, spaceAfter=2))
        yield from limits


def _heading(scene: Scene, imprint: Imprint) -> Table:
    """Return the title, what was found in a sentence, and beside them what the page is not for."""
    title = [
        Paragraph(typeset(scene.title, BOLD), _style(15, BOLD)),
        Paragraph(typeset(f"Result of {scene.author}, made {imprint.made}"), _style(8.5, color=_GREY)),
        Paragraph(typeset(summary_of(scene.captions), BOLD), _style(10, BOLD, spaceBefore=4)),
    ]
    if not scene.disclaimer:
        return Table([[title]], colWidths=[_WIDTH], style=_bare())
    warning = Paragraph(typeset(scene.disclaimer.upper(), BOLD), _style(10, BOLD, _WARNING, alignment=1))
    style = [*_bare().getCommands(), ("BOX", (1, 0), (1, 0), 1, _WARNING), ("VALIGN", (1, 0), (1, 0), "MIDDLE")]
    return Table([[title, warning]], colWidths=[_WIDTH - 190, 190], style=TableStyle(style))


def summary_of(captions: Sequence[Caption]) -> str:
    """Return in a sentence what came out of it."""
    missing = sum(caption.said == NOT_DETECTED for caption in captions)
    if captions and missing == len(captions):
        return "Nothing was detected of what the model looks for."
    found = len(captions) - missing
    # Not "findings": organs that were measured are none to a radiologist
    words = f"{found} result{'s' if found != 1 else ''}"
    return f"{words}; {missing} not detected." if missing else f"{words}."


def _bare() -> TableStyle:
    return TableStyle([("LEFTPADDING", (0, 0), (-1, -1), 0), ("VALIGN", (0, 0), (-1, -1), "TOP")])


def _identity(scene: Scene) -> Table:
    """Return whose study it is, as the source's header says it."""
    source = scene.sources[0]
    text = partial(certain_text, source)
    series = [str(source.get("Modality", "")), series_words(source), text("SeriesDescription")]
    cells = [
        ("Patient", typeset_all(names_of(source, "PatientName"))),
        ("Study date", typeset(_date(text("StudyDate")))),
        ("Patient ID", typeset(text("PatientID"))),
        ("Accession number", typeset(text("AccessionNumber"))),
        ("Birth date", typeset(_date(text("PatientBirthDate")))),
        ("Study", typeset(text("StudyDescription"))),
        ("Sex", typeset(text("PatientSex"))),
        ("Images", typeset(", ".join(filter(None, series)))),
    ]
    label, value = _style(8, color=_GREY), _style(9)
    marked = [
        [Paragraph(typeset(name), label), Paragraph(markup or typeset("not stated"), value)] for name, markup in cells
    ]
    rows = [[*marked[index], *marked[index + 1]] for index in range(0, len(marked), 2)]
    style = [("BACKGROUND", (0, 0), (-1, -1), _SHADE), ("VALIGN", (0, 0), (-1, -1), "TOP")]
    style += [("TOPPADDING", (0, 0), (-1, -1), 1.5), ("BOTTOMPADDING", (0, 0), (-1, -1), 1.5)]
    return Table(rows, colWidths=[58, _WIDTH / 2 - 58, 92, _WIDTH / 2 - 92], style=TableStyle(style))


def _date(text: str | None) -> str | None:
    if text and len(text) == 8 and text.isdigit():
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return text


def _pictures(views: Sequence[View]) -> Table:
    gap = 6.0
    room = _WIDTH - gap * (len(views) - 1)
    shares = [view.image.width / view.image.height for view in views]
    height = min(_MOST_HIGH, room / sum(shares))
    widths = [height * share for share in shares]
    images = [Image(_jpeg(view), width, height) for view, width in zip(views, widths, strict=True)]
    below = [Paragraph(typeset(f"{view.plane}, {view.which}"), _style(7.5, color=_GREY)) for view in views]
    style: list[tuple[Any, ...]] = [
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 0),
        ("TOPPADDING", (0, 0), (-1, -1), 1),
    ]
    style += [("BOTTOMPADDING", (0, 0), (-1, -1), 1), ("VALIGN", (0, 0), (-1, -1), "TOP")]
    return Table([images, below], colWidths=[width + gap for width in widths], style=TableStyle(style), hAlign="LEFT")


def _jpeg(view: View) -> BytesIO:
    buffer = BytesIO()
    view.image.save(buffer, "JPEG", quality=92, subsampling=0)
    buffer.seek(0)
    return buffer


def _findings(captions: Sequence[Caption], setting: _Setting) -> Table:
    """Return the table of findings; it breaks between rows, and repeats its head."""
    size = setting.size
    plain, quiet = _style(size), _style(size * 0.9, color=_GREY)
    head = [Paragraph(typeset(words, BOLD), _style(size, BOLD)) for words in ("Finding", "Result")]
    rows: list[list[Any]] = [["", *head]]
    for caption in captions:
        said = [caption.said.capitalize()] if caption.said else []
        words = [*said, *caption.numbers_compared] or ["shown in the pictures"]
        lines = words if setting.apart else ["; ".join(words)]
        cell = [Paragraph(typeset(line), plain) for line in lines]
        cell += [Paragraph(typeset(remark), quiet) for remark in (*caption.remarks, *caption.earlier)]
        rows.append([_Swatch(caption.colours, size), Paragraph(typeset(caption.label), plain), cell])
    style: list[tuple[Any, ...]] = [
        ("LINEBELOW", (0, 0), (-1, -1), 0.5, _LINE),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("TOPPADDING", (0, 0), (-1, -1), size / 6),
        ("BOTTOMPADDING", (0, 0), (-1, -1), size / 4),
        ("LEFTPADDING", (0, 0), (1, -1), 0),
    ]
    return Table(rows, colWidths=[14, 0.32 * _WIDTH, 0.68 * _WIDTH - 14], style=TableStyle(style), repeatRows=1)


class _Swatch(Flowable):  # type: ignore[misc]  # reportlab has no types
    """A box in the colours of the regions of a finding, side by side; nothing where it has none."""

    def __init__(self, colours: Sequence[Colour], size: float) -> None:
        super().__init__()
        self.width = self.height = size
        self._colours = [Color(*(part / 255 for part in colour)) for colour in colours[:_MOST_COLOURS]]

    def draw(self) -> None:
        """Draw it on the canvas that reportlab set."""
        wide = 0.8 * self.width / max(1, len(self._colours))
        for place, colour in enumerate(self._colours):
            self.canv.setFillColor(colour)
            self.canv.rect(place * wide, 0.1 * self.height, wide, 0.8 * self.height, stroke=0, fill=1)


def _furnish(canvas: Any, document: Any, *, scene: Scene, imprint: Imprint, pages: int) -> None:  # noqa: ANN401
    """Draw the foot of a page: who made it; on further pages whose it is; the number of the page."""
    width = _WIDTH - 60
    whose = Paragraph(
        f"{typeset_all(names_of(scene.sources[0], 'PatientName'))}, {typeset(_patient_id(scene))}", _style(8)
    )
    lines = [Paragraph(typeset(words), _style(7, color=_GREY)) for words in imprint.lines]
    top = _FOOT - 10
    canvas.setStrokeColor(_LINE)
    canvas.line(_MARGIN, top, _MARGIN + _WIDTH, top)
    for line in [whose, *lines] if pages > 1 else lines:
        _, height = line.wrap(width, _FOOT)
        top -= height
        line.drawOn(canvas, _MARGIN, top)
    canvas.setFont(REGULAR, 7)
    canvas.setFillColor(_GREY)
    canvas.drawRightString(_MARGIN + _WIDTH, _FOOT - 20, f"page {document.page} of {pages}")


def _patient_id(scene: Scene) -> str | None:
    return certain_text(scene.sources[0], "PatientID")
