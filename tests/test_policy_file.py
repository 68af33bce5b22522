"""Exported policies act bit for bit like the original; damaged ones give one-line errors."""

import itertools
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from build_networks import make_actor
from get_args import Settings
from policy_export import Policy, load_policy, open_policy, save_policy
from policy_export.checks import POLICY_SETTINGS
from policy_export.policy import policy_of_run
from run.checkpoint import load_best, load_checkpoint, read_file, state_files, write_verified
from tasks import TASKS, get_task
from tests.tiny_runs import DETERMINISTIC, metrics_of, run
from utils import UserError

HOPPER = get_task("hopper-medium-v2")
SMALL = replace(Settings(), embed_dim=16, n_layer=2, n_head=2, K=6, eval_context_length=4, stoc=0)
VARIANTS = {
    "deterministic": SMALL,
    "stochastic": replace(SMALL, stoc=1),
    "MLP": replace(SMALL, policy="mlp", activation_function="tanh"),
    "stochastic MLP": replace(SMALL, policy="mlp", n_layer=1, n_head=3, stoc=1, precision="bf16"),
    "ordering": replace(SMALL, ordering=1, activation_function="gelu", dropout=0.3),
    "bfloat16": replace(SMALL, precision="bf16", eval_rtg=-200, delayed_reward=5),
}


def policy_with(settings, task=HOPPER, seed=0):
    torch.manual_seed(seed)
    actor = make_actor(settings, task).eval()
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=task.obs_dim), rng.uniform(0.1, 2, task.obs_dim)
    record = {"origin": {"method": "TD3"}, "scores": None, "versions": {}}
    return Policy(actor, task, settings, mean, std, record)


@torch.inference_mode()
def actions(policy):
    """Outputs for random histories of several shapes, as bytes."""
    rng, task, out = np.random.default_rng(1), policy.task, []
    for batch, steps in itertools.product((1, 2, 5), (1, 2, 3, 4)):
        shapes = [(batch, steps, width) for width in (task.obs_dim, task.act_dim, 1)]
        histories = [torch.tensor(rng.normal(size=shape), dtype=torch.float32) for shape in shapes]
        output = policy.actor.act(*histories, torch.arange(steps).expand(batch, -1))
        out += [(name, x.numpy().tobytes()) for name, x in vars(output).items()]
    return out


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("env", ["hopper-medium-v2", "maze2d-large-v1", "pen-human-v1"])
def test_round_trip_is_exact(tmp_path, name, env):
    policy = policy_with(VARIANTS[name], get_task(env))
    save_policy(policy, tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert actions(loaded) == actions(policy)
    assert loaded.task is policy.task
    for moments in ("state_mean", "state_std"):
        assert np.array_equal(getattr(loaded, moments), getattr(policy, moments))
    for setting in POLICY_SETTINGS:
        assert getattr(loaded.settings, setting) == getattr(policy.settings, setting)
    assert loaded.record == policy.record
    assert vars(loaded.rollout_settings()) | {"state_mean": 0, "state_std": 0} == vars(
        policy.rollout_settings()
    ) | {"state_mean": 0, "state_std": 0}
    assert not loaded.actor.training


@pytest.mark.usefixtures("short_horizons")
@pytest.mark.parametrize(
    "method", [DETERMINISTIC, [*DETERMINISTIC, "--policy", "mlp"]], ids=["transformer", "MLP"]
)
def test_policy_of_a_run(data_dir, tmp_path, method):
    flags = [*method, "--max_online_iters", "3", "--eval_interval", "2", "--eval_rtg", "77"]
    assert run(data_dir, tmp_path / "run", *flags, env="hopper-medium-v2") == 0
    rows = metrics_of(tmp_path / "run")
    for best in (False, True):
        policy = policy_of_run(tmp_path / "run", best=best)
        read = load_best if best else load_checkpoint
        weights = read(tmp_path / "run")["trainer"]["actor"]
        ours = policy.actor.state_dict()
        assert ours.keys() == weights.keys()
        assert all(torch.equal(ours[key], weights[key]) for key in ours)
        assert policy.settings.eval_rtg == 77
        scores = policy.record["scores"]
        (row,) = (
            row
            for row in rows
            if (row["phase"], row["iteration"]) == (scores["phase"], scores["iteration"])
        )
        assert scores.items() <= row.items()
        assert scores.keys() - {"phase", "iteration", "total_transitions_sampled"} == {
            key for key in row if key.startswith("evaluation/")
        }
        every = [row["evaluation/normalized_score"] for row in rows if row.keys() >= scores.keys()]
        assert len(every) == 3
        if best:
            assert scores["evaluation/normalized_score"] == max(every)
        else:
            assert row is rows[-1]
        save_policy(policy, tmp_path / f"policy{best}")
        loaded = open_policy(tmp_path / f"policy{best}")
        assert actions(loaded) == actions(policy)
        assert loaded.record == policy.record


@pytest.fixture
def folder(tmp_path):
    """An exported policy."""
    save_policy(policy_with(SMALL), tmp_path / "policy")
    return tmp_path / "policy"


def fault(folder):
    """The error of loading a damaged policy: one line that starts with the path."""
    with pytest.raises(UserError) as error:
        load_policy(folder)
    message = str(error.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message.removeprefix(f"{folder}/")


def edit(folder, **changes):
    """Change policy.json; dictionaries are merged into the existing ones."""
    path = folder / "policy.json"
    content = json.loads(path.read_text())
    for name, value in changes.items():
        old = content.get(name)
        content[name] = old | value if isinstance(value, dict) and isinstance(old, dict) else value
    path.write_text(json.dumps(content))


def edit_weights(folder, change, **options):
    path = folder / "policy.safetensors"
    weights = safetensors.torch.load(path.read_bytes())
    change(weights)
    path.write_bytes(safetensors.torch.save(weights, **options))


def test_export_has_plain_reproducible_files(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["policy.json", "policy.safetensors"]
    content = json.loads((folder / "policy.json").read_text())
    assert content["task"]["name"] == HOPPER.name
    assert content["task"]["rtg_scale"] == HOPPER.rtg_scale
    assert len(content["state_mean"]) == len(content["state_std"]) == HOPPER.obs_dim
    assert content["settings"] == {name: getattr(SMALL, name) for name in POLICY_SETTINGS}
    weights = safetensors.torch.load((folder / "policy.safetensors").read_bytes())
    assert weights.keys() == policy_with(SMALL).actor.state_dict().keys()
    save_policy(policy_with(SMALL), folder.parent / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (folder.parent / "again" / path.name).read_bytes()


def test_older_policy_files_load(folder):
    """They lack the setting `policy`; the order of settings does not matter."""
    path = folder / "policy.json"
    content = json.loads(path.read_text())
    assert content["settings"].pop("policy") == "transformer"
    content["settings"] = dict(reversed(content["settings"].items()))
    path.write_text(json.dumps(content))
    assert actions(load_policy(folder)) == actions(policy_with(SMALL))
    edit(folder, settings={"policy": "mlp"})
    assert "policy.safetensors" in fault(folder)
    edit(folder, settings={"policy": "rnn"})
    assert "--policy rnn" in fault(folder)


def test_export_is_atomic_and_overwrites_nothing(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for place in (folder, folder / "policy.json", folder / "policy.json" / "below", Path("/")):
        with pytest.raises(UserError, match=r"exists and is not empty|cannot be written"):
            save_policy(policy_with(SMALL, seed=2), place)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder.parent / "empty").mkdir()
    monkeypatch.chdir(folder.parent / "empty")
    save_policy(policy_with(SMALL), Path())
    # still the current folder
    load_policy(Path())
    load_policy(folder.parent / "empty")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("json.dump", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_policy(policy_with(SMALL), folder.parent / "new")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["empty", "policy"]


def test_folder_without_policy_is_rejected(tmp_path, folder):
    for place in (tmp_path, tmp_path / "absent", folder / "policy.json"):
        with pytest.raises(UserError, match=r"neither an exported policy .* nor a run"):
            open_policy(place)
    with pytest.raises(UserError, match=r"--best: .* is an exported policy"):
        open_policy(folder, best=True)
    (folder / "policy.safetensors").unlink()
    assert "policy.safetensors: cannot be read (No such file" in fault(folder)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_truncated_file_is_rejected(folder, name, share):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert f"{name}: damaged" in fault(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("policy.json", b"\xff\xfe", "damaged ("),
        ("policy.json", b"[" * 100_000, "damaged ("),
        ("policy.json", b"[1]", "damaged (it is not a JSON object)"),
        ("policy.json", b"{}", "format_version None, expected 1"),
        ("policy.safetensors", struct.pack("<Q", 2**63) + b"{}", "damaged"),
        ("policy.safetensors", struct.pack("<Q", 2) + b"[]", "damaged"),
        ("policy.safetensors", b"\x80\x04cos\nsystem\n(S'true'\ntR.", "damaged"),
    ],
)
def test_malformed_file_is_rejected(folder, name, content, message):
    (folder / name).write_bytes(content)
    assert message in fault(folder)


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"format_version": 2}, "format_version 2"),
        ({"format_version": "1"}, "format_version 1, expected 1"),
        ({"task": None}, "no task name"),
        ({"task": {"name": "hoper-medium-v2"}}, "task hoper-medium-v2: unknown task"),
        ({"task": {"name": "walker2d-medium-v2"}}, "obs_dim is 11, but 17 for walker2d"),
        ({"task": {"rtg_scale": 1.0}}, "rtg_scale is 1.0, but 0.001"),
        ({"settings": []}, "no settings in it"),
        ({"settings": {"n_head": 3}}, "--embed_dim 16"),
        ({"settings": {"n_head": 0}}, "--n_head 0"),
        ({"settings": {"stoc": 1}}, "predict_action"),
        ({"settings": {"stoc": 2}}, "--stoc 2"),
        ({"settings": {"stoc": "1"}}, "--stoc"),
        ({"settings": {"dropout": NAN}}, "dropout is out of range"),
        ({"settings": {"dropout": 10**400}}, "dropout is out of range"),
        ({"settings": {"embed_dim": 10**9}}, "embed_dim 1000000000|embed_action"),
        ({"settings": {"n_layer": 10**9}}, "too few for n_layer 1000000000"),
        ({"settings": {"n_layer": 3}}, "transformer.h.2.attn.c_attn.bias"),
        ({"settings": {"n_layer": 1}}, "transformer.h.1"),
        ({"settings": {"activation_function": "eval"}}, "--activation_function eval"),
        ({"settings": {"K": 3}}, "--eval_context_length 4"),
        ({"settings": {"eval_rtg": 1e300}}, "eval_rtg is out of range"),
        ({"settings": {"ordering": 1}}, "embed_ordering.weight"),
        ({"settings": {"precision": None}}, "--precision None"),
        ({"state_mean": None}, "state_mean is not a list of 11 numbers"),
        ({"state_mean": [0.0] * 10}, "state_mean is not a list of 11 numbers"),
        ({"state_mean": [0.0] * 10 + [NAN]}, "state_mean has a number"),
        ({"state_mean": [0.0] * 10 + [1e300]}, "state_mean has a number"),
        ({"state_std": [1.0] * 10 + [True]}, "state_std is not a list of 11 numbers"),
        ({"state_std": [1.0] * 10 + [0.0]}, "state_std has a number"),
        ({"weights_sha256": "0" * 64}, "does not match policy.json"),
    ],
    ids=str,
)
def test_invalid_description_is_rejected(folder, changes, messages):
    edit(folder, **changes)
    message = fault(folder)
    assert any(part in message for part in messages.split("|"))


@pytest.mark.parametrize("name", ["K", "embed_dim", "stoc", "eval_rtg"])
def test_missing_setting_is_rejected(folder, name):
    path = folder / "policy.json"
    content = json.loads(path.read_text())
    del content["settings"][name]
    path.write_text(json.dumps(content))
    assert fault(folder) == f"policy.json: no {name} in its settings"


def test_invalid_weights_are_rejected(folder):
    whole = (folder / "policy.safetensors").read_bytes()
    cases = [
        (lambda w: w.pop("embed_ln.bias"), "embed_ln.bias"),
        (lambda w: w.update(extra=torch.zeros(3)), "extra"),
        (lambda w: w.update({"embed_ln.bias": torch.zeros(4, 4)}), "(4, 4)"),
        (lambda w: w["embed_state.weight"].fill_(torch.nan), "embed_state.weight contains NaN"),
        (lambda w: w["embed_state.bias"][:1].fill_(torch.inf), "embed_state.bias contains NaN"),
        (lambda w: w.update({"embed_ln.bias": torch.zeros(16).half()}), "is torch.float16"),
        (lambda w: w["embed_state.bias"].add_(1e-3), "does not match policy.json"),
    ]
    for change, expected in cases:
        (folder / "policy.safetensors").write_bytes(whole)
        edit_weights(folder, change)
        message = fault(folder)
        assert message.startswith("policy.safetensors")
        assert expected in message


def test_flipped_bits_of_the_weights_are_detected(folder):
    path = folder / "policy.safetensors"
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(len(whole), size=20).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        fault(folder)


@pytest.fixture
def finished(data_dir, tmp_path, short_horizons):
    assert run(data_dir, tmp_path / "run", *DETERMINISTIC, "--max_online_iters", "1") == 0
    return tmp_path / "run"


def test_the_policy_needs_no_collected_trajectories(finished, caplog):
    for path in (finished / "checkpoints").glob("rows-*.pt"):
        path.unlink()
    assert policy_of_run(finished).record["origin"]["iterations"]["online"] == 1
    newest, before = state_files(finished)
    newest.write_bytes(newest.read_bytes()[:-1])
    assert policy_of_run(finished).record["origin"]["iterations"]["online"] == 0
    assert f"{newest}: not a readable checkpoint" in caplog.text
    assert f"; using {before.name} instead" in caplog.text


def test_damaged_run_is_rejected(finished):
    def rejected(message, **kwargs):
        with pytest.raises(UserError, match=message) as error:
            policy_of_run(finished, **kwargs)
        assert "\n" not in str(error.value)

    config = finished / "config.json"
    whole = config.read_text()
    config.write_text(whole[:100])
    rejected("config.json: damaged")
    config.write_text(whole.replace('"embed_dim": 16', '"embed_dim": 32'))
    rejected(r"embed_action.bias .*\(16,\).*\(32,\)")
    config.write_text(whole.replace("maze2d-umaze-v1", "maze2d-medium-v1"))
    rejected("is of maze2d-umaze-v1, config.json of maze2d-medium-v1")
    config.write_text(whole)

    metrics = finished / "metrics.jsonl"
    rows = metrics.read_text()
    metrics.write_text("nonsense\n" + rows)
    rejected("metrics.jsonl: damaged")
    metrics.unlink()
    assert policy_of_run(finished).record["scores"] is None
    metrics.write_text(rows)

    best = finished / "checkpoints" / "best.pt"
    state = read_file(best)
    for name in ("trainer", "normalization", "phase"):
        write_verified(best, {k: v for k, v in state.items() if k != name})
        rejected(f"incomplete .KeyError: '{name}'", best=True)
    write_verified(best, state | {"evaluation": {"x": "y"}})
    rejected("incomplete .ValueError", best=True)
    state["trainer"]["actor"]["embed_ln.bias"][3] = torch.nan
    write_verified(best, state)
    rejected("embed_ln.bias contains NaN", best=True)
    best.unlink()
    rejected("best.pt", best=True)
    for path in (finished / "checkpoints").iterdir():
        path.unlink()
    rejected("no checkpoint")


def test_policies_of_all_families_load(tmp_path):
    for name, task in {task.family: task for task in TASKS.values()}.items():
        save_policy(policy_with(SMALL, task), tmp_path / name)
        assert load_policy(tmp_path / name).task is task
