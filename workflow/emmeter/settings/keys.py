"""Keys: a hash of exactly the settings that determine a stage's output.

Arms that share these settings therefore share runs.  An edit reruns only what it changes, and a return to earlier
settings finds the earlier results.
"""

import hashlib
import json
from typing import Any, Literal, get_args

from emmeter.settings import invocation
from emmeter.settings.sections import Setup
from emmeter.settings.thresholds import Thresholds

Stage = Literal["subset", "train", "sample", "score", "emm", "quality", "denoising"]
STAGES: tuple[Stage, ...] = get_args(Stage)

# Raise the version of a stage whose code gives other results for the same settings: its runs are then made again.
VERSIONS: dict[Stage, int] = {"subset": 1, "train": 2, "sample": 1, "score": 2, "emm": 2, "quality": 3, "denoising": 1}
CONTRACT = 1  # the same for the stages `train` and `sample` of a command of the user's


def stage_settings(stage: Stage, setup: Setup) -> dict[str, Any]:
    """The settings that determine a stage's output, resolved: a partial mapping that `Setup` reads back."""
    data = setup.data.model_dump()
    if not setup.data.mixture_share:
        data = {name: value for name, value in data.items() if not name.startswith("mixture")}
    if setup.data.fit is None:
        del data["fit"]
    if not setup.data.embedded:
        del data["embeddings"]
    if not setup.data.duplicates.share:
        del data["duplicates"]
    resolved: dict[str, Any] = {"seed": setup.seed, "data": data}
    if stage == "subset":
        return resolved
    optimum = setup.kind == "optimum"
    if setup.kind == "command":  # which settings matter beside these, it says by its placeholders
        resolved["model"] = {"command": invocation.command(setup), "files": dict(setup.model.files)}
    elif optimum:  # no network, no training: only the images decide
        resolved["diffusion"] = {"denoiser": "optimum"}
    else:
        network, diffusion, training = (s.model_dump() for s in (setup.network, setup.diffusion, setup.training))
        # Settings that mean the same take one form, so that their arms share runs.
        network["embedding"] = setup.network.embedding or (
            "fourier" if setup.network.architecture == "ncsnpp" else "positional"
        )
        if setup.network.skips and all(setup.network.skips):
            network["skips"] = None
        others = ("patch", "heads") if setup.network.architecture != "dit" else ("multipliers", "attention", "skips")
        network = {name: value for name, value in network.items() if name not in others}
        if setup.diffusion.preconditioning != "edm":
            diffusion = {k: v for k, v in diffusion.items() if k not in ("sigma_data", "p_mean", "p_std")}
        if setup.diffusion.preconditioning != "flow":
            del diffusion["times"]
        if setup.training.optimizer != "sgd":
            del training["momentum"]
        del training["gpus"]  # the batches are the same, on any number of GPUs
        if setup.training.precision == "float32":
            del training["precision"]
        for name in ("flip", "sigma_min"):
            if not training[name]:
                del training[name]
        if not setup.training.label_dropout or setup.data.labels == "none":
            del training["label_dropout"]
        if not setup.training.weight_decay:
            del training["decoupled"]
        resolved |= {"network": network, "diffusion": diffusion, "training": training}
    if stage == "train":
        return resolved
    resolved["sampling"] = _sampling(setup)
    if stage == "sample":
        return resolved
    scoring = setup.scoring.model_dump(exclude=None if setup.scoring.mirrored else {"mirrored"})
    resolved["scoring"] = {name: value for name, value in scoring.items() if name != "snapshot"}
    if stage == "score":
        return resolved
    resolved |= {"scoring": scoring, "search": setup.search.model_dump()}
    if stage == "emm":
        return resolved
    if stage == "quality":
        neutral = {"thresholds"} if setup.quality.thresholds == Thresholds() else set()
        return resolved | {"quality": setup.quality.model_dump(exclude={"enabled", *neutral})}
    return resolved | {"denoising": setup.denoising.model_dump(exclude={"enabled"})}


def _sampling(setup: Setup) -> dict[str, Any]:
    """The settings of `sampling` that matter."""
    if setup.kind == "command":
        return {"images": setup.sampling.images}
    sampling = setup.sampling.model_dump()
    sampling["ema_decay"] = None if setup.kind == "optimum" else ema_decay(setup)
    if setup.kind == "optimum" or setup.sampling.precision == "float32":
        del sampling["precision"]
    if setup.guidance == 1:
        del sampling["guidance"]
    return sampling


def measures(stage: Stage, setup: Setup) -> bool:
    """Check whether an arm is measured by `quality` or `denoising`; only networks of our own denoise."""
    return setup.quality.enabled if stage == "quality" else setup.denoising.enabled and setup.kind == "network"


def ema_decay(setup: Setup) -> float:
    """The EMA decay that is sampled: `sampling.ema_decay`, or the first one that training tracks."""
    return setup.training.ema_decays[0] if setup.sampling.ema_decay is None else setup.sampling.ema_decay


def key(stage: Stage, setup: Setup) -> str:
    """Ten hexadecimal digits that name the settings of a stage."""
    content = stage_settings(stage, setup)
    # The folder of the files and the permission to download do not change the images.
    content["data"] = {k: v for k, v in content["data"].items() if k not in ("root", "download")}
    if content.get("scoring", {}).get("mirrored"):
        content["scoring"]["mirrored"] = 2  # its own version, because other scores stay valid
    own: dict[Stage, int] = {"train": CONTRACT, "sample": CONTRACT} if setup.kind == "command" else {}
    # `denoising` and `quality` both follow `emm`.
    chain: list[Stage] = [s for s in STAGES[: STAGES.index(stage) + 1] if s != "quality" or stage == "quality"]
    versions = [own.get(s, VERSIONS[s]) for s in chain]
    return digest([versions, content])


def digest(content: object) -> str:
    """Ten hexadecimal digits that name any content of plain values, independent of the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]
