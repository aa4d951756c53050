import signal
import threading

import pytest

from ldkit.interrupts import interrupts_held


@pytest.mark.contract
def test_an_interrupt_waits_for_the_end_of_the_block_and_its_release() -> None:
    done = []
    with interrupts_held() as held:
        signal.raise_signal(signal.SIGINT)
        done.append("work")
    done.append("after")
    with pytest.raises(KeyboardInterrupt):
        held.release()
    assert done == ["work", "after"]


@pytest.mark.contract
def test_without_an_interrupt_nothing_is_raised_and_the_handler_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts_held() as held:
        pass
    held.release()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.contract
def test_a_process_that_ignores_interrupts_goes_on_ignoring_them() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_held() as held:
            signal.raise_signal(signal.SIGINT)
        held.release()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.contract
def test_the_handler_is_restored_when_the_block_fails() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="inside"), interrupts_held():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.contract
def test_in_another_thread_there_is_nothing_to_hold() -> None:
    found = []

    def work() -> None:
        with interrupts_held() as held:
            found.append(signal.getsignal(signal.SIGINT))
        held.release()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]
