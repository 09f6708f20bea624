"""My folder, my picture, restore: a form of ipywidgets around `lib.studies.own_pictures`."""

import html
import time
import warnings
from dataclasses import replace
from pathlib import Path

import ipywidgets as widgets

from lib import paths
from lib.errors import IdentityWarning, WorkbookError
from lib.people.picture_files import SUFFIXES
from lib.people.uploads import keep_uploads
from lib.runs.slider import Slider
from lib.studies import arms, own_pictures
from lib.training.pivots import default_trainings

DOUBLE_CLICK = 0.5  # seconds: what is clicked during the work arrives at its end
LABEL, FIELD = {"width": "110px"}, {"width": "440px"}
HELP = (
    "Paths are seen from the repository, or begin with ~ or /. Uploads go to the machine that runs the notebook; "
    "more than 10 MB at once need <code>make lab</code> or a path."
)


class PictureChoice:
    """A path that is typed, or pictures that are uploaded; the later of the two clears the other.

    Args: hint, what an empty field says.
    """

    def __init__(self, hint):
        self.text = widgets.Text(placeholder=hint, layout=FIELD)
        self.upload = widgets.FileUpload(accept=",".join(SUFFIXES), multiple=True)
        self.text.observe(self._typed, "value")
        self.upload.observe(self._uploaded, "value")
        self.widget = widgets.HBox([self.text, widgets.Label("or"), self.upload])

    def _typed(self, change):
        if change.new:
            self.upload.value = ()

    def _uploaded(self, change):
        if change.new:
            self.text.value = ""

    def chosen(self, home):
        """The typed path, or the folder of `home` with the uploads; "" for neither. Raises as `keep_uploads`."""
        return str(keep_uploads(self.upload.value, home)) if self.upload.value else self.text.value.strip()


class Form:
    """Asks for references and pictures of one person, tunes, restores, saves, and shows each picture before and after.

    Everything is checked before the tuning; the workbook's errors are said in the form. Personal weights that were
    tuned on the same references with the same settings are loaded. Stored notebooks show words in the form's place,
    because a widget needs a running kernel.
    Args: aligner, what its field holds at first; system and recipe, as of `own_pictures.open_own`; trainings, the
    textual and the model Training, None for `default_trainings`; steps of sampling; seed of tuning and restoring; home,
    the folder where all is written, None for runs/form; clock, seconds.
    """

    def __init__(
        self, aligner="", *, system="", recipe="", trainings=None, steps=50, seed=0, home=None, clock=time.monotonic
    ):
        self.chosen, self.trainings = dict(system=system, recipe=recipe), trainings
        self.steps, self.seed, self._clock, self._ended = steps, seed, clock, -DOUBLE_CLICK
        self.home = Path(home or paths.RUNS / "form")
        self._make_fields(aligner)
        self.button = widgets.Button(description="Restore", button_style="primary")
        self.button.on_click(self._press)
        self.said, self.bars, self.result = widgets.HTML(), widgets.Output(), widgets.VBox()
        self.widget = widgets.VBox([*self._rows(), self.button, self.said, self.bars, self.result])

    def _make_fields(self, aligner):
        self.references = PictureChoice("a folder with at least 3 photographs of one person")
        self.pictures = PictureChoice("a picture of the same person, or a folder of them")
        self.real = widgets.Checkbox(True, description="the person exists", indent=False, layout=FIELD)
        self.source = widgets.Text(placeholder="where the photographs come from", layout=FIELD)
        self.terms = widgets.Text(placeholder="what allows their use, such as the person's consent", layout=FIELD)
        self.class_noun = widgets.Text(placeholder="person, or woman, man ...", layout=FIELD)
        self.aligner = widgets.Text(aligner, placeholder="for whole photographs: buffalo_l", layout=FIELD)

    def _rows(self):
        names = {"References": self.references.widget, "To restore": self.pictures.widget, "Real": self.real}
        names |= {"Source": self.source, "Terms": self.terms, "Class noun": self.class_noun, "Aligner": self.aligner}
        rows = [widgets.HBox([widgets.Label(name, layout=LABEL), field]) for name, field in names.items()]
        return [*rows, widgets.HTML(f"<small>{HELP}</small>")]

    def _press(self, _):
        if self._clock() - self._ended < DOUBLE_CLICK:
            return
        self.button.disabled, self.result.children, self.noted = True, (), ""
        self.bars.clear_output()
        try:
            with self.bars:  # where progress bars and unexpected errors are shown
                self._work()
        finally:
            self.button.disabled, self._ended = False, self._clock()

    def _work(self):
        try:
            self._restore()
        except WorkbookError as error:
            self._say(f"{type(error).__name__}: {error}", "#b00020")
        except BaseException:
            self._say("Stopped. Press the button again to go on from the last checkpoint.", "#b00020")
            raise

    def _restore(self):
        self._say("1 of 3: checking the pictures ...")
        B, recipe, person = self._open()
        textual, model = [replace(one, seed=self.seed) for one in self.trainings or default_trainings(B)]
        plan = arms.Plan(recipe=recipe, steps=self.steps, textual=textual, model=model)
        folder = own_pictures.own_folder(self.home, B, person, plan)
        self._say(f"2 of 3: personal weights, from {len(person.references)} references, degraded by {recipe} ...")
        B_p = own_pictures.personalise(B, person, plan, folder)
        self._say(f"3 of 3: restoring, {len(person.inputs)} to do ...")
        restored = own_pictures.restore_own(B_p, person, plan, self.seed, folder / "restored")
        self.bars.clear_output()
        by = B.provenance.get("what", "a system of your own").split(",")[0]
        self._say(f"Saved in {paths.display_path(folder)}: restored/ and personal/ (the weights), by {by}.", "#1b5e20")
        self.result.children = shown(person.stems, person.inputs, restored)

    def _open(self):
        """`open_own` as the fields say; a warning that a picture may show somebody else stays beside the result."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", IdentityWarning)
            opened = own_pictures.open_own(*self._paths(), **self.chosen, **self._facts())
        self.noted = "\n".join(str(one.message) for one in caught if issubclass(one.category, IdentityWarning))
        return opened

    def _paths(self):
        return [choice.chosen(self.home / "uploads") for choice in (self.references, self.pictures)]

    def _facts(self):
        """What the fields say; None where they say nothing."""
        texts = {name: getattr(self, name).value.strip() or None for name in ("aligner", "source", "terms")}
        noun = self.class_noun.value.strip() or None
        return {**texts, "class_noun": noun, "real": None if self.real.value else False}

    def _say(self, words, colour="inherit"):
        lines = [(colour, words)] + [("#8a5a00", line) for line in self.noted.splitlines()]
        divisions = [f'<div style="color: {tint}; line-height: 1.4">{html.escape(line)}</div>' for tint, line in lines]
        self.said.value = "".join(divisions)

    def _repr_mimebundle_(self, include=None, exclude=None):
        words = "The form as a widget; it needs a running kernel."
        return {**(self.widget._repr_mimebundle_() or {}), "text/plain": words}


def shown(stems, before, after, width=320):
    """Widgets: a choice among several pictures, and the before/after slider of the chosen one.

    Args: stems, N names; before and after, (N, 3, S, S) in [-1, 1]; width, in pixels.
    """
    names = ("before", "after")
    place, choice = widgets.VBox(), widgets.Dropdown(options=[(stem, n) for n, stem in enumerate(stems)], layout=FIELD)

    def show(_=None):
        place.children = [Slider(before[choice.value], after[choice.value], names, width).widget]

    choice.observe(show, "value")
    show()
    return [choice, place] if len(stems) > 1 else [place]
