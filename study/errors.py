"""Every error that Hilum raises on purpose, as one hierarchy.

Each class carries a stable ``code`` (what scripts and the database see), and ``transient``, which says whether trying
the same thing again later may help. Numbers that belong to an error travel in ``numbers``, so that a person reads them
in the words and a program reads them without parsing words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

Numbers = Mapping[str, float | int | str]


@dataclass(frozen=True)
class Reason:
    """One cause of a refusal or failure: a stable code, words for a person, and the numbers behind them."""

    code: str
    words: str
    numbers: Numbers = field(default_factory=dict)


class HilumError(Exception):
    """Root of the hierarchy.

    Parameters
    ----------
    words
        What happened and what mends it, for a person. The class's default message where it is empty.
    numbers
        The figures behind the words.
    """

    code: ClassVar[str] = "HilumError"
    default_words: ClassVar[str] = "Something went wrong."
    transient: ClassVar[bool] = False

    def __init__(self, words: str = "", numbers: Numbers | None = None) -> None:
        self.words = words or self.default_words
        self.numbers: Numbers = dict(numbers or {})
        super().__init__(self.words)

    @property
    def reason(self) -> Reason:
        """Return the error as a value that can be stored."""
        return Reason(self.code, self.words, self.numbers)


class ConfigError(HilumError):
    """The configuration can not be used; the words name file, key and remedy."""

    code = "ConfigError"
    default_words = "The configuration can not be used."


class ReceiveError(HilumError):
    """A C-STORE request that is not answered with Success.

    Parameters
    ----------
    status
        The C-STORE response status (PS3.4 B.2.3).
    """

    code = "ReceiveError"
    default_words = "The object can not be received."

    def __init__(self, status: int, words: str = "", numbers: Numbers | None = None) -> None:
        super().__init__(words, numbers)
        self.status = status


class ArchiveError(HilumError):
    """The file store or the database does not hold what it should."""

    code = "ArchiveError"
    default_words = "The store does not hold what it should."


class StoreBusy(ArchiveError):
    """Another ``hilum serve`` holds this data directory."""

    code = "StoreBusy"
    default_words = "Another hilum serve uses this data directory."


class DatabaseUnavailable(ArchiveError):
    """The database can not be reached or written at the moment."""

    code = "DatabaseUnavailable"
    default_words = "The database can not be reached or written at the moment."
    transient = True


class DiskFull(ArchiveError):
    """The disk takes no more; nobody's work is to blame for that."""

    code = "DiskFull"
    default_words = "The disk is full; free some space."
    transient = True


class SchemaMismatch(ArchiveError):
    """The database has another revision of the schema than this program."""

    code = "SchemaMismatch"
    default_words = "The database schema is of another version; start the supervisor (hilum serve) once to migrate it."


class LeaseLost(ArchiveError):
    """Another worker took the job over; what this one computed is dropped."""

    code = "LeaseLost"
    default_words = "The lease of the job was lost."


class StudyRefused(HilumError):
    """A study or series that is not analysed, for a stated reason. A normal outcome, not an alarm.

    Parameters
    ----------
    reasons
        Every rule that failed; the first gives the error's code.
    """

    code = "StudyRefused"
    default_words = "The study is not analysed."

    def __init__(self, reasons: Sequence[Reason] | str = (), numbers: Numbers | None = None) -> None:
        if isinstance(reasons, str):
            super().__init__(reasons, numbers)
            self.reasons: tuple[Reason, ...] = (Reason(self.code, self.words, self.numbers),)
            return
        merged: dict[str, float | int | str] = {}
        for reason in reasons:
            merged = {**reason.numbers, **merged}  # where two reasons name a number alike, the first one's stands
        super().__init__(" ".join(reason.words for reason in reasons), merged)
        self.reasons = tuple(reasons)

    @property
    def reason(self) -> Reason:
        """Return the refusal as one value: the first rule's code, all rules' words."""
        code = self.reasons[0].code if self.reasons else self.code
        return Reason(code, self.words, self.numbers)


class NoEligibleSeries(StudyRefused):
    """No series of the study fits the model."""

    code = "NoEligibleSeries"


class UnsupportedTransferSyntax(StudyRefused):
    """No installed decoder reads the pixel data's Transfer Syntax."""

    code = "UnsupportedTransferSyntax"


class UndecodablePixelData(StudyRefused):
    """The pixel data of an instance can not be decoded."""

    code = "UndecodablePixelData"


class TargetNotInFieldOfView(StudyRefused):
    """The organ that the model looks for is not in the images."""

    code = "TargetNotInFieldOfView"


class InferenceError(HilumError):
    """A model could not be run, or gave what can not be used."""

    code = "InferenceError"
    default_words = "The model could not be run."


class BundleInvalid(InferenceError):
    """The model's bundle can not be loaded as it is."""

    code = "BundleInvalid"


class SourceUnreadable(InferenceError):
    """The images could not be read just now: the disk or the memory failed, not the images."""

    code = "SourceUnreadable"
    transient = True


class ModelOutputInvalid(InferenceError):
    """The model's output has a wrong shape, NaNs or a label that nobody declared."""

    code = "ModelOutputInvalid"


class DeviceOutOfMemory(InferenceError):
    """The device ran out of memory."""

    code = "DeviceOutOfMemory"
    transient = True


class DeadlineExceeded(InferenceError):
    """The job ran longer than its model's deadline and was stopped."""

    code = "DeadlineExceeded"
    transient = True


class MemoryExceeded(InferenceError):
    """The job took more of the machine's memory than its model may, and was stopped."""

    code = "MemoryExceeded"
    transient = True


class RunnerDied(InferenceError):
    """The process that ran the model ended without an answer."""

    code = "RunnerDied"
    transient = True


class EncodingError(HilumError):
    """A result object could not be made, or is not what it should be.

    Parameters
    ----------
    reasons
        Every rule that the object breaks, where it was checked.

    Attributes
    ----------
    file
        Name of the object's file, where it was written and then failed its check; "" otherwise.
    """

    code = "EncodingError"
    default_words = "The result can not be encoded."

    def __init__(self, words: str = "", numbers: Numbers | None = None, reasons: Sequence[Reason] = ()) -> None:
        super().__init__(words, numbers)
        self.reasons = tuple(reasons)
        self.file = ""


class MissingIdentity(EncodingError):
    """The source lacks an attribute that a result must carry and that is never invented."""

    code = "MissingIdentity"


class GeometryMismatch(EncodingError):
    """A result's geometry is not that of its source."""

    code = "GeometryMismatch"


class NonconformantObject(EncodingError):
    """An object, read back from disk, breaks a rule that it must keep."""

    code = "NonconformantObject"


class DeliveryError(HilumError):
    """A result was not stored by its destination.

    Parameters
    ----------
    permanent
        Whether the refusal looks as if trying again changes nothing until a person acts.
    status
        The C-STORE response status, where there was one.
    comment
        What the peer said of it in its own words. It may name a patient: it is in the `reason`, for those who may see
        the study, and not in the `words`, which are logged.
    """

    code = "DeliveryError"
    default_words = "The result was not delivered."
    transient = True

    def __init__(
        self,
        words: str = "",
        numbers: Numbers | None = None,
        *,
        permanent: bool = False,
        status: int | None = None,
        comment: str = "",
    ) -> None:
        super().__init__(words, numbers)
        self.permanent = permanent
        self.status = status
        self.comment = comment

    @property
    def reason(self) -> Reason:
        """Return the error as a value that can be stored, with the peer's own words."""
        said = f' It said: "{self.comment}".' if self.comment else ""
        return Reason(self.code, self.words + said, self.numbers)


class QueryFailed(DeliveryError):
    """An archive did not answer a C-FIND as PS3.4 C.4.1 has it: a failure status, or an answer that can not be true."""

    code = "QueryFailed"
    default_words = "The archive did not answer the query."
    transient = True


class RetrieveFailed(DeliveryError):
    """An archive did not give all that it was asked for by C-GET or C-MOVE."""

    code = "RetrieveFailed"
    default_words = "The archive did not give what was asked for."
    transient = True


class PeerUnreachable(DeliveryError):
    """No connection, or it broke."""

    code = "PeerUnreachable"
    default_words = "The peer can not be reached."


class AnswerLost(PeerUnreachable):
    """It broke after an object was sent and before the answer came: the peer may hold it."""


class AssociationRejected(DeliveryError):
    """The peer rejected or aborted the association."""

    code = "AssociationRejected"


class NoAcceptedContext(DeliveryError):
    """The peer takes no presentation context for the object's SOP Class."""

    code = "NoAcceptedContext"


class StoreFailed(DeliveryError):
    """The peer answered C-STORE with a failure."""

    code = "StoreFailed"


class CommitmentRefused(DeliveryError):
    """A peer did not take what storage commitment has to say: a request of ours, or a report."""

    code = "CommitmentRefused"
    default_words = "The peer refused the storage commitment message."
