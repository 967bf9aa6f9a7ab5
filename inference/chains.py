"""A bundle's chains of transforms, fitted to a node: no loader before, no writer behind, labels inverted as labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from monai.transforms.compose import Compose
from monai.transforms.io.array import LoadImage, SaveImage
from monai.transforms.io.dictionary import LoadImaged, SaveImaged
from monai.transforms.post.dictionary import Activationsd, AsDiscreted, Invertd, SaveClassificationd
from monai.transforms.transform import MapTransform
from monai.transforms.utility.array import EnsureChannelFirst
from monai.transforms.utility.dictionary import EnsureChannelFirstd

from study.errors import BundleInvalid

_LOADERS: Final = (LoadImaged, LoadImage)
_WRITERS: Final = (SaveImaged, SaveImage, SaveClassificationd)
_CHANNEL_MAKERS: Final = (EnsureChannelFirstd, EnsureChannelFirst)
_IMAGE: Final = "image"  # what MONAI's evaluators call the network's input (monai.engines.utils.CommonKeys)


@dataclass(frozen=True)
class Intake:
    """How a bundle's preprocessing expects its image.

    Parameters
    ----------
    key
        What its transforms call the image.
    channel_first
        Whether the image has a channel axis before its spatial ones; else it has none, as from a file.
    """

    key: str
    channel_first: bool


@dataclass(frozen=True)
class Loader:
    """A bundle's own loader: which keys it would fill, and whether with the channel axis first."""

    keys: tuple[str, ...]
    channel_first: bool

    @classmethod
    def of(cls, transform: LoadImaged | LoadImage) -> Loader:
        """Return what a transform of MONAI's would do."""
        inner = getattr(transform, "_loader", transform)
        return cls(tuple(getattr(transform, "keys", ())), bool(getattr(inner, "ensure_channel_first", False)))


def prepare_intake(
    preprocessing: Compose, loaders: Sequence[Loader], declared: Sequence[str], priors: Collection[str] = ()
) -> Intake:
    """Take the loader out of a chain, and return how what is left expects its image.

    With the loader goes what only sorts out the axes of files: the image is handed over channel first where the chain
    would have made it so.

    Parameters
    ----------
    preprocessing
        Changed in place, so that an inversion that refers to it inverts what is left.
    loaders
        Those that were taken out of the chain before it was made.
    declared
        The names of the inputs in the metadata.
    priors
        The keys of earlier series, none of which is the image.

    Raises
    ------
    BundleInvalid
        If no transform works on the image.
    """
    found = [Loader.of(each) for each in leaves(preprocessing) if isinstance(each, _LOADERS)]
    loaders = [*loaders, *found]
    key = _image_key(preprocessing, loaders, declared, priors)
    makers = [each for each in leaves(preprocessing) if isinstance(each, _CHANNEL_MAKERS)]
    _remove(preprocessing, (*_LOADERS, *_CHANNEL_MAKERS))
    forgive_missing_labels(preprocessing, key)
    return Intake(key, channel_first=not loaders or bool(makers) or any(each.channel_first for each in loaders))


def forgive_missing_labels(chain: Compose, key: str) -> None:
    """Have transforms that work on `key` and on others, as on labels, which are there in training alone, do without."""
    for each in leaves(chain):
        if isinstance(each, MapTransform) and key in each.keys and len(each.keys) > 1:
            each.allow_missing_keys = True


def remove_writers(postprocessing: Compose) -> None:
    """Take out of a chain what writes files."""
    _remove(postprocessing, _WRITERS)


def invert_labels_by_nearest(postprocessing: Compose) -> tuple[str, ...]:
    """Have labels inverted to the grid of the source by nearest neighbour, and return in words where that was changed.

    Interpolation between labels makes other labels: half-way between background and label 2 lies label 1.
    """
    discrete, changed = False, False
    for each in leaves(postprocessing):
        if isinstance(each, AsDiscreted):
            discrete = True
        elif isinstance(each, Invertd) and discrete and not all(each.nearest_interp):
            each.nearest_interp = (True,) * len(each.keys)
            changed = True
    if not changed:
        return ()
    return (
        "The bundle asks to interpolate between labels when it goes back to the source grid; the nearest was taken.",
    )


def inverts(postprocessing: Compose) -> bool:
    """Tell whether a chain itself takes the prediction back to the grid of the source."""
    return any(isinstance(each, Invertd) for each in leaves(postprocessing))


def without_discretisation(postprocessing: Compose) -> Compose:
    """Return the chain without what turns probabilities into decisions."""
    return Compose([each for each in leaves(postprocessing) if not isinstance(each, AsDiscreted)])


def decides(postprocessing: Compose) -> bool:
    """Tell whether a chain turns probabilities into decisions."""
    return any(isinstance(each, AsDiscreted) for each in leaves(postprocessing))


def activation_of(postprocessing: Compose) -> str:
    """Return how a chain makes probabilities: "softmax" (of classes that exclude each other), "sigmoid", or "none"."""
    for each in leaves(postprocessing):
        if isinstance(each, Activationsd):
            return "softmax" if any(each.softmax) else "sigmoid" if any(each.sigmoid) else "none"
    return "none"


def leaves(chain: Compose) -> Iterator[Any]:
    """Yield the transforms of a chain in order, those of inner chains in their place."""
    for each in chain.transforms:
        if type(each) is Compose:
            yield from leaves(each)
        else:
            yield each


def _remove(chain: Compose, kinds: tuple[type, ...]) -> None:
    chain.transforms = tuple(each for each in chain.transforms if not isinstance(each, kinds))
    for each in chain.transforms:
        if type(each) is Compose:
            _remove(each, kinds)


def _image_key(
    preprocessing: Compose, loaders: Sequence[Loader], declared: Sequence[str], priors: Collection[str]
) -> str:
    """Return what the chain calls its image: as the loader says, else as the metadata do."""
    used = {key for each in leaves(preprocessing) if isinstance(each, MapTransform) for key in each.keys}
    used -= set(priors)
    declared = [name for name in declared if name not in priors]
    loaded = [key for each in loaders for key in each.keys if key not in priors]
    for key in (*(key for key in loaded if key in (*declared, _IMAGE)), *loaded, *declared, _IMAGE):
        if not used or key in used:
            return str(key)
    raise BundleInvalid(
        f"The bundle's preprocessing works on {', '.join(sorted(map(str, used)))}; none of them is its input "
        f"({', '.join(declared) or _IMAGE})."
    )
