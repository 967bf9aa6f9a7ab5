"""What stands before the viewer: two blocks whose truth is known, and what may be said of them, in an archive.

The blocks are unequal, the liver to the right, in front and low, the spleen to the left, at the back and high, so that
a result on a wrong side or slice is seen to be wrong. A kidney is looked for, and there is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from sr_writer.notices import write_notices
from sr_writer.results import STANDARD, write_results
from study import codes
from study.codes import Code
from study.errors import Reason
from study.forms import Form, Variant
from study.imaging import Finding, LabelMap, Measurement, ResultSet, Segment
from tests.support.blocks import LIVER, SPLEEN, Point, blocks, grid
from tests.support.ohif import Ohif, running_ohif, store
from tests.support.orthanc import Orthanc, running_orthanc
from tests.support.results import CONTEXT, MODEL, assessments, variants_of
from tests.support.series import ct_series, save_series

IMAGES = "Blocks"
KIDNEY = 3
"""The value of what is not in the images."""
COLOURS = {LIVER: (230, 120, 0), SPLEEN: (160, 60, 220)}
LABELS = {LIVER: "Liver", SPLEEN: "Spleen"}
SITES = {
    LIVER: Code("10200004", "SCT", "Liver"),
    SPLEEN: Code("78961009", "SCT", "Spleen"),
    KIDNEY: Code("18639004", "SCT", "Left kidney"),
}
VOLUMES = {LIVER: 5.83, SPLEEN: 7.47}
ATTENUATIONS = {LIVER: 200.0, SPLEEN: 400.0}

TOGETHER = ("seg", "seg_labelmap", "rtstruct", "sr", "sr_comprehensive", "sc", "pdf")
"""The forms of one result, in one study. `sr_segments` is left out, since OHIF can not show it."""
CLASSES = "classes"
"""Where `Scene.objects` has the report of a result without any region."""
TILTED = Reason("GantryTilt", "The gantry was tilted by 12.5 degrees.", {"tilt_degrees": 12.5})


@dataclass(frozen=True)
class Scene:
    """The blocks in Orthanc, and a viewer over it.

    Parameters
    ----------
    sources
        Headers of the images in slice order.
    voxels
        Their pixels [HU], (slices, rows, columns).
    truth
        Label map on their grid: `LIVER`, `SPLEEN` or 0.
    """

    ohif: Ohif
    orthanc: Orthanc
    folder: Path
    sources: list[Dataset]
    affine: NDArray[np.float64]
    voxels: NDArray[np.float32]
    truth: NDArray[np.uint8]

    @property
    def study(self) -> str:
        """The study of everything."""
        return str(self.sources[0].StudyInstanceUID)

    def uid(self, index: int) -> str:
        """Return the SOP Instance UID of a slice."""
        return str(self.sources[index].SOPInstanceUID)

    def slices_of(self, value: int) -> list[int]:
        """Return the slices that a block is on."""
        return [int(index) for index in np.flatnonzero((self.truth == value).any(axis=(1, 2)))]

    def written(
        self,
        result: ResultSet,
        name: str,
        variants: Sequence[Variant] = STANDARD,
        earlier: Sequence[Sequence[Dataset]] = (),
    ) -> list[tuple[Form, Dataset]]:
        """Write a result as the node does; its name makes its UIDs and descriptions its own.

        Parameters
        ----------
        earlier
            Headers of the earlier series that the result is compared with.
        """
        context = replace(CONTEXT, instances_digest=name.encode().hex(), description=name)
        folder = self.folder / name
        made = write_results(
            result, self.sources, MODEL, context, folder, variants, lambda index: self.voxels[index], earlier
        )
        return [(Form(each.form), dcmread(folder / each.path)) for each in made]

    def send(self, result: ResultSet, name: str, *forms: str) -> list[Dataset]:
        """Write a result in some forms, store it in Orthanc, open the study, and return the objects."""
        objects = [each for _, each in self.written(result, name, variants_of(*forms))]
        self.add(*objects)
        return objects

    def add(self, *objects: Dataset) -> None:
        """Store objects in Orthanc, and open the study."""
        self.store(*objects)
        self.ohif.open(self.study)

    def store(self, *objects: Dataset) -> None:
        """Store objects in Orthanc."""
        paths = []
        for each in objects:
            paths.append(self.folder / f"{each.SOPInstanceUID}.dcm")
            each.save_as(paths[-1])
        store(self.orthanc, paths)

    def at_hand(self, *objects: Dataset) -> None:
        """Have the study open in a page that knows these objects and has complained of nothing yet."""
        wanted = {str(each.SeriesDescription) for each in objects}
        if (
            self.ohif.study != self.study
            or self.ohif.said()
            or not wanted <= {each.description for each in self.ohif.series()}
        ):
            self.ohif.open(self.study)

    def stored_objects(self) -> dict[str, list[Dataset]]:
        """Write and store every form of one result, a result without any region and a refusal; return them by form.

        The Series Description begins with the form, as if each were for a destination of its own.
        """
        variants = [replace(each, description_prefix=f"{each.form} ") for each in variants_of(*TOGETHER)]
        objects: dict[str, list[Dataset]] = {form: [] for form in TOGETHER}
        for form, each in self.written(result_of(self.truth, self.affine), "Abdomen", variants):
            objects[form].append(each)
        classified = ResultSet(None, (), assessments=assessments())
        objects[CLASSES] = [each for _, each in self.written(classified, "Classes", variants_of("sr"))]
        objects[Form.REFUSAL] = self._refusals()
        self.store(*(each for found in objects.values() for each in found))
        return objects

    def _refusals(self) -> list[Dataset]:
        folder = self.folder / "refusals"
        made = write_notices([TILTED], self.sources, MODEL, CONTEXT, folder, [Variant(Form.REFUSAL)], failed=False)
        return [dcmread(folder / each.path) for each in made]

    def keep_picture(self, name: str) -> None:
        """Save a picture of the page, where a person may look at it."""
        folder = Path(os.environ.get("OHIF_PICTURES", self.folder))
        self.ohif.picture(folder / f"ohif-phantom-{name}.png")

    def on_page(self) -> NDArray[np.uint8]:
        """Return which block each pixel of the viewport's picture must show, by where it lies in the patient."""
        box = self.ohif.viewport().box
        assert box is not None
        left, top = box[:2]
        width, height = box[2] - left, box[3] - top
        corner, right, down = self.ohif.to_patient([(left, top), (left + 100, top), (left, top + 100)])
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        points = corner + x[..., None] * (right - corner) / 100 + y[..., None] * (down - corner) / 100
        inverse = np.linalg.inv(self.affine)
        voxels = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        inside = np.all((voxels >= 0) & (voxels < self.truth.shape), axis=-1)
        assert inside.any(), "no pixel of the viewport lies in the images"
        shown = np.zeros((height, width), dtype=np.uint8)
        shown[inside] = self.truth[tuple(voxels[inside].T)]
        return shown


@contextmanager
def running_scene(folder: Path, tell: Callable[[str], None]) -> Iterator[Scene]:
    """Run an Orthanc with the blocks, and a browser with OHIF over it.

    Parameters
    ----------
    tell
        Takes a line for the record of the run.
    """
    with running_orthanc(folder / "orthanc", dicomweb=True) as orthanc, running_ohif(orthanc, tell) as ohif:
        yield study_of_blocks(ohif, orthanc, folder / "blocks", (3.0, 1.0, 1.0))


def study_of_blocks(ohif: Ohif, orthanc: Orthanc, folder: Path, spacing: Point) -> Scene:
    """Store a study of the blocks in Orthanc, with a distance of slices, rows and columns [mm], and return it."""
    affine, shape = grid("axial, head first, supine", spacing)
    voxels, truth = blocks(affine, shape)
    images = save_series(ct_series(voxels, affine, attributes={"SeriesDescription": IMAGES}), folder / "images")
    store(orthanc, images)
    sources: list[Dataset] = [dcmread(path, stop_before_pixels=True) for path in images]
    return Scene(ohif, orthanc, folder, sources, affine, voxels, truth)


def result_of(values: NDArray[np.uint8], affine: NDArray[np.float64]) -> ResultSet:
    """Return a result with both blocks, each with a volume and an attenuation, and without the kidney."""
    segments = tuple(
        Segment(value, label, codes.ANATOMICAL_STRUCTURE, SITES[value], rgb=COLOURS[value])
        for value, label in LABELS.items()
    )
    kidney = Segment(KIDNEY, "Left kidney", codes.ANATOMICAL_STRUCTURE, SITES[KIDNEY])
    findings = tuple(_finding(value, label) for value, label in LABELS.items())
    missing = Finding("left_kidney", kidney.label, kidney.property_type, SITES[KIDNEY], (KIDNEY,), detected=False)
    return ResultSet(LabelMap(values, affine, (*segments, kidney)), (*findings, missing))


def _finding(value: int, label: str) -> Finding:
    measurements = (
        Measurement(codes.VOLUME, VOLUMES[value], codes.MILLILITRE),
        Measurement(codes.ATTENUATION, ATTENUATIONS[value], codes.HOUNSFIELD_UNIT, codes.MEAN),
    )
    return Finding(label.lower(), label, codes.ANATOMICAL_STRUCTURE, SITES[value], (value,), measurements)
