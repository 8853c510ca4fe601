"""The model of a fleet, with costs whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bench.fleet import FREE, OPERATIONS, PRO, TEAM, Cost, Costs, Fleet, Reply, coalesced, costs_at, load

MILLISECOND = Cost(seconds=0.001, cpu=0.001, wal=1000)


def level(held: int, cost: Cost = MILLISECOND) -> Costs:
    return Costs(held, **dict.fromkeys(OPERATIONS, cost))


FLAT = [level(32), level(32_000)]


def test_an_idle_worker_sweeps_and_says_its_canaries() -> None:
    one = load(Fleet(1, 0.0), FLAT, FREE)
    assert one.claims == one.claims_in_vain == one.rest_calls == pytest.approx(1 / 9.5)
    assert (one.messages, one.beats, one.finishes, one.wake_ups) == (0, 0, 0, 0)
    assert one.cpu == pytest.approx(one.claims / 1000)
    assert one.realtime_connections == 3
    # the inbox's canary in six seconds, the outbox's in eight, each a send and a delivery
    assert one.events == one.events_of_canaries == pytest.approx(2 / 6 + 2 / 8)
    assert one.delta_seconds == 0


def test_an_inboxes_canary_is_heard_by_all_and_stands_for_theirs() -> None:
    idle = [load(Fleet(workers, 0.0), FLAT, TEAM).events for workers in (10, 100, 1_000)]
    assert idle == pytest.approx([11 / 6 + 20 / 8, 101 / 6 + 200 / 8, 1_001 / 6 + 2_000 / 8])


def test_what_a_busy_worker_asks_for() -> None:
    fleet = Fleet(1, 0.75, concurrency=32, reply_seconds=12, call_seconds=0.049)
    one = load(fleet, FLAT, TEAM)
    assert fleet.in_hand == 24
    assert one.messages == one.joins == 2
    assert one.wake_ups == 4  # by either lane
    # a call that takes 50 ms answers what came meanwhile
    assert one.claims == one.finishes == pytest.approx(1 / (0.05 + math.exp(-0.1) / 2))
    assert one.claims_in_vain == 0
    assert one.beats == pytest.approx(1 / 1.049, rel=1e-6)
    assert one.rest_calls == pytest.approx(2 + 2 * one.claims + one.beats)
    assert one.transactions == pytest.approx(one.rest_calls + 4)
    assert one.cpu == one.rest_connections == pytest.approx(one.rest_calls / 1000)
    assert one.wal == pytest.approx(one.rest_calls * 1000)
    assert one.realtime_connections == 3 + 24
    assert (one.events_of_rows, one.events_of_wake_ups) == (2 * 12, 2 * 3)


def test_a_wake_up_is_delivered_twice_to_every_worker() -> None:
    small, large = (load(Fleet(workers, 0.75, reply_seconds=workers * 12), FLAT, TEAM) for workers in (1, 100))
    assert small.messages == large.messages == 2
    assert (small.events_of_wake_ups, large.events_of_wake_ups) == (2 * 3, 2 * 201)


def test_eight_workers_claim_at_once_and_the_others_together_a_little_later() -> None:
    few, many = (load(Fleet(workers, 0.5, reply_seconds=10 * workers), FLAT, TEAM) for workers in (8, 80))
    assert few.messages == many.messages == pytest.approx(1.6)
    assert few.claims == pytest.approx(8 * coalesced(1.6, 0.051))  # all of them hear, and all of them ask
    assert many.claims == pytest.approx(80 * (coalesced(0.16, 0.051) + 1 / (1 / 1.44 + 0.5)))
    assert few.claims_in_vain == pytest.approx(few.claims - 1.6)


def test_a_worker_claims_one_at_a_time() -> None:
    swamped = load(Fleet(4, 1.0, reply_seconds=0.01, call_seconds=0.099), FLAT, TEAM)
    assert swamped.messages == 12_800
    assert swamped.claims == pytest.approx(40)  # ten a second each


def test_another_workers_leases_are_looked_after() -> None:
    alone, two = (load(Fleet(workers, 1 / 32, reply_seconds=1e9), FLAT, TEAM) for workers in (1, 2))
    assert alone.claims == pytest.approx(1 / 30)
    assert two.claims == pytest.approx(2 / 22.5)


def test_deltas_take_what_the_quota_leaves() -> None:
    fleet = Fleet(1, 0.75)
    free, team = (load(fleet, FLAT, limits) for limits in (FREE, TEAM))
    assert free.deltas_wanted == team.deltas_wanted == 24 * 20 * 2
    assert free.events_of_deltas == pytest.approx(80 - 2 * 14)
    assert free.delta_seconds == pytest.approx(48 / 52)
    assert (team.events_of_deltas, team.delta_seconds) == pytest.approx((960, 0.05))
    # beyond the quota the first delta and the last of every reply
    crowd = load(Fleet(10, 0.75), FLAT, FREE)
    assert crowd.events_of_deltas == pytest.approx(20 * 4)


def test_a_batch_costs_what_lies_between_one_job_and_thirty_two() -> None:
    costs = [replace(level(32), finish_one=Cost(0.001, 0.001, 0), finish_many=Cost(0.032, 0.032, 0))]
    slow = Fleet(1, 1.0, concurrency=64, reply_seconds=1, call_seconds=0.249)
    one = load(slow, costs, TEAM)
    assert one.finishes == pytest.approx(4, rel=1e-3)  # 16 in each
    others = one.rest_calls - one.finishes
    assert one.cpu == pytest.approx((others + one.finishes * 64 / one.finishes) / 1000, rel=1e-6)


def test_costs_lie_on_lines_between_the_levels() -> None:
    measured = [level(32, Cost(1, 1, 10)), level(320, Cost(2, 4, 10)), level(3_200, Cost(8, 8, 40))]
    assert costs_at(measured, 176).beat == Cost(1.5, 2.5, 10)
    assert costs_at(measured, 1_760).beat == Cost(5, 6, 25)
    assert costs_at(measured, 0).beat == Cost(1, 1, 10)
    assert costs_at(measured, 99_999).beat == Cost(8, 8, 40)


def test_a_reply_costs_no_less_than_was_measured() -> None:
    one = load(Fleet(1, 0.75), FLAT, TEAM, Reply(rest_calls=50, transactions=100, wal=1e6, cpu=0.5))
    assert (one.rest_calls, one.transactions, one.wal, one.cpu) == (102, 200, 2e6, 1.0)


def test_what_is_full_first() -> None:
    busy = Fleet(1, 0.7)
    assert load(busy, FLAT, FREE).uses(FREE)[0].resource == "Realtime messages"
    assert load(Fleet(1_000, 0.0), FLAT, PRO).uses(PRO)[0].resource == "Realtime connections"
    dear = [level(32, Cost(0.001, 3.0, 0))]
    first = load(busy, dear, TEAM).uses(TEAM)[0]
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
