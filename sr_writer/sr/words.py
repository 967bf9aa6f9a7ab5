"""The content tree of a report of words: each statement a sentence, with its codes below it.

For what has no region. OHIF 3.12.10 shows a report that is no measurement report as the items right below its
containers, name and value, and nothing below those; of an image it says "[IMAGE is not supported]". So each statement
is a sentence that stands for itself, and codes, numbers, tracking and images stand below it, where programs find them:
in the same CODE item as in a measurement report. What matters comes first, the observer and the language last. There is
no Image Library, and no template is claimed; TID 2000 would, but its title, Diagnostic Imaging Report, is what
archives and information systems take for the radiologist's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from highdicom.sr import ContentItem, ContentSequence, RelationshipTypeValues
from pydicom.dataset import Dataset

from sr_writer import codes
from sr_writer.context import ResultContext
from sr_writer.source.carrying import element_bytes, tag_of
from sr_writer.sr.content import ReportContent
from sr_writer.sr.earlier import NOTHING_EARLIER, Earlier
from sr_writer.sr.statements import Statement
from sr_writer.sr.stating import CERTAINTY_EXPLAINED, coded, comment, inferred_from, sentence
from sr_writer.sr.tree import Tree, algorithm, device, language, procedure, text
from study.imaging import ModelIdentity


def tree_of_words(
    content: ReportContent,
    sources: Sequence[Dataset],
    model: ModelIdentity,
    context: ResultContext,
    earlier: Earlier = NOTHING_EARLIER,
) -> Tree:
    """Return the tree of a report that has no region."""
    middle = len(sources) // 2
    items = [
        text(codes.SUMMARY, " ".join(_summary(content, model, context))),
        *(_said(statement, sources, model, context) for statement in (*content.compared, *content.statements)),
        *earlier.items(),
        *map(comment, content.limits),
        *([comment(CERTAINTY_EXPLAINED)] if content.has_certainties else []),
        about_series(sources[0], f", {len(sources)} image{'s' if len(sources) > 1 else ''}", [sources[middle]]),
        *algorithm(model),
        procedure(sources[0]),
        *device(model),
        *language(),
    ]
    images = {middle}.union(*(statement.images for statement in content.statements))
    return Tree(codes.ALGORITHM_RESULT, items, sorted(images), earlier=earlier.images)


def _summary(content: ReportContent, model: ModelIdentity, context: ResultContext) -> Iterator[str]:
    yield f"What the algorithm {model.name}, version {model.version}, says of these images. No person has verified it."
    if content.groups:
        yield "What it has outlined and measured in the images stands in another series of its results."
    yield from disclaimed(context)


def disclaimed(context: ResultContext) -> Iterator[str]:
    """Yield the site's disclaimer as a sentence; nothing where it has none."""
    words = context.disclaimer.strip(" -.")
    if words:
        yield f"{words[0].upper()}{words[1:]}."


def _said(
    statement: Statement, sources: Sequence[Dataset], model: ModelIdentity, context: ResultContext
) -> ContentItem:
    item = text(statement.name, sentence(statement, sources))
    properties = coded(statement, sources, model, context, RelationshipTypeValues.HAS_PROPERTIES)
    item.ContentSequence = ContentSequence([properties])
    return item


def about_series(first: Dataset, more: str, shown: Sequence[Dataset]) -> ContentItem:
    """Return which series a report is about, in words, with a reference to some of its images below.

    Parameters
    ----------
    more
        What else to say of it.
    shown
        Headers of those images.
    """
    number, modality = (_plain(first, keyword) for keyword in ("SeriesNumber", "Modality"))
    description = _plain(first, "SeriesDescription")
    name = " ".join(filter(None, ("Series", number, f"({modality})" if modality else "")))
    title = f' "{description}"' if description else ""
    item = text(codes.SOURCE, f"{name}{title}{more}.")
    item.ContentSequence = ContentSequence([inferred_from(source) for source in shown])
    return item


def _plain(source: Dataset, keyword: str) -> str:
    """Return the text of an element; "" where it is absent, or not in printable ASCII."""
    value = element_bytes(source, tag_of(keyword)).decode("latin-1").strip(" \0")
    return value if all(" " <= character <= "}" and character != "\\" for character in value) else ""
