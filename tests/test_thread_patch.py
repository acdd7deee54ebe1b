"""Replacing a method for one thread at a time."""

import threading

import pytest

from tests.thread_patch import patched_in_thread


class Phone:
    def answer(self) -> str:
        return "original"


def test_one_thread_gets_the_replacement_and_nobody_keeps_it():
    before, both_in, first_out = Phone.answer, threading.Barrier(2), threading.Event()
    answers: dict[str, list[str]] = {"first": [], "second": []}
    with pytest.MonkeyPatch.context() as monkeypatch:
        replaced = patched_in_thread(monkeypatch, Phone, "answer", lambda phone: "replacement")

        def first() -> None:
            with replaced():
                both_in.wait(10)
                answers["first"].append(Phone().answer())
            answers["first"].append(Phone().answer())
            first_out.set()

        def second() -> None:
            with replaced():
                both_in.wait(10)
                assert first_out.wait(10)
                answers["second"].append(Phone().answer())
            answers["second"].append(Phone().answer())

        threads = [threading.Thread(target=each) for each in (first, second)]
        for thread in threads:
            thread.start()
        assert Phone().answer() == "original"
        for thread in threads:
            thread.join()
    assert answers == {"first": ["replacement", "original"], "second": ["replacement", "original"]}
    assert Phone.answer is before
