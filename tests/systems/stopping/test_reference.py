"""Hand-worked examples that pin the reference simulator of `stopping`; the arithmetic is in the
comments.
"""

from dataclasses import replace

import numpy as np
import pytest

from tests.reference.stopping import (
    Draw,
    Scenario,
    View,
    backlog_of_others,
    counterfactual,
    simulate,
)

# Slots of 0.5 s. Layers take 2, 2 and (exit head) 1 slots; at 100 bits a slot uploads take 3, 2, 1
# slots.
SCENARIO = Scenario(
    slot_s=0.5,
    layer_s=(1.0, 0.7, 0.2),
    upload_bits=(300, 200, 100),
    server_s=(1.2, 0.8, 0.3),
    device_energy_j=(0.1, 0.3, 0.6, 0.7),
    accuracy=(0.9, 0.9, 0.9, 0.6),
    transmit_w=2.0,
    transmit_j_per_bit=0.001,
    alpha=10.0,
    beta=0.5,
)
LOCAL = 3


def make_draw(
    slots: int = 20,
    arrivals: dict | None = None,
    work: dict | None = None,
    bits: dict | None = None,
    speed: dict | None = None,
):
    """A row with 100 bits a slot, nominal speed and nothing else; each dict overrides slots."""
    rows = []
    changed = ((0, arrivals), (0.0, work), (100.0, bits), (100.0, bits), (1.0, speed))
    for default, changes in changed:
        row = np.full(slots, default)
        for slot, value in (changes or {}).items():
            row[slot] = value
        rows.append(row)
    return Draw(*rows)


def choose(*choices: int, first: int = 0):
    """Policy that gives the k-th task the k-th choice."""
    return lambda n, layer, slot, view: layer == choices[n - first]


def test_backlog_of_others():
    # Q0 = 0; + 2.0 -> 2.0; - 0.5 -> 1.5; - 0.5 + 0.3 -> 1.3; .8; .3; 0 (never negative)
    backlog = backlog_of_others([2.0, 0.0, 0.3, 0.0, 0.0, 0.0], 0.5)
    np.testing.assert_allclose(backlog, [0.0, 2.0, 1.5, 1.3, 0.8, 0.3, 0.0], atol=1e-12)


# One task, arriving in slot 2. Others: Q = 0, 2.0, 1.5, 1.0, then + 1.0 in slot 3: 1.5, 1.0, 0.5,
# 0, 0 ...
ONE_TASK = make_draw(arrivals={2: 1}, work={0: 2.0, 3: 1.0})


def test_one_task_uploads_its_input():
    (task,) = simulate(SCENARIO, ONE_TASK, choose(0))
    # t_0 = 2 = F; 300 bits: slots 2, 3, 4, so tau = 5 where Q = 1.0
    assert (task.start, task.free, task.choice, task.decision_slots) == (2, 2, 0, [2])
    assert (task.upload_begin, task.upload_end) == (2, 5)
    assert task.server_wait_s == pytest.approx(1.0)
    assert task.delay_s == pytest.approx(3.7)  # 3 * 0.5 + 1.0 + 1.2
    assert task.energy_j == pytest.approx(3.4)  # 0.1 + 2 W * 1.5 s + 0.3
    assert task.utility == pytest.approx(3.6)  # 9 - 3.7 - 1.7
    assert task.rewards == pytest.approx([3.6])


def test_one_task_stops_after_the_first_layer():
    (task,) = simulate(SCENARIO, ONE_TASK, choose(1))
    # t = 2, 4; 200 bits: slots 4, 5, so tau = 6 where Q = 0.5
    assert (task.start, task.free, task.decision_slots) == (2, 4, [2, 4])
    assert (task.upload_begin, task.upload_end) == (4, 6)
    assert task.server_wait_s == pytest.approx(0.5)
    assert task.delay_s == pytest.approx(3.3)  # (6 - 2) * 0.5 + 0.5 + 0.8
    assert task.energy_j == pytest.approx(2.5)  # 0.3 + 2 * 1.0 + 0.2
    assert task.utility == pytest.approx(4.45)  # 9 - 3.3 - 1.25
    # continue: -1.0 - 0.5 * (0.3 - 0.1) - 0.5 * 0.1 (the energy at l = 0) = -1.15
    # stop: 9 - (1.0 + 0.5 + 0.8) - 0.5 * 2.2 = 5.6
    assert task.rewards == pytest.approx([-1.15, 5.6])
    assert task.value == pytest.approx(4.45)  # nobody waited


def test_one_task_finishes_on_the_device():
    (task,) = simulate(SCENARIO, ONE_TASK, choose(LOCAL))
    assert (task.start, task.free, task.choice, task.decision_slots) == (2, 7, LOCAL, [2, 4, 6])
    assert (task.upload_begin, task.upload_end, task.server_wait_s) == (None, None, 0.0)
    assert task.delay_s == pytest.approx(2.5)
    assert task.energy_j == pytest.approx(0.7)
    assert task.utility == pytest.approx(3.15)  # 6 - 2.5 - 0.35
    # -1.15 as above; -1.0 - 0.5 * 0.3 = -1.15; 6 - 0.5 - 0.5 * 0.1 = 5.45
    assert task.rewards == pytest.approx([-1.15, -1.15, 5.45])


def test_tasks_wait_for_the_processor():
    draw = make_draw(arrivals={0: 2, 1: 1})
    tasks = simulate(SCENARIO, draw, choose(LOCAL, 1, 0))
    assert [t.index for t in tasks] == [0, 1, 2]
    assert [t.arrival for t in tasks] == [0, 0, 1]
    assert [t.start for t in tasks] == [0, 5, 7]
    assert [t.free for t in tasks] == [5, 7, 7]
    # Task 0, slots 0..4, has 1, 2, 2, 2, 2 behind it: D = 9. Task 1, slots 5, 6, has 1: D = 2. Task
    # 2: D = 0.
    assert [t.waiting_cost_s for t in tasks] == pytest.approx([4.5, 1.0, 0.0])
    # 0 + 5 + 6 slots waited = 9 + 2 + 0 slots charged
    # Task 0: (0, 1) -1.0 - 1.5 - 0.1 - 0.05; (2, 3) -1.0 - 2.0 - 0.15; (4) 6 - 0.5 - 1.0 - 0.05
    assert tasks[0].rewards == pytest.approx([-2.65, -3.15, 4.45])
    assert tasks[0].value == pytest.approx(-1.35)  # 6 - 2.5 - 4.5 - 0.35
    # Task 1: t = 5, 7; upload 7..9, server idle: T = 4.5 + 0.8, E = 2.5
    assert tasks[1].delay_s == pytest.approx(5.3)
    assert tasks[1].utility == pytest.approx(2.45)  # 9 - 5.3 - 1.25
    assert tasks[1].value == pytest.approx(3.95)  # 9 - (5.3 - 2.5) - 1.0 - 1.25


def test_busy_radio_delays_the_next_upload():
    draw = make_draw(arrivals={0: 2})
    first, second = simulate(SCENARIO, draw, choose(0, 0))
    assert (first.upload_begin, first.upload_end) == (0, 3)
    assert (second.start, second.free, second.upload_begin, second.upload_end) == (0, 0, 3, 6)
    assert second.server_wait_s == 0.0  # 1.2 s joined at 3; slots 3, 4, 5 drain 1.5 s
    assert second.delay_s == pytest.approx(4.2)  # 6 * 0.5 + 1.2
    assert second.energy_j == pytest.approx(3.4)  # air time is 3..6 only: 0.1 + 3.0 + 0.3


def test_next_own_upload_sees_own_work():
    draw = make_draw(arrivals={0: 2})
    first, second = simulate(SCENARIO, draw, choose(0, 2))
    # First joins at 3 with 1.2 s. Second computes 0..4, uploads 4..5: slots 3, 4 leave 1.2 - 1.0 =
    # 0.2.
    assert (first.upload_end, second.upload_begin, second.upload_end) == (3, 4, 5)
    assert second.server_wait_s == pytest.approx(0.2)


def test_own_work_waits_in_one_queue_with_the_others():
    draw = make_draw(arrivals={0: 2}, work={2: 0.4, 3: 0.6})
    first, second = simulate(SCENARIO, draw, choose(0, 2))
    # At 3: 0.4, joined by 1.2 = 1.6. Slot 3: 1.1 + 0.6 = 1.7 at 4. Slot 4: 1.2 at 5.
    assert first.server_wait_s == pytest.approx(0.4)
    assert second.server_wait_s == pytest.approx(1.2)


def test_uploads_that_end_in_the_same_slot_queue_in_order():
    scenario = replace(SCENARIO, upload_bits=(0, 200, 100))
    tasks = simulate(scenario, make_draw(arrivals={4: 3}), choose(0, 0, 0))
    assert [(t.upload_begin, t.upload_end) for t in tasks] == [(4, 4)] * 3
    assert [t.server_wait_s for t in tasks] == pytest.approx([0.0, 1.2, 2.4])


def test_outage_holds_the_upload_and_burns_energy():
    draw = make_draw(arrivals={1: 1}, bits={2: 0.0, 3: 0.0, 4: 50.0})
    (task,) = simulate(SCENARIO, draw, choose(0))
    # sent after slot 1: 100, 2: 100, 3: 100, 4: 150, 5: 250, 6: 350 >= 300, so tau = 7
    assert (task.upload_begin, task.upload_end) == (1, 7)
    assert task.energy_j == pytest.approx(6.4)  # 0.1 + 2 W * 3.0 s + 0.3


@pytest.mark.parametrize(
    ("layer_s", "speed", "slots"),
    [
        (1.0, 1.0, 2),
        (1.0, 2.0, 1),
        (1.0, 0.5, 4),
        (1.0, 0.8, 3),  # 2.5 slots
        (1.00002, 1.0, 2),  # 2.00004 slots: within the tolerance of 1e-4
        (1.0001, 1.0, 3),  # 2.0002 slots: past it
        (1e-6, 1.0, 1),  # some work takes at least a slot
        (0.0, 1.0, 0),  # no work takes none
    ],
)
def test_layer_slots(layer_s: float, speed: float, slots: int):
    scenario = replace(SCENARIO, layer_s=(layer_s, 0.7, 0.2))
    # Only the speed of the slot in which the layer begins counts, so the others crawl.
    draw = make_draw(
        slots=40, arrivals={3: 1}, speed={s: 0.1 for s in range(40) if s != 3} | {3: speed}
    )
    (task,) = simulate(scenario, draw, choose(1))
    assert task.decision_slots == [3, 3 + slots]


def test_start_slot_skips_earlier_tasks_but_not_earlier_server_load():
    draw = make_draw(arrivals={0: 2, 3: 1, 6: 2, 7: 1}, work={0: 5.0})
    tasks = simulate(SCENARIO, draw, choose(1, 0, 0, first=3), start_slot=6)
    assert [(t.index, t.arrival, t.start) for t in tasks] == [(3, 6, 6), (4, 6, 8), (5, 7, 8)]
    # Task 3 in slots 6, 7: A = 5, 6 less n + 1 = 4 gives 1 + 2 = 3 slots
    assert tasks[0].waiting_cost_s == pytest.approx(1.5)
    # Upload 8..10; others 5.0 at slot 1 less 9 slots of 0.5 = 0.5 at 10
    assert tasks[0].server_wait_s == pytest.approx(0.5)


def test_row_end_and_max_tasks():
    draw = make_draw(slots=6, arrivals={0: 1, 2: 1, 3: 1})
    # Each uploads its input: 0..3, then 3..6 needs slot 6, which the row lacks: dropped with all
    # after it.
    assert [t.index for t in simulate(SCENARIO, draw, choose(0, 0, 0))] == [0]
    # Local: 0..5, and the next would hold the processor past the end
    assert [t.index for t in simulate(SCENARIO, draw, choose(LOCAL, LOCAL, LOCAL))] == [0]
    assert [t.index for t in simulate(SCENARIO, draw, choose(0, 2, 2), max_tasks=1)] == [0]
    assert simulate(SCENARIO, draw, choose(0, 2, 2), max_tasks=0) == ()


def test_view_shows_the_present():
    draw = make_draw(arrivals={0: 2, 1: 1}, work={1: 0.9}, bits={4: 70.0}, speed={4: 1.5})
    seen = {}

    def stop(n: int, layer: int, slot: int, view: View):
        seen[n, layer] = (slot, view)
        return layer == (0, 2, 0)[n]

    simulate(SCENARIO, draw, stop)
    # Task 1 at slot 0: task 0 is on air until 3, nobody is behind (task 2 comes in slot 1)
    slot, view = seen[1, 0]
    assert (slot, view.radio_backlog_slots, view.waiting_tasks, view.wait_slots) == (0, 3, 0, 0)
    assert (view.server_backlog_s, view.rate_bits, view.speed) == (0.0, 100.0, 1.0)
    # At slot 2: the others' 0.9; task 0 has not reached the server yet
    slot, view = seen[1, 1]
    assert (slot, view.radio_backlog_slots, view.waiting_tasks) == (2, 1, 1)
    assert view.server_backlog_s == pytest.approx(0.9)
    # At slot 4: 0.4 at slot 3, joined by task 0's 1.2, less one slot = 1.1
    slot, view = seen[1, 2]
    assert (slot, view.radio_backlog_slots, view.waiting_tasks) == (4, 0, 1)
    assert view.server_backlog_s == pytest.approx(1.1)
    assert (view.rate_bits, view.speed) == (70.0, 1.5)
    # Task 2 starts at 4 when task 1 leaves, whose 100 bits (70 + 100) are on air until 6
    slot, view = seen[2, 0]
    assert (slot, view.radio_backlog_slots, view.waiting_tasks, view.wait_slots) == (4, 2, 0, 3)


def busy_row(seed: int, slots: int = 400):
    """A random row whose last arrivals leave time for the queue to empty."""
    rng = np.random.default_rng(seed)
    arrivals = rng.poisson(0.25, slots)
    arrivals[slots // 2 :] = 0
    return Draw(
        arrivals=arrivals,
        edge_work_s=rng.exponential(1.0, slots) * (rng.random(slots) < 0.3),
        slot_bits=(bits := rng.integers(0, 200, slots) * (rng.random(slots) < 0.8).astype(float)),
        observed_bits=bits,
        speed=rng.uniform(0.7, 2.0, slots),
    )


@pytest.mark.parametrize("seed", range(5))
def test_waiting_is_charged_exactly_once(seed: int):
    draw, choices = busy_row(seed), np.random.default_rng(seed + 100).integers(0, 4, 400)
    tasks = simulate(SCENARIO, draw, choose(*choices))
    assert len(tasks) == draw.arrivals.sum()  # the row ends idle
    assert sum(t.start - t.arrival for t in tasks) > 20  # and there was waiting to account for
    for task in tasks:
        behind = (o for o in tasks if o.index > task.index)
        # Every later task that waits does so in the slots from its arrival to this task's end.
        held = sum(max(task.free - max(task.start, o.arrival), 0) for o in behind)
        assert task.waiting_cost_s == pytest.approx(0.5 * held)
        assert sum(task.rewards) == pytest.approx(task.value)
        assert len(task.rewards) == len(task.decision_slots)
    waited_s = sum(0.5 * (t.start - t.arrival) for t in tasks)
    assert sum(t.waiting_cost_s for t in tasks) == pytest.approx(waited_s)
    assert sum(t.value for t in tasks) == pytest.approx(sum(t.utility for t in tasks))


def test_counterfactual_replays_the_row():
    draw, choices = busy_row(7), [1, 0, 3, 2, 0, 1]
    start_slot = 30
    first = int(draw.arrivals[:start_slot].sum())
    tasks = simulate(SCENARIO, draw, choose(*choices, first=first), start_slot, max_tasks=6)
    for position, task in enumerate(tasks):
        assert counterfactual(SCENARIO, draw, choices, position, task.choice, start_slot) == task
        others = [
            counterfactual(SCENARIO, draw, choices, position, c, start_slot) for c in range(4)
        ]
        assert [o.choice for o in others] == [0, 1, 2, 3]
        assert {o.start for o in others} == {task.start}  # the past is the same for every choice
