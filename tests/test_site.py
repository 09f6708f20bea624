"""The site of results: a page a run, an index that lists each, and nothing that leads nowhere."""

import csv
import re

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from lib import paths
from lib.errors import RecordError
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
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(folder / "restored" / "image1-dual-pivot.png")


def test_every_run_has_a_page_a_row_and_links_that_lead_somewhere(runs):
    made(runs / "n" / "ada-1", "<ada>", 0.75)
    made(runs / "n" / "bo-2", "bo", 0.5)
    made(runs / "n" / "people-1019-3", "people:1019", 0, failed=True)
    made(runs / "live" / "n", "by hand", 0.1)
    batch = runs / batch_folder.BATCHES / "b"
    batch.mkdir(parents=True)
    row = dict.fromkeys(batch_folder.COLUMNS, "") | {"state": "failed", "error": "PictureError"}
    with (batch / "status.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, batch_folder.COLUMNS)
        writer.writeheader()
        writer.writerow(row | {"person": "people:1019", "folder": "n/people-1019-3"})
    for _ in range(2):  # the second replaces the first
        index = site.build(runs / "site")
    text = index.read_text()
    assert text.count("<tr data-notebook") == 3 and "&lt;ada&gt;" in text and "<ada>" not in text
    assert "0.750" in text and "failed: PictureError" in text and "by hand" not in text
    assert 'alt="image1 dual pivot"' in text
    for page in index.parent.rglob("*.html"):
        links = re.findall(r'(?:href|src)="((?!https?:|data:|#)[^"]+)"', page.read_text())
        assert links and not [link for link in links if not (page.parent / link).resolve().is_file()]
    assert not re.search(r'(?:src|href)="https?:', text)
    with Image.open(next(index.parent.glob("thumbnails/*.png"))) as small:
        assert small.size == (site.THUMBNAIL, site.THUMBNAIL)


def test_a_site_of_nothing_is_refused(runs):
    with pytest.raises(RecordError, match="No runs below"):
        site.build(runs / "site")
    assert site.main(["-o", str(runs / "site")]) == 1
