"""A study of many people: each is tuned, restored and scored. `lib.studies.statistics` compares the results."""

import json
import time
from dataclasses import dataclass

from lib import checks
from lib.errors import MissingPicturesError
from lib.metrics.headline import headline_values
from lib.models.personal_weights import picture_hash
from lib.paths import remove
from lib.people import procedural
from lib.restoration import baselines
from lib.studies import kept
from lib.studies.arms import ARMS, Plan, restore_arms, tune_arms
from lib.studies.person import check_scorer, open_person, prior_data


def score(person, restored):
    """Rows (person, arm, image, seed, metric, value) of `restore_arms`' pictures; the degraded input is an arm, too.

    The identity of a real person is left out where no recogniser of real faces is given.
    """
    rows, scored = [], person.scored
    for arm, pictures in {"input": person.inputs[None], **restored}.items():
        for seed, batch in enumerate(pictures if scored or person.targets is not None else []):
            metrics = headline_values(batch, person.targets, person.references, person.scorer, identity=scored)
            rows += rows_of(metrics, person=person.name, arm=arm, seed=seed)
    return rows


def rows_of(metrics, **labels):
    """Rows (labels, metric, image, value) of metrics, name -> (N,) values."""
    return [
        {**labels, "metric": metric, "image": image, "value": float(value)}
        for metric, values in metrics.items()
        for image, value in enumerate(values)
    ]


@dataclass(frozen=True)
class Study:
    """Everything that decides the results of a study.

    Args: B, the blind system; plan; arms; pack, the aligner of whole photographs; scorer, the recogniser of real faces;
    baselines, as of `baselines.open_baselines`.
    """

    B: object
    plan: Plan
    arms: tuple = tuple(ARMS)
    pack: str = ""
    scorer: str = ""
    baselines: object = baselines.NONE

    def open(self, name, scored=True):
        """The person of that name, ready to be measured; a real person without a recogniser only if not `scored`.

        Raises the errors of `open_person` and `check_scorer`, and MissingPicturesError for a person without inputs.
        """
        limits = dict(references=self.plan.references, inputs=self.plan.inputs)
        person = open_person(name, self.plan.recipe, self.B.size, **limits, aligner=self.pack, scorer=self.scorer)
        if scored or person.scorer:
            check_scorer(person)
        if person.inputs is None:
            raise MissingPicturesError(
                f"No inputs to restore: {name}. Remedy: a folder inputs/ beside references/ and person.yaml."
            )
        return person

    def key(self, person):
        """What a kept result of a person must agree with: system, settings and pictures, as text."""
        pictures = [person.references, person.inputs, person.targets]
        hashes = [picture_hash(x) for x in pictures if x is not None]
        return json.dumps([self.B.fingerprint(), self.plan.key(), self.arms, self.scorer, self.baselines.files, hashes])


def run(study, names, folder, record=None):
    """Tune, restore and score every person; each is kept in a file of `folder`, so that a rerun continues.

    Every person is opened before the first is tuned. A result of another system, plan, scorer or of other pictures is
    computed anew. Seconds of all people, also of those kept from an earlier run, go to the record.
    Args: study; names of people; folder; record, or None.
    Returns the rows of all people, and (person, restored) of the last one, to be looked at.
    Raises RangeError without people, SplitError for people of two splits.
    """
    names = [str(name) for name in names]
    people, rows, priors = open_all(study, names), [], {}
    for name, person in zip(names, people):
        file = kept.file_of(folder, name)
        found = kept.read(file, study.key(person), pictures=True) or _run_person(study, person, file, priors)
        rows += found["rows"]
        if record is not None:
            record.took(found["seconds"])
    return rows, (people[-1], kept.load_pictures(file))


def open_all(study, names):
    """The people of those names, opened before anything long starts. Raises as `run`."""
    people = [study.open(name) for name in checks.distinct("people", names)]
    drawn = [procedural.parse(name) for name in names if name.startswith("people:")]
    procedural.require(drawn, drawn[0].split if drawn else "test")
    return people


def _run_person(study, person, file, priors):
    """Tune, restore and score one person and keep the result."""
    B, plan, seconds = study.B, study.plan, {}
    start = time.perf_counter()
    kind = person.class_noun, person.real  # real and procedural people have other pictures of their class
    if kind not in priors:
        priors[kind] = prior_data(B, person, plan.prior, plan.recipe, plan.steps, plan.textual.precision)
    tuned = tune_arms(B, person, plan, study.arms, priors[kind], file.with_suffix(""))
    seconds["tuning"] = time.perf_counter() - start
    restored = restore_arms(tuned, person.inputs, plan, [B])
    restored |= baselines.restore(study.baselines, person.inputs, plan.seeds, B.device)
    seconds["restoring"] = time.perf_counter() - start - seconds["tuning"]
    found = {"key": study.key(person), "seconds": seconds, "rows": score(person, restored)}
    kept.write(file, found, restored)
    remove(file.with_suffix(""))
    return found
