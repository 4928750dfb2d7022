"""Many instances of one template: a bounded number at once, each on its own, one failure stopping none.

Three parties: a feeder reads jobs (it may wait for a pipe), workers do them, and whoever iterates over the Batch takes
results. Every job that was fed sends exactly one message back, which is how the end is known. bpf(2) gives up the
interpreter lock while the verifier works, so threads use the cores.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from queue import SimpleQueue

from elfpatch.errors import Bug, ElfpatchError, of_system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from elfpatch.deploy.plan import Plan, Request
    from elfpatch.deploy.transaction import Outcome

_AHEAD = 4  # jobs read and not answered, for each worker: enough to keep it busy, few enough to stay a stream


class Job:
    """Entry `number` of the input (from 1): what to do, or why it cannot be done."""

    __slots__ = ("error", "name", "number", "request")

    def __init__(
        self, number: int, name: str, request: Request | None = None, error: ElfpatchError | None = None
    ) -> None:
        self.number = number
        self.name = name
        self.request = request
        self.error = error


class Result:
    """What became of a job: an `outcome` or an `error`, never both, and how many `seconds` it took."""

    __slots__ = ("error", "name", "number", "outcome", "seconds")

    def __init__(
        self, job: Job, outcome: Outcome | Plan | None, error: ElfpatchError | None, seconds: float = 0.0
    ) -> None:
        self.number = job.number
        self.name = job.name
        self.outcome = outcome
        self.error = error
        self.seconds = seconds


class _NotBegun:
    """The message of a job that `stop` came before."""


class _FeedEnds:
    """The feeder's last message, with what its iterable raised."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Wake:
    """`stop` was called: look again whether there is anything to wait for."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Batch:
    """An iterator over Results in order of completion. `work` does one request; jobs of one deployment are done one
    after the other, in the order they came. Raises what iterating over `jobs` raises, after the results before it."""

    def __init__(self, jobs: Iterable[Job], work: Callable[[Request], Outcome | Plan], workers: int = 0) -> None:
        self.not_begun = 0  # jobs that were read and dropped by `stop`
        self._jobs = jobs
        self._work = work
        self._lock = threading.Lock()
        self._ready: SimpleQueue[Job | None] = SimpleQueue()
        self._messages: SimpleQueue[Result | _NotBegun | _FeedEnds | _Wake] = SimpleQueue()
        self._waiting: dict[str, deque[Job]] = {}  # a key: a job of this deployment is at work or ready
        self._fed = 0
        self._answered = 0
        self._stopped = False
        self._feeding = True
        self._failure: BaseException | None = None
        count = workers or cores()
        self._window = threading.Semaphore(count * _AHEAD)
        self._workers = [threading.Thread(target=self._serve) for _ in range(count)]
        for worker in self._workers:
            worker.start()
        # A daemon, for nothing can interrupt its read of a pipe; it changes nothing on the machine.
        threading.Thread(target=self._feed, daemon=True).start()

    def __iter__(self) -> Batch:
        return self

    def __next__(self) -> Result:
        while not self._at_end():
            message = self._messages.get()
            if isinstance(message, _FeedEnds):
                self._feeding = False
                self._failure = message.error
            elif not isinstance(message, _Wake):
                self._answered += 1
                self._window.release()
                if isinstance(message, Result):
                    return message
                self.not_begun += 1
        self.close()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        raise StopIteration

    def stop(self) -> None:
        """Begin nothing more; what is at work is finished and its results still come. Safe in a signal handler: it
        takes no lock, and SimpleQueue.put may be entered again."""
        self._stopped = True
        self._messages.put(_Wake())

    def close(self) -> None:
        """Stop, and wait for what is at work."""
        self.stop()
        for _ in self._workers:
            self._ready.put(None)
        for worker in self._workers:
            worker.join()
        self._workers = []

    def _at_end(self) -> bool:
        with self._lock:  # whoever feeds after this sees `_stopped`
            return (self._stopped or not self._feeding) and self._fed == self._answered

    def _feed(self) -> None:
        failure: BaseException | None = None
        try:
            for job in self._jobs:
                self._window.acquire()
                if not self._offer(job):
                    break
        except BaseException as error:
            failure = error
        self._messages.put(_FeedEnds(failure))

    def _offer(self, job: Job) -> bool:
        with self._lock:
            if self._stopped:
                self.not_begun += 1
                return False
            self._fed += 1
            if job.name in self._waiting:
                self._waiting[job.name].append(job)
            else:
                self._waiting[job.name] = deque()
                self._ready.put(job)
        return True

    def _serve(self) -> None:
        while True:
            job = self._ready.get()
            if job is None:
                return
            message = _NotBegun() if self._stopped else self._done(job)
            with self._lock:
                later = self._waiting[job.name]
                if later:
                    self._ready.put(later.popleft())
                else:
                    del self._waiting[job.name]
            self._messages.put(message)

    def _done(self, job: Job) -> Result:
        if job.request is None:
            return Result(job, None, job.error or Bug("a job without a request"))
        start = time.monotonic()
        try:
            outcome = self._work(job.request)
        except ElfpatchError as error:
            return Result(job, None, error, time.monotonic() - start)
        except OSError as error:
            return Result(job, None, of_system(error, str(error.filename or "system call")), time.monotonic() - start)
        except Exception as error:
            bug = Bug(f"{type(error).__name__}: {' '.join(str(error).split())}", where=job.name)
            return Result(job, None, bug, time.monotonic() - start)
        return Result(job, outcome, None, time.monotonic() - start)
