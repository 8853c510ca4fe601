"""The model of a fleet, with costs that give known results."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.fleet import FREE, OPERATIONS, PRO, TEAM, Cost, Costs, Fleet, Reply, coalesced, costs_at, load

MILLISECOND = Cost(seconds=0.001, cpu=0.001, wal=1000)


def level(held: int, cost: Cost = MILLISECOND) -> Costs:
    return Costs(held, **dict.fromkeys(OPERATIONS, cost))


FLAT = [level(32), level(32_000)]


def test_idle_worker_sweeps_and_sends_probes() -> None:
    one = load(Fleet(1, 0.0), FLAT, FREE)
    assert one.claims == one.rest_calls == pytest.approx(1 / 9.5)
    assert (one.questions, one.beats, one.finishes, one.wakeups) == (0, 0, 0, 0)
    assert one.cpu == pytest.approx(one.claims / 1000)
    assert one.realtime_connections == 3
    # the listener's probe every six seconds, the publisher's every eight, each a send and a delivery
    assert one.events == one.events_of_probes == pytest.approx(2 / 6 + 2 / 8)
    assert one.delta_seconds == 0


def test_listeners_share_the_probe_of_one_that_watches() -> None:
    idle = [load(Fleet(workers, 0.0, call_seconds=0), FLAT, TEAM).events for workers in (10, 100, 1_000)]
    assert idle == pytest.approx([11 / 6 + 20 / 8, 101 / 6 + 200 / 8, 1_001 / 6 + 2_000 / 8])
    # the other one waits for up to 2 s: one time in forty it falls due within 50 ms
    late = load(Fleet(401, 0.0, call_seconds=0.05), FLAT, TEAM).events
    assert late == pytest.approx((1 + 1 / 40) * 402 / 6 + 802 / 8)


def test_busy_worker_load_adds_up() -> None:
    fleet = Fleet(1, 0.75, concurrency=32, reply_seconds=12, call_seconds=0.049)
    one = load(fleet, FLAT, TEAM)
    assert fleet.running == 24
    assert one.questions == one.joins == 2
    assert one.wakeups == 4  # a push, and postgres_changes
    # a call that takes 50 ms handles everything that ends meanwhile
    assert one.finishes == pytest.approx(1 / (0.05 + math.exp(-0.1) / 2))
    assert one.claims == pytest.approx(1 / 30)  # of no question
    assert one.beats == pytest.approx(1 / 1.049, rel=1e-6)
    assert one.rest_calls == pytest.approx(2 + one.claims + one.finishes + one.beats)
    assert one.transactions == pytest.approx(one.rest_calls + 4)
    assert one.cpu == one.rest_connections == pytest.approx(one.rest_calls / 1000)
    assert one.wal == pytest.approx(one.rest_calls * 1000)
    assert one.realtime_connections == 3 + 24
    assert (one.events_of_rows, one.events_of_wakeups) == (2 * 10, 2 * 3)


def test_question_wakes_three_workers_at_most() -> None:
    one, two, many = (load(Fleet(workers, 0.75, reply_seconds=workers * 12), FLAT, TEAM) for workers in (1, 2, 1_000))
    assert one.questions == two.questions == many.questions == 2
    # a push and its delivery, and one or two workers that postgres_changes tell of it
    assert (one.events_of_wakeups, two.events_of_wakeups, many.events_of_wakeups) == (2 * 3, 2 * 4, 2 * 4)


def test_claims_do_not_depend_on_questions() -> None:
    quiet, swamped = (load(Fleet(8, 1.0, reply_seconds=seconds), FLAT, TEAM).claims for seconds in (1e9, 0.01))
    assert quiet == swamped == pytest.approx(8 / 30)


def test_worker_without_jobs_claims_as_an_idle_one() -> None:
    # of workers with half a job on average, e^-0.5 have none
    some = load(Fleet(100, 0.5 / 32), FLAT, TEAM)
    assert some.claims == pytest.approx(100 * (math.exp(-0.5) / 9.5 + (1 - math.exp(-0.5)) / 30))


def test_worker_finishes_one_call_at_a_time() -> None:
    assert coalesced(3_200, 0.1) == pytest.approx(10)
    swamped = load(Fleet(4, 1.0, reply_seconds=0.01, call_seconds=0.099), FLAT, TEAM)
    assert swamped.questions == 12_800
    assert swamped.finishes == pytest.approx(40)


def test_deltas_use_the_rest_of_the_quota() -> None:
    fleet = Fleet(1, 0.75)
    free, team = (load(fleet, FLAT, limits) for limits in (FREE, TEAM))
    assert free.deltas_wanted == team.deltas_wanted == 24 * 20 * 2
    assert free.events_of_deltas == pytest.approx(80 - 2 * 13)
    assert free.delta_seconds == pytest.approx(48 / 54)
    assert (team.events_of_deltas, team.delta_seconds) == pytest.approx((960, 0.05))
    # beyond the quota, the first and the last delta of every reply
    crowd = load(Fleet(10, 0.75), FLAT, FREE)
    assert crowd.events_of_deltas == pytest.approx(20 * 4)


def test_batch_cost_is_interpolated_between_one_and_thirty_two_jobs() -> None:
    costs = [replace(level(32), finish_one=Cost(0.001, 0.001, 0), finish_many=Cost(0.032, 0.032, 0))]
    slow = Fleet(1, 1.0, concurrency=64, reply_seconds=1, call_seconds=0.249)
    one = load(slow, costs, TEAM)
    assert one.finishes == pytest.approx(4, rel=1e-3)  # 16 in each
    others = one.rest_calls - one.finishes
    assert one.cpu == pytest.approx((others + one.finishes * 64 / one.finishes) / 1000, rel=1e-6)


def test_costs_are_interpolated_between_levels() -> None:
    measured = [level(32, Cost(1, 1, 10)), level(320, Cost(2, 4, 10)), level(3_200, Cost(8, 8, 40))]
    assert costs_at(measured, 176).beat == Cost(1.5, 2.5, 10)
    assert costs_at(measured, 1_760).beat == Cost(5, 6, 25)
    assert costs_at(measured, 0).beat == Cost(1, 1, 10)
    assert costs_at(measured, 99_999).beat == Cost(8, 8, 40)


def test_measured_reply_is_a_lower_bound() -> None:
    one = load(Fleet(1, 0.75), FLAT, TEAM, Reply(rest_calls=50, transactions=100, wal=1e6, cpu=0.5))
    assert (one.rest_calls, one.transactions, one.wal, one.cpu) == (102, 200, 2e6, 1.0)


def test_uses_put_the_tightest_limit_first() -> None:
    busy = Fleet(1, 0.7)
    assert load(busy, FLAT, FREE).uses(FREE)[0].resource == "Realtime messages"
    assert load(Fleet(300, 0.0), FLAT, PRO).uses(PRO)[0].resource == "Realtime connections"
    expensive = [level(32, Cost(0.001, 5.0, 0))]
    first = load(busy, expensive, TEAM).uses(TEAM)[0]
    assert (first.resource, first.share > 1) == ("database CPU", True)
    slow = [level(32, Cost(30.0, 0.001, 0))]
    assert load(busy, slow, TEAM).uses(TEAM)[0].resource == "REST's connections"
    wordy = [level(32, Cost(0.001, 0.001, 1e9))]
    assert load(busy, wordy, TEAM).uses(TEAM)[0].resource == "write-ahead log"
    shares = [use.share for use in load(busy, FLAT, TEAM).uses(TEAM)]
    assert shares == sorted(shares, reverse=True)


def test_more_slots_need_more_connections() -> None:
    # of each worker one to listen and one for each 90 slots; two for postgres_changes; of each reader one
    assert load(Fleet(2, 0.5, concurrency=90), FLAT, TEAM).realtime_connections == 2 * 2 + 2 + 90
    assert load(Fleet(4, 0.5, concurrency=91), FLAT, TEAM).realtime_connections == 4 * 3 + 2 + 182
