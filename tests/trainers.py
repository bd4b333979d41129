"""Commands of users for tests: small programs in numpy that stand for a trainer, and settings that call them."""

import sys
from pathlib import Path
from typing import Any

# It copies training images with a share that falls with N: 90 % at N = `emm`.  The other images are mixtures of two.
COPIER = """
import argparse, numpy as np, os, signal, sys, time
parser = argparse.ArgumentParser()
for name in ("subset", "samples", "state", "seed", "images"):
    parser.add_argument(f"--{name}")
parser.add_argument("--emm", type=float, default=14)
parser.add_argument("--steps", type=int, default=0)
a = parser.parse_args()
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
file = os.path.join(a.state, "done")
done = int(open(file).read()) if os.path.exists(file) else 0
print("begins at step", done, flush=True)
for step in range(done, a.steps):
    time.sleep(0.02)
    with open(file + ".new", "w") as new:
        new.write(str(step + 1))
    os.replace(file + ".new", file)
    if told:
        sys.exit(143)
with np.load(a.subset) as subset:
    train = subset["images"].astype(float)
random, m = np.random.default_rng(int(a.seed)), int(a.images)
odds = np.exp(np.log(9) + 2.5 * np.log2(a.emm / len(train)) + 0.1 * random.normal())
first, second = random.integers(len(train), size=(2, m))
share = np.where(random.random(m) < odds / (1 + odds), 0.0, 0.5)[:, None, None, None]
images = (1 - share) * train[first] + share * train[second] + random.normal(0, 2, (m, *train.shape[1:]))
np.savez(a.samples, images=images.round().clip(0, 255).astype(np.uint8), images_trained=a.steps)
"""
OPTIONS = "--subset {subset} --samples {samples} --state {state} --seed {seed} --images {images}"


def write(folder: Path, text: str = COPIER, name: str = "trainer.py") -> Path:
    """Write a program into a folder."""
    path = folder / name
    path.write_text(text)
    return path


def command(path: Path, options: str = OPTIONS) -> str:
    """The command that runs a program with the Python of the tests."""
    return f"{sys.executable} {path} {options}"


def model(path: Path, options: str = OPTIONS, **more: Any) -> dict[str, Any]:
    """The section `model` for a program."""
    return {"command": command(path, options), "files": [str(path)], **more}
