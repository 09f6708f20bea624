"""What metrics read: pictures that have been checked, their embeddings and their landmarks, each made once."""

import torch

from lib.errors import FaceError, NoFaceError, PictureError, PictureSizeError

PARTS = ("restored", "truth", "inputs", "references")


class MetricInputs:
    """The pictures of `table.measure`; embed and find make (N, D) embeddings and (N, 68, 2) landmarks of some, NaN without a face.

    whole: what this is one picture of, its number there being start.
    """

    def __init__(self, restored, truth, inputs, references, embed, find, whole=None, start=0):
        self.restored, self.truth, self.inputs, self.references = restored, truth, inputs, references
        self.embed, self.find, self.whole, self.start, self._found, self._alone = embed, find, whole, start, {}, {}

    def checked(self):
        """Itself with float32 pictures on the CPU. Raises PictureSizeError, or PictureError with the index of the picture."""
        for name in PARTS:
            pictures = getattr(self, name)
            if pictures is not None or name == "restored":
                _demand_tensor(name, pictures)
                _demand_like(name, pictures, self.restored)
                _demand_range(name, pictures)
                setattr(self, name, pictures.detach().float().cpu())
        return self

    def embedding(self, name):
        """Unit embeddings (N, D) of the pictures called `name`."""
        return self._once("embedding", name, self.embed)

    def points(self, name):
        """68 landmarks (N, 68, 2) in pixels of the pictures called `name`. Raises NoFaceError where one has no face."""
        found = self._once("points", name, self.find)
        if (faceless := found.isnan().flatten(1).any(1)).any():
            raise NoFaceError(
                f"{name}, picture {self.start + int(faceless.nonzero()[0])}: no face found. "
                "Remedy: look at it; leave it out of means, and count it."
            )
        return found

    def alone(self, n):
        """The same of picture n only."""
        if n not in self._alone:
            self._alone[n] = MetricInputs(
                *(self._part(name, getattr(self, name), n) for name in PARTS),
                self.embed,
                self.find,
                self,
                self.start + n,
            )
        return self._alone[n]

    def _part(self, name, x, n):
        return x if x is None or name == "references" else x[n : n + 1]

    def _once(self, what, name, made):
        if (what, name) not in self._found:
            self._found[what, name] = self._made(what, name, made)
        if isinstance(self._found[what, name], FaceError):
            raise self._found[what, name]
        return self._found[what, name]

    def _made(self, what, name, made):
        """What was found of all pictures at once; of each alone only where one of them stands in the way."""
        try:
            if self.whole is not None:
                return self._part(name, self.whole._once(what, name, made), self.start - self.whole.start)
        except FaceError as error:
            if name == "references":
                return error
        try:
            return made(getattr(self, name))
        except FaceError as error:
            where = name if name == "references" else f"{name}, picture {self.start}"
            return type(error)(f"{where}: {error}")


def _demand_tensor(name, pictures):
    if isinstance(pictures, (list, tuple)):
        shapes = [tuple(getattr(one, "shape", ())) for one in pictures]
        if odd := [n for n, shape in enumerate(shapes) if shape != shapes[0]]:
            raise PictureSizeError(
                f"{name}, picture {odd[0]}: {shapes[odd[0]]}, where picture 0 is {shapes[0]}. "
                "Remedy: resize or align the pictures to one size."
            )
    if not torch.is_tensor(pictures) or not pictures.is_floating_point():
        raise PictureError(
            f"{name}: {getattr(pictures, 'dtype', type(pictures).__name__)}, not a tensor of floats. "
            "Remedy: lib.images.to_tensor makes one of 8-bit pictures."
        )


def _demand_like(name, pictures, restored):
    fits = pictures.ndim == 4 and pictures.shape[1:] == (3, *restored.shape[2:]) and len(pictures)
    if not fits or name != "references" and len(pictures) != len(restored):
        raise PictureSizeError(
            f"{name}, every picture: {tuple(pictures.shape)}, where restored is {tuple(restored.shape)}. "
            "Remedy: give (N, 3, S, S), as many and as large."
        )


def _demand_range(name, pictures):
    good = (pictures.isfinite() & (pictures.abs() <= 1)).flatten(1).all(1)
    if not good.all():
        raise PictureError(
            f"{name}, picture {int((~good).nonzero()[0])}: values outside [-1, 1] or NaN. "
            "Remedy: lib.images.to_tensor makes tensors in that range."
        )
