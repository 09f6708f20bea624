"""A sweep: many conditions of each person, computed person by person and kept, so that a rerun continues."""

import json
import time
from dataclasses import replace

import pandas as pd
from tqdm.auto import tqdm

from lib.metrics.headline import headline_values
from lib.paths import remove
from lib.restoration.sampling import restore
from lib.studies import kept
from lib.studies.arms import batch_size
from lib.studies.person import prior_data
from lib.studies.study import open_all, rows_of
from lib.training.pivots import model_pivot, prepare, textual_pivot

MEASURED = "value", "eps", "x_0", "picture"  # columns of rows that hold what was measured; the others are labels


def run(study, names, folder, compute, settings=(), record=None):
    """The rows of every person, list of dicts; each person's are kept in a file of `folder`.

    Every person is opened before the first is computed. Rows that were computed with another system, plan, settings or
    with other pictures are computed anew.
    Args: study, `lib.studies.study.Study`; names of people; folder; compute(study, person, settings, folder), the rows
    of one person, where folder is for checkpoints of its tunings; settings, what JSON can hold; record, or None, whose
    seconds of "people" are those of all people, also of kept ones.
    Raises as `lib.studies.study.run`.
    """
    names = [str(name) for name in names]
    rows, people = [], open_all(study, names)
    for name, person in tqdm(list(zip(names, people)), compute.__name__, disable=len(people) == 1):
        file = kept.file_of(folder, f"{compute.__name__}-{name}")
        key = json.dumps([study.key(person), compute.__name__, settings])
        found = kept.read(file, key) or _compute(study, person, compute, settings, file, key)
        rows += [{"person": name, **row} for row in found["rows"]]
        if record is not None:
            record.took({"people": found["seconds"]})
    remove(shared_folder(folder))
    return rows


def shared_folder(folder):
    """Where a sweep into `folder` keeps checkpoints that several people's rows need, until all are computed."""
    return kept.file_of(folder, "shared").with_suffix("")


def _compute(study, person, compute, settings, file, key):
    start, checkpoints = time.perf_counter(), file.with_suffix("")
    found = {"key": key, "rows": compute(study, person, settings, checkpoints)}
    found["seconds"] = time.perf_counter() - start
    kept.write(file, found)
    remove(checkpoints)
    return found


def scored(person, restored, **labels):
    """Rows (labels, metric, image, value) of restorations (N, 3, S, S) of the person's inputs."""
    return rows_of(headline_values(restored, person.targets, person.references, person.scorer), **labels)


def means(rows):
    """The mean over images of every condition of every person: rows without `image`, as a record keeps them."""
    table = pd.DataFrame(rows)
    measured = [name for name in MEASURED if name in table]
    labels = [name for name in table if name not in ("image", *measured)]
    return table.groupby(labels, sort=False)[measured].mean().reset_index().to_dict("records")


def by_question(rows):
    """question -> table of its rows, of rows that `means` made and a record kept."""
    table = pd.DataFrame(rows)
    parts = table.groupby("question", sort=False)
    return {name: part.dropna(axis=1, how="all").drop(columns="question") for name, part in parts}


def wide(table, columns, values="value"):
    """A table with a row for each person and a column for each value of the column `columns`."""
    return table.pivot_table(index="person", columns=columns, values=values, sort=False)


def against(rows, metric, labels, first):
    """Differences of a metric to the setting `first`, by person: setting in words -> Series.

    Args: rows, a table of `means`; metric; labels, the columns that name a setting; first, a tuple of their values.
    """
    parts = rows[rows.metric == metric].groupby(list(labels), sort=False)
    at = {setting: part.set_index("person").value for setting, part in parts}
    others = [setting for setting in at if setting != first]
    return {", ".join(_words(x) for x in setting): at[setting] - at[first] for setting in others}


def _words(x):
    return x if isinstance(x, str) else f"{x:g}"


class Tunings:
    """One person's tunings and restorations with the settings of a study's plan.

    Args: study; person; folder, where interrupted tunings keep their checkpoints. A tuning of the same name with more
    steps continues the shorter one, because both draw the same examples.
    """

    def __init__(self, study, person, folder):
        self.B, self.plan, self.person, self.folder = study.B, study.plan, person, folder
        plan = self.plan
        self.data = prepare(self.B, person.references, plan.recipe, plan.degradations, plan.textual.seed)
        self.prior = prior_data(self.B, person, plan.prior, plan.recipe, plan.steps, plan.textual.precision)

    def textual(self, name, steps=None, **options):
        """`textual_pivot` of the person with so many steps (the plan's without); options as gamma, in_context."""
        options = dict(gamma=self.plan.gamma, prior=self.prior) | options
        training = self._training(self.plan.textual, name, steps)
        return textual_pivot(self.B, self.data, self.person.class_noun, training, **options)

    def model(self, name, B_p, steps=None, data=None):
        """`model_pivot` around B_p with so many steps (the plan's without), on the person's data or others."""
        training = self._training(self.plan.model, name, steps)
        return model_pivot(B_p, self.data if data is None else data, training, trained=self.plan.trained)

    def _training(self, training, name, steps):
        return replace(training, steps=steps or training.steps, folder=str(self.folder / name))

    def restored(self, B_p, degraded=None, **options):
        """The person's inputs, or other pictures, restored by B_p as the plan says, from the noise of seed 0 on."""
        how = dict(seeds=0, steps=self.plan.steps, w=self.plan.w, batch=batch_size(B_p))
        how["precision"] = self.plan.textual.precision
        return restore(B_p, self.person.inputs if degraded is None else degraded, **how | options)

    def rows(self, B_p, options=(), **labels):
        """`scored` rows of `restored(B_p, **options)`."""
        return scored(self.person, self.restored(B_p, **dict(options)), **labels)
