"""The four download scripts: options, existing files and messages."""

import dataclasses
import errno
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import Mock

import h5py
import pytest

from data import load_dataset
from data_sources import command
from tasks import TASKS, get_task
from tests.conftest import ROOT
from tests.data_files import random_arrays, write

SCRIPTS = {
    "download_d4rl_basic.py": "maze2d",
    "download_gym_datasets.py": "hopper halfcheetah walker2d ant",
    "download_antmaze_datasets.py": "antmaze",
    "download_advanced.py": "pen hammer door relocate",
}
GYM = "download_gym_datasets.py"
NAME = "hopper-medium-v2"


def run(script, *options, folder=None):
    """Run the script in this process; returns the exit code."""
    target = ["--data_dir", str(folder)] if folder else []
    return command.main(script, [*options, *target])


def test_every_task_belongs_to_one_script():
    assert {task.script for task in TASKS.values()} == set(SCRIPTS)
    for script, families in SCRIPTS.items():
        assert (ROOT / "data" / script).is_file()
        own = {task.family for task in TASKS.values() if task.script == script}
        assert own == set(families.split())


@pytest.mark.parametrize("place", ["data", "root", "elsewhere"])
def test_scripts_run_from_anywhere(tmp_path, place):
    """Even in a folder with a file that has the name of one of the project's modules."""
    (tmp_path / "data.py").write_text("raise RuntimeError('shadowed')")
    folder = {"data": ROOT / "data", "root": ROOT, "elsewhere": tmp_path}[place]
    script = os.path.relpath(ROOT / "data" / GYM, folder)
    options = ["--only", "hopper-random-v2", "--source", "generate", "--steps", "60"]
    done = subprocess.run(
        [sys.executable, script, *options, "--data_dir", str(tmp_path / "out")],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "60 rows" in done.stdout
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["hopper-random-v2.hdf5"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_the_datasets(script, capsys):
    with pytest.raises(SystemExit) as end:
        run(script, "--help")
    assert end.value.code == 0
    text = "".join(capsys.readouterr().out.split())
    assert f"outputfolder(default:{ROOT}/data)" in text
    for task in TASKS.values():
        assert (task.name in text) == (task.script == script and task.published)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "hoper-medium-v2"], "--only hoper-medium-v2: unknown task; closest"),
        (
            ["--only", "pen-human-v1"],
            f"--only pen-human-v1: not one of {GYM}'s datasets; use download_advanced.py",
        ),
        (["--steps", "100"], "--steps: only for generated datasets; add --source generate"),
        (["--steps", "0", "--source", "generate"], "--steps 0: must be in [1, 4294967295]"),
        (["--seed", "-1"], "--seed -1: must be in [0, 4294967295]"),
        (["--seed", f"{10**30}", "--source", "generate"], f"--seed {10**30}: must be in [0, "),
        (["--steps", f"{10**20}", "--source", "generate"], f"--steps {10**20}: must be in [1, "),
    ],
)
def test_invalid_options(tmp_path, capsys, options, message):
    assert run(GYM, *options, folder=tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
    assert not any(tmp_path.iterdir())


def test_data_dir_that_cannot_be_created(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(GYM, folder=tmp_path / "file" / "data") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"--data_dir {tmp_path / 'file' / 'data'}: Not a directory"


def test_tasks_that_cannot_be_generated(tmp_path, capsys):
    options = ["--source", "generate", "--steps", "40"]
    names = ["pen-human-v1", "door-cloned-v1", "hammer-expert-v0"]
    for name in names:
        options += ["--only", name]
    assert run("download_advanced.py", *options, folder=tmp_path) == 2
    lines = capsys.readouterr().err.splitlines()
    for line, name in zip(lines, names, strict=True):
        assert line.startswith(f"{name}: cannot be generated")
        assert "--source d4rl" in line
    assert not any(tmp_path.iterdir())


def test_missing_optional_package_only_affects_datasets_that_need_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "data_sources.sac_training", raising=False)
    options = ["--source", "generate", "--steps", "40"]
    names = ["hopper-medium-v2", "hopper-medium-replay-v2", "hopper-random-v2"]
    for name in names:
        options += ["--only", name]
    assert run(GYM, *options, folder=tmp_path) == 2
    lines = capsys.readouterr().err.splitlines()
    for line, name in zip(lines, names[:2], strict=True):
        assert line == (
            f"{name}: training SAC needs stable_baselines3, which is not installed; "
            "pip install -r requirements-optional.txt"
        )
    assert [file.name for file in tmp_path.iterdir()] == ["hopper-random-v2.hdf5"]


def test_aliases_and_repetitions_are_merged(tmp_path, capsys):
    options = ["--source", "generate", "--steps", "40", "--only", "hopper-random-v2"]
    assert run(GYM, *options, "--only", "hopper-medium-random-v2", folder=tmp_path) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("file", [NAME, NAME.replace("-", "_", 1)])
def test_existing_datasets_are_kept(tmp_path, capsys, file):
    task = get_task(NAME)
    path = write(tmp_path / f"{file}.hdf5", random_arrays(task, 50, 1))
    before = path.read_bytes()
    for source in ("d4rl", "generate"):
        assert run(GYM, "--only", NAME, "--source", source, folder=tmp_path) == 0
        assert "already there, 50 rows" in capsys.readouterr().out
    assert path.read_bytes() == before


def damage(path, how):
    """Make a file that cannot be used as it is."""
    if how == "folder":
        path.mkdir()
    else:
        write(path, random_arrays(get_task(NAME), 50, 1))
    if how == "truncated":
        os.truncate(path, 5000)
    elif how == "no rewards":
        with h5py.File(path, "a") as file:
            del file["rewards"]


@pytest.mark.parametrize("source", ["d4rl", "generate"])
@pytest.mark.parametrize("how", ["truncated", "no rewards", "folder", "cannot be opened"])
def test_existing_file_is_never_overwritten(tmp_path, capsys, monkeypatch, source, how):
    path = tmp_path / "hopper-random-v2.hdf5"
    damage(path, how)
    before = path.is_dir() or path.read_bytes()
    if how == "cannot be opened":
        monkeypatch.setattr(h5py, "File", Mock(side_effect=PermissionError(13, "no")))
    assert run(GYM, "--only", path.stem, "--source", source, folder=tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ")
    assert line.endswith("; existing files are never overwritten, move it away first")
    assert (path.is_dir() or path.read_bytes()) == before


def test_generating_into_a_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr("data_sources.blocks.atomic_write", full)
    options = ["--only", "hopper-random-v2", "--source", "generate", "--steps", "40"]
    assert run(GYM, *options, folder=tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("hopper-random-v2.hdf5: cannot be written (No space left on device)")


class TestPublished:
    """Downloads of small files instead of the published ones."""

    @pytest.fixture
    def server(self, tmp_path_factory, monkeypatch):
        """A folder that is served as the tasks' download addresses."""
        folder = tmp_path_factory.mktemp("served")

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(folder))

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for name in (NAME, "hopper-random-v2"):
            url = f"http://127.0.0.1:{server.server_port}/{name}.hdf5"
            task = dataclasses.replace(TASKS[name], url=url, published_steps=290)
            monkeypatch.setitem(TASKS, name, task)
        yield folder
        server.shutdown()
        server.server_close()
        thread.join()

    def test_download(self, server, tmp_path, capsys):
        source = write(server / f"{NAME}.hdf5", random_arrays(get_task(NAME), 300, 1))
        assert run(GYM, "--only", NAME, folder=tmp_path) == 0
        path = tmp_path / f"{NAME}.hdf5"
        assert path.read_bytes() == source.read_bytes()
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
        assert "300 rows" in capsys.readouterr().out
        load_dataset(path, get_task(NAME))

    def test_other_versions_are_downloaded_with_any_number_of_rows(
        self, server, tmp_path, monkeypatch
    ):
        name = "hopper-medium-expert-v2"
        url = get_task(NAME).url.replace(NAME, name)
        monkeypatch.setitem(TASKS, name, dataclasses.replace(TASKS[name], url=url))
        write(server / f"{name}.hdf5", random_arrays(get_task(name), 50, 1))
        assert run(GYM, "--only", name, folder=tmp_path) == 0
        load_dataset(tmp_path / f"{name}.hdf5", get_task(name))

    def test_404_lists_alternatives_and_continues(self, server, tmp_path, capsys):
        write(server / f"{NAME}.hdf5", random_arrays(get_task(NAME), 300, 1))
        assert run(GYM, "--only", "hopper-random-v2", "--only", NAME, folder=tmp_path) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "404" in line and "try again" not in line
        assert "--source generate --only hopper-random-v2" in line
        assert [file.name for file in tmp_path.iterdir()] == [f"{NAME}.hdf5"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("page", "not an HDF5 file"),
            ("truncated", "truncated"),
            ("other sizes", "dataset of another task"),
            ("few rows", "200 rows, but the published dataset has about 290"),
            ("many rows", "400 rows, but the published dataset has about 290"),
            ("no rewards", "no rewards in this file"),
        ],
    )
    def test_only_damaged_files_are_discarded(self, server, tmp_path, capsys, content, message):
        path = server / f"{NAME}.hdf5"
        if content == "page":
            path.write_text("<html>moved</html>")
        else:
            name = "ant-medium-v2" if content == "other sizes" else NAME
            rows = {"few rows": 200, "many rows": 400}.get(content, 300)
            arrays = random_arrays(get_task(name), rows, 1)
            if content == "no rewards":
                del arrays["rewards"]
            write(path, arrays)
        if content == "truncated":
            os.truncate(path, 5000)
        part = tmp_path / f"{path.name}.part"
        for _ in range(2):  # the second time without a download
            assert run(GYM, "--only", NAME, folder=tmp_path) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert message in line
            assert f"put a copy at {tmp_path / path.name}" in line
            damaged = content in ("page", "truncated")
            assert ("try again later" in line) == damaged
            assert (f"kept as {part}, delete it to download it again" in line) != damaged
            assert part.exists() != damaged
            if not damaged:
                path.unlink(missing_ok=True)

    def test_unreachable_server_is_reported_once(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("d4rl_envs.download.time.sleep", lambda _: None)
        for name, task in TASKS.items():
            address = dataclasses.replace(task, url=f"http://127.0.0.1:9/{name}.hdf5")
            monkeypatch.setitem(TASKS, name, address)
        assert run("download_d4rl_basic.py", folder=tmp_path) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "refused" in line
        assert "--source generate --only maze2d-open-v0" in line

    def test_interruption_exits_with_130(self, tmp_path, capsys, monkeypatch):
        def stop(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("data_sources.command.download", stop)
        monkeypatch.setattr("data_sources.command.generate", stop)
        for options, effect in (
            ([], "resume"),
            (["--only", NAME, "--source", "generate"], "resume"),
            (["--only", "hopper-random-v2", "--source", "generate"], "start this dataset over"),
        ):
            assert run(GYM, *options, folder=tmp_path) == 130
            assert f"run the same command again to {effect}\n" in capsys.readouterr().err
