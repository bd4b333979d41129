"""Make the images of this example from the digits of scikit-learn: ``uv run python examples/audit/make.py``."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from emmeter.files.npz import write_npz

HERE = Path(__file__).parent


def main() -> None:
    random = np.random.default_rng(0)
    digits = np.rint(load_digits().images * 255 / 16).astype(np.uint8)[random.permutation(1797)]
    train, held_out, new = digits[:800], digits[800:1200], digits[1200:1700]
    copies = new.copy()
    copied = train[random.integers(0, 40, 50)].astype(int)  # 40 training images, most of them more than once
    copies[:50] = np.clip(copied + random.integers(-8, 9, copied.shape), 0, 255)
    mixed = random.permutation(copies)
    for name, images in {"train": train, "held_out": held_out, "new": new, "copies": mixed}.items():
        write_npz(HERE / f"{name}.npz", images=images)


if __name__ == "__main__":
    main()
