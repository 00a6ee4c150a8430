"""Who does the work on the parts: processes of this machine, or Ray's, on one machine or many."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from personalign.errors import EngineError, MissingExtra
from personalign.settings import has_cluster

Item = TypeVar("Item")
Result = TypeVar("Result")
Engine = Callable[[Callable[[Item], Result], Sequence[Item]], Iterator[Result]]
EngineName = Literal["local", "ray"]
ATTEMPTS = 3  # at a part, where a worker of Ray's is lost
LOST = (
    "a worker ended before its part was done, as one that needs too much memory does; finished parts are kept: run the "
    "same again to go on"
)


def run_local(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Work in a process for each core, and give results as they come; what is one item is done here.

    Raises:
        EngineError: a process was killed.
    """
    if len(items) == 1:
        yield work(items[0])
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_cores(), mp_context=context) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise EngineError(LOST) from error
        finally:
            pool.shutdown(cancel_futures=True)


def run_ray(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Work in Ray's processes: those of the cluster that RAY_ADDRESS names, or of one that is started here.

    A part whose worker is lost is tried again. All machines have to see the same files.

    Raises:
        EngineError: a part was lost again and again, or no cluster answers.
        MissingExtra: Ray isn't installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "ray") from error
    is_own = not ray.is_initialized()
    if is_own:
        _start(ray)
    try:
        task: Any = ray.remote(max_retries=ATTEMPTS - 1, num_cpus=1)(work_on)
        waiting = [task.remote(work, item) for item in items]
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield ray.get(ready[0])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise EngineError(f"{LOST} (Ray: {type(error).__name__})") from error
    finally:
        if is_own:
            ray.shutdown()


def work_on(work: Callable[[Item], Result], item: Item) -> Result:
    """Do it: Ray wants a function by its name."""
    return work(item)


def num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(ray: Any) -> None:  # noqa: ANN401 - a module
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    settings = {} if has_cluster() else {"num_cpus": num_cores(), **quiet}
    try:
        ray.init(**settings)
    except (ConnectionError, OSError, ValueError) as error:
        raise EngineError(f"Ray doesn't start ({error}); look at RAY_ADDRESS, or pass --engine local") from error


ENGINES: Mapping[EngineName, Engine[Any, Any]] = MappingProxyType({"local": run_local, "ray": run_ray})
