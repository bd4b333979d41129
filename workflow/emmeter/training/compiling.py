"""Compiled networks: when compiling pays, and whether this machine can compile at all."""

from typing import Literal

import torch

from emmeter.diffusion.preconditioning import Denoiser
from emmeter.errors import StageError

LONG = 20_000  # steps from which compiling pays; it takes about a minute, once for all N except under unique labels


def compile_network(
    denoiser: Denoiser, steps: int, device: torch.device, when: Literal["auto", "never", "always"]
) -> None:
    """Let a denoiser train with a compiled network.  Evaluation, whose batches have other sizes, is not compiled.

    Args:
        steps: of the whole run, also if it is resumed: a resumed run must compute as it began.
        when: "auto" compiles runs of at least `LONG` steps, and trains uncompiled where no compiler works.
    Raises:
        StageError: "always" on a machine that cannot compile.
    """
    if when == "never" or (when == "auto" and steps < LONG):
        return
    if when == "auto":
        from torch import _dynamo  # takes two seconds, which torch.compile would take anyway

        _dynamo.config.suppress_errors = True
    else:
        check_compiler(device)
    denoiser.compiled = torch.compile(denoiser.network.forward, dynamic=False)


def check_compiler(device: torch.device) -> None:
    """Compile a tiny function.

    Raises:
        StageError: compiling fails, for example because the machine has no C++ compiler.
    """
    from torch import _dynamo

    try:
        with _dynamo.config.patch(suppress_errors=False):
            torch.compile(lambda x: x.sin() + 1)(torch.ones(4, device=device))
    except Exception as error:  # each compiler raises its own kind
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        why = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
        raise StageError(f"execution.compile = 'always': this machine cannot ({why}); use auto or never") from None
