"""The pictures that metrics compare: checked once, with embeddings and landmarks that are computed once."""

from lib.errors import FaceError, NoFaceError, PictureSizeError
from lib.images import check_pictures

PARTS = ("restored", "ground_truth", "inputs", "references")


class MetricInputs:
    """Restored pictures, and what they may be compared with.

    Args: restored, ground_truth and inputs, (N, 3, S, S) in [-1, 1]; references (R, 3, S, S); all but `restored` may be
    None. `embed` and `find` compute embeddings (N, D) and landmarks (N, 68, 2; NaN where no face is detected) of
    pictures. `parent` and `start` are set on a view of one picture: the inputs it belongs to, and its index there.
    """

    def __init__(self, restored, ground_truth, inputs, references, *, embed, find, parent=None, start=0):
        self.restored, self.ground_truth = restored, ground_truth
        self.inputs, self.references = inputs, references
        self.embed, self.find, self.parent, self.start = embed, find, parent, start
        self._computed, self._views = {}, {}

    def checked(self):
        """Itself, with float32 pictures on the CPU; single pictures (3, S, S) gain their axis.

        Raises PictureSizeError or PictureError, with the name of the part and the index of the picture.
        """
        for name in PARTS:
            pictures = getattr(self, name)
            if pictures is not None or name == "restored":
                pictures = check_pictures(_one_size(name, pictures), where=name).detach().cpu()
                setattr(self, name, pictures)
                self._check_shape(name, pictures)
        return self

    def _check_shape(self, name, pictures):
        restored = self.restored.shape
        if pictures.shape[1:] != restored[1:] or (name != "references" and len(pictures) != len(self.restored)):
            raise PictureSizeError(
                f"{name}: shape {tuple(pictures.shape)}, where restored is {tuple(restored)}. "
                "Remedy: give as many pictures as restored ones, of the same size."
            )

    def embedding(self, name):
        """Unit embeddings (N, D) of the pictures called `name`."""
        return self._once("embedding", name, self.embed)

    def points(self, name):
        """68 landmarks (N, 68, 2) in pixels of the pictures called `name`. Raises NoFaceError if one has no face."""
        points = self._once("points", name, self.find)
        faceless = points.isnan().flatten(1).any(1).nonzero()
        if len(faceless):
            raise NoFaceError(
                f"{name}, picture {self.start + int(faceless[0])}: no face detected. "
                "Remedy: look at it; leave it out of means, and count it."
            )
        return points

    def single(self, n):
        """The same inputs with picture n only; all references stay."""
        if n not in self._views:
            parts = [self._picture(name, getattr(self, name), n) for name in PARTS]
            self._views[n] = MetricInputs(*parts, embed=self.embed, find=self.find, parent=self, start=self.start + n)
        return self._views[n]

    def _picture(self, name, values, n):
        return values if values is None or name == "references" else values[n : n + 1]

    def _once(self, kind, name, compute):
        """A result that is computed once; a FaceError is kept, too, and raised each time."""
        if (kind, name) not in self._computed:
            self._computed[kind, name] = self._compute(kind, name, compute)
        if isinstance(self._computed[kind, name], FaceError):
            raise self._computed[kind, name]
        return self._computed[kind, name]

    def _compute(self, kind, name, compute):
        """The part of the parent's result, or a result or FaceError of these pictures alone if the parent failed."""
        if self.parent is not None:
            try:
                return self._picture(name, self.parent._once(kind, name, compute), self.start - self.parent.start)
            except FaceError as error:
                if name == "references":
                    return error
        try:
            return compute(getattr(self, name))
        except FaceError as error:
            where = name if name == "references" else f"{name}, picture {self.start}"
            return type(error)(f"{where}: {error}")


def _one_size(name, pictures):
    """The pictures unchanged. Raises PictureSizeError for a list of pictures of several sizes."""
    if isinstance(pictures, (list, tuple)):
        shapes = [tuple(getattr(picture, "shape", ())) for picture in pictures]
        other = [n for n, shape in enumerate(shapes) if shape != shapes[0]]
        if other:
            raise PictureSizeError(
                f"{name}, picture {other[0]}: {shapes[other[0]]}, where picture 0 is {shapes[0]}. "
                "Remedy: resize or align the pictures to one size."
            )
    return pictures
