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
    assert one.claims == one.empty_claims == one.rest_calls == pytest.approx(1 / 9.5)
    assert (one.questions, one.beats, one.finishes, one.wakeups) == (0, 0, 0, 0)
    assert one.cpu == pytest.approx(one.claims / 1000)
    assert one.realtime_connections == 3
    # the listener's probe every six seconds, the publisher's every eight, each a send and a delivery
    assert one.events == one.events_of_probes == pytest.approx(2 / 6 + 2 / 8)
    assert one.delta_seconds == 0


def test_listeners_share_one_probe() -> None:
    idle = [load(Fleet(workers, 0.0), FLAT, TEAM).events for workers in (10, 100, 1_000)]
    assert idle == pytest.approx([11 / 6 + 20 / 8, 101 / 6 + 200 / 8, 1_001 / 6 + 2_000 / 8])


def test_busy_worker_load_adds_up() -> None:
    fleet = Fleet(1, 0.75, concurrency=32, reply_seconds=12, call_seconds=0.049)
    one = load(fleet, FLAT, TEAM)
    assert fleet.running == 24
    assert one.questions == one.joins == 2
    assert one.wakeups == 4  # one by each of the two paths
    # a call that takes 50 ms handles everything that arrives meanwhile
    assert one.claims == one.finishes == pytest.approx(1 / (0.05 + math.exp(-0.1) / 2))
    assert one.empty_claims == 0
    assert one.beats == pytest.approx(1 / 1.049, rel=1e-6)
    assert one.rest_calls == pytest.approx(2 + 2 * one.claims + one.beats)
    assert one.transactions == pytest.approx(one.rest_calls + 4)
    assert one.cpu == one.rest_connections == pytest.approx(one.rest_calls / 1000)
    assert one.wal == pytest.approx(one.rest_calls * 1000)
    assert one.realtime_connections == 3 + 24
    assert (one.events_of_rows, one.events_of_wakeups) == (2 * 12, 2 * 3)


def test_wakeup_is_delivered_twice_to_every_worker() -> None:
    small, large = (load(Fleet(workers, 0.75, reply_seconds=workers * 12), FLAT, TEAM) for workers in (1, 100))
    assert small.questions == large.questions == 2
    assert (small.events_of_wakeups, large.events_of_wakeups) == (2 * 3, 2 * 201)


def test_large_fleet_staggers_claims_beyond_eight_workers() -> None:
    few, many = (load(Fleet(workers, 0.5, reply_seconds=10 * workers), FLAT, TEAM) for workers in (8, 80))
    assert few.questions == many.questions == pytest.approx(1.6)
    assert few.claims == pytest.approx(8 * coalesced(1.6, 0.051))  # all of them are woken, and all of them claim
    assert many.claims == pytest.approx(80 * (coalesced(0.16, 0.051) + 1 / (1 / 1.44 + 0.5)))
    assert few.empty_claims == pytest.approx(few.claims - 1.6)


def test_worker_claims_one_call_at_a_time() -> None:
    swamped = load(Fleet(4, 1.0, reply_seconds=0.01, call_seconds=0.099), FLAT, TEAM)
    assert swamped.questions == 12_800
    assert swamped.claims == pytest.approx(40)  # ten a second each


def test_worker_claims_when_a_lease_of_another_could_end() -> None:
    single, two = (load(Fleet(workers, 1 / 32, reply_seconds=1e9), FLAT, TEAM) for workers in (1, 2))
    assert single.claims == pytest.approx(1 / 30)
    assert two.claims == pytest.approx(2 / 22.5)


def test_deltas_use_the_rest_of_the_quota() -> None:
    fleet = Fleet(1, 0.75)
    free, team = (load(fleet, FLAT, limits) for limits in (FREE, TEAM))
    assert free.deltas_wanted == team.deltas_wanted == 24 * 20 * 2
    assert free.events_of_deltas == pytest.approx(80 - 2 * 14)
    assert free.delta_seconds == pytest.approx(48 / 52)
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
    assert load(Fleet(1_000, 0.0), FLAT, PRO).uses(PRO)[0].resource == "Realtime connections"
    expensive = [level(32, Cost(0.001, 3.0, 0))]
    first = load(busy, expensive, TEAM).uses(TEAM)[0]
    assert (first.resource, first.share > 1) == ("database CPU", True)
    slow = [level(32, Cost(30.0, 0.001, 0))]
    assert load(busy, slow, TEAM).uses(TEAM)[0].resource == "REST's connections"
    wordy = [level(32, Cost(0.001, 0.001, 1e9))]
    assert load(busy, wordy, TEAM).uses(TEAM)[0].resource == "write-ahead log"
    shares = [use.share for use in load(busy, FLAT, TEAM).uses(TEAM)]
    assert shares == sorted(shares, reverse=True)


def test_more_slots_need_more_connections() -> None:
    assert load(Fleet(2, 0.5, concurrency=90), FLAT, TEAM).realtime_connections == 2 * 3 + 90
    assert load(Fleet(2, 0.5, concurrency=91), FLAT, TEAM).realtime_connections == 2 * 4 + 91
