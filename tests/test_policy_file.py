"""Exported policies: the same actions bit for bit, and one line for whatever is wrong with one."""

import itertools
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from build_networks import make_actor
from get_args import Settings
from policy_export.policy import Policy, load_policy, open_policy, policy_of_run, save_policy
from run.checkpoint import load_best, load_checkpoint, read_file, write_verified
from tasks import TASKS, get_task
from tests.tiny_runs import DETERMINISTIC, STOCHASTIC, metrics_of, run
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
    """What it puts out for random histories of several shapes, as bytes."""
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
    for setting in ("K", "eval_context_length", "eval_rtg", "delayed_reward", "precision", "stoc"):
        assert getattr(loaded.settings, setting) == getattr(policy.settings, setting)
    assert loaded.record == policy.record
    assert vars(loaded.rollout_settings()) | {"state_mean": 0, "state_std": 0} == vars(
        policy.rollout_settings()
    ) | {"state_mean": 0, "state_std": 0}
    assert not loaded.actor.training


@pytest.mark.usefixtures("short_horizons")
@pytest.mark.parametrize(
    "method",
    [DETERMINISTIC, STOCHASTIC, [*DETERMINISTIC, "--policy", "mlp"]],
    ids=["deterministic", "stochastic", "MLP"],
)
def test_policy_of_a_run(data_dir, tmp_path, method):
    flags = [*method, "--max_online_iters", "3", "--eval_interval", "2", "--eval_rtg", "77"]
    assert run(data_dir, tmp_path / "run", *flags, env="hopper-medium-v2") == 0
    rows = metrics_of(tmp_path / "run")
    for best in (False, True):
        policy = policy_of_run(tmp_path / "run", best=best)
        read = load_best if best else load_checkpoint
        weights = read(tmp_path / "run", "cpu")["trainer"]["actor"]
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
    """The message that loading ends with: one line that begins with the file."""
    with pytest.raises(UserError) as error:
        load_policy(folder)
    message = str(error.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message.removeprefix(f"{folder}/")


def edit(folder, **changes):
    """Change policy.json; a dictionary changes part of one."""
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


def test_what_is_written_is_plain_and_complete(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["policy.json", "policy.safetensors"]
    content = json.loads((folder / "policy.json").read_text())
    assert content["task"]["name"] == "hopper-medium-v2"
    assert content["task"]["rtg_scale"] == 0.001
    assert len(content["state_mean"]) == len(content["state_std"]) == 11
    assert content["settings"]["eval_context_length"] == 4
    weights = safetensors.torch.load((folder / "policy.safetensors").read_bytes())
    assert weights.keys() == policy_with(SMALL).actor.state_dict().keys()
    save_policy(policy_with(SMALL), folder.parent / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (folder.parent / "again" / path.name).read_bytes()


def test_policies_of_before_there_was_a_choice_are_transformers(folder):
    path = folder / "policy.json"
    content = json.loads(path.read_text())
    assert content["settings"].pop("policy") == "transformer"
    path.write_text(json.dumps(content))
    assert actions(load_policy(folder)) == actions(policy_with(SMALL))
    edit(folder, settings={"policy": "mlp"})
    assert "these settings make it" in fault(folder)
    edit(folder, settings={"policy": "rnn"})
    assert "--policy rnn" in fault(folder)


def test_nothing_is_overwritten_or_left_half_written(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for place in (folder, folder / "policy.json", folder / "policy.json" / "below"):
        with pytest.raises(UserError, match=r"is there already|cannot be written"):
            save_policy(policy_with(SMALL, seed=2), place)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder.parent / "empty").mkdir()
    save_policy(policy_with(SMALL), folder.parent / "empty")
    load_policy(folder.parent / "empty")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("json.dump", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_policy(policy_with(SMALL), folder.parent / "new")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["empty", "policy"]


def test_folders_that_hold_no_policy(tmp_path, folder):
    for place in (tmp_path, tmp_path / "absent", folder / "policy.json"):
        with pytest.raises(UserError, match=r"neither an exported policy .* nor a run"):
            open_policy(place)
    with pytest.raises(UserError, match="chosen at its export"):
        open_policy(folder, best=True)
    (folder / "policy.safetensors").unlink()
    assert "policy.safetensors: cannot be read (No such file" in fault(folder)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_truncated(folder, name, share):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert f"{name}: damaged" in fault(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("policy.json", b"\xff\xfe", "damaged ("),
        ("policy.json", b"[" * 100_000, "damaged ("),
        ("policy.json", b"[1]", "damaged (it is not a JSON object)"),
        ("policy.json", b"{}", "format_version None, where this program reads 1"),
        ("policy.safetensors", struct.pack("<Q", 2**63) + b"{}", "damaged"),
        ("policy.safetensors", struct.pack("<Q", 2) + b"[]", "damaged"),
        ("policy.safetensors", b"\x80\x04cos\nsystem\n(S'true'\ntR.", "damaged"),
    ],
)
def test_not_what_it_should_be(folder, name, content, said):
    (folder / name).write_bytes(content)
    assert said in fault(folder)


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format_version": 2}, "format_version 2"),
        ({"format_version": "1"}, "format_version 1, where"),
        ({"task": None}, "names no task"),
        ({"task": {"name": "hoper-medium-v2"}}, "task hoper-medium-v2: unknown task"),
        ({"task": {"name": "walker2d-medium-v2"}}, "obs_dim is 11 there, but 17 for walker2d"),
        ({"task": {"rtg_scale": 1.0}}, "rtg_scale is 1.0 there, but 0.001"),
        ({"settings": []}, "no settings in it"),
        ({"settings": {"n_head": 3}}, "--embed_dim 16 is not a multiple of --n_head 3"),
        ({"settings": {"n_head": 0}}, "--n_head 0: outside its range"),
        ({"settings": {"stoc": 1}}, "has predict_action"),
        ({"settings": {"stoc": 2}}, "--stoc 2: unknown value"),
        ({"settings": {"stoc": "1"}}, "--stoc"),
        ({"settings": {"dropout": NAN}}, "dropout is out of all bounds"),
        ({"settings": {"dropout": 10**400}}, "dropout is out of all bounds"),
        ({"settings": {"embed_dim": 10**9}}, "embed_dim 1000000000|embed_action"),
        ({"settings": {"n_layer": 10**9}}, "too few for n_layer 1000000000"),
        ({"settings": {"n_layer": 3}}, "has transformer.h.2.attn.c_attn.bias not at all"),
        ({"settings": {"n_layer": 1}}, "transformer.h.1"),
        ({"settings": {"activation_function": "eval"}}, "--activation_function eval"),
        ({"settings": {"K": 3}}, "--eval_context_length 4 is longer"),
        ({"settings": {"eval_rtg": 1e300}}, "eval_rtg is out of all bounds"),
        ({"settings": {"ordering": 1}}, "embed_ordering.weight not at all"),
        ({"settings": {"precision": None}}, "--precision None"),
        ({"state_mean": None}, "state_mean is not a list of 11 numbers"),
        ({"state_mean": [0.0] * 10}, "state_mean is not a list of 11 numbers"),
        ({"state_mean": [0.0] * 10 + [NAN]}, "state_mean has a number"),
        ({"state_mean": [0.0] * 10 + [1e300]}, "state_mean has a number"),
        ({"state_std": [1.0] * 10 + [True]}, "state_std is not a list of 11 numbers"),
        ({"state_std": [1.0] * 10 + [0.0]}, "state_std has a number"),
        ({"weights_sha256": "0" * 64}, "is not what policy.json was written with"),
    ],
    ids=str,
)
def test_descriptions_that_do_not_fit(folder, changes, said):
    edit(folder, **changes)
    message = fault(folder)
    assert any(part in message for part in said.split("|"))


@pytest.mark.parametrize("name", ["K", "embed_dim", "stoc", "eval_rtg"])
def test_missing_settings(folder, name):
    path = folder / "policy.json"
    content = json.loads(path.read_text())
    del content["settings"][name]
    path.write_text(json.dumps(content))
    assert fault(folder) == f"policy.json: no {name} in its settings"


def test_weights_that_do_not_fit(folder):
    whole = (folder / "policy.safetensors").read_bytes()
    cases = [
        (
            lambda w: w.pop("embed_ln.bias"),
            "embed_ln.bias not at all, these settings make",
        ),
        (lambda w: w.update(extra=torch.zeros(3)), "extra (3,), these settings make it not at all"),
        (lambda w: w.update({"embed_ln.bias": torch.zeros(4, 4)}), "embed_ln.bias (4, 4), these"),
        (lambda w: w["embed_state.weight"].fill_(torch.nan), "embed_state.weight has NaN"),
        (lambda w: w["embed_state.bias"][:1].fill_(torch.inf), "embed_state.bias has NaN or inf"),
        (lambda w: w.update({"embed_ln.bias": torch.zeros(16).half()}), "is torch.float16"),
        (lambda w: w["embed_state.bias"].add_(1e-3), "is not what policy.json was written with"),
    ]
    for change, said in cases:
        (folder / "policy.safetensors").write_bytes(whole)
        edit_weights(folder, change)
        message = fault(folder)
        assert message.startswith("policy.safetensors")
        assert said in message


def test_every_flipped_bit_of_the_weights_is_noticed(folder):
    path = folder / "policy.safetensors"
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(len(whole), size=40).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        fault(folder)


@pytest.fixture
def finished(data_dir, tmp_path, short_horizons):
    assert run(data_dir, tmp_path / "run", *DETERMINISTIC, "--max_online_iters", "1") == 0
    return tmp_path / "run"


def test_runs_whose_policy_cannot_be_had(finished):
    def refused(said, **kwargs):
        with pytest.raises(UserError, match=said) as error:
            policy_of_run(finished, **kwargs)
        assert "\n" not in str(error.value)

    config = finished / "config.json"
    whole = config.read_text()
    config.write_text(whole[:100])
    refused("config.json: damaged")
    config.write_text(whole.replace('"embed_dim": 16', '"embed_dim": 32'))
    refused("embed_action.bias .16,., these settings make it .32,.")
    config.write_text(whole.replace("maze2d-umaze-v1", "maze2d-medium-v1"))
    refused("is of maze2d-umaze-v1, config.json of maze2d-medium-v1")
    config.write_text(whole)

    metrics = finished / "metrics.jsonl"
    rows = metrics.read_text()
    metrics.write_text("nonsense\n" + rows)
    refused("metrics.jsonl: damaged")
    metrics.unlink()
    assert policy_of_run(finished).record["scores"] is None
    metrics.write_text(rows)

    best = finished / "checkpoints" / "best.pt"
    state = read_file(best, "cpu")
    for name in ("trainer", "normalization", "phase"):
        write_verified(best, {k: v for k, v in state.items() if k != name})
        refused(f"not complete .KeyError: '{name}'", best=True)
    write_verified(best, state | {"evaluation": {"x": "y"}})
    refused("not complete .ValueError", best=True)
    state["trainer"]["actor"]["embed_ln.bias"][3] = torch.nan
    write_verified(best, state)
    refused("embed_ln.bias has NaN", best=True)
    best.unlink()
    refused("best.pt: there is no such file", best=True)
    for path in (finished / "checkpoints").iterdir():
        path.unlink()
    refused("there is no checkpoint")


def test_tasks_of_the_table_can_all_be_exported(tmp_path):
    for name, task in TASKS.items():
        save_policy(policy_with(SMALL, task), tmp_path / name)
        assert load_policy(tmp_path / name).task is task
