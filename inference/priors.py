"""Earlier series beside the one that is analysed: each through the same model by itself, or all handed to the bundle.

What goes wrong with an earlier series is no fault of the present one: the result then says that nothing is compared,
and why. Only a model that is of no use without one fails with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from pydicom.dataset import Dataset

from inference.account import Account
from inference.catalog import ModelCard
from inference.series import Said, Series, figures
from study.changes import compared
from study.errors import HilumError, InferenceError, Reason, StudyRefused
from study.imaging import EarlierSeries, SeriesVolume
from study.priors import NO_PRIOR, PRIOR_STEP, day_words


@dataclass(frozen=True, eq=False)
class Prior:
    """An earlier series that a model is given.

    Parameters
    ----------
    limits
        What a reader must know of a comparison with it, in words.
    """

    earlier: EarlierSeries
    series: Series
    limits: tuple[str, ...] = ()


def compared_with(
    said: Said, priors: Iterable[Prior], say: Callable[[Series, Account], Said], card: ModelCard, account: Account
) -> Said:
    """Return what a model says of a series, with the numbers of each earlier series beside its own.

    Parameters
    ----------
    say
        Runs the model on a series, with a record of its own, and gives back the memory that it took.

    Raises
    ------
    StudyRefused, InferenceError
        If the model is of no use without an earlier series, and none could be analysed.
    """
    gathered = _Gathered()
    result = said.result_set
    for prior in priors:
        with account.step(PRIOR_STEP):
            apart = account.apart(PRIOR_STEP)
            with gathered.unless_it_fails(prior, apart, account):
                then = say(prior.series, apart)
                result = compared(result, then.result_set, prior.earlier)
                apart.measurements = figures(then.result_set)
                gathered.take(prior, then.datasets)
    gathered.demand_one(card)
    return gathered.noted_in(replace(said, result_set=result))


@dataclass(eq=False)
class _Gathered:
    """What was taken of earlier series, and what went wrong with others."""

    priors: list[Prior] = field(default_factory=list)
    datasets: list[tuple[Dataset, ...]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    errors: list[HilumError] = field(default_factory=list)

    @contextmanager
    def unless_it_fails(self, prior: Prior, apart: Account, account: Account) -> Iterator[None]:
        """Run the block, and go on where it fails; either way the account has the record of the earlier series."""
        why = ""
        try:
            yield
        except HilumError as error:
            why = f"Not compared with the study of {day_words(prior.earlier.study_date)}: {error.words}"
            self.words.append(why)
            self.errors.append(error)
        account.priors.append(
            {
                "study_instance_uid": prior.earlier.study_instance_uid,
                "series_instance_uid": prior.earlier.series_instance_uid,
                "study_date": prior.earlier.study_date,
                "compared": not why,
                "words": why,
                "seconds": {step: round(seconds, 4) for step, seconds in apart.seconds.items()},
                "measurements": apart.measurements,
            }
        )

    def take(self, prior: Prior, datasets: tuple[Dataset, ...]) -> None:
        """Note that an earlier series was of use; `datasets` are the headers of its slices."""
        self.priors.append(prior)
        self.datasets.append(datasets)

    def demand_one(self, card: ModelCard) -> None:
        """Return unless the model needs an earlier series and every one failed; else raise what the first failed of."""
        if self.priors or not self.errors or card.priors is None or not card.priors.required:
            return
        first = self.errors[0]
        if isinstance(first, InferenceError):
            raise first
        raise StudyRefused([Reason(NO_PRIOR, " ".join(self.words), first.numbers)]) from first

    def noted_in(self, said: Said) -> Said:
        """Return what a model says, with the earlier series that were of use, and why others were none."""
        result = said.result_set
        limits = [words for prior in self.priors for words in prior.limits]
        noted = replace(
            result,
            earlier=tuple(prior.earlier for prior in self.priors),
            earlier_limits=tuple(limits),
            not_compared=(*result.not_compared, *self.words),
        )
        return replace(said, result_set=noted, earlier=tuple(self.datasets))


@dataclass(frozen=True, eq=False)
class Handed:
    """What a bundle is given besides its image, by the keys of its transforms, and what is to be said of it."""

    volumes: Mapping[str, SeriesVolume]
    gathered: _Gathered

    def noted_in(self, said: Said) -> Said:
        """Return what a model says, with the earlier series that it was given."""
        return self.gathered.noted_in(said)


def handed_over(priors: Iterable[Prior], card: ModelCard, account: Account) -> Handed:
    """Read the earlier series that a bundle is given; those that can not be read are left out, and the next moves up.

    Raises
    ------
    StudyRefused, InferenceError
        If the model is of no use without an earlier series, and none could be read.
    """
    gathered = _Gathered()
    volumes: list[SeriesVolume] = []
    account.priors.clear()  # of an attempt before this one
    for prior in priors:
        with account.step(PRIOR_STEP):
            apart = account.apart(PRIOR_STEP)
            with gathered.unless_it_fails(prior, apart, account), apart.step("decode"):
                volume, datasets = prior.series.volume()
                volumes.append(volume)
                gathered.take(prior, datasets)
    gathered.demand_one(card)
    inputs = card.priors.inputs if card.priors is not None else ()
    return Handed(dict(zip(inputs, volumes, strict=False)), gathered)
