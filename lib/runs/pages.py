"""Notebooks as pages: what is taken out before one is stored, links, descriptions of pictures, and the HTML file."""

import base64
import copy
import io
import os
import re
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from PIL import Image

from lib import paths

WIDGET = "application/vnd.jupyter.widget-view+json"
PICTURE = "image/png"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")  # ](relative/path#anchor)
TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block data_png scoped %}
{{ super() | replace('<img ', '<img alt="' ~ (output | get_metadata('alt', 'image/png') | escape) ~ '" ', 1) }}
{% endblock %}"""


def still(nb):
    """Takes out widgets, which show nothing without their state and a network; their text stays. Changes `nb`."""
    nb.metadata.pop("widgets", None)
    for output in _outputs(nb):
        output.get("data", {}).pop(WIDGET, None)
    return nb


def tidied(nb):
    """A notebook as it is committed: without when and where it ran, and without stderr. Changes `nb`."""
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    nb.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for cell in still(nb).cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr" and out.get("data", True)]
    return nb


def repacked(nb):
    """A notebook whose stored pictures are `smaller`. Changes `nb`."""
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        if PICTURE in output.get("data", {}):
            output.data[PICTURE] = smaller(output.data[PICTURE])
    return nb


def smaller(encoded):
    """The same picture, base64 of a PNG, packed again without an alpha channel: about a sixth smaller."""
    data = base64.b64decode(encoded)
    packed = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").save(packed, "PNG", optimize=True)
    return base64.b64encode(min(data, packed.getvalue(), key=len)).decode()


def described(nb):
    """Gives each picture that has no alternative text the heading that it stands under. Changes `nb`."""
    heading = "the notebook"
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            found = re.findall(r"^#+ +(.+?) *$", cell.source, re.M)
            heading = found[-1] if found else heading
        for output in cell.get("outputs", []):
            if PICTURE in output.get("data", {}):
                output.setdefault("metadata", nbformat.from_dict({})).setdefault(PICTURE, nbformat.from_dict({}))
                output.metadata[PICTURE].setdefault("alt", f"Figure under the heading: {heading}")
    return nb


def relinked(nb, base, folder, beside=()):
    """A copy of a notebook whose relative links lead, from `folder`, to the files that they name from `base`.

    Args: nb; base, the folder it was written for; folder, where the copy lies; beside, names of files that lie in
    both. A link to nothing stays as it is.
    """

    def moved(link):
        target = Path(os.path.normpath(Path(base, link[1])))
        if link[1] in beside or not target.exists():
            return link[0]
        return Path(os.path.relpath(target, Path(folder).resolve())).as_posix() + (link[2] or "")

    nb = copy.deepcopy(nb)
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(moved, cell.source)
    return nb


def write_html(nb, path):
    """A notebook as one HTML file with its pictures inside; only formulas need a network to be typeset."""
    loader = DictLoader({"workbook.html.j2": TEMPLATE})
    exporter = HTMLExporter(
        embed_images=True, require_js_url="", extra_loaders=[loader], template_file="workbook.html.j2"
    )
    source = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    html, _ = exporter.from_notebook_node(described(still(copy.deepcopy(nb))), resources=source)
    with paths.atomic_write(path) as part:
        part.write_text(html, encoding="utf-8")


def _outputs(nb):
    return [output for cell in nb.cells for output in cell.get("outputs", [])]
