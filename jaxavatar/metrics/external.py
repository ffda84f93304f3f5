"""Ask a program of the user's for IQA and ASE, which need a large language model (Q-Align).

The program reads one JSON object from its standard input, {"videos": [paths]}, and writes one to
its standard output, {"iqa": [...], "ase": [...]}: a number per video, in Q-Align's scale of 1
(bad) to 5 (excellent). A scorer that returns [0, 1] must be mapped by 4 x + 1 first. Either name
may be left out.
"""

import json
import math
import pathlib
import shlex
import subprocess
from collections.abc import Sequence

from jaxavatar.errors import InputError

NAMES = ("iqa", "ase")


def ask_scorer(command: str, videos: Sequence[pathlib.Path]) -> dict[str, list[float]]:
    """Run a scorer on videos.

    Args:
        command: split as a shell would, run without one.
        videos: in the order of the answers.

    Returns:
        "iqa" and "ase", where the scorer gives them.

    Raises:
        InputError: it cannot run, fails, or its answer is not as described above.
    """
    asked = json.dumps({"videos": [str(path.resolve()) for path in videos]})
    try:
        done = subprocess.run(
            shlex.split(command), input=asked, capture_output=True, text=True, check=False
        )
        lines = done.stderr.strip().splitlines()
        if done.returncode:
            raise ValueError(lines[-1] if lines else f"status {done.returncode}")
        answer = json.loads(done.stdout)
        scores = {name: [float(x) for x in answer[name]] for name in NAMES if name in answer}
        if not scores:
            raise ValueError("neither iqa nor ase")
        for name, values in scores.items():
            if len(values) != len(videos) or not all(
                math.isfinite(x) and 1 <= x <= 5 for x in values
            ):
                raise ValueError(f"{name} must be {len(videos)} numbers from 1 to 5")
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"the scorer {command!r} gives no scores ({error}); it must read"
            ' {"videos": [...]} and write {"iqa": [...], "ase": [...]}'
        ) from error
    return scores
