"""Run OHIF, the viewer that others wrote, over an Orthanc, and read what it shows: facts, words and pixels.

The page itself tells where it is (image, slice, places in the patient, segments, measurements); pictures tell what is
drawn. The browser is Debian's Chromium without a window, which draws with the processor alone.
"""

from __future__ import annotations

import base64
import json
import math
import queue
import re
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.network import wait_until
from tests.support.ohif_packages import OHIF, PLAYWRIGHT, fetched
from tests.support.ohif_server import serving
from tests.support.orthanc import Orthanc
from tests.support.peers import program

WIDTH, HEIGHT = 1000, 640
SOON, LATER = 20.0, 90.0
"""How long [s] an answer may take, and a whole study to be opened."""
LARGEST = 110_000
"""From how many bytes on a saved picture keeps 256 colours only, which is enough for one of words."""

NEXT = '[data-cy="viewport-pane"] .shrink-0.cursor-pointer >> nth=1 >> svg'
"""The right one of the two arrows in the corner of a viewport."""

Picture = NDArray[np.uint8]
Point = Sequence[float]
Box = tuple[int, int, int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Series:
    """A series in the study browser.

    Parameters
    ----------
    thumbnail
        The lines of text beside its thumbnail.
    """

    uid: str
    series: str
    modality: str
    description: str
    images: int
    handler: str
    unsupported: bool
    thumbnail: list[str]


@dataclass(frozen=True)
class Viewport:
    """What the active viewport shows.

    Parameters
    ----------
    type
        "stack" or "orthographic"; None where it shows no image.
    index
        Of the image within the stack.
    box
        Left, top, right and bottom of the picture within the page [whole pixels]; None where there is none.
    pane
        The same of the whole viewport, whatever it shows.
    letters
        The edge letters by "left", "right", "top", "bottom".
    text
        All words within the viewports.
    frames
        Embedded documents: tag, source, type.
    questions
        What OHIF asks within the viewport before it goes on.
    """

    display_sets: list[str]
    type: str | None
    index: int | None
    images: int
    sop_instance_uid: str | None
    box: Box | None
    pane: Box
    letters: dict[str, str]
    text: str
    frames: list[dict[str, str]]
    questions: list[str]

    @property
    def alive(self) -> bool:
        """Whether it shows anything: an image, words or a document."""
        return self.box is not None or bool(self.text.strip()) or bool(self.frames)


@dataclass(frozen=True)
class ShownSegment:
    """A segment as the segmentation service knows it."""

    segmentation: str
    type: str
    number: int
    label: str
    colour: tuple[int, int, int]
    visible: bool


@dataclass(frozen=True)
class ShownMeasurement:
    """A measurement group of a report, as OHIF reads it.

    Parameters
    ----------
    lines
        What it writes beside the contour.
    sop_instance_uid
        The image of the first contour; None where there is none.
    loaded
        Whether it has found the image.
    """

    name: str
    tracking_uid: str
    lines: list[str]
    sop_instance_uid: str | None
    loaded: bool


@dataclass(frozen=True, eq=False)
class Line:
    """A line over the image.

    Parameters
    ----------
    points
        (points, 2), x and y on the page [pixels].
    """

    points: NDArray[np.float64]
    colour: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Drawn:
    """What the annotation layer of the viewport draws: lines, and lines of text."""

    lines: list[Line]
    texts: list[str]


@dataclass
class Ohif:
    """A browser with OHIF in it.

    Parameters
    ----------
    tell
        Takes a line for the record of the run.
    """

    address: str
    process: subprocess.Popen[str]
    tell: Callable[[str], None] = print
    study: str = ""
    record: list[str] = field(default_factory=list)
    _answers: queue.Queue[str] = field(default_factory=queue.Queue)
    _asked: int = 0

    def do(self, command: str, *, patience: float = 2 * LATER, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        """Return what the browser answers to a command.

        Raises
        ------
        AssertionError
            If it can not do it, or does not answer.
        """
        assert self.process.stdin is not None
        self._asked += 1
        self.process.stdin.write(json.dumps({"id": self._asked, "command": command, **arguments}) + "\n")
        self.process.stdin.flush()
        return self.answer(command, patience)

    def answer(self, command: str, patience: float = LATER) -> Any:  # noqa: ANN401 - JSON
        """Return the answer to the last command; that to none is that the browser has started."""
        answer = {"id": -1}
        while answer.get("id", self._asked) != self._asked:  # an earlier command was given up
            try:
                line = self._answers.get(timeout=patience)
            except queue.Empty:
                raise AssertionError(f"The browser does not answer to {command}.") from None
            answer = json.loads(line or '{"error": "the browser ended"}')
        if "error" in answer:
            raise AssertionError(f"{command}: {answer['error']}")
        return answer["result"]

    def fact(self, name: str, argument: Any = None) -> Any:  # noqa: ANN401 - JSON
        """Return a fact of the page; their names are in ohif_drive.js."""
        return self.do("fact", name=name, argument=argument)

    def open(self, study: str) -> None:
        """Open a study afresh and return when its first image is drawn."""
        self.study = study
        for attempt in (1, 2):
            self.do("open", url=f"{self.address}/viewer?StudyInstanceUIDs={study}")
            try:
                self.do("await_ready", seconds=LATER / 2)
            except AssertionError as error:
                if attempt == 2:
                    raise
                self.put_on_record(f"the page was loaded again, because {error}")
            else:
                return

    def put_on_record(self, what: str) -> None:
        """Tell that something had to be done again."""
        self.record.append(what)
        self.tell(f"OHIF: {what}")

    def series(self) -> list[Series]:
        """Return the series of the study, in the order in which OHIF read them."""
        return [Series(**each) for each in self.fact("series")]

    def find(self, description: str) -> Series:
        """Return the one series of this description."""
        found = [each for each in self.series() if each.description == description]
        assert len(found) == 1, f"{len(found)} of {[each.description for each in self.series()]}"
        return found[0]

    def load(self, description: str) -> Series:
        """Put a series into the viewport, by a double click on its thumbnail as a reader does."""
        series = self.find(description)
        self.do("double_click", selector=f'[id="thumbnail-{series.uid}"]', seconds=SOON)
        wait_until(lambda: series.uid in self.viewport().display_sets, SOON, f"{description} in the viewport")
        return series

    def accept(self) -> None:
        """Answer Yes to the question whether to open the segmentation."""
        self.do("click", selector='[data-cy="yes-hydrate-btn"]', seconds=SOON)
        wait_until(lambda: not self.viewport().questions, SOON, "the question to go")

    def load_segments(self, description: str) -> list[ShownSegment]:
        """Put a Segmentation or a Structure Set over its images, as a reader does, and return its segments.

        The page is loaded again once if it does not come; that is put on record.
        """

        def once() -> list[ShownSegment]:
            series = self.load(description)
            self.accept()
            wait_until(lambda: bool(self.segments()), SOON, "the segments")
            wait_until(lambda: series.uid not in self.viewport().display_sets, SOON, "the images below the segments")
            wait_until(lambda: self.viewport().sop_instance_uid is not None, SOON, "the images below the segments")
            return self.segments()

        return self._twice(once)

    def load_report(self, description: str) -> list[ShownMeasurement]:
        """Open a report with contours, and return its measurements once the first contour is drawn.

        In about one load of twenty OHIF goes to the image and draws no contour before something moves. Then the image
        is drawn again, and if that does not help the page is loaded again once; both are put on record.
        """

        def once() -> list[ShownMeasurement]:
            self.load(description)
            wait_until(lambda: any(each.loaded for each in self.measurements()), SOON, "the measurements")
            try:
                wait_until(lambda: bool(self.drawn().lines), SOON / 4, "a contour")
            except AssertionError:
                self.put_on_record("the image was drawn again, because no contour was")
                self.do("redraw")
                wait_until(lambda: bool(self.drawn().lines), SOON, "a contour")
            return self.measurements()

        return self._twice(once)

    def load_text(self, description: str) -> str:
        """Open a report that OHIF shows as text, and return its words."""
        self.load(description)
        self.do("redraw")  # what another report left may stand there for a moment
        wait_until(lambda: bool(self.viewport().text.strip()), SOON, "the words of the report")
        return self.viewport().text

    def _twice(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except AssertionError as error:
            self.put_on_record(f"the page was loaded again, because {error}")
            self.open(self.study)
            return action()

    def viewport(self) -> Viewport:
        """Return what the active viewport shows now."""
        facts = self.fact("viewport")
        boxes = {name: _whole(facts[name]) for name in ("box", "pane") if facts[name]}
        return Viewport(**(facts | boxes))

    def document(self) -> bytes:
        """Return the file that the embedded document in the viewport shows."""
        return base64.b64decode(self.fact("document"))

    def fit(self) -> None:
        """Fit the image to the viewport; until then or a scroll OHIF may leave out the edge letters."""
        self.do("fit")
        wait_until(lambda: bool(self.viewport().letters), SOON, "the edge letters")

    def show_image(self, sop_instance_uid: str) -> None:
        """Scroll to an image of the stack in the viewport."""
        index = self.fact("index_of", sop_instance_uid)
        assert index >= 0, f"{sop_instance_uid} is not in the viewport"
        self.do("show", index=index)
        wait_until(lambda: self.viewport().sop_instance_uid == sop_instance_uid, SOON, "the image")
        self.do("redraw")

    def segments(self) -> list[ShownSegment]:
        """Return the segments that are loaded in the active viewport."""
        return [ShownSegment(**(each | {"colour": tuple(each["colour"])})) for each in self.fact("segments")]

    def voxels(self, shape: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
        """Return the label map that is loaded over the images, (rows, columns), by SOP Instance UID; empty ones not.

        Parameters
        ----------
        shape
            Rows and columns of the images.
        """
        coded: dict[str, str] = self.fact("voxels")
        return {
            uid: np.frombuffer(base64.b64decode(labels), dtype=np.uint8).reshape(shape) for uid, labels in coded.items()
        }

    def panel(self) -> list[str]:
        """Open the segmentation panel and return the words of its rows."""
        rows = '[data-cy="data-row"]'
        if not self.do("count", selector=rows):
            self.do("click", selector='[data-cy="panelSegmentation-btn"]', seconds=SOON)
            wait_until(lambda: bool(self.do("count", selector=rows)), SOON, "the segmentation panel")
        texts: list[str] = self.do("texts", selector=rows)
        return texts

    def measurements(self) -> list[ShownMeasurement]:
        """Return the measurements of the report in the viewport."""
        return [ShownMeasurement(**each) for each in self.fact("measurements")["read"]]

    def next_measurement(self) -> None:
        """Click on the arrow that leads to the next measurement of the report in the viewport."""
        before = self.viewport().sop_instance_uid
        self.do("click", selector=NEXT, seconds=SOON)
        wait_until(lambda: self.viewport().sop_instance_uid != before, SOON, "the next measurement")
        self.do("redraw")

    def drawn(self) -> Drawn:
        """Return the lines and words that are drawn over the image now."""
        facts = self.fact("drawn")
        lines = [Line(np.array(line["points"]), _colour(line["colour"])) for line in facts["lines"] if line["points"]]
        return Drawn(lines, [line for text in facts["texts"] for line in text])

    def text(self) -> str:
        """Return all words of the page."""
        text: str = self.do("text")
        return text

    def said(self) -> list[str]:
        """Return every error since the study was opened: of the console, of scripts, of requests.

        Nothing is left out but requests that OHIF itself breaks off, which it does with images that it fetches ahead.
        """
        said: list[str] = self.do("said")
        return said

    def to_page(self, points: Sequence[Point] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where on the page, (x, y) [pixels], the viewport draws points of the patient, LPS [mm]."""
        return np.array(self.fact("to_page", np.asarray(points, dtype=float).tolist()))

    def to_patient(self, places: Sequence[Point] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the points of the patient, LPS [mm], that the viewport draws at places of the page."""
        return np.array(self.fact("to_world", np.asarray(places, dtype=float).tolist()))

    def picture(self, path: Path | None = None, *, viewport: bool = False, pane: bool = False) -> Picture:
        """Return the page as (rows, columns, red green blue), and save it as PNG if asked.

        Parameters
        ----------
        viewport
            The image in the viewport alone.
        pane
            The whole viewport alone, whatever it shows.
        """
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "page.png"
            self.do("picture", path=str(target))
            with Image.open(target) as image:
                place = self.viewport().pane if pane else self.viewport().box if viewport else None
                picture = image.convert("RGB").crop(place)
        if path is not None:
            picture.save(path, optimize=True)
            if path.stat().st_size > LARGEST:
                picture.quantize(256).save(path, optimize=True)
        return np.asarray(picture)


def _whole(place: Point) -> Box:
    """Return left, top, right and bottom of the whole pixels within a left, top, width and height."""
    left, top, width, height = place
    return math.ceil(left), math.ceil(top), math.floor(left + width), math.floor(top + height)


def _colour(words: str) -> tuple[int, int, int]:
    """Return what CSS writes as rgb(0, 255, 0)."""
    red, green, blue = (int(number) for number in re.findall(r"\d+", words)[:3])
    return red, green, blue


def tinted(picture: Picture, colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return where a picture has a colour, also laid thinly over any grey."""
    chroma = picture.astype(float) - picture.min(axis=2, keepdims=True)
    wanted = np.array(colour, dtype=float) - min(colour)
    length = np.linalg.norm(chroma, axis=2)
    alike = chroma @ wanted / np.linalg.norm(wanted)
    return np.asarray((length > 25) & (alike > 0.97 * length))


def store(orthanc: Orthanc, paths: Sequence[Path]) -> None:
    """Put files into an archive, by its REST API."""
    for path in paths:
        request = urllib.request.Request(f"http://127.0.0.1:{orthanc.http_port}/instances", data=path.read_bytes())
        with urllib.request.urlopen(request, timeout=60) as response:
            response.read()


@contextmanager
def running_ohif(orthanc: Orthanc, tell: Callable[[str], None] = print) -> Iterator[Ohif]:
    """Run a browser with OHIF over the DICOMweb of an Orthanc; skip where one of its parts is not to be had."""
    node, chromium = program("node", package="nodejs"), program("chromium", package="chromium")
    viewer, playwright = fetched(OHIF) / "dist", fetched(PLAYWRIGHT)
    driver = Path(__file__).with_name("ohif_drive.js")
    with (
        serving(viewer, orthanc) as address,
        tempfile.TemporaryFile("w+") as complaints,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
    ):
        process = subprocess.Popen(
            [node, str(driver), str(playwright), chromium, profile, str(WIDTH), str(HEIGHT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        ohif = Ohif(address, process, tell)
        reading = threading.Thread(target=_read, args=(process, ohif._answers), daemon=True)
        reading.start()
        try:
            try:
                ohif.answer("start")
            except AssertionError as error:
                complaints.seek(0)
                raise AssertionError(f"{error}: {complaints.read()}") from None
            yield ohif
        finally:
            _end(process, reading)


def _read(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        answers.put(line)
    answers.put("")


def _end(process: subprocess.Popen[str], reading: threading.Thread) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    reading.join(timeout=10)
    process.stdout.close()
