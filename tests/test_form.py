"""The form of notebook 20: a folder and a picture, or uploads, in; restored pictures and personal weights out."""

import warnings
from dataclasses import replace
from datetime import UTC, datetime

import cv2
import numpy as np
import pytest
import tiny_system
import torch
from PIL import Image

from lib import load_personal, load_system, restore
from lib.degradation.degrade import degrade
from lib.errors import IdentityWarning, MissingPicturesError, PairingError, UnsafePathError
from lib.images import to_tensor
from lib.models.personal_weights import Personal
from lib.people import procedural
from lib.people.picture_files import load_picture, save_picture
from lib.people.uploads import keep_uploads
from lib.runs import pages
from lib.studies import arms, own_pictures
from lib.studies.form import DOUBLE_CLICK, Form
from lib.training.trainer import State, Training

ONCE = Training(steps=1, lr=1e-3, batch=1, quiet=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A system, a folder of references and one of degraded pictures of the same drawn person."""
    home = tmp_path_factory.mktemp("form")
    tiny_system.build().save(home / "system")
    person = procedural.parse("people:1029")
    drawn = to_tensor(procedural.render([(person, person.shot(k)) for k in range(5)], tiny_system.SIZE).pictures)
    for k, picture in enumerate(drawn[:3]):
        save_picture(home / "ada" / f"{k}.png", picture, synthetic=False)
    for k, picture in enumerate(degrade(drawn[3:], "tiny-heavy", range(2))):
        save_picture(home / "old" / f"old{k}.png", picture, synthetic=False)
    return home


@pytest.fixture
def make(home, tmp_path):
    """Makes a form whose clock the test moves; its own folder is `tmp_path`."""

    def made(real=False, **options):
        form = Form(system=str(home / "system"), trainings=(ONCE, ONCE), steps=2, home=tmp_path, **options)
        form.now = 0.0
        form._clock = lambda: form.now
        form.real.value = real
        return form

    return made


def press(form):
    form.now += 10
    form.button.click()
    return form.said.value


def upload(choice, *files, names=None):
    names = names or [file.name for file in files]
    kind = dict(type="image/png", size=1, last_modified=datetime.now(UTC))
    choice.upload.value = [dict(name=name, content=file.read_bytes(), **kind) for name, file in zip(names, files)]


def results(folder):
    return sorted(folder.glob("*/restored/*.png"))


def fill(form, home, references="ada", pictures="old"):
    form.references.text.value = str(home / references) if references else ""
    form.pictures.text.value = str(home / pictures) if pictures else ""


# ---- the whole way ----


def test_a_folder_and_pictures_are_restored_shown_and_saved_with_weights_that_load_again(make, home, tmp_path):
    form = make()
    fill(form, home)
    assert "Saved in" in press(form) and not form.button.disabled
    saved = results(tmp_path)
    assert [file.name[:5] for file in saved] == ["old0-", "old1-"]
    assert all("Synthetic" in Image.open(file).text for file in saved)
    B = load_system(home / "system")
    B_p = load_personal(saved[0].parents[1] / "personal", B)
    inputs = to_tensor([load_picture(file) for file in sorted((home / "old").iterdir())])
    again = restore(B_p, inputs, seeds=[0, 0], steps=2)
    assert torch.equal(to_tensor(load_picture(saved[1])), to_tensor(load_picture(_written(tmp_path, again[1]))))
    choice, place = form.result.children
    choice.value = 1
    handle, _, picture = place.children[0].children
    handle.value = 0.0  # all of it is the restored picture
    on_screen = cv2.imdecode(np.frombuffer(picture.value, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(on_screen, load_picture(saved[1]))
    assert not list(tmp_path.glob("*/tuning"))


def _written(folder, picture):
    return save_picture(folder / "again.png", picture)


def test_uploads_are_kept_and_the_same_references_are_tuned_once(make, home, tmp_path, monkeypatch):
    form = make()
    upload(form.references, *sorted((home / "ada").iterdir()))
    upload(form.pictures, home / "old" / "old0.png")
    assert "Saved in" in press(form) and len(results(tmp_path)) == 1
    monkeypatch.setattr(own_pictures.arms, "tune_arms", lambda *a, **k: pytest.fail("tuned again"))
    upload(form.pictures, home / "old" / "old1.png")
    assert "Saved in" in press(form)
    assert [file.name[:5] for file in results(tmp_path)] == ["old0-", "old1-"]
    assert len(list((tmp_path / "uploads").iterdir())) == 3 and len(form.result.children) == 1


def test_in_a_whole_photograph_the_person_alone_is_restored_and_it_is_saved_whole(make, tmp_path):
    people = [procedural.parse(name) for name in ("people:1019", "people:1049")]
    drawn = procedural.render([(people[0], people[0].shot(k)) for k in range(4)] + [(people[1], people[1].shot(1))])
    for k in range(3):
        save_picture(tmp_path / "ada" / f"{k}.png", drawn.pictures[k], synthetic=False)
    both = np.concatenate([drawn.pictures[4], drawn.pictures[3]], axis=1)
    save_picture(tmp_path / "both.png", both, synthetic=False)
    form = make(aligner="people")
    fill(form, tmp_path, pictures="both.png")
    assert "Saved in" in press(form)
    whole, crop = results(tmp_path)  # "-" is sorted before "."
    assert whole.name == f"{crop.stem}-photograph.png" and "Synthetic" in Image.open(whole).text
    changed = (load_picture(whole) != both).any(2).any(0)  # by column
    assert not changed[:96].any() and changed[160:224].all()


def test_other_settings_other_references_and_another_name_have_another_folder(home, tmp_path):
    B, _, person = own_pictures.open_own(str(home / "ada"), str(home / "old"), system=str(home / "system"), real=False)
    plan = arms.Plan()
    others = [
        (person, replace(plan, textual=ONCE)),
        (replace(person, references=person.references.flip(0)), plan),
        (replace(person, class_noun="woman"), plan),
        (replace(person, name="people:1029"), plan),
    ]
    folders = [own_pictures.own_folder(tmp_path, B, *one) for one in [(person, plan), *others]]
    assert len(set(folders)) == 5 and folders[0] == own_pictures.own_folder(tmp_path, B, person, plan)
    assert all(":" not in folder.name for folder in folders)


def test_a_drawn_person_and_a_person_folder_bring_their_own_inputs(make, home, tmp_path):
    folder = tmp_path / "person"
    for part, of in (("references", "ada"), ("inputs", "old")):
        for file in (home / of).iterdir():
            save_picture(folder / part / file.name, load_picture(file), synthetic=False)
    card = "name: ada\nclass_noun: person\nsource: drawn\nterms: none\nreal: false\n"
    (folder / "person.yaml").write_text(card)
    form = make(real=True)  # the card says that she is not
    form.references.text.value = str(folder)
    assert "Saved in" in press(form) and len(results(tmp_path)) == 2


def test_an_interrupted_tuning_goes_on(make, home, tmp_path, monkeypatch):
    form, second = make(), own_pictures.arms.model_pivot
    fill(form, home)

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(own_pictures.arms, "model_pivot", interrupted)
    with pytest.raises(KeyboardInterrupt):
        press(form)
    assert "Stopped" in form.said.value and not form.button.disabled and not list(tmp_path.glob("*/personal"))
    (kept,) = tmp_path.glob("*/tuning/in-context/*.pt")
    called = []
    step = State.step
    monkeypatch.setattr(State, "step", lambda self, *args: called.append(self.name) or step(self, *args))
    monkeypatch.setattr(own_pictures.arms, "model_pivot", second)
    assert "Saved in" in press(form) and not kept.exists()
    assert set(called) == {"E"}  # step 1 was finished, and is not run again


def test_a_double_click_works_once_and_a_later_one_again(make, home, monkeypatch):
    form, times = make(), []
    monkeypatch.setattr(form, "_work", lambda: times.append(form.button.disabled))
    press(form)
    form.now += DOUBLE_CLICK / 2
    form.button.click()
    assert times == [True]
    press(form)
    assert times == [True, True] and not form.button.disabled


def test_the_later_of_path_and_upload_counts(make, home):
    choice = make().references
    choice.text.value = "somewhere"
    upload(choice, home / "ada" / "0.png")
    assert choice.text.value == ""
    choice.text.value = "elsewhere"
    assert choice.upload.value == () and choice.chosen("unused") == "elsewhere"


def test_a_warning_that_a_picture_may_show_somebody_else_stays_beside_the_result(make, home, monkeypatch):
    opened = own_pictures.open_own

    def doubtful(*args, **options):
        warnings.warn("Perhaps not the person: <old0> 0.20.", IdentityWarning, stacklevel=2)
        return opened(*args, **options)

    monkeypatch.setattr(own_pictures, "open_own", doubtful)
    form = make()
    fill(form, home, pictures="old/old0.png")
    monkeypatch.setattr(own_pictures, "personalise", lambda B, *rest: B.personalised(Personal()))
    assert "Saved in" in press(form) and "Perhaps not the person: &lt;old0&gt; 0.20." in form.said.value
    fill(form, home, references="")
    assert "Perhaps" not in press(form)


def test_a_stored_notebook_has_words_in_place_of_the_form(make):
    data = make()._repr_mimebundle_()
    assert data["text/plain"] == "The form as a widget; it needs a running kernel." and pages.WIDGET in data


# ---- bad input, said before anything is tuned ----


def bad_folder(folder, kind):
    """A folder with what is wrong in it."""
    folder.mkdir()
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    if kind == "wide":
        for k, picture in enumerate(pictures):
            save_picture(folder / f"{k}.png", picture)
    if kind == "text":
        (folder / "a.png").write_text("not a picture")
    if kind == "few":
        save_picture(folder / "a.png", pictures[0])
    return folder


@pytest.mark.parametrize(
    ("field", "kind", "said"),
    [
        ("references", "none", "MissingPicturesError: No references"),
        ("references", "no folder", "MissingPicturesError: No person folder"),
        ("references", "empty", "MissingPicturesError: No pictures"),
        ("references", "few", "MissingPicturesError: Too few references: 1"),
        ("references", "wide", "Remedy: give an insightface pack"),
        ("pictures", "none", "MissingPicturesError: No picture to restore"),
        ("pictures", "no file", "UnreadablePictureError: No such picture file"),
        ("pictures", "empty", "MissingPicturesError: No pictures"),
        ("pictures", "text", "UnreadablePictureError: Not a picture"),
        ("pictures", "wide", "PictureSizeError: Not an aligned square crop"),
    ],
)
def test_bad_paths_are_said_in_the_form(make, home, tmp_path, field, kind, said):
    form = make()
    fill(form, home)
    typed = {"none": "", "no folder": tmp_path / "nowhere", "no file": tmp_path / "nothing.png"}
    getattr(form, field).text.value = str(typed[kind] if kind in typed else bad_folder(tmp_path / "bad", kind))
    refused(form, tmp_path, said)


def test_a_real_person_needs_a_source_and_terms(make, home, tmp_path):
    form = make(real=True)
    fill(form, home)
    form.source.value = "my own <photographs>"
    refused(form, tmp_path, "PersonCardError: Missing: field &#x27;terms&#x27;")
    form.terms.value, form.pictures.text.value = "she <b>agreed</b>", ""
    refused(form, tmp_path, "MissingPicturesError: No picture to restore")  # what is checked next


def test_an_unknown_aligner_is_said_before_any_tuning(make, home, tmp_path):
    form = make(aligner="no-such-pack")
    fill(form, home)
    refused(form, tmp_path, "PackError")


def test_what_is_typed_is_text_and_no_markup(make, tmp_path):
    form = make()
    form.references.text.value = "<img src=x onerror=alert(1)>"
    refused(form, tmp_path, "No person folder")
    assert "<img" not in form.said.value


def refused(form, folder, said):
    """Pressing says so; nothing was tuned or restored, and the form is ready again."""
    assert said in press(form) and "Remedy" in form.said.value
    assert not form.button.disabled and form.result.children == ()
    assert not list(folder.glob("*/personal")) + list(folder.glob("*/tuning")) + results(folder)


# ---- uploads ----


def uploads(file, *names):
    return [dict(name=name, content=file.read_bytes()) for name in names]


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/b.png", ".hidden.png", "..", "", "a\\b.png"])
def test_an_upload_whose_name_is_a_path_is_refused(home, tmp_path, name):
    with pytest.raises(UnsafePathError, match="Not a plain name"):
        keep_uploads(uploads(home / "ada" / "0.png", name), tmp_path / "kept")
    assert not list(tmp_path.rglob("*"))


def test_uploads_are_kept_whole_or_not_at_all(make, home, tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    form = make()
    fill(form, home)
    upload(form.references, *sorted((home / "ada").iterdir()), tmp_path / "notes.png")
    refused(form, tmp_path, "Not a picture, whatever its name says: notes.png. Remedy")
    assert not list((tmp_path / "uploads").iterdir())
    with pytest.raises(PairingError, match="twice"):
        keep_uploads(uploads(home / "ada" / "0.png", "a.png", "a.png"), tmp_path)
    with pytest.raises(MissingPicturesError):
        keep_uploads([], tmp_path)
