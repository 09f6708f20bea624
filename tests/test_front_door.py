"""What `import lib` gives: ten lines from a system folder to a restored person, and back from personal weights."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_system
import torch

import lib
from lib import dual_pivot, load_personal, load_system, measure, open_person, prepare, restore, textual_pivot
from lib.errors import MissingPicturesError, PersonCardError, PictureError, RangeError
from lib.paths import ROOT
from lib.people.picture_files import save_picture
from lib.training.trainer import Training

ONCE = Training(steps=1, lr=1e-3, batch=1, quiet=True)
SAMPLE = """
from lib import dual_pivot, load_personal, load_system, measure, open_person, restore
from lib.training.trainer import Training
few = Training(steps=2, batch=1, quiet=True)
B = load_system("{folder}/system")
ada = open_person("people:1009", recipe="tiny-heavy", size=64, references=3, inputs=2)
B_p = dual_pivot(B, ada.references, ada.class_noun, textual=few, model=few)
restored = restore(B_p, ada.inputs, seeds=0, steps=3)
table = measure(restored, ada.targets)
B_p.save_personal("{folder}/ada"); again = restore(load_personal("{folder}/ada", B), ada.inputs, seeds=0, steps=3)
"""
CHECK = """
import torch
assert torch.equal(again, restored) and restored.shape == (2, 3, 64, 64)
torch.save(restored, "{folder}/restored.pt")
print(list(table.columns), len(table))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a system in it."""
    home = tmp_path_factory.mktemp("home")
    tiny_system.build().save(home / "system")
    return home


@pytest.fixture(scope="module")
def B(home):
    return load_system(home / "system")


@pytest.fixture(scope="module")
def B_p(B):
    return dual_pivot(B, tiny_system.pictures(2), "woman", textual=ONCE, model=ONCE, degradations=1, gamma=0.5)


def python(code, **environment):
    """The output of a new Python that runs `code`; a variable None is removed from its environment."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- the sample ----


def test_the_sample_runs_as_it_stands_and_in_another_process_the_same(home, tmp_path):
    names = {}
    exec(SAMPLE.format(folder=home), names)
    assert torch.equal(names["again"], names["restored"]) and list(names["table"].columns) == ["psnr", "identity"]
    personal = names["B_p"].personal
    assert (personal.prompt, personal.gamma, personal.steps) == ("a photo of a sks person", 0.5, (2, 2))
    shutil.copytree(home / "system", tmp_path / "system")
    assert python((SAMPLE + CHECK).format(folder=tmp_path)) == "['psnr', 'identity'] 2"
    assert torch.equal(torch.load(tmp_path / "restored.pt"), names["restored"])
    later = restore(load_personal(tmp_path / "ada", names["B"]), names["ada"].inputs, seeds=0, steps=3)
    assert torch.equal(later, names["restored"])


def test_saved_and_loaded_a_person_restores_the_same_pictures_bit_for_bit(B_p, home, tmp_path):
    x = tiny_system.pictures(2, 3)
    first = restore(B_p, x, seeds=0, steps=3)
    B_p.save_personal(tmp_path / "ada")
    fresh = load_system(home / "system")  # nothing was embedded with it yet
    again = restore(load_personal(tmp_path / "ada", fresh), x, seeds=0, steps=3)
    assert torch.equal(again, first)
    assert not torch.allclose(first, restore(fresh, x, seeds=0, steps=3), atol=1e-4)


def test_measure_gives_a_small_table():
    x = tiny_system.pictures(2, 3)
    table = measure(x, x * 0.5)
    assert isinstance(table, pd.DataFrame) and len(table) == 2 and {"psnr", "identity"} <= set(table.columns)


# ---- importing ----


def test_import_lib_loads_torch_when_a_name_is_used():
    code = "import sys, lib; print('torch' in sys.modules, set(lib.__all__) <= set(dir(lib))); lib.degrade; "
    assert python(code + "print('torch' in sys.modules)").split() == ["False", "True", "True"]


def test_every_name_of_the_front_door_is_there_and_no_other():
    names = "load_system open_person degrade prepare textual_pivot model_pivot dual_pivot restore measure load_personal"
    assert sorted(lib.__all__) == sorted(names.split())
    assert all(callable(getattr(lib, name)) for name in lib.__all__)
    with pytest.raises(AttributeError, match="no attribute 'restor'"):
        lib.restor
    assert lib.errors.WorkbookError  # packages and modules are still found


POLICY = "import os, sys, lib; print('torch' not in sys.modules, os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize(
    "own, policy", [(dict(OMP_WAIT_POLICY="PASSIVE"), "PASSIVE"), (dict(OMP_WAIT_POLICY=None), "None")]
)
def test_how_torch_s_threads_wait_is_left_to_the_user(own, policy):
    assert python(POLICY, **own) == f"True {policy}"


# ---- what a newcomer passes ----


def test_an_int_of_seeds_counts_on(B):
    x = tiny_system.pictures(3)
    assert torch.equal(restore(B, x, seeds=4, steps=2), restore(B, x, seeds=[4, 5, 6], steps=2))


def test_a_single_picture_is_accepted_everywhere(B):
    x = tiny_system.pictures(1)
    assert torch.equal(restore(B, x[0], seeds=0, steps=2), restore(B, x, seeds=[0], steps=2))
    assert torch.equal(prepare(B, x[0], degradations=1).latents, prepare(B, x, degradations=1).latents)
    assert len(measure(x[0], x[0] * 0.5)) == 1


def test_pictures_where_prepared_data_are_wanted_say_so(B):
    with pytest.raises(PictureError, match="prepared pictures are wanted.*Remedy: data = prepare"):
        textual_pivot(B, tiny_system.pictures(2), training=ONCE)
    with pytest.raises(PictureError, match="prepared pictures are wanted.*Remedy: data = prepare"):
        lib.model_pivot(B, tiny_system.pictures(2), ONCE)


def test_bytes_and_arrays_where_pictures_are_wanted_say_so(B):
    for wrong in (np.zeros((2, 64, 64, 3), np.uint8), torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "photo.png"):
        with pytest.raises(PictureError, match="not a float tensor.*Remedy.*to_tensor"):
            restore(B, wrong, seeds=0)


# ---- prompt and gamma ----


def test_prompt_and_gamma_are_those_that_were_tuned(B, B_p):
    x = tiny_system.pictures(1, 3)
    other = B.with_(G=B_p.G, E=B_p.E)  # the same weights without the settings
    want = restore(other, x, "a photo of a sks woman", gamma=0.5, seeds=0, steps=4)
    assert torch.equal(restore(B_p, x, seeds=0, steps=4), want)
    assert not torch.equal(restore(other, x, seeds=0, steps=4), want)


def test_steps_that_were_not_tuned_need_permission(B_p):
    x = tiny_system.pictures(1, 3)
    with pytest.raises(RangeError, match="tuned with 0.5.*Remedy"):
        restore(B_p, x, seeds=0, steps=4, gamma=0.0)
    permitted = restore(B_p, x, seeds=0, steps=4, gamma=0.0, allow_untuned_steps=True)
    larger = restore(B_p, x, seeds=0, steps=4, gamma=1.0)
    tuned = restore(B_p, x, seeds=0, steps=4)
    assert not torch.equal(permitted, tuned) and not torch.equal(larger, tuned)


# ---- a plain folder of photographs ----


@pytest.fixture
def photographs(tmp_path):
    for k, picture in enumerate(tiny_system.pictures(3, 5, 64)):
        save_picture(tmp_path / "ada" / f"{k}.png", picture)
    return tmp_path / "ada"


def test_a_plain_folder_of_photographs_gives_references(B, photographs):
    ada = open_person(photographs, size=64, class_noun="woman", source="her own", terms="her consent")
    assert (ada.name, ada.class_noun, ada.real) == ("ada", "woman", True)
    assert ada.references.shape == (3, 3, 64, 64) and ada.inputs is ada.targets is None
    B_p = dual_pivot(B, ada.references, ada.class_noun, textual=ONCE, model=ONCE, degradations=1)
    assert B_p.personal.prompt == "a photo of a sks woman"


@pytest.mark.parametrize("facts", [{}, dict(source="her own"), dict(terms="her consent"), dict(source=" ", terms="x")])
def test_a_plain_folder_of_a_real_person_needs_source_and_terms(photographs, facts):
    with pytest.raises(PersonCardError, match="Remedy.*source=.*terms="):
        open_person(photographs, size=64, **facts)
    assert open_person(photographs, size=64, real=False).real is False


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingPicturesError, match="Remedy"):
        open_person(Path(tmp_path / "nobody"), size=64)
