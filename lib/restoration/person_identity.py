"""Whether pictures show the person they are said to show, measured by a recogniser."""

import warnings

import torch

from lib.errors import IdentityWarning, NotThePersonError
from lib.metrics import identity
from lib.people import insightface_packs

# Identity with the mean of the references. Recognisers of real faces give two people about 0.02, one person over years
# about 0.7, and a heavily degraded picture of the person about 0.3 (tests/test_real_models.py). people-r gives two
# drawn people up to 0.5 by chance, and one person at least 0.6.
LEAST = 0.15  # below it a picture is refused
UNSURE_REFERENCE = 0.4  # below it a reference, which is a clean picture, causes a warning
UNSURE_INPUT = 0.3  # below it an input, which is degraded, causes a warning


class PersonIdentity:
    """Compares pictures with the references of one person, which are embedded once.

    Args: pack, the insightface pack of the photographs, or None for aligned crops; scorer, the recogniser, the pack's
    own by default; size of a crop, pixels; root of named packs.
    """

    def __init__(self, pack=None, scorer=None, size=512, root=insightface_packs.INSIGHTFACE):
        self.pack, self.size, self.root = pack, size, root
        self.recogniser = scorer or insightface_packs.pack_folder(pack, root)
        self._embedded = (None, None)  # the references, and their embeddings

    def embed_references(self, references):
        """Unit embeddings (R, D) of the references (R, 3, S, S); computed again only for another tensor."""
        if self._embedded[0] is not references:
            self._embedded = references, identity.embed(references, self.recogniser, root=self.root)
        return self._embedded[1]

    def with_references(self, crops, references):
        """Identity (N,) of crops (N, 3, S, S) with the mean of the references."""
        vectors = identity.embed(crops, self.recogniser, root=self.root)  # (N, D)
        return identity.to_references(vectors, self.embed_references(references))

    def check_references(self, references, names):
        """Compare each reference with the mean of the others.

        Args: references, (R, 3, S, S) in [-1, 1], R >= 2; names, R texts for messages, such as file names.
        Raises NotThePersonError for an identity below LEAST; warns (IdentityWarning) below UNSURE_REFERENCE.
        """
        vectors = self.embed_references(references)  # (R, D)
        rows = range(len(vectors))
        others = [[j for j in rows if j != i] for i in rows]
        values = torch.cat([identity.to_references(vectors[i : i + 1], vectors[others[i]]) for i in rows])  # (R,)
        worst, said = int(values.argmin()), ", ".join(f"{name} {value:.2f}" for name, value in zip(names, values))
        advice = "Remedy: look at it; take it away if it shows somebody else."
        message = f"reference {names[worst]}, identity with the other references {values[worst]:.2f} (all: {said})"
        if values[worst] < LEAST:
            raise NotThePersonError(f"Not the person of the other references: {message}. {advice}")
        if values[worst] < UNSURE_REFERENCE:
            warnings.warn(f"Perhaps not the same person: {message}. {advice}", IdentityWarning, stacklevel=2)

    def check_inputs(self, inputs, references, names):
        """Warn (IdentityWarning) of aligned inputs whose identity with the references is below UNSURE_INPUT.

        Nothing is refused here, because heavy degradation lowers the identity of the person, too.
        Args: inputs, (N, 3, S, S) in [-1, 1]; references, (R, 3, S, S); names, N texts for messages.
        """
        values = self.with_references(inputs, references)  # (N,)
        low = [f"{name} {value:.2f}" for name, value in zip(names, values) if value < UNSURE_INPUT]
        if low:
            _warn_of_inputs(", ".join(low))

    def check_found(self, identities, where):
        """Check that one of the faces of a photograph is the person.

        Args: identities, (F,), of its faces with the references; where, what messages call the photograph.
        Raises NotThePersonError if all are below LEAST; warns (IdentityWarning) if all are below UNSURE_INPUT.
        """
        best = float(identities.max())
        if best < LEAST:
            raise NotThePersonError(
                f"The person is not in {where}: of {len(identities)} faces the largest identity with the references is "
                f"{best:.2f}, and at least {LEAST} is needed. Remedy: use another photograph, a crop of the person, or "
                "references nearer in age."
            )
        if best < UNSURE_INPUT:
            _warn_of_inputs(f"{where} {best:.2f}")


def _warn_of_inputs(values):
    warnings.warn(
        f"Perhaps not the person, or heavily degraded: identity of inputs with the references {values}. "
        "Remedy: look at them; take away those that show somebody else.",
        IdentityWarning,
        stacklevel=3,
    )
