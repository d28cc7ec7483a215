"""Checks of numbers: what passes, and the one line that says what is wrong."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcoinfer.core import checks

FINE = [
    lambda: checks.require_shape("x", np.zeros((2, 3)), (2, 3)),
    lambda: checks.require_finite("x", np.array([0.0, 1.0])),
    lambda: checks.require_finite("x", np.array([1e-9]), above=True),
    lambda: checks.require_shares("x", np.array([0.0, 1.0])),
    lambda: checks.require_running_sum("x", np.array([0.0, 0.0, 2.0])),
    lambda: checks.require_range("x", jnp.array([0.0, 1.0]), 0.0, 1.0, "0 to 1"),
    lambda: checks.require_range("x", jnp.array([1e-30]), 0.0, np.inf, "above 0", above=True),
    lambda: checks.require_least("x", 0, 0),
    lambda: checks.require_index("x", jnp.array([0, 2]), 3, "kinds"),
]
WRONG = [
    (
        lambda: checks.require_shape("x", np.zeros(2), (3,), ", as y"),
        "x: shape (2,); must be (3,), as y.",
    ),
    (
        lambda: checks.require_finite("x", np.array([np.nan])),
        "x: [nan]; every number must be finite and at least 0.",
    ),
    (
        lambda: checks.require_finite("x", np.array([0.0]), above=True),
        "x: [0.]; every number must be finite and above 0.",
    ),
    (
        lambda: checks.require_shares("x", np.array([0.5, 1.5])),
        "x: 1.5 is the largest; allowed: 0 to 1.",
    ),
    (
        lambda: checks.require_shares("x", np.array([0.5, 1.5]), whole=True),
        "x: [0.5 1.5]; allowed: 0 to 1.",
    ),
    (
        lambda: checks.require_running_sum("x", np.array([1.0, 0.0])),
        "x: [1. 0.]; must not fall from a cut to the next: a running sum.",
    ),
    (
        lambda: checks.require_range("x", jnp.array([0.0, 2.0]), 0.0, 1.0, "0 to 1"),
        "x: from 0.0 to 2.0; allowed: 0 to 1.",
    ),
    (
        lambda: checks.require_range("x", jnp.array([0.0]), 0.0, np.inf, "above 0", above=True),
        "x: from 0.0 to 0.0; allowed: above 0.",
    ),
    (
        lambda: checks.require_range("x", jnp.array([jnp.inf]), 0.0, np.inf, "finite"),
        "x: from inf to inf; allowed: finite.",
    ),
    (
        lambda: checks.require_range("x", jnp.array([1.0, jnp.nan]), 0.0, 1.0, "0 to 1"),
        "x: from nan to nan; allowed: 0 to 1.",
    ),
    (
        lambda: checks.require_least("x", -1, 0, where=" of the bank"),
        "x: -1 is the least of the bank; allowed: at least 0.",
    ),
    (
        lambda: checks.require_least("x", 0.0, 0, above=True),
        "x: 0.0 is the least; allowed: above 0.",
    ),
    (
        lambda: checks.require_index("x", jnp.array([0, 3]), 3, "kinds"),
        "x: up to 3; there are 3 kinds.",
    ),
]


@pytest.mark.parametrize("check", FINE)
def test_good_numbers_pass(check):
    check()


@pytest.mark.parametrize(("check", "message"), WRONG)
def test_bad_numbers_are_named_with_what_is_allowed(check, message):
    with pytest.raises(ValueError) as error:
        check()
    assert str(error.value) == message
