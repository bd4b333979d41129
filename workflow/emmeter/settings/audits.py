"""Audits of images of any origin that the workflow makes as targets."""

import re
from typing import Annotated

from pydantic import Field, model_validator

from emmeter.errors import Fault, SettingsError
from emmeter.settings.types import Bool, Float, Int, Section, Text

SHARDS = 100_000  # at most
OWN_RUN = re.compile(r"(?P<study>[\w-]+)/(?P<arm>[^/]+)/n(?P<n>[1-9]\d*)/r(?P<replicate>\d+)")  # a run of ours


class AuditText(Section):
    """A pair of image sets that a target of its name compares, as `emm audit` does. [Audit](audit.md) explains it."""

    generated: Text = Field(
        description="The generated images: a folder, `.npz`, `.npy`, `.zip` or manifest; or a run of a study, as "
        "`STUDY/ARM/nN/rR`, which is made if it does not exist yet."
    )
    train: Text | None = Field(
        default=None,
        description="The images that the model was trained on, of the same kinds. null: those of the run of a study.",
    )
    held_out: Text | None = Field(
        default=None,
        description="Images that the model was not trained on. null: none, or those of the run of a study.",
    )
    criteria: Annotated[list[Text], Field(min_length=1)] = Field(
        default=["ratio"], description="Criteria, each as for `--criterion`: `ratio`, `calibrated=0.4`, `cosine`."
    )
    features: Text | None = Field(default=None, description="TorchScript file of the network for `cosine`.")
    mirrored: Bool = Field(default=False, description="Whether mirror images of training images count.")
    resize: Annotated[Int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="Side to which the middle square of every image is resampled. null: no resampling."
    )
    group_pattern: Text | None = Field(
        default=None, description="Regular expression for the group of a training image in its name. null: no groups."
    )
    manifest: Text | None = Field(default=None, description="CSV or JSONL file with groups, labels, prompts and seeds.")
    fail_above: Annotated[Float, Field(ge=0, lt=1)] = Field(
        default=0.01, description="Highest rate of copies that is accepted."
    )
    memory: Text = Field(default="4GB", description="Memory that each job may use, from `1500MB` on.")
    redact: Bool = Field(default=False, description="Whether names and pictures are left out of the results.")
    shards: Annotated[Int, Field(ge=1, le=SHARDS)] = Field(
        default=1,
        description="Parts of the training set, each compared by a job of its own. More than one only for the "
        "criterion `ratio` without groups.",
    )

    @model_validator(mode="after")
    def _check(self) -> "AuditText":
        if self.train is None and not OWN_RUN.fullmatch(self.generated):
            rule = "must name the images that the model was trained on, unless generated is STUDY/ARM/nN/rR"
            raise SettingsError(Fault("train", "null", rule))
        alone = [text.partition("=")[0] for text in self.criteria] == ["ratio"]
        if self.shards > 1 and (not alone or self.group_pattern is not None or self.features is not None):
            rule = "must be 1 unless ratio is the only criterion and there are no groups"
            raise SettingsError(Fault("shards", str(self.shards), rule))
        return self
