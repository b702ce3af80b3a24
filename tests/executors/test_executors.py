"""The same executor protocol everywhere, and no result lost with its worker.

Functions that travel are closures here, which go by value: workers cannot import this file.
"""

import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import jax
import numpy as np
import pytest

from jaxnn.executors import InProcess, Pool, Submitit, create, pools, worker_died
from jaxnn.executors import processes as processes_
from jaxnn.executors.pools import minutes
from jaxnn.executors.processes import Processes, _Loader, divided, pickled_call
from jaxnn.installation import install


def square(number):
    return number * number


@pytest.fixture(scope="module")
def dask():
    pytest.importorskip("distributed")
    with create("dask", workers=2) as executor:
        yield executor


@pytest.fixture(scope="module")
def ray():
    pytest.importorskip("ray")
    jax.devices()  # from here on JAX warns of forks
    with create("ray", workers=2) as executor:
        yield executor


@pytest.fixture
def submitit(tmp_path):
    pytest.importorskip("submitit")
    with create("submitit:local", workers=2, folder=tmp_path / "jobs") as executor:
        yield executor


@pytest.fixture(scope="module")
def processes():
    pytest.importorskip("cloudpickle")
    with create("local", workers=2) as executor:
        yield executor


OTHERS = ("ray", "submitit", "processes")
REMOTE = ["dask", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]


@pytest.fixture
def remote(request):
    return request.getfixturevalue(request.param)


def results(executor, function, *columns):
    futures = [executor.submit(function, *each) for each in zip(*columns, strict=True)]
    assert all(isinstance(future, concurrent.futures.Future) for future in futures)
    _, left = concurrent.futures.wait(futures, timeout=240)
    assert not left
    return [future.result() for future in futures]


def test_local_runs_in_the_caller_at_submit():
    with create("local") as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        future = executor.submit(threading.get_ident)
        assert future.done()
        assert future.result() == threading.get_ident()
        assert executor.submit(dict, a=1).result() == {"a": 1}
        assert list(executor.map(square, range(4))) == [0, 1, 4, 9]
        error = executor.submit(int, "x").exception()
        assert isinstance(error, ValueError)
        assert not worker_died(error)
    with pytest.raises(RuntimeError, match=r"this executor is shut down and accepts no more calls"):
        executor.submit(square, 2)


def interrupted():
    raise KeyboardInterrupt


def test_ctrl_c_goes_through_local():
    with pytest.raises(KeyboardInterrupt):
        InProcess().submit(interrupted)


@pytest.mark.parametrize(
    "arguments, text",
    [
        (
            ("dsak",),
            r"no executor is named 'dsak'; did you mean 'dask'\? \(Python also accepts any conc",
        ),
        (("mpi",), r"no executor is named 'mpi'; known are 'dask', 'local', 'processes', 'ray'"),
        (("local:8",), r"no executor is named 'local:8'; did you mean"),
        (("slurm:gpu",), r"no executor is named 'slurm:gpu'; did you mean 'slurm'"),
        (
            ("submitit:loco",),
            r"no executor is named 'submitit:loco'; did you mean 'submitit:local'",
        ),
        (("dask:",), r"no executor is named 'dask:'; did you mean 'dask'"),
        (("dask", 0), r"workers must be None or an int >= 1, got 0"),
        (("dask", 1.5), r"workers must be None or an int >= 1, got 1\.5"),
        (
            ("dask:tcp://here:1", 2),
            r"workers must be None, got 2; dask:tcp://here:1 has its own number of workers",
        ),
    ],
)
def test_unknown_names(arguments, text):
    with pytest.raises(ValueError, match=text):
        create(*arguments)


@pytest.mark.parametrize(
    "name, package", [("dask", "distributed"), ("ray", "ray"), ("slurm", "submitit")]
)
def test_a_package_that_is_not_there(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    text = re.escape(
        f"the executor {name} needs {package}, which is not installed: write {install(name)}"
    )
    with pytest.raises(ImportError, match=text):
        create(name)


def test_no_slurm_here(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"slurm needs the number of jobs to run at a time; write --workers 8"
    ):
        create("slurm", folder=tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"this machine has no Slurm.*or try submitit:local"
    ):
        create("slurm", 8, folder=tmp_path)


def test_a_slurm_job_gets_the_time_limit_of_the_environment(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1-12:30")
    with create("slurm", 3, folder=tmp_path / "jobs") as executor:
        assert isinstance(executor, Submitit)
        assert executor.workers == 3
        script = executor._executor._executor._make_submission_file_text("run", "id")
    assert "#SBATCH --time=2190\n" in script
    assert "#SBATCH --job-name=jaxnn\n" in script


@pytest.mark.parametrize(
    "text, wanted",
    # The forms of sbatch's manual.
    [("90", 90), ("90:00", 90), ("4:00:00", 240), ("2-0", 2880), ("1-2:30", 1590), ("0:0:30", 1)],
)
def test_time_limits(text, wanted):
    assert minutes(text) == wanted


def test_what_is_no_time_limit():
    with pytest.raises(
        ValueError,
        match=r"SBATCH_TIMELIMIT must be a time limit in minutes, or as H:M:S or D-H:M:S, got '4h'",
    ):
        minutes("4h")


def test_a_process_pool_of_the_standard_library_says_that_a_worker_died():
    # Spawned, since a fork of a process that runs JAX may hang.
    import multiprocessing

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        error = executor.submit(os._exit, 1).exception(timeout=60)
    assert isinstance(error, BrokenProcessPool)
    assert worker_died(error)


def test_what_says_that_a_worker_died():
    def error(module, name, *bases):
        return type(name, bases or (Exception,), {"__module__": module})()

    assert worker_died(error("distributed.scheduler", "KilledWorker"))
    assert worker_died(error("ray.exceptions", "WorkerCrashedError"))
    assert worker_died(
        error("ray.exceptions", "OwnerDiedError", type(error("ray.e", "ObjectLostError")))
    )
    assert worker_died(error("submitit.core.utils", "UncompletedJobError"))
    assert worker_died(concurrent.futures.CancelledError())

    assert not worker_died(error("mine", "KilledWorker"))
    assert not worker_died(MemoryError())
    assert not worker_died(KeyboardInterrupt())
    # Ray's errors of the work are of the type that the work raised, too.
    raised = type(error("ray.exceptions", "RayTaskError"))
    assert not worker_died(error("ray.exceptions", "E", raised, BrokenProcessPool))
    job = type(error("submitit.core.utils", "UncompletedJobError"))
    assert not worker_died(error("submitit.core.utils", "FailedJobError", job))


def test_the_names_are_those_of_the_packages():
    scheduler = pytest.importorskip("distributed.scheduler")
    core = pytest.importorskip("distributed.comm.core")
    utils = pytest.importorskip("submitit.core.utils")
    assert worker_died(scheduler.KilledWorker("task", None, 3))
    assert worker_died(core.CommClosedError())
    assert worker_died(utils.UncompletedJobError())
    assert not worker_died(utils.FailedJobError())


@pytest.mark.slow
def test_the_names_are_those_of_ray():
    exceptions = pytest.importorskip("ray.exceptions")
    for name in pools.DEATHS["ray"] | pools.RAISED["ray"]:
        assert issubclass(getattr(exceptions, name), exceptions.RayError)


def test_nothing_answers_at_the_address():
    pytest.importorskip("distributed")
    address = "nothing://here:1"
    with pytest.raises(ConnectionError, match=rf"no Dask scheduler answers at {address}; start"):
        create(f"dask:{address}")


@pytest.mark.parametrize("remote", REMOTE, indirect=True)
def test_work_is_done_elsewhere(remote):
    assert isinstance(remote, Pool)
    assert remote.workers == 2
    assert results(remote, pow, (2, 3, 4), (5, 2, 1)) == [32, 9, 4]
    assert remote.submit(os.getpid).result(60) != os.getpid()
    # Keywords that Dask and Ray have themselves.
    assert remote.submit(lambda **named: named, key=1, workers=2, num_cpus=3).result(60) == {
        "key": 1,
        "workers": 2,
        "num_cpus": 3,
    }


@pytest.mark.parametrize("remote", REMOTE, indirect=True)
def test_arrays_and_bytes_travel_whole(remote):
    lanes = np.random.default_rng(0).bytes(12_000_000)  # above what Dask and Ray send at ease
    back, array = remote.submit(
        lambda contents, numbers: (contents[::-1], numbers + 1), lanes, np.arange(5)
    ).result(60)
    assert back == lanes[::-1]
    assert array.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("remote", REMOTE, indirect=True)
def test_what_the_work_raises_is_not_taken_for_a_dead_worker(remote):
    def fails():
        raise BrokenProcessPool("the text of the work")

    error = remote.submit(fails).exception(60)
    assert "the text of the work" in str(error)
    if remote.__class__.__name__ != "Dask":  # there it is what the work raised, no more
        assert not worker_died(error)
    assert not worker_died(remote.submit(int, "x").exception(60))


@pytest.mark.parametrize("remote", REMOTE, indirect=True)
def test_calls_that_are_equal_are_run_again(remote, tmp_path):
    def count(folder):
        import os
        import tempfile

        tempfile.mkstemp(dir=folder)
        return len(os.listdir(folder))

    (tmp_path / "calls").mkdir()
    assert results(remote, count, [str(tmp_path / "calls")]) == [1]
    assert results(remote, count, [str(tmp_path / "calls")]) == [2]


@pytest.mark.parametrize("remote", REMOTE, indirect=True)
def test_every_result_comes_when_a_worker_is_killed(remote, tmp_path):
    """Two workers, eight calls; one worker dies in the middle of its third, as by `kill -9`."""
    count = 8 if remote.__class__.__name__ != "Submitit" else 3  # a job takes seconds to start

    def work(number, folder):
        import os
        import signal
        import time

        time.sleep(0.1)
        begun = os.path.join(folder, str(number))
        again = os.path.exists(begun)
        open(begun, "w").close()
        if number == 2 and not again:
            os.kill(os.getpid(), signal.SIGKILL)
        return number, again

    found = results(remote, work, range(count), [str(tmp_path)] * count)
    assert [number for number, _ in found] == list(range(count))
    assert found[2] == (2, True)
    # And it goes on working.
    assert remote.submit(pow, 2, 3).result(60) == 8


def test_a_worker_process_has_its_share_and_is_replaced_when_it_dies(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5,3")
    with create("processes", workers=1) as executor:
        assert isinstance(executor, Processes)
        assert executor.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result(60) == "GPU-5,3"
        assert executor.submit(os.getenv, processes_.PREALLOCATE).result(60) == "false"
        assert executor.submit(os.sched_getaffinity, 0).result(60) == os.sched_getaffinity(0)
        first = executor.submit(os.getpid).result(60)
        error = executor.submit(int, "x").exception(60)
        assert isinstance(error, ValueError)
        assert "In a worker process:\nTraceback" in error.__notes__[0]
        os.kill(first, signal.SIGKILL)
        assert executor.submit(os.getpid).result(60) not in (first, os.getpid())


@pytest.mark.parametrize(
    ("cores", "workers", "shares"),
    [(7, 3, [[0, 1, 2], [3, 4], [5, 6]]), (2, 2, [[0], [1]]), (2, 3, [[0], [1], [0]])],
)
def test_worker_processes_divide_the_cores(cores, workers, shares):
    assert divided(range(cores), workers) == shares


@pytest.mark.parametrize(
    ("listed", "workers", "variables"),
    [
        ("5, 3,7", 2, ["5,3", "7"]),
        ("GPU-a,MIG-b", 3, ["GPU-a", "MIG-b", "GPU-a"]),  # two workers share the first
        ("", 2, ["none", "none"]),
        ("-1", 1, ["none"]),
    ],
)
def test_worker_processes_divide_the_visible_gpus(monkeypatch, listed, workers, variables):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    monkeypatch.setenv(processes_.PREALLOCATE, "true")  # the user's choice stays
    with Processes(workers) as executor:
        found = [worker._variables for worker in executor._all]
    assert [one.pop("CUDA_VISIBLE_DEVICES", "none") for one in found] == variables
    assert found == [{}] * workers


def test_gpus_are_counted_by_their_device_files(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    files = [processes_.Path(f"/dev/nvidia{index}") for index in (2, 10)]
    monkeypatch.setattr(processes_.Path, "glob", lambda self, pattern: iter(files))
    assert processes_.visible_gpus() == ["0", "1"]  # as CUDA numbers those that it sees


def test_the_environment_of_a_worker_is_not_that_of_its_parent(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv(processes_.PREALLOCATE, raising=False)
    with processes_.child_environment(processes_.worker_variables(["1"])):
        assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ[processes_.PREALLOCATE]) == (
            "1",
            "false",
        )
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert processes_.PREALLOCATE not in os.environ


def test_a_function_of_a_notebook_is_sent_by_value_and_arrives_as_one(monkeypatch):
    pytest.importorskip("cloudpickle")
    notebook = types.ModuleType("__main__")  # without a file
    exec("def twice(x):\n    return scale * x\nscale = 2", vars(notebook))
    messages = []
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "__main__", notebook)
        messages = [pickled_call((map, (notebook.twice, [number]), {})) for number in (1, 2)]
    functions = {}
    calls = [_Loader(message, functions).load() for message in messages]
    assert calls[0][1][0] is calls[1][1][0] is not notebook.twice
    assert [list(map(*arguments)) for _, arguments, _ in calls] == [[2], [4]]


def test_a_function_outside_of_modules_needs_cloudpickle(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    text = "functions outside of modules are sent to worker processes by cloudpickle, which is not"
    with pytest.raises(ImportError, match=text):
        pickled_call((lambda: 1, (), {}))


@pytest.mark.slow
def test_a_script_without_a_guard_is_shown_the_line_to_write(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from jaxnn.executors import create\n"
        "with create('processes', workers=1) as executor:\n"
        "    executor.submit(pow, 2, 3).result()\n"
    )
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert 'must do it inside `if __name__ == "__main__":`' in found.stderr


@pytest.mark.slow
def test_worker_processes_end_with_a_killed_parent(tmp_path):
    code = (
        "import os, signal\nfrom jaxnn.executors import create\n"
        "if __name__ == '__main__':\n"
        "    executor = create('processes', workers=1)\n"
        "    print(executor.submit(os.getpid).result(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "script.py").write_text(code)
    found = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True
    )
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/{int(found.stdout)}") and time.monotonic() < until:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{int(found.stdout)}")


@pytest.mark.slow
@pytest.mark.parametrize("remote", ["dask", *OTHERS], indirect=True)
def test_a_call_that_always_kills_its_worker_is_lost_in_the_end(remote, tmp_path):
    def kills(folder):
        import os
        import signal
        import tempfile

        tempfile.mkstemp(dir=folder)
        os.kill(os.getpid(), signal.SIGKILL)

    error = remote.submit(kills, str(tmp_path)).exception(240)
    assert error is not None
    assert worker_died(error)
    tried = len(os.listdir(tmp_path))
    assert 3 <= tried <= 4  # Dask and Ray: once, and three times again
    assert remote.submit(pow, 2, 3).result(60) == 8


def given_up(executor):
    """Submit what takes minutes to two workers, and shut down."""
    futures = [executor.submit(time.sleep, 300) for _ in range(6)]
    time.sleep(2.0)
    began = time.perf_counter()
    executor.shutdown(wait=False, cancel_futures=True)
    assert time.perf_counter() - began < 60
    assert all(future.done() for future in futures)
    assert all(
        future.cancelled() or worker_died(future.exception() or OSError()) for future in futures
    )
    with pytest.raises(
        RuntimeError, match=r"after shutdown|is shut down and accepts no more calls"
    ):
        executor.submit(time.sleep, 0)


@pytest.mark.slow
def test_dask_gives_up_what_is_unfinished():
    pytest.importorskip("distributed")
    given_up(create("dask", 2))


@pytest.mark.slow
def test_worker_processes_give_up_what_is_unfinished():
    given_up(create("processes", 2))


@pytest.mark.slow
def test_submitit_gives_up_what_is_unfinished(tmp_path):
    pytest.importorskip("submitit")
    given_up(create("submitit:local", 2, folder=tmp_path))


@pytest.mark.slow
def test_ray_gives_up_what_is_unfinished(ray):
    with pytest.raises(
        ValueError, match=r"Ray already runs in this process; write executors\.create\('ray'"
    ):
        create("ray", 2)
    given_up(create("ray"))
    assert ray.submit(pow, 2, 3).result(60) == 8  # its two workers are free again


@pytest.mark.slow
def test_submitit_removes_the_files_of_what_went_well(submitit, tmp_path):
    assert submitit.submit(pow, 2, 3).result(60) == 8
    assert list((tmp_path / "jobs").iterdir()) == []
    assert submitit.submit(int, "x").exception(60) is not None
    assert [file.name for file in (tmp_path / "jobs").glob("*_log.err")]


@pytest.mark.slow
def test_a_scheduler_and_a_cluster_that_run_already():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0"
        ) as own,
        create(f"dask:{own.scheduler_address}") as executor,
    ):
        assert executor.workers == 2
        assert executor.submit(pow, 2, 3).result(60) == 8
