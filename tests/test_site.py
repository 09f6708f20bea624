"""The site of results: a page a run, an index that lists each, and nothing that leads nowhere."""

import csv
import re
from urllib.parse import unquote

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from lib import paths
from lib.errors import RecordError, UnreadablePictureError, UnsafePathError
from lib.people.picture_files import SYNTHETIC, save_picture
from lib.runs import batch_folder, record, runner, site

RUN = {"notebook": "n", "seed": 0, "device": "cpu", "versions": {}, "commit": {"id": "0123456789"}, "peak_memory": 1}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


def made(folder, person, value, failed=False):
    """A run of a person, finished or not."""
    folder.mkdir(parents=True)
    cells = [new_markdown_cell("# N\n[other](../../other.ipynb) [web](https://example.org)")]
    cells += [new_code_cell("1", outputs=[new_output("stream", name="stdout", text="said <so>")])]
    runner._write(new_notebook(cells=cells), folder / ("n.partial.ipynb" if failed else "n.ipynb"))
    if failed:
        return
    rows = [{"metric": "identity", "arm": arm, "value": v} for arm, v in (("blind", 0.1), ("dual pivot", value))]
    facts = {"parameters": {"PERSON": person}, "seconds": {"tuning": 2.0}, "metrics": rows}
    record.write_json(folder / "record.json", RUN | facts)
    (folder / "restored").mkdir()
    save_picture(folder / "restored" / "image1-dual-pivot.png", np.zeros((200, 200, 3), np.uint8))


def failed(runs, *rows):
    """The status of a batch of people that did not finish: (state, error, person, folder) of each."""
    batch = runs / batch_folder.BATCHES / "b"
    batch.mkdir(parents=True)
    with (batch / "status.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, batch_folder.COLUMNS)
        writer.writeheader()
        for row in rows:
            known = dict(zip(("state", "error", "person", "folder"), row))
            writer.writerow(dict.fromkeys(batch_folder.COLUMNS, "") | known)


def test_every_run_has_a_page_a_row_and_links_that_lead_somewhere(runs):
    made(runs / "n" / "ada-1", "<ada>", 0.75)
    made(runs / "n" / "bo-2", "bo", 0.5)
    made(runs / "n" / "people-1019-3", "people:1019", 0, failed=True)
    made(runs / "live" / "n", "by hand", 0.1)
    failed(runs, ("failed", "PictureError", "people:1019", "n/people-1019-3"))
    for _ in range(2):  # the second replaces the first
        index = site.build(runs / "site")
    text = index.read_text()
    assert text.count("<tr data-notebook") == 3 and "&lt;ada&gt;" in text and "<ada>" not in text
    assert "0.750" in text and "failed: PictureError" in text and "by hand" not in text
    assert 'alt="image1 dual pivot"' in text
    for page in index.parent.rglob("*.html"):
        links = re.findall(r'(?:href|src)="((?!https?:|data:|#)[^"]+)"', page.read_text())
        assert links and not [link for link in links if not (page.parent / unquote(link)).resolve().is_file()]
    assert not re.search(r'(?:src|href)="https?:', text)
    with Image.open(next(index.parent.glob("thumbnails/*.png"))) as small:
        assert small.size == (site.THUMBNAIL, site.THUMBNAIL)


def test_a_site_of_nothing_is_refused(runs):
    with pytest.raises(RecordError, match="No runs below"):
        site.build(runs / "site")
    assert site.main(["-o", str(runs / "site")]) == 1


def test_a_site_replaces_nothing_but_a_site(runs, tmp_path, monkeypatch):
    made(runs / "n" / "ada-1", "ada", 0.75)
    (tmp_path / "repository").mkdir()
    monkeypatch.setattr(paths, "ROOT", tmp_path / "repository")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    (tmp_path / "link").symlink_to(runs)
    before = sorted(path for path in tmp_path.rglob("*"))
    monkeypatch.chdir(runs)
    places = [(".", "is or holds the runs"), (tmp_path, "is or holds the repo"), (tmp_path / "link", "holds the runs"),
              (paths.ROOT, "holds the repo"), (tmp_path / "mine", "no older site"), (runs / "n", "no older site"),
              (tmp_path / "mine" / "index.html", "no older site")]  # fmt: skip
    for output, says in places:
        with pytest.raises(UnsafePathError, match=f"{says}.*Remedy"):
            site.build(output)
    assert site.main(["-o", "."]) == 1 and sorted(path for path in tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    for output in (tmp_path / "empty", tmp_path / "new", tmp_path / "new"):
        assert site.build(output).is_file()


def test_thumbnails_keep_the_synthetic_mark_and_a_broken_picture_is_an_error(runs):
    made(runs / "n" / "ada-1", "ada", 0.75)
    (file,) = runs.rglob("restored/*.png")
    index = site.build(runs / "site")
    with Image.open(file) as whole, Image.open(next(index.parent.glob("thumbnails/*.png"))) as small:
        assert "Synthetic" in small.text and small.text == whole.text
        assert SYNTHETIC in small.text["XML:com.adobe.xmp"]
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UnreadablePictureError, match="image1-dual-pivot.png. Remedy"):
        site.build(runs / "site")
    assert index.is_file()


def test_names_that_are_no_addresses_are_quoted(runs):
    for name in ("ada-1", "50%-2", "photo #1?-3"):
        made(runs / "n" / name, name, 0.5)
        (runs / "n" / name / "restored" / "image1-dual-pivot.png").rename(
            runs / "n" / name / "restored" / f"{name}.png"
        )
    index = site.build(runs / "site")
    text = index.read_text()
    assert "50%25-2" in text and "photo%20%231%3F-3" in text
    for page in index.parent.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="((?!https?:|data:|#)[^"]+)"', page.read_text()):
            address = link.partition("#")[0].partition("?")[0]  # as a browser takes it
            assert (page.parent / unquote(address)).resolve().is_file()


def test_a_person_without_a_page_is_listed_under_the_name_of_the_status(runs):
    made(runs / "n" / "ada-1", "ada", 0.5)
    made(runs / "n" / "people-1-2", "", 0, failed=True)
    failed(runs, ("set aside", "KilledWorker", "people:1019", "n/people-1019-3"),
           ("failed", "PictureError", "my/people-1", "n/people-1-2"))  # fmt: skip
    text = site.build(runs / "site").read_text()
    assert ">people:1019</td>" in text and "set aside: KilledWorker" in text and "people-1019-3.html" not in text
    assert '<a href="pages/n-people-1-2.html">my/people-1</a>' in text and "2 of them not finished" in text
