"""Prefix sums against plain loops, their exactness on long rows, and the generators against their
laws.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxcoinfer.core import generators
from jaxcoinfer.data import processes
from jaxcoinfer.physics.queueing import excess_left_s
from jaxcoinfer.systems.stopping.exogenous import (
    ARRIVED,
    ARRIVED_SUM,
    BACKLOG,
    BITS,
    BITS_SUM,
    IDLE,
    MAX_SLOTS,
    SPEED,
    SPEED_ONE,
    TICKS,
    UPLOADS,
    Bank,
    Draw,
    arrival,
    concatenate,
    make_bank,
    slot_at,
    upload_slots,
    upload_table,
    with_uploads,
)

T = 40  # slots of a small row; one shape, so that nothing is compiled again for another example
INT32 = 2**31 - 1


def draw_of(
    arrivals: np.ndarray | None = None,
    edge_work: np.ndarray | None = None,
    slot_bits: np.ndarray | None = None,
    speed: np.ndarray | None = None,
) -> Draw:
    given_ = [x for x in (arrivals, edge_work, slot_bits, speed) if x is not None]
    shape = np.shape(given_[0])

    def field(values: np.ndarray | None, default: float, dtype: Any):
        return jnp.asarray(np.full(shape, default) if values is None else values, dtype)

    return Draw(
        field(arrivals, 0, jnp.int32),
        field(edge_work, 0, jnp.int32),
        field(slot_bits, 1, jnp.int32),
        field(slot_bits, 1, jnp.int32),
        field(speed, 1.0, jnp.float32),
    )


def columns(draw: Draw) -> np.ndarray:
    return np.asarray(make_bank(draw).slots)


def rows(low: int, high: int):
    return hnp.arrays(np.int64, (2, T), elements=st.integers(low, high))


# --- prefix sums ----------------------------------------------------------------------------------


@given(rows(0, 3), rows(0, 4 * TICKS), rows(0, INT32), rows(1, 8))
@settings(max_examples=60)
def test_a_bank_is_the_plain_loop(
    arrivals: np.ndarray, work: np.ndarray, bits: np.ndarray, eighths: np.ndarray
):
    slots = columns(draw_of(arrivals, work, bits, eighths / 8)).astype(np.int64)
    for k in range(2):
        arrived = arrived_sum = backlog = idle = sent = 0
        for t in range(T + 1):
            now = min(t, T - 1)  # what is not known of slot T itself is that of the slot before
            arrived += int(arrivals[k, t]) if t < T else 0
            assert slots[k, t, ARRIVED] == arrived
            assert slots[k, t, ARRIVED_SUM] == arrived_sum
            assert slots[k, t, BACKLOG] == backlog
            assert slots[k, t, IDLE] == idle
            assert slots[k, t, BITS] == bits[k, now]
            assert (slots[k, t, BITS_SUM] - sent) % 2**32 == 0
            assert slots[k, t, SPEED] == eighths[k, now] * SPEED_ONE // 8
            arrived_sum += arrived
            idle += max(TICKS - backlog, 0)
            backlog = max(backlog - TICKS, 0) + int(work[k, now])
            sent += int(bits[k, now])


@given(rows(0, 1))
@settings(max_examples=30)
def test_arrival_slots_are_the_plain_list(arrivals: np.ndarray):
    bank = make_bank(draw_of(arrivals))
    for k in range(2):
        at = [t for t in range(T) for _ in range(arrivals[k, t])]
        got = [int(x) for x in bank.arrival_slot[k]]
        assert got == at + [T + 1] * (len(got) - len(at))
        if at:
            assert int(arrival(bank, jnp.int32(k), jnp.int32(0))) == at[0]
        assert int(arrival(bank, jnp.int32(k), jnp.int32(len(at)))) == T + 1  # no more: never


def test_several_arrivals_in_a_slot_have_the_same_slot():
    arrivals = np.zeros((2, T), np.int64)
    arrivals[:, [3, 4, 9]] = [2, 1, 3]
    bank = make_bank(draw_of(arrivals))
    np.testing.assert_array_equal(bank.arrival_slot[0, :7], [3, 3, 4, 9, 9, 9, T + 1])


def test_look_returns_the_record_of_a_row_and_slot():
    rng = np.random.default_rng(0)
    draw = draw_of(
        rng.integers(0, 2, (2, T)), rng.integers(0, 2000, (2, T)), rng.integers(0, 99, (2, T))
    )
    bank = make_bank(draw)
    assert (bank.n_rows, bank.n_slots) == (2, T)
    row, slot = jnp.asarray([0, 1, 1], jnp.int32), jnp.asarray([5, 0, T], jnp.int32)
    record = slot_at(bank, row, slot)
    names = (
        "arrived",
        "arrived_sum",
        "backlog",
        "idle",
        "bits",
        "bits_sum",
        "speed",
    )  # in the order of the columns
    got = np.stack([getattr(record, name) for name in names], axis=-1)
    np.testing.assert_array_equal(
        got, np.asarray(bank.slots)[np.asarray(row), np.asarray(slot), : SPEED + 1]
    )
    assert record.idle.dtype == jnp.int32


def test_rows_of_several_draws_join():
    one, two = draw_of(np.ones((1, T)), np.full((1, T), 7)), draw_of(np.zeros((2, T)))
    joined = concatenate([one, two])
    for field, leaf in vars(joined).items():
        np.testing.assert_array_equal(
            leaf, np.concatenate([getattr(one, field), getattr(two, field)])
        )


def test_a_row_that_is_too_long_is_refused():
    shape = jax.ShapeDtypeStruct((1, MAX_SLOTS + 1), jnp.int32)
    speed = jax.ShapeDtypeStruct((1, MAX_SLOTS + 1), jnp.float32)
    with pytest.raises(ValueError, match=r"a row has 1048577 slots; at most 1048576 are exact"):
        jax.eval_shape(make_bank, Draw(shape, shape, shape, shape, speed))


# --- the queue that is shared ---------------------------------------------------------------------


@given(
    rows(0, 3 * TICKS),
    st.lists(st.tuples(st.integers(0, T), st.integers(0, 9 * TICKS)), max_size=8),
)
@settings(max_examples=100)
def test_own_excess_is_that_of_the_slot_by_slot_queue(
    work: np.ndarray, jobs: list[tuple[int, int]]
):
    # One real queue, drained a slot at a time, into which our jobs fall at the start of their
    # slots; in ticks, so that float32 holds every number and both must be equal. The formula only
    # sees our jobs, one after another.
    slots = columns(draw_of(edge_work=work))[0].astype(np.int64)
    jobs = sorted(jobs)
    total, totals, left = 0, [], list(jobs)
    for t in range(T + 1):
        while left and left[0][0] == t:
            totals.append(total)  # what this job finds on its arrival
            total += left.pop(0)[1]
        total = max(total - TICKS, 0) + (int(work[0, t]) if t < T else 0)
    excess, since = 0.0, 0
    found = []
    for t, size in jobs:
        idle = slots[t, IDLE] - slots[since, IDLE]
        excess = float(excess_left_s(jnp.float32(excess), jnp.float32(idle)))
        found.append(slots[t, BACKLOG] + excess)
        excess, since = excess + size, t
    assert found == totals


def test_own_excess_by_hand():
    # 3 s of ours; the others leave 1.25 s idle, then 2 s: 1.75 s are left, then none (never less).
    np.testing.assert_allclose(
        excess_left_s(jnp.float32(3.0), jnp.asarray([0.0, 1.25, 3.25])), [3.0, 1.75, 0.0]
    )


# --- uploads --------------------------------------------------------------------------------------

SIZES = (0, 1, 50, 700, INT32)


@given(
    hnp.arrays(
        np.int64, (2, T), elements=st.one_of(st.just(0), st.integers(0, 100), st.integers(0, INT32))
    ),
    st.lists(st.integers(0, 2000), min_size=len(SIZES), max_size=len(SIZES)),
)
@settings(max_examples=80)
def test_upload_table_is_the_plain_search(bits: np.ndarray, sizes: list[int]):
    sizes = [*sizes[:-1], SIZES[-1]]  # also the largest upload there can be
    got = np.asarray(upload_table(jnp.asarray(bits, jnp.int32), jnp.asarray(sizes, jnp.int32)))
    for k in range(2):
        for begin in range(T + 1):
            for p, size in enumerate(sizes):
                slots, sent = 0, 0
                while sent < size and begin + slots < T:
                    sent += int(bits[k, begin + slots])
                    slots += 1
                assert got[k, begin, p] == (slots if sent >= size else T + 1)


def test_upload_table_by_hand():
    # 100 bits: slot 0 carries 60, slots 1 to 4 nothing, slot 5 carries 40 and slot 6 the rest.
    bits = np.zeros((2, T), np.int64)
    bits[:, -7:] = [60, 0, 0, 0, 0, 40, 60]
    got = np.asarray(
        upload_table(jnp.asarray(bits, jnp.int32), jnp.asarray([0, 60, 100, 160, 161], jnp.int32))
    )
    got = got[1, -8:]
    never = T + 1
    np.testing.assert_array_equal(got[:, 0], 0)  # nothing to send takes no time, in an outage too
    # 60 bits: 1 from slot 0; from 1 to 5 they take slots 5 and 6 (40 + 60 >= 60); from 6 one slot;
    # 7 is the end.
    np.testing.assert_array_equal(got[:, 1], [1, 6, 5, 4, 3, 2, 1, never])
    np.testing.assert_array_equal(got[:, 2], [6, 6, 5, 4, 3, 2, never, never])
    # All there is, and a bit more.
    np.testing.assert_array_equal(got[:2, 3:], [[7, never], [never, never]])


@pytest.mark.parametrize("rate", [3, 2_000_003, 1_000_000_007])
def test_upload_table_of_a_row_that_carries_more_bits_than_an_int32_counts(rate: int):
    # 2**10 slots of up to 1 Gbit: 4 * 10**11 bits, 190 times the int32. Outages of 100 slots in
    # every 500.
    slots = np.arange(2**10)
    rng = np.random.default_rng(rate)
    bits = rng.integers(0, rate, len(slots)) * (slots % 500 >= 100)
    sizes = np.minimum([0, rate, 17 * rate, 300 * rate], INT32)
    got = np.asarray(
        upload_table(jnp.asarray(bits[None], jnp.int32), jnp.asarray(sizes, jnp.int32))
    )[0]
    sums = np.concatenate([[0], np.cumsum(bits)])  # int64
    # The first slot at which enough has been sent, if any.
    ends = np.searchsorted(sums, sums[:, None] + sizes)
    begins = np.arange(len(sums))[:, None]
    ends = np.maximum(ends, begins)  # size 0 in an outage: the search finds the outage's first slot
    np.testing.assert_array_equal(got, np.where(ends <= len(slots), ends - begins, len(slots) + 1))


def test_a_bank_with_uploads_holds_what_each_upload_meets():
    rng = np.random.default_rng(1)
    draw = draw_of(
        edge_work=rng.integers(0, 3 * TICKS, (2, T)), slot_bits=rng.integers(0, 2, (2, T)) * 90
    )
    plain = make_bank(draw)
    slots = upload_table(draw.slot_bits, jnp.asarray([0, 50, 200, 400, 4000], jnp.int32))
    bank = with_uploads(plain, slots)
    assert (bank.n_rows, bank.n_slots) == (2, T)
    np.testing.assert_array_equal(upload_slots(bank, 5), slots)
    before, after, slots = np.asarray(plain.slots), np.asarray(bank.slots), np.asarray(slots)
    np.testing.assert_array_equal(after[..., :UPLOADS], before[..., :UPLOADS])
    for k in range(2):
        for begin in range(T + 1):
            for p in range(5):
                # An upload that does not end meets what is there at the end.
                end = min(begin + slots[k, begin, p], T)
                met = after[k, begin, UPLOADS + 3 * p : UPLOADS + 3 * p + 3]
                assert list(met) == [
                    slots[k, begin, p],
                    before[k, end, BACKLOG],
                    before[k, end, IDLE],
                ]


def test_a_bank_too_large_for_32_bit_places_is_refused():
    bank = Bank(
        jax.ShapeDtypeStruct((100, MAX_SLOTS + 1, 8), jnp.int32),
        jax.ShapeDtypeStruct((100, MAX_SLOTS + 1), jnp.int32),
    )
    slots = jax.ShapeDtypeStruct((100, MAX_SLOTS + 1, 5), jnp.int32)
    # 100 * 1,048,577 * 24 columns = 2.5 * 10**9 places
    with pytest.raises(
        ValueError, match=r"100 rows of 1048576 slots is too large.*Use fewer or shorter rows"
    ):
        jax.eval_shape(with_uploads, bank, slots)


# --- exactness on long rows -----------------------------------------------------------------------


def long_draw(n: int):
    """Load .9, 0.5 tasks a slot, up to 20 Mbit a slot (2 Gbit/s in slots of 10 ms): every sum is
    large.
    """
    rng = np.random.default_rng(n)
    work = (rng.random((1, n)) < 0.09) * rng.integers(0, 20 * TICKS, (1, n))
    return (rng.random((1, n)) < 0.5).astype(np.int64), work, rng.integers(0, 20_000_000, (1, n))


@pytest.mark.parametrize("n", [10**3, 10**4, 10**5, MAX_SLOTS])
def test_differences_are_exact_however_long_the_row(n: int):
    arrivals, work, bits = long_draw(n)
    slots = columns(draw_of(arrivals, work, bits))[0]
    backlog, idle = lindley(work[0])
    arrived = np.cumsum(arrivals[0])
    arrived_sum = np.concatenate([[0], np.cumsum(arrived)])
    sent = np.concatenate([[0], np.cumsum(bits[0])])
    np.testing.assert_array_equal(slots[:, BACKLOG], backlog)
    np.testing.assert_array_equal(slots[:, IDLE], idle)
    np.testing.assert_array_equal(slots[:-1, ARRIVED], arrived)
    # Differences over 1, 10 and 100 slots, from anywhere in the row, in int32 under wrap-around.
    for apart in (1, 10, 100):
        with np.errstate(over="ignore"):
            for column, true in ((BITS_SUM, sent), (ARRIVED_SUM, arrived_sum)):
                got = slots[apart:, column] - slots[:-apart, column]
                want = true[apart:] - true[:-apart]
                fits = want <= INT32
                assert fits.mean() > 0.9
                np.testing.assert_array_equal(got[fits], want[fits])
    # What is tested is not trivial: the sums wrap around, and float32 sums would lose the digits.
    if n == MAX_SLOTS:
        assert sent[-1] > 2**43 and arrived_sum[-1] > INT32
        single = sent.astype(np.float32)
        assert np.abs((single[1:] - single[:-1]) - (sent[1:] - sent[:-1])).max() > 100_000


def lindley(work: np.ndarray):
    """`Q[t+1] = max(Q[t] - TICKS, 0) + W[t]` and the idle time, in Python integers."""
    backlog, idle = [0], [0]
    for w in work.tolist():
        q = backlog[-1]
        backlog.append(max(q - TICKS, 0) + w)
        idle.append(idle[-1] + max(TICKS - q, 0))
    return backlog, idle


# --- generators -----------------------------------------------------------------------------------

SHAPE = (4096, 64)  # of all statistics: JAX compiles a generator anew for each shape


@pytest.fixture(autouse=True)
def each_key_is_used_once():
    with jax.debug_key_reuse(True):
        yield


def within(
    values: np.ndarray | jax.Array,
    mean: float,
    independent: str | None = None,
    variance: float | None = None,
):
    """Asserts that the sample mean lies within 4 standard errors of `mean` (seeds are fixed: it
    does or does not).

    independent: the axis along which samples may depend on each other is averaged first, so that
    rows are the sample.
    """
    values = np.asarray(values, np.float64)
    values = values.mean(axis=1) if independent == "rows" else values.ravel()
    spread = np.sqrt(variance) if variance is not None else values.std(ddof=1)
    error = 4 * spread / np.sqrt(values.size)
    assert abs(values.mean() - mean) < error, (values.mean(), mean, error)


def test_bernoulli_and_poisson_arrivals():
    once = generators.bernoulli_arrivals(jax.random.key(0), SHAPE, 0.03)
    assert once.dtype == jnp.int32 and once.shape == SHAPE and set(np.unique(once)) == {0, 1}
    within(once, 0.03, variance=0.03 * 0.97)
    several = np.asarray(generators.poisson_arrivals(jax.random.key(1), SHAPE, 0.7))
    assert several.dtype == np.int32 and several.max() > 3
    within(several, 0.7, variance=0.7)
    # variance = mean; Var[(x-m)^2] = m (1 + 2 m).
    within((several - 0.7) ** 2, 0.7, variance=0.7 * (1 + 2 * 0.7))


def test_every_row_may_have_its_own_mean():
    means = jnp.linspace(0.1, 0.4, SHAPE[0])[:, None]
    for make in (generators.bernoulli_arrivals, generators.poisson_arrivals):
        got = np.asarray(make(jax.random.key(2), SHAPE, means)).mean(axis=1)
        # 4096 rows of 64: the rows whose mean is off by more than 2 standard errors are few, 5 % by
        # the normal law
        error = 2 * np.sqrt(np.asarray(means)[:, 0] / SHAPE[1])
        assert (np.abs(got - np.asarray(means)[:, 0]) > error).mean() < 0.08


@pytest.mark.parametrize("leave", [(0.3, 0.7), (0.02, 0.2), (0.1, 0.05, 0.2, 0.4)])
def test_markov_states_have_their_stationary_law_from_the_first_slot(leave: tuple[float, ...]):
    states = np.asarray(
        generators.markov_states(jax.random.key(3), SHAPE, jnp.asarray(leave, jnp.float32))
    )
    assert states.dtype == np.int32
    # pi_i leave_i is the same for all i, because each state is left for all others alike: pi ~ 1 /
    # leave
    law = (1 / np.array(leave)) / (1 / np.array(leave)).sum()
    for i, p in enumerate(law):
        within(states[:, 0] == i, p)
        within(states[:, -1] == i, p)
        within(states == i, p, independent="rows")
        here = states[:, :-1] == i
        left = (states[:, 1:] != i) & here
        assert abs(left.sum() / here.sum() - leave[i]) < 4 * np.sqrt(leave[i] / here.sum())
        for j in range(len(leave)):  # all others alike
            if j != i:
                share = (left & (states[:, 1:] == j)).sum() / left.sum()
                assert abs(share - 1 / (len(leave) - 1)) < 4 / np.sqrt(left.sum())


def test_mmpp_is_bursty_with_the_right_mean():
    means, leave = (0.02, 0.6), (0.01, 0.04)
    got = np.asarray(
        generators.mmpp_arrivals(jax.random.key(4), SHAPE, jnp.asarray(means), jnp.asarray(leave)),
        np.float64,
    )
    # pi = (.8, .2): mean = .8 * .02 + .2 * .6 = .136
    within(got, 0.136, independent="rows")
    # Counts of lag k have covariance pi0 pi1 (m1 - m0)^2 (1 - .05)^k: .8 * .2 * .58^2 * .95^10 =
    # .03222 at k = 10. A Poisson process has none.
    product = (got[:, :-10] - 0.136) * (got[:, 10:] - 0.136)
    within(product, 0.16 * 0.58**2 * 0.95**10, independent="rows")
    # The number in 64 slots varies more than its mean: index of dispersion 1 for Poisson, here
    # several times that.
    counts = got.sum(axis=1)
    assert counts.var() / counts.mean() > 3


def test_gilbert_elliott_outages():
    rate = processes.ConstantRate(1e5, (0.01, 0.09))  # 1000 bits in .01 s
    link = generators.link(jax.random.key(5), SHAPE, rate, 0.01, "train")
    got = np.asarray(link.bits)
    # The slot before is what is known of a slot.
    np.testing.assert_array_equal(np.asarray(link.observed_bits)[:, 1:], got[:, :-1])
    assert set(np.unique(got)) == {0, 1000}
    within(got == 0, 0.1, independent="rows")  # .01 / (.01 + .09)
    # An outage lasts 1 / .09 slots in the mean: an outage slot is followed by another with
    # probability .91.
    out = got == 0
    stays = (out[:, 1:] & out[:, :-1]).sum() / out[:, :-1].sum()
    assert abs(stays - 0.91) < 4 * np.sqrt(0.91 * 0.09 / out[:, :-1].sum())


@pytest.mark.parametrize("jobs", ["uniform", "exponential"])
@pytest.mark.parametrize("load", [0.3, 0.9])
def test_batch_work_has_the_mean_and_variance_of_a_compound_poisson_law(jobs: str, load: float):
    job_s, slot_s = 0.05, 0.01
    got = generators.poisson_batch_work(jax.random.key(6), SHAPE, load, job_s, slot_s, jobs)
    assert got.dtype == jnp.int32 and int(got.min()) >= 0
    work_s = np.asarray(got, np.float64) * slot_s / TICKS
    within(work_s, load * slot_s)
    # Var = jobs a slot * E[job^2]: uniform(0, b): load slot / (b/2) * b^2/3 = 2/3 load slot b;
    # exponential of mean b: load slot / b * 2 b^2 = 2 load slot b.
    variance = {"uniform": 2 / 3, "exponential": 2}[jobs] * load * slot_s * job_s
    within((work_s - load * slot_s) ** 2, variance)
    rate = load * slot_s / (job_s / 2 if jobs == "uniform" else job_s)
    within(work_s == 0, np.exp(-rate), variance=np.exp(-rate) * (1 - np.exp(-rate)))


def test_batch_work_refuses_an_unknown_law():
    with pytest.raises(
        ValueError, match="jobs 'normal' is unknown; allowed: 'uniform', 'exponential'"
    ):
        generators.poisson_batch_work(jax.random.key(0), (1, 8), 0.5, 0.1, 0.01, "normal")


def test_work_in_ticks():
    # 10 ms are 1024 ticks; 5 ms 512; 0.1 ms 10.24, so 10
    np.testing.assert_array_equal(
        generators.to_ticks(jnp.asarray([0.01, 0.005, 1e-4]), 0.01), [1024, 512, 10]
    )


def test_constant_bits():
    got = generators.constant_bits((2, 5), 126e6, 0.01)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, np.full((2, 5), 1_260_000))


def shannon_bits_per_hz(snr_db: float, shadowing_db: float):
    """E[log2(1 + snr 10^(X/10) h)], X normal, h exponential of mean 1, on a grid of midpoints of
    both laws.
    """
    h = -np.log1p(-(np.arange(20_000) + 0.5) / 20_000)
    if shadowing_db == 0:
        return np.log2(1 + 10 ** (snr_db / 10) * h).mean()
    x = np.linspace(-6, 6, 401)
    weight = np.exp(-(x**2) / 2) / np.exp(-(x**2) / 2).sum()
    snr = 10 ** ((snr_db + shadowing_db * x) / 10)
    return (weight * np.log2(1 + snr[:, None] * h[None]).mean(axis=1)).sum()


@pytest.mark.parametrize(("snr_db", "shadowing_db"), [(10.0, 0.0), (3.0, 6.0)])
def test_fading_has_the_mean_rate_of_shannon_and_rayleigh(snr_db: float, shadowing_db: float):
    bandwidth_hz, slot_s, block = 20e6, 0.01, 4
    got = np.asarray(
        generators.fading_bits(
            jax.random.key(7), SHAPE, slot_s, bandwidth_hz, snr_db, shadowing_db, 0.9, block
        )
    )
    assert got.dtype == np.int32 and got.min() >= 0 and got.shape == SHAPE
    within(
        got / (bandwidth_hz * slot_s), shannon_bits_per_hz(snr_db, shadowing_db), independent="rows"
    )
    blocks = got.reshape(SHAPE[0], -1, block)
    assert (blocks == blocks[..., :1]).all()  # constant within a block,
    assert (blocks[:, 1:, 0] != blocks[:, :-1, 0]).mean() > 0.99  # new in the next


def test_a_last_block_may_be_cut():
    got = generators.fading_bits(jax.random.key(7), (2, 10), 0.01, 1e6, 10.0, 0.0, 0.5, 4)
    assert got.shape == (2, 10)


def test_gauss_markov_is_stationary_with_its_deviation_and_memory():
    x = np.asarray(generators.gauss_markov(jax.random.key(8), SHAPE, 0.8, 6.0), np.float64)
    for t in (0, 1, 63):
        within(x[:, t], 0.0, variance=36.0)
        within(x[:, t] ** 2, 36.0, variance=2 * 36.0**2)
    within(x[:, 1:] * x[:, :-1], 0.8 * 36.0, independent="rows")
    within(x[:, 3:] * x[:, :-3], 0.8**3 * 36.0, independent="rows")


def test_markov_speed_takes_the_given_speeds():
    speeds, leave = jnp.asarray([0.5, 1.0, 1.5]), jnp.asarray([0.2, 0.1, 0.4])
    got = np.asarray(generators.markov_speed(jax.random.key(9), SHAPE, speeds, leave))
    assert set(np.unique(got)) == {0.5, 1.0, 1.5} and got.dtype == np.float32
    # pi ~ 5, 10, 2.5 of 17.5: mean = (5 * .5 + 10 * 1 + 2.5 * 1.5) / 17.5 = 16.25 / 17.5
    within(got, 16.25 / 17.5, independent="rows")


LEAVE = np.array([0.1, 0.2], np.float32)
GENERATORS = {
    "bernoulli": lambda key: generators.bernoulli_arrivals(key, SHAPE, 0.5),
    "poisson": lambda key: generators.poisson_arrivals(key, SHAPE, 1.5),
    "markov": lambda key: generators.markov_states(key, SHAPE, jnp.asarray(LEAVE)),
    "mmpp": lambda key: generators.mmpp_arrivals(
        key, SHAPE, jnp.asarray([0.5, 3.0]), jnp.asarray(LEAVE)
    ),
    "uniform": lambda key: generators.poisson_batch_work(key, SHAPE, 0.9, 0.02, 0.01),
    "exponential": lambda key: generators.poisson_batch_work(
        key, SHAPE, 0.9, 0.02, 0.01, "exponential"
    ),
    "gauss": lambda key: generators.gauss_markov(key, SHAPE, 0.5, 2.0),
    "fading": lambda key: generators.fading_bits(key, SHAPE, 0.01, 1e6, 10.0, 3.0, 0.5, 4),
    "outages": lambda key: (
        generators.link(
            key, SHAPE, processes.ConstantRate(700.0, tuple(LEAVE.tolist())), 0.01, "train"
        ).bits
    ),
    "speed": lambda key: generators.markov_speed(
        key, SHAPE, jnp.asarray([0.5, 1.0]), jnp.asarray(LEAVE)
    ),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_depends_on_its_key_alone(name: str):
    first, again, other = (GENERATORS[name](jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.shape == SHAPE
    assert (np.asarray(first) != np.asarray(other)).any()
    assert (np.asarray(first)[0] != np.asarray(first)[1]).any()  # rows are independent


def test_key_reuse_is_seen():
    def twice(key: jax.Array):
        return jax.random.normal(key) + jax.random.normal(key)

    with pytest.raises(jax.errors.KeyReuseError):
        jax.jit(twice)(jax.random.key(0))


# --- theory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["deterministic", "uniform", "exponential"])
def test_mean_backlog_is_that_of_pollaczek_and_khinchine(jobs: str):
    # Load .6 in jobs of mean .05 s, slots of 10 ms; M/D/1, M/G/1 and M/M/1 if time were continuous.
    load, mean_s, slot_s = 0.6, 0.05, 0.01
    shape, warm = (64, 4096), 512
    key = jax.random.key(10)
    if jobs == "deterministic":
        work = generators.poisson_arrivals(key, SHAPE, load * slot_s / mean_s) * round(
            mean_s / slot_s * TICKS
        )
    else:
        job_s = 2 * mean_s if jobs == "uniform" else mean_s
        work = generators.poisson_batch_work(key, SHAPE, load, job_s, slot_s, jobs)
    work = np.asarray(work).reshape(shape)  # slots are independent: any may follow any
    backlog_s = (
        columns(draw_of(edge_work=work))[:, warm:, BACKLOG].astype(np.float64) * slot_s / TICKS
    )
    # Let Z be the backlog at the start of a slot before its work W joins, and X = W - slot: Z' =
    # max(Z + X, 0) and the idle time I = Z' - Z - X. Z' I = 0, so E[(Z' - I)^2] = E[Z^2] + E[I^2] =
    # E[Z^2] + 2 E[Z] E[X] + E[X^2], and with E[X] = -slot (1 - load), E[X^2] = lambda slot E[S^2] +
    # slot^2 (1 - load)^2, E[Z] = lambda E[S^2] / (2 (1 - load)) + slot (1 - load) / 2 - E[I^2] / (2
    # slot (1 - load)). The first term is Pollaczek-Khinchine. E[I] = slot (1 - load) and 0 <= I <=
    # slot bound E[I^2] from both sides, so the slots take between nothing and slot load / 2 off it.
    # The bank's backlog has W in it: E[Q] = E[Z] + slot load.
    second_moment = {"deterministic": 1, "uniform": 4 / 3, "exponential": 2}[jobs] * mean_s**2
    theory_s = load / mean_s * second_moment / (2 * (1 - load))
    rows_s = backlog_s.mean(axis=1)  # rows are independent, slots of a row are not
    error_s = 4 * rows_s.std(ddof=1) / np.sqrt(len(rows_s))
    assert error_s < 0.2 * theory_s  # sharp enough to tell the three laws apart
    assert (
        theory_s + slot_s * load / 2 - error_s < rows_s.mean() < theory_s + slot_s * load + error_s
    )


def test_the_bank_is_a_record_of_arrays():
    bank = make_bank(draw_of(np.ones((2, T))))
    assert isinstance(bank, Bank) and all(leaf.dtype == jnp.int32 for leaf in jax.tree.leaves(bank))
