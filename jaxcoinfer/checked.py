"""Checked mode: a fault in a running program is an error that says what and where, not a number.

By default nothing is checked while compiled code runs: an index beyond an array reads something,
and an action that does not exist does something. `Checked` is an environment that checks its
inputs and its results, `twin` does so for a digital twin, and `raising` compiles a program that
uses them such that the first fault is raised:

    env = Checked(env)
    step = raising(jax.vmap(env.step, (0, 0, None)))

Any program that uses a checked environment must go through `raising`, and may then `jit`, `vmap`,
`scan` and train. The plain environment knows nothing of this and pays nothing for it. `raising`
also finds any index beyond an array; rows and slots are checked besides, since the end of a row
lies within the array that holds all rows. Results are the same up to rounding: a check may keep the
compiler from joining a product and a sum.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from jaxcoinfer.core.contract import TimeStep, Wrapper
from jaxcoinfer.systems.fleet.env import FleetAction, FleetState
from jaxcoinfer.systems.stopping.state import State as StoppingState
from jaxcoinfer.systems.stopping.twin.workload import Replay


class CheckFailed(ValueError):
    """Something was wrong while a program ran; the message is one line that says what and where."""


def raising(function: Callable) -> Callable:
    """Returns `function`, compiled, that raises CheckFailed at the first fault in it."""
    compiled = jax.jit(
        checkify.checkify(function, errors=checkify.user_checks | checkify.index_checks)
    )

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        error, result = compiled(*arguments)
        message = error.get()
        if message is not None:
            raise CheckFailed(" ".join(message.split("(`check` failed)")[0].split()))
        return result

    return call


@dataclass(frozen=True)
class Checked(Wrapper):
    """`env`, one of `stopping`, `on-demand` or `fleet`, with the same contract; a fault is an
    error.

    Before a step: a state outside the trace; an action that does not exist or is invalid. After
    it: a state, or an upload, that ends past the trace; an observation, a reward or an outcome that
    is not finite. An environment that is done, and an absent device of a fleet, takes any action
    that exists. Wrappers go around it: `Stacked(Checked(env), 8)`.
    """

    def __getattr__(self, name: str) -> Any:
        # What an environment has beyond the contract. Copying reads these names before there is an
        # environment.
        if name.startswith("_") or name == "env":
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, key: jax.Array, params: Any) -> tuple[Any, TimeStep]:
        """Starts as `env` does; consumes the key."""
        state, timestep = self.env.reset(key, params)
        self._check_after("reset", state, timestep, params)
        return state, timestep

    def reset_at(self, row: jax.Array, slot: jax.Array, params: Any) -> tuple[Any, TimeStep]:
        """Starts at a slot of a row, as `env` does."""
        _check_place(f"{type(self.env).__name__}.reset_at", row, slot, params)
        state, timestep = self.env.reset_at(row, slot, params)
        self._check_after("reset_at", state, timestep, params)
        return state, timestep

    def step(self, state: Any, action: Any, params: Any) -> tuple[Any, TimeStep]:
        """Steps `env`."""
        where = f"{type(self.env).__name__}.step"
        _check_place(where, state.row, state.slot, params)
        choice = action.choice if isinstance(action, FleetAction) else action
        _check_choice(where, state, choice, self.env.mask(state, params), params)
        _check_finite(f"{where}: action", action, ~state.done, state)
        following, timestep = self.env.step(state, action, params)
        self._check_after("step", following, timestep, params)
        return following, timestep

    def _check_after(self, what: str, state: Any, timestep: TimeStep, params: Any) -> None:
        where = f"{type(self.env).__name__}.{what}"
        _check_place(f"{where}: after it", state.row, state.slot, params)
        if isinstance(state, StoppingState):
            free = state.hidden.radio_free
            _check_end(f"{where}: the upload", state.row, free, params)
        _check_finite(f"{where}: observation", timestep.observation, True, state)
        _check_finite(f"{where}: reward", timestep.reward, True, state)
        _check_finite(f"{where}: outcome", timestep.outcome, timestep.outcome.finished, state)


def twin(function: Callable) -> Callable:
    """Returns `evaluate` or `forecast` of a digital twin that checks its arguments and its result.

    A state that is done or lies outside the trace, an invalid choice of a fleet, an upload that
    ends past the trace, and NaN are errors. Minus or plus infinity is how twins mark an invalid
    choice.
    """
    signature = inspect.signature(function)
    where = f"{function.__module__.removeprefix('jaxcoinfer.systems.')}.{function.__name__}"

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        named = signature.bind(*arguments).arguments
        state, params = named["state"], named["params"]
        _check_place(where, state.row, state.slot, params)
        text = (
            f"{where}: the state at slot {{slot}} of row {{row}} has ended; ask about one that "
            "has not"
        )
        checkify.check(~state.done, text, slot=state.slot, row=state.row)
        if "action" in named:
            mask = jnp.broadcast_to(params.valid, (*named["action"].shape, *params.valid.shape))
            _check_choice(where, state, named["action"], mask, params)
        result = function(*arguments)
        if isinstance(result, Replay):
            _check_end(f"{where}: an upload", state.row, result.uploads.end.max(), params)
            _check_end(f"{where}: the task", state.row, result.end.slot, params)
        _check_finite(f"{where}: result", result, True, state, jnp.isnan)
        return result

    return call


def _check_place(where: str, row: jax.Array, slot: jax.Array, params: Any) -> None:
    """A place inside the bank; slot T may be read."""
    rows, last = params.bank.n_rows, params.bank.n_slots
    text = (
        f"{where}: slot {{slot}} of row {{row}} lies outside the trace, {rows} rows of slots 0 to "
        f"{last}"
    )
    inside = (row >= 0) & (row < rows) & (slot >= 0) & (slot <= last)
    checkify.check(inside, text, slot=slot, row=row)


def _check_end(where: str, row: jax.Array, end: jax.Array, params: Any) -> None:
    text = (
        f"{where} of row {{row}} ends at slot {{end}}, past the trace, which ends at "
        f"{params.bank.n_slots}"
    )
    checkify.check(end <= params.bank.n_slots, text, row=row, end=end)


def _check_choice(where: str, state: Any, choice: jax.Array, mask: jax.Array, params: Any) -> None:
    """Choices [...] that mask [..., A] allows; those of absent devices and of environments that are
    done need only exist.
    """
    counts = jnp.broadcast_to(~state.done, choice.shape)
    if isinstance(state, FleetState):
        counts = counts & state.now.active
    last = mask.shape[-1] - 1
    exists = (choice >= 0) & (choice <= last)
    allowed = jnp.take_along_axis(mask, jnp.clip(choice, 0, last)[..., None], axis=-1)[..., 0]
    at = "slot {slot} of row {row}" + (", device {device}" if choice.ndim else "")
    faults = (
        (~exists, f"does not exist, there are 0 to {last}"),
        (exists & ~allowed & counts, "is not valid"),
    )
    for fault, what in faults:
        wrong = fault.reshape(-1)
        first = jnp.argmax(wrong).astype(jnp.int32)
        named = {"choice": choice.reshape(-1)[first], "slot": state.slot, "row": state.row}
        named |= {"device": first} if choice.ndim else {}
        checkify.check(~wrong.any(), f"{where}: action {{choice}} at {at} {what}", **named)


def _check_finite(
    where: str, tree: Any, counts: Any, state: Any, fault: Callable = lambda x: ~jnp.isfinite(x)
) -> None:
    """Floats of a tree without a fault where `counts`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            wrong = (fault(leaf) & counts).reshape(-1)
            text = (
                f"{where}{jax.tree_util.keystr(path)} is {{value}} at slot {{slot}} of row {{row}}"
            )
            named = {
                "value": leaf.reshape(-1)[jnp.argmax(wrong)],
                "slot": state.slot,
                "row": state.row,
            }
            checkify.check(~wrong.any(), text, **named)
