"""The same trials inside a notebook, for a group around one screen: ipywidgets on the server's session and store."""

import html
import time

import ipywidgets as widgets

from lib.errors import AnswerError
from lib.user_study import answers


class Trials:
    """The study as a widget. It begins with the consent page; each `Trials` is one participant.

    Stored notebooks show words in its place, because a widget needs a running kernel.
    Args: session, as of `session.open_study`; width, of a picture in pixels; clock, seconds.
    """

    def __init__(self, session, width=256, clock=time.monotonic):
        self.session, self.width, self._clock = session, width, clock
        self.participant, self.index = None, None
        self.message = widgets.HTML()
        self.box = widgets.VBox()
        self._consent()

    def _consent(self):
        """The first page."""
        agree = widgets.Button(description="I agree, and begin", button_style="primary")
        agree.on_click(lambda _: self.begin())
        study = self.session.study
        text = widgets.HTML("".join(f"<p>{escape(one)}</p>" for one in [study.title, *study.consent.split("\n\n")]))
        self.box.children = [text, agree]

    def begin(self):
        """Joins and shows the first trial. Raises StudyFullError."""
        token = self.session.join("notebook")
        self.participant = self.session.participant(token)
        self._show()

    def _show(self):
        self.index, trial = self.session.show(self.participant)
        if trial is None:
            self.box.children = [widgets.HTML("<p>Thank you. Your answers are stored.</p>")]
            return
        part = self.session.part(trial.part)
        note = "Practice" if trial.kind == "practice" else f"{self.index + 1} of {self._total()}"
        head = widgets.HTML(f"<p>{note}</p><h4>{escape(part.question)}</h4><p>{escape(part.guidelines)}</p>")
        beside = ["input", *(f"r{k}" for k in range(part.references))] if part.kind == "identity" else []
        row = widgets.HBox([self._picture(place, 0.4) for place in beside])
        self.buttons = [self._button(k) for k in range(len(trial.options))]
        options = [widgets.VBox([self._picture(str(k)), one]) for k, one in enumerate(self.buttons)]
        self.box.children = [head, row, widgets.HBox(options), self.message]
        self._since = self._clock()

    def _total(self):
        return len(self.session.trials(self.participant))

    def _picture(self, place, scale=1.0):
        data = self.session.picture(self.participant, self.index, place)
        return widgets.Image(value=data, format="png", width=round(scale * self.width))

    def _button(self, k):
        button = widgets.Button(description=str(k + 1), layout={"width": f"{self.width}px"})
        button.on_click(lambda _: self.choose(k))
        return button

    def choose(self, k):
        """Answers the trial on the screen with its option k and shows the next; a refusal is said below it."""
        try:
            seconds = self._clock() - self._since
            self.session.answer(self.participant, self.index, k, seconds, self.width)
            self.message.value = ""
        except AnswerError as error:
            self.message.value = f"<p>{escape(str(error))}</p>"
            return
        self._show()

    def answers(self):
        """The table of all answers in the store."""
        return answers.of_store(self.session.store)

    def _repr_mimebundle_(self, include=None, exclude=None):
        words = "The trials as a widget; it needs a running kernel."
        return {**(self.box._repr_mimebundle_() or {}), "text/plain": words}


def escape(text):
    """Text of the study file, harmless inside HTML."""
    return html.escape(text).replace("\n", " ")
