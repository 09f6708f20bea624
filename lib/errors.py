"""Named errors of the workbook: each says what is wrong, where, and how to mend it."""

import sys


class WorkbookError(Exception):
    """Base of every error that the workbook raises on purpose."""


def exit_status(command):
    """0 once `command()` has run, or 1 once the error it raised on purpose has been told: how every command line ends."""
    try:
        command()
        return 0
    except WorkbookError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1


class PictureError(WorkbookError):
    """A picture that cannot be used; its subclasses say why (lib.people.person)."""


class UnreadablePictureError(PictureError):
    """Missing, empty, truncated, corrupt, or not a picture at all."""


class PictureSizeError(PictureError):
    """Too few pixels, too many, not square where a crop is wanted, or another size than its pair."""


class PersonError(WorkbookError):
    """A person folder that cannot be used (lib.people.person)."""


class MissingPicturesError(PersonError):
    """A folder that is not there, is empty, or holds fewer references than the minimum."""


class PersonCardError(PersonError):
    """`person.yaml` is missing, is not YAML, or has a missing, unknown or mistyped field."""


class PairingError(PersonError):
    """The same stem twice, or a target without its input."""


class UnsafePathError(WorkbookError):
    """A name with `../` in it, or a link that leads out of its folder."""


class SaveError(WorkbookError):
    """A picture could not be written; nothing is left half-written."""


class FaceError(WorkbookError):
    """A photograph that cannot be aligned (lib.people.alignment)."""


class NoFaceError(FaceError):
    """No face was found in a photograph."""


class SeveralFacesError(FaceError):
    """More than one face was found where one person was expected."""


class NotThePersonError(FaceError):
    """Nobody in a photograph resembles the references (lib.restoration.photographs)."""


class PackError(WorkbookError):
    """An insightface pack or ONNX file that is missing, unreadable, or lacks the wanted model (lib.people.alignment, lib.metrics.identity)."""


class SplitError(WorkbookError):
    """People of another split, or an unknown split."""


class BadPersonError(WorkbookError):
    """A person's name, seed or shot number that cannot be."""


class BadSizeError(WorkbookError):
    """A picture size that cannot be drawn."""


class RecipeError(WorkbookError):
    """A degradation recipe that does not exist or cannot be read (lib.degradation.recipes)."""


class DrawError(WorkbookError):
    """A saved degradation draw of another version, incomplete, or out of range (lib.degradation.degrade)."""


class SeedError(WorkbookError):
    """Seeds that are not whole numbers, or not one for each picture."""


class NoSpaceError(WorkbookError):
    """The disk is full (lib.paths)."""


class RangeError(WorkbookError):
    """A number outside its range (lib.checks)."""


class DeviceError(WorkbookError):
    """A device that this machine does not have (lib.checks)."""


class NotebookError(WorkbookError):
    """A notebook that is missing or breaks the parameter contract (lib.runs.parameters)."""


class ParameterError(WorkbookError):
    """A parameter that is unknown, missing or of another type (lib.runs.parameters)."""


class RunError(WorkbookError):
    """A notebook that did not run to its end (lib.run)."""


class RecordError(WorkbookError):
    """A record that cannot be written, read or compared (lib.runs.record)."""


class WeightsError(WorkbookError):
    """Weights that are missing, truncated or of another architecture (lib.models.system)."""


class PivotError(WorkbookError):
    """A pivot or a tuning checkpoint that was made for something else (lib.training.trainer, lib.models.personal_weights)."""


class TrainingError(WorkbookError):
    """Training that diverged (lib.training.pretraining)."""


class LandmarkError(WorkbookError):
    """Landmarks that cannot be compared; its subclasses say why (lib.metrics.landmark_distances)."""


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
