"""A straightforward implementation of TD3+ODT, the baseline of bench_plain.py.

It is written like published programs, but is none of them:

- `transformers.GPT2Model` with eager attention, under PyTorch's defaults;
- all 3K tokens go through all blocks, and the state and return heads are computed;
- Q networks are evaluated one after another;
- optimisers and target averaging loop over tensors;
- each update reads its loss back to the host;
- for acting, histories are padded to K steps.

A test checks that it computes the same numbers as the training code.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Model

from build_networks import GRADIENT_CLIP, LAMB_GRADIENT_BOUND
from critic import CriticConfig
from decision_transformer import TransformerSize
from decision_transformer.gpt2 import GPT2Decoder
from get_args import Settings
from trainer import CRITIC_WEIGHT_DECAY
from trajectories import Batch, clamp_action

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


class PlainTransformer(nn.Module):
    """A deterministic decision transformer around GPT2Model, without position embeddings."""

    def __init__(self, obs_dim: int, act_dim: int, size: TransformerSize) -> None:
        super().__init__()
        config = size.gpt2_config()
        config._attn_implementation = "eager"
        self.transformer = GPT2Model(config)
        for unused in (self.transformer.wpe, self.transformer.wte):
            nn.init.zeros_(unused.weight.requires_grad_(False))
        self.embed_return = nn.Linear(1, size.embed_dim)
        self.embed_state = nn.Linear(obs_dim, size.embed_dim)
        self.embed_action = nn.Linear(act_dim, size.embed_dim)
        self.embed_ln = nn.LayerNorm(size.embed_dim)
        self.predict_state = nn.Linear(size.embed_dim, obs_dim)
        self.predict_return = nn.Linear(size.embed_dim, 1)
        self.predict_action = nn.Sequential(nn.Linear(size.embed_dim, act_dim), nn.Tanh())

    def forward(self, states: Tensor, actions: Tensor, rtg: Tensor, mask: Tensor | None) -> Tensor:
        """(B, K, act_dim) actions; arguments as in `DecisionTransformer.forward`."""
        batch, steps = states.shape[:2]
        kinds = self.embed_return(rtg), self.embed_state(states), self.embed_action(actions)
        tokens = self.embed_ln(torch.stack(kinds, dim=2).reshape(batch, 3 * steps, -1))
        keep = None if mask is None else mask.long().repeat_interleave(3, dim=1)
        hidden = self.transformer(inputs_embeds=tokens, attention_mask=keep, use_cache=False)[0]
        _, at_state, at_action = hidden.reshape(batch, steps, 3, -1).unbind(2)
        self.predict_state(at_action), self.predict_return(at_action)
        return self.predict_action(at_state)


def q_network(inputs: int, width: int) -> nn.Sequential:
    """One Q network without LayerNorm."""
    hidden = nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(width, 1))


class PlainTD3:
    """Deterministic TD3+ODT with the settings' sizes and rates."""

    def __init__(
        self,
        settings: Settings,
        obs_dim: int,
        act_dim: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings
        size = TransformerSize(
            settings.embed_dim,
            settings.n_layer,
            settings.n_head,
            settings.activation_function,
            settings.dropout,
        )
        self.actor = PlainTransformer(obs_dim, act_dim, size).to(device)
        width = CriticConfig().hidden_dim
        networks = [q_network(obs_dim + act_dim, width) for _ in range(2)]
        self.critics = nn.ModuleList(networks).to(device)
        self.critic_optimizer = torch.optim.AdamW(
            self.critics.parameters(),
            lr=settings.critic_learning_rate,
            weight_decay=CRITIC_WEIGHT_DECAY,
            foreach=False,
        )
        self.moments: dict[Tensor, tuple[Tensor, Tensor]] = {}
        self.updates = 0
        self.start_phase()

    def start_phase(self) -> None:
        """Create the target networks."""
        self.actor_target = copy.deepcopy(self.actor).eval()
        self.critic_targets = copy.deepcopy(self.critics)

    def load(self, actor: nn.Module, critic: nn.Module) -> None:
        """Copy the weights of the program's networks, and recreate the target networks."""
        decoder = actor.get_submodule("transformer")
        if not isinstance(decoder, GPT2Decoder):
            raise TypeError("the actor is not a decision transformer")
        state = {k: x for k, x in actor.state_dict().items() if not k.startswith("transformer.")}
        state |= {f"transformer.{k}": x for k, x in decoder.gpt2_state_dict().items()}
        self.actor.load_state_dict(state)
        stacked = critic.state_dict()
        for i, network in enumerate(self.critics):
            for j, layer in enumerate(m for m in network.modules() if isinstance(m, nn.Linear)):
                layer.weight.data.copy_(stacked[f"q_net.layers.{j}.weight"][i])
                layer.bias.data.copy_(stacked[f"q_net.layers.{j}.bias"][i, 0])
        self.start_phase()

    def update_critic(self, batch: Batch) -> float:
        """One step on the critics' loss; returns the loss."""
        s = self.settings
        with torch.no_grad():
            actions = torch.cat([batch.actions[:, 1:], torch.zeros_like(batch.actions[:, :1])], 1)
            action = self.actor_target(batch.next_states, actions, batch.rtg[:, 1:], None)
            noise = torch.randn_like(action) * s.TD3_policy_noise
            action = clamp_action(action + noise.clamp(-s.TD3_noise_clip, s.TD3_noise_clip))
            next_q = [q(torch.cat([batch.next_states, action], -1)) for q in self.critic_targets]
            smallest = torch.min(*next_q)[..., 0]
            target = batch.rewards + s.gamma * (1 - batch.dones) * smallest
        values = [q(torch.cat([batch.states, batch.actions], -1))[..., 0] for q in self.critics]
        loss = torch.stack([((q - target) ** 2 * batch.mask).mean() for q in values]).sum()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return loss.item()

    def update_actor(self, batch: Batch) -> float:
        """One step on the actor's loss, then on the targets; returns the loss."""
        s = self.settings
        action = self.actor(batch.states, batch.actions, batch.rtg[:, :-1], batch.mask)
        imitation = F.mse_loss(action[batch.mask], batch.actions[batch.mask])
        q = self.critics[0](torch.cat([batch.states, action], -1))[batch.mask]
        loss = s.actor_sup_coeff * imitation - s.actor_rl_coeff * q.mean()
        self.actor.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.actor.parameters(), GRADIENT_CLIP, foreach=False)
        self._step_lamb()
        self._move_targets()
        return loss.item()

    @torch.no_grad()
    def _step_lamb(self) -> None:
        """One step of `lamb.Lamb`, tensor by tensor."""
        s, self.updates = self.settings, self.updates + 1
        grads = {p: p.grad for p in self.actor.parameters() if p.grad is not None}
        norm = math.sqrt(sum(grad.square().sum().item() for grad in grads.values()))
        for p, grad in grads.items():
            m, v = self.moments.setdefault(p, (torch.zeros_like(p), torch.zeros_like(p)))
            grad = grad / max(norm / LAMB_GRADIENT_BOUND, 1.0)
            m.mul_(_BETA1).add_(grad, alpha=1 - _BETA1)
            v.mul_(_BETA2).addcmul_(grad, grad, value=1 - _BETA2)
            first = m / (1 - _BETA1**self.updates)
            second = v / (1 - _BETA2**self.updates)
            step = first / (second.sqrt() + _EPS) + s.weight_decay * p
            sizes = p.norm().item(), step.norm().item()
            trust = sizes[0] / sizes[1] if all(sizes) else 1.0
            rate = s.learning_rate * min(self.updates / s.warmup_steps, 1.0)
            p.add_(step, alpha=-rate * trust)

    @torch.no_grad()
    def _move_targets(self) -> None:
        tau = self.settings.TD3_tau
        pairs = (self.actor, self.actor_target), (self.critics, self.critic_targets)
        for trained, target in pairs:
            for fast, slow in zip(trained.parameters(), target.parameters(), strict=True):
                slow.copy_(tau * fast + (1 - tau) * slow)

    @torch.no_grad()
    def act(self, states: Tensor, actions: Tensor, rtg: Tensor, context: int) -> Tensor:
        """The actions for n histories.

        Args:
            states, actions, rtg: (n, T, obs_dim), (n, T, act_dim), (n, T, 1).
            context: Number of last steps to use, at most K.

        Returns:
            (n, act_dim)
        """
        steps = self.settings.K
        states, actions, rtg = states[:, -context:], actions[:, -context:], rtg[:, -context:]
        missing = steps - states.shape[1]
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        padded = [F.pad(x, (0, 0, missing, 0)) for x in (states, actions, rtg)]
        action = self.actor(*padded, F.pad(mask, (missing, 0)))[:, -1]
        return clamp_action(action)
