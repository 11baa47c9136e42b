"""A process that says nothing any more is noticed, and no other."""

import threading
import time

from deepfm.utils.heartbeat import Heartbeat


class Store(dict):
    """A store of one process, which may be stuck."""

    stuck = threading.Event()

    def set(self, key, value):
        self[key] = value.encode()

    def get(self, key):
        while self.stuck.is_set():
            time.sleep(0.01)
        return self[key]

    def check(self, keys):
        return all(key in self for key in keys)

    def set_timeout(self, timeout):
        self.timeout = timeout


def heartbeats(store, world, silence=0.8):
    """Those of all processes, and the numbers of the lost ones that each was told of."""
    lost = [[] for _ in range(world)]
    made = [
        Heartbeat(store, rank=rank, world=world, silence=silence, lost=lost[rank].append)
        for rank in range(world)
    ]
    return made, lost


def test_nobody_is_lost_while_all_speak():
    made, lost = heartbeats(Store(), 3)
    time.sleep(2.0)
    for one in made:
        one.end()
    assert lost == [[], [], []]


def test_one_that_falls_silent_is_told_to_the_others():
    made, lost = heartbeats(Store(), 3)
    time.sleep(0.3)
    made[1]._store = type("Gone", (Store,), {"set": lambda *_: None})()  # it speaks to nobody
    time.sleep(2.0)
    for one in made:
        one.end()
    assert lost[0] == [1]


def test_the_others_look_at_the_first_one():
    made, lost = heartbeats(Store(), 3)
    time.sleep(0.3)
    made[0]._store = type("Gone", (Store,), {"set": lambda *_: None})()
    time.sleep(2.0)
    for one in made:
        one.end()
    assert lost[1] == lost[2] == [0]


def test_one_that_has_ended_is_not_missed():
    made, lost = heartbeats(Store(), 2)
    time.sleep(0.3)
    made[0].end()
    time.sleep(2.0)
    made[1].end()
    assert lost == [[], []]


def test_a_store_that_does_not_answer_is_noticed():
    store = Store()
    store.stuck = threading.Event()
    made, lost = heartbeats(store, 2)
    time.sleep(0.3)
    store.stuck.set()
    time.sleep(2.0)
    for one in made:
        one.end()
    store.stuck.clear()
    assert lost == [[1], [0]]


def test_another_time_can_be_set():
    made, lost = heartbeats(Store(), 2, silence=60.0)
    made[0].give_up_after(1.5)
    assert made[0]._store.timeout.total_seconds() == 1.5
    made[1]._store = type("Gone", (Store,), {"set": lambda *_: None})()
    time.sleep(4.0)
    for one in made:
        one.end()
    assert lost[0] == [1]


def test_none_is_in_the_store_when_the_interpreter_ends():
    """A thread that comes back from torch's store then ends the process with an abort."""
    store = Store()
    store.stuck = threading.Event()
    (first, second), lost = heartbeats(store, 2, silence=60.0)
    time.sleep(0.3)
    store.stuck.set()
    time.sleep(1.2)  # a beat begins
    threading.Timer(2.0, store.stuck.clear).start()
    first.end()
    second.end(within=0)
    assert not any(thread.is_alive() for thread in first._threads)
    assert lost == [[], []]
