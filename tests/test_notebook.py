"""docs/notebook.ipynb runs from start to end, in tiny sizes; the page has its outputs."""

import base64
import re

import pytest

import d4rl_envs
from tests.conftest import ROOT
from utils import UserError

PATH = ROOT / "docs" / "notebook.ipynb"
TINY = """
folder = {folder!r}
transitions, pretrain_updates, online_iterations, online_updates = 1_000, 2, 1, 2
episodes = 3
"""


def can_render():
    env = d4rl_envs.make(d4rl_envs.get_task("maze2d-umaze-v1"), "rgb_array")
    env.reset(seed=0)
    try:
        env.render()
    except UserError:
        return False
    return True


def test_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(PATH, as_version=4)
    tags = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    tags["parameters"].source = TINY.format(folder=str(tmp_path))
    if not can_render():
        notebook.cells.remove(tags["video"])
    where = {"metadata": {"path": str(PATH.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    shown = [
        kind for c in notebook.cells for o in c.get("outputs", []) for kind in o.get("data", {})
    ]
    assert shown.count("image/png") == 2
    assert "image/gif" in shown or not can_render()
    texts = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert re.search(r"return-to-go at the end [\d.-]+\n", texts)
    assert "error:" not in texts


def test_committed_notebook_has_the_outputs_of_a_run():
    nbformat = pytest.importorskip("nbformat")
    assert PATH.stat().st_size < 300_000
    cells = [c for c in nbformat.read(PATH, as_version=4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    text = PATH.read_text()
    assert "error:" not in text and "Traceback" not in text
    (gif,) = (
        o.data["image/gif"] for c in cells for o in c.outputs if "image/gif" in o.get("data", {})
    )
    assert base64.b64decode(gif).startswith(b"GIF89a")
