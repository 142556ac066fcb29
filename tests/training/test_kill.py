"""A run that is killed anywhere, again and again, ends like one that was never killed: bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from jaxkd.training.checkpoints import load_result, tree_hash
from jaxkd.training.logging import read_metrics

_KILLS = int(os.environ.get("JAXKD_KILLS", "3"))  # each costs a start of Python; 10 were tried
_SCRIPT = Path(__file__).with_name("killable.py")


def _start(directory: Path) -> subprocess.Popen:
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(_SCRIPT.parents[2])}
    return subprocess.Popen(
        [sys.executable, _SCRIPT, directory], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _outcome(directory: Path) -> tuple[str, ...]:
    results = directory / "results"
    hashes = [tree_hash(load_result(results, name).variables) for name in ("teacher", "distilled")]
    return (*hashes, (directory / "metrics.jsonl").read_text())


def test_killed_at_random_moments_and_resumed_is_never_killed(tmp_path):
    whole = _start(tmp_path / "whole")
    output, errors = whole.communicate(timeout=300)
    assert output.endswith("done\n"), errors
    expected = _outcome(tmp_path / "whole")
    records = read_metrics(tmp_path / "whole/metrics.jsonl")
    for phase, steps, shape in (("teacher", 60, ()), ("distilled", 90, (2,))):
        of_phase = [r for r in records if r["phase"] == phase and "loss" in r]
        assert [r["step"] for r in of_phase] == list(range(1, steps + 1))
        assert np.shape(of_phase[0]["loss"]) == shape

    moments = random.Random(0)
    kills, attempt, went_on = 0, 0, set()
    while kills < _KILLS:
        directory = tmp_path / f"killed{attempt}"
        finished = False
        while not finished:
            process = _start(directory)
            line = process.stdout.readline()
            if line != "done\n" and not line.endswith(" 0\n"):
                went_on.add(line.split()[0])
            if kills < _KILLS:
                # A number of chunks later, and then anywhere in what follows one: logging, evaluating, saving.
                for _ in range(moments.randint(1, 12)):
                    process.stdout.readline()
                time.sleep(moments.uniform(0, 0.2))
                process.kill()
            _, errors = process.communicate(timeout=300)
            assert process.returncode in (0, -signal.SIGKILL), errors
            kills += process.returncode != 0
            finished = process.returncode == 0
        attempt += 1
        assert _outcome(directory) == expected
    assert went_on == {"teacher", "distilled"}, "no kill hit the middle of a phase: the test has tested nothing"
