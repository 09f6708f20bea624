"""Named errors: each says what is wrong, where, and how to repair it. Each is also a built-in error."""

import sys


class WorkbookError(Exception):
    """Base of every error that the workbook raises on purpose."""


def exit_status(command):
    """Run a command line: 0 when `command()` returns, 1 after printing an error of the workbook."""
    try:
        command()
        return 0
    except WorkbookError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1


class PictureError(WorkbookError, ValueError):
    """A picture that cannot be used; its subclasses say why."""


class UnreadablePictureError(PictureError, OSError):
    """Missing, empty, truncated, corrupt, or not a picture at all."""


class PictureSizeError(PictureError):
    """Too few pixels, too many, not square where a crop is wanted, or another size than its pair."""


class PersonError(WorkbookError, ValueError):
    """A person folder that cannot be used."""


class MissingPicturesError(PersonError, FileNotFoundError):
    """A folder that is not there, is empty, or holds fewer references than the minimum."""


class PersonCardError(PersonError):
    """`person.yaml` is missing, is not YAML, or has a missing, unknown or mistyped field."""


class PairingError(PersonError):
    """The same stem twice, or a target without its input."""


class UnsafePathError(WorkbookError, ValueError):
    """A name with `../` in it, a link that leads out of its folder, or an output that would replace other files."""


class SaveError(WorkbookError, OSError):
    """A picture could not be written; nothing is left half-written."""


class FaceError(WorkbookError, ValueError):
    """A photograph that cannot be aligned."""


class NoFaceError(FaceError):
    """No face was found in a photograph."""


class SeveralFacesError(FaceError):
    """More than one face was found where one person was expected."""


class NotThePersonError(FaceError):
    """Nobody in a photograph resembles the references, or a reference does not resemble the others."""


class IdentityWarning(UserWarning):
    """A picture that may show somebody else than the references."""


class PackError(WorkbookError, OSError):
    """An insightface pack or ONNX file that is missing, unreadable, or lacks the wanted model."""


class SplitError(WorkbookError, ValueError):
    """People of another split, or an unknown split."""


class BadPersonError(WorkbookError, ValueError):
    """A person's name, seed or shot number that cannot be."""


class BadSizeError(WorkbookError, ValueError):
    """A picture size that cannot be drawn."""


class RecipeError(WorkbookError, ValueError):
    """A degradation recipe that does not exist or cannot be read."""


class DegradationError(WorkbookError, ValueError):
    """Degradation settings that are of another version, incomplete, or out of range."""


class SeedError(WorkbookError, ValueError):
    """Seeds that are not whole numbers, or not one for each picture."""


class NoSpaceError(WorkbookError, OSError):
    """The disk is full."""


class RangeError(WorkbookError, ValueError):
    """A number outside its range."""


class DeviceError(WorkbookError, ValueError):
    """A device that this machine does not have."""


class NotebookError(WorkbookError, ValueError):
    """A notebook that is missing or breaks the parameter contract."""


class ParameterError(WorkbookError, ValueError):
    """A parameter that is unknown, missing or of another type."""


class RunError(WorkbookError, RuntimeError):
    """A notebook that did not run to its end."""


class TimeLimitError(RunError):
    """A run that was stopped: it took longer than it may, or its batch was."""


class BusyError(RunError):
    """A run that another process is at."""


class BatchError(WorkbookError, ValueError):
    """A table of people that holds bad rows, or workers that cannot run it."""


class RecordError(WorkbookError, ValueError):
    """A record that cannot be written, read or compared."""


class WeightsError(WorkbookError, OSError):
    """Weights that are missing, truncated or of another architecture."""


class PersonalWeightsError(WorkbookError, ValueError):
    """Personal weights that are damaged, incomplete, or made for another base system."""


class CheckpointError(WorkbookError, ValueError):
    """A training checkpoint that cannot be read, or was made with other settings or data."""


class TrainingError(WorkbookError, RuntimeError):
    """Training that diverged."""


class LandmarkError(WorkbookError, ValueError):
    """Landmarks that cannot be compared; its subclasses say why."""


class LandmarkShapeError(LandmarkError):
    """Not (..., N, 2), two sets of different shape, weights that fit neither, or no set at all."""


class TooFewLandmarksError(LandmarkError):
    """Fewer points than the alignment has to have."""


class LandmarkValueError(LandmarkError):
    """NaN or infinity among the coordinates."""


class LandmarkWeightError(LandmarkError):
    """A weight that is zero, negative, infinite or NaN."""


class DegenerateLandmarksError(LandmarkError):
    """Collinear or coincident points, for which the best transform is not unique."""


class StudyFileError(WorkbookError, ValueError):
    """A file of a user study, or its pictures, that cannot be used."""


class AnswerError(WorkbookError, ValueError):
    """An answer of a participant that is refused; its subclasses say why."""


class UnknownParticipantError(AnswerError):
    """A token that no participant of this study has."""


class UnknownTrialError(AnswerError):
    """A trial, a picture or a choice that this participant does not have, or not yet."""


class AnsweredError(AnswerError):
    """A second, other answer to the same trial; the first one stands."""


class TooFastError(AnswerError):
    """A choice made before anybody can have looked."""


class TooManyRequestsError(AnswerError):
    """More requests than anybody needs who looks at pictures."""


class StudyFullError(AnswerError):
    """A newcomer when as many participants as were wanted have finished, or too many have begun."""


class StoreError(WorkbookError, OSError):
    """A store of answers, or a table made from it, that cannot be read, or is of another study."""
