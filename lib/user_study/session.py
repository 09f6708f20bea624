"""A study while it runs: who may answer what, and when. The web server and the notebook's widget both stand on it."""

import functools
import math
import secrets
import time
from collections import OrderedDict
from pathlib import Path

from lib import paths
from lib.errors import (
    AnsweredError,
    AnswerError,
    StudyFullError,
    TooFastError,
    UnknownParticipantError,
    UnknownTrialError,
)
from lib.user_study import answers, design, picture_sets, study_file
from lib.user_study.store import Store

LONGEST_CHOICE = 24 * 3600.0  # seconds that a choice may take: a page left open overnight
SPARE = 2  # so many times the wanted number may begin: some never finish
SHOWN_KEPT = 10_000  # participants whose last screen is remembered for the server's own clock


def open_study(file, store=None):
    """The session of a study file, its pictures read and its store opened.

    store: folder of the answers; unless given `runs/user_study/<file>-<hash of the study and its pictures>`.
    Raises StudyFileError, StoreError.
    """
    study = study_file.read(file)
    items = picture_sets.collect(study)
    mark = picture_sets.fingerprint(study, items)
    stem = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in Path(file).stem)[:60]
    folder = paths.from_root(store) if store else paths.child(paths.RUNS, "user_study", f"{stem}-{mark[:8]}")
    return Session(study, items, Store(folder, mark), mark, Path(file).resolve())


class Session:
    """A study, its items and the store of its answers."""

    def __init__(self, study, items, store, fingerprint, file="", clock=time.monotonic):
        self.study, self.items, self.store, self.fingerprint = study, items, store, fingerprint
        self.file, self._clock = file, clock
        self._spoiled = {name: picture_sets.spoiled(item.input) for name, item in items.items()}
        self._shown = OrderedDict()  # participant -> (trial, when it was shown first)
        self.trials = functools.lru_cache(maxsize=4096)(self._trials)
        self._encoded = functools.lru_cache(maxsize=2048)(self._encode)

    def _trials(self, participant):
        return tuple(design.trials_of(self.study, list(self.items), participant))

    def join(self, origin="browser"):
        """A new participant: the token, which only they have. Raises StudyFullError."""
        token = secrets.token_urlsafe(18)
        full = self.store.finished() >= self.study.participants
        if full or self.store.join(token, origin, self.study.participants * SPARE) is None:
            raise StudyFullError("The study has as many participants as it needs. Remedy: none; thank you for coming.")
        return token

    def participant(self, token):
        """The number of the participant with a token. Raises UnknownParticipantError."""
        number = self.store.number_of(token) if isinstance(token, str) and 0 < len(token) < 200 else None
        if number is None:
            raise UnknownParticipantError("Nobody has this token. Remedy: begin on the first page.")
        return number

    def current(self, participant):
        """(index, Trial) of the first trial without an answer, and (index, None) when all are answered."""
        trials, index = self.trials(participant), self.store.answered(participant)
        return index, trials[index] if index < len(trials) else None

    def show(self, participant):
        """`current`, and the server's clock starts for this trial unless it runs already."""
        index, trial = self.current(participant)
        if self._shown.get(participant, (None,))[0] != index:
            self._shown[participant] = index, self._clock()
            self._shown.move_to_end(participant)
            if len(self._shown) > SHOWN_KEPT:
                self._shown.popitem(last=False)
        return index, trial

    def answer(self, participant, index, position, seconds, width=None):
        """Keeps a choice. The same one twice is kept once, so a browser may repeat it until it hears from us.

        Args: participant, number; index, of the trial; position, of the chosen option; seconds that the choice took on
        the participant's own steady clock; width, at which an option was shown, CSS pixels.
        Raises UnknownTrialError, AnsweredError, TooFastError, AnswerError.
        """
        trials = self.trials(participant)
        if not _whole(index, 0, len(trials) - 1):
            raise UnknownTrialError(f"No such trial: {index!r:.40}. Remedy: load the page again.")
        trial = trials[index]
        if not _whole(position, 0, len(trial.options) - 1):
            raise UnknownTrialError(f"No such option: {position!r:.40}. Remedy: choose one that is shown.")
        answered = self.store.answered(participant)  # once: another tab may answer at this moment
        if index < answered:
            return _same(self.store.position(participant, index), position)
        if index > answered:
            raise UnknownTrialError(f"Trial {index} is not the next. Remedy: load the page again.")
        seconds, on_server = self._seconds(participant, index, seconds)
        row = dict(participant=participant, trial=index, part=trial.part, kind=trial.kind, item=trial.item)
        row |= dict(options=answers.joined(trial.options), position=position, seconds=seconds, width=_width(width))
        row |= dict(chosen=answers.named(trial.options[position]), server_seconds=on_server)
        row["correct"] = None if trial.right is None else int(position == trial.right)
        return _same(self.store.add(row, last=index == len(trials) - 1), position)

    def _seconds(self, participant, index, seconds):
        """The time of a choice by the participant's clock and by ours (None after a restart), both checked."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not math.isfinite(seconds):
            raise AnswerError(f"No time: {seconds!r:.40}. Remedy: a finite number of seconds.")
        shown, when = self._shown.get(participant, (None, None))
        ours = self._clock() - when if shown == index else None
        ours = None if ours is not None and ours < 0 else ours  # a clock that was set back measures nothing
        if seconds < self.study.least_seconds or (ours is not None and ours < self.study.least_seconds):
            raise TooFastError("Too fast to have looked. Remedy: look at all pictures, then choose.")
        return min(float(seconds), LONGEST_CHOICE), ours

    def picture(self, participant, index, place):
        """The PNG of one picture of one's own trial. Raises UnknownTrialError.

        place: "0", "1", ... for the options, "input", "r0", "r1", ... for what part B shows beside them. The address
        says where a picture stands, and nothing else; which arm that is differs between participants and trials.
        """
        trials = self.trials(participant)
        if not _whole(index, 0, len(trials) - 1):
            raise UnknownTrialError("No such trial.")
        trial = trials[index]
        part = self.part(trial.part)
        places = {str(k): (trial.item, "arm" if arm else "spoiled", arm) for k, arm in enumerate(trial.options)}
        if part.kind == "identity":
            places["input"] = trial.item, "input", None
            places |= {f"r{k}": (trial.item, "reference", k) for k in range(part.references)}
        if place not in places:
            raise UnknownTrialError("No such picture.")
        return self._encoded(*places[place])

    def _encode(self, name, what, which):
        item = self.items[name]
        if what == "spoiled":
            return picture_sets.encoded(self._spoiled[name])
        shown = {"input": item.input, "arm": item.restored.get(which)}.get(what)
        return picture_sets.encoded(item.references[which] if what == "reference" else shown)

    def part(self, name):
        return next(part for part in self.study.parts if part.name == name)

    def withdraw(self, participant):
        """Deletes a participant and every answer."""
        self._shown.pop(participant, None)
        self.store.withdraw(participant)


def _same(kept, position):
    if kept != position:
        raise AnsweredError("This trial is answered already, and the first answer stands. Remedy: load the page again.")
    return kept


def _whole(value, least, most):
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _width(value):
    """A width worth keeping, or None: it is a remark, not a reason to refuse an answer."""
    return value if _whole(value, 1, 10_000) else None
