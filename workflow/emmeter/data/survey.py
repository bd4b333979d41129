"""The data behind arms: read once for all arms, and judged by `emmeter.data.feasibility`."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from emmeter.data import datasets, defects, embeddings, feasibility, inventory, named, own, signature
from emmeter.data.feasibility import Notice
from emmeter.data.images import Copies, Facts, parts
from emmeter.errors import DataError, Fault, SettingsError, lines
from emmeter.settings.sections import Data, Diffusion, Setup
from emmeter.settings.sources import expanded, is_own, own_path

SMALL, FEW = 10**8, 30_000  # bytes of pixels, and images, that are read in a few seconds
# Settings of data that decide which images are used, and which properties these must have.
_CHOICES = ("sources", "classes", "mixture_classes", "resolution", "fit")


@dataclass(frozen=True)
class Assessment:
    """An arm's settings, completed by its data, and what the data rule out."""

    setup: Setup
    """The settings, with the values that they leave to the data (null), if there is no fault."""
    faults: list[Fault] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


@dataclass(frozen=True)
class Survey:
    """Data sets as they are on this machine.  Each is read once, for however many arms."""

    cache: Path
    """Folder that keeps digests and looks for the next start."""
    data_needed: bool = True
    """Images that torchvision's sets lack on this machine are a fault."""
    looked: bool = True
    """Look at the pixels of the user's own images."""
    facts: dict[str, Facts] = field(default_factory=dict)
    """By data settings as JSON."""
    looks: dict[str, signature.Look] = field(default_factory=dict)
    """By data settings as JSON."""
    inventories: dict[str, inventory.Inventory] = field(default_factory=dict)
    """Contents of the user's own data, by source."""
    signed: dict[str, signature.Own] = field(default_factory=dict)
    """Signatures of the user's own images, by source."""
    embedded: dict[tuple[str, int], str] = field(default_factory=dict)
    """Signatures of the user's own embeddings, by `data.labels` and number of images."""

    def assess(self, setup: Setup) -> Assessment:
        """Complete the settings of an arm, and judge whether its data allow its runs."""
        arm = self.complete(setup)
        if arm.faults:  # a faulty image may be the cause
            return replace(arm, faults=self.image_faults(setup.data) or arm.faults)
        setup, facts = arm.setup, self.describe(arm.setup.data)
        faults = feasibility.faults(setup, facts)
        if any("resolution" in fault.text for fault in faults):  # the first image, which sets the size, may be odd
            faults = self.image_faults(setup.data) or faults
        if self.data_needed and (missing := named.absent(setup.data)):
            faults.append(Fault("data.source", repr(setup.data.source), missing))
        if not faults and self.looked:
            try:
                self.embeddings(setup.data)
            except DataError as error:
                faults = [Fault("data.labels", repr(setup.data.labels), line) for line in error.lines]
        if faults or not self.looked:
            return Assessment(setup, faults)
        notices: list[Notice] = []
        try:
            facts_of_sources = [fact for fact in (facts, facts.second) if fact is not None]
            pairs = zip(parts(setup.data), facts_of_sources, strict=True)
            first, *others = (self._copies(part, fact) for part, fact in pairs)
            faults = feasibility.too_equal(setup, facts, [first, *others])
            notices = feasibility.notices(setup, facts, first, self._comparable_sigma_data(setup, facts))
        except (DataError, OSError):  # all images were looked at, but those that this arm uses may be sound
            notices = [Notice(line, True) for line in feasibility.rounded(setup, facts)]
            faults = self.image_faults(setup.data) or _unreadable(setup.data)
        return Assessment(setup, faults, notices)

    def complete(self, setup: Setup) -> Assessment:
        """The settings with the values that they leave to the data, or the faults that prevent this."""
        try:
            for source in setup.data.sources:  # raises DataError for a home folder that is not known
                own_path(source) if is_own(source) else expanded(setup.data.root)
            setup = feasibility.fitted(setup, self.describe(setup.data))
            if setup.diffusion.sigma_data is not None:
                return Assessment(setup)
            sigma_data = self._sigma_data(setup)
        except (DataError, OSError) as error:
            return Assessment(setup, _source_faults(setup.data, error))
        except SettingsError as error:
            return Assessment(setup, list(error.faults))
        if sigma_data is None:
            rule = "cannot be measured before the images are on this machine; give a number"
            return Assessment(setup, [Fault("diffusion.sigma_data", "None", rule)])
        diffusion = setup.diffusion.model_copy(update={"sigma_data": sigma_data})
        return Assessment(setup.model_copy(update={"diffusion": diffusion}))

    def _sigma_data(self, setup: Setup) -> float | None:
        """The measured sigma_data; None if images that are needed are missing."""
        unused = Diffusion().sigma_data
        if setup.diffusion.preconditioning != "edm" or setup.kind == "command":
            return unused
        if _is_here(setup.data):
            return self.look(setup.data).sigma_data
        return None if self.data_needed else unused  # for a plan every value is as good

    def _comparable_sigma_data(self, setup: Setup, facts: Facts) -> float | None:
        """The sigma_data of own images, if the network uses a given one and the images are read quickly."""
        diffusion = setup.diffusion
        used = setup.kind == "network" and diffusion.preconditioning == "edm" and diffusion.sigma_data
        return self.look(setup.data).sigma_data if used and is_own(setup.data.source) and is_small(facts) else None

    def describe(self, data: Data) -> Facts:
        """Facts about a data set.  Raises DataError as `datasets.describe` does."""
        name = data.model_dump_json()
        if name not in self.facts:
            self.facts[name] = datasets.describe(data)
        return self.facts[name]

    def look(self, data: Data) -> signature.Look:
        """A look at all images of data.source, at the resolution at which they are used.

        Raises:
            DataError, OSError: an image cannot be read.
            SettingsError: the resolution is above the stored one.
        """
        name = data.model_copy(update=signature.SELECTION | {"root": data.root}).model_dump_json()
        if name not in self.looks:
            content = self.own_images(data.source).signature if is_own(data.source) else "known by name"
            self.looks[name] = signature.look(data, content, self.cache)
        return self.looks[name]

    def _copies(self, data: Data, facts: Facts) -> Copies | None:
        """The equal images of one source: compared as used if they are read quickly, otherwise as files."""
        if not is_own(data.source):
            return None
        if is_small(facts):
            return self.look(data).copies
        digests = self.own_images(data.source).digests
        if digests is None:
            return None
        return signature.copies(digests, own.folder_files(own_path(data.source))[1])

    def own_images(self, source: str) -> signature.Own:
        """The user's own images of a source as they are now.  Raises DataError or OSError if they cannot be read."""
        if source not in self.signed:
            self.signed[source] = signature.sign(source, self.cache)
        return self.signed[source]

    def embeddings(self, data: Data) -> str:
        """A text that changes with the embeddings that are the labels of `data`; empty if the labels are others.

        Raises:
            DataError: the file is missing, or is not of the documented form.
        """
        if not data.embedded:
            return ""
        name = data.labels, self.describe(data).stored_images
        if name not in self.embedded:
            self.embedded[name] = embeddings.signature(embeddings.read(own_path(data.labels), name[1]))
        return self.embedded[name]

    def image_faults(self, data: Data) -> list[Fault]:
        """One fault per image of the user's that `data` cannot use.  Reads the head of every image, once."""
        return defects.image_faults(data, self.inventories)

    def all_image_faults(self, used: Iterable[Data]) -> list[Fault]:
        """`image_faults` of several data sets, each different fault once."""
        different = {str([getattr(data, name) for name in _CHOICES]): data for data in used}
        return list(dict.fromkeys(fault for data in different.values() for fault in self.image_faults(data)))

    def portraits(self, sources: Iterable[str]) -> list[str]:
        """Lines on the contents of those sources whose images have been looked at by `image_faults`."""
        held = [self.inventories[source] for source in dict.fromkeys(sources) if source in self.inventories]
        return [line for contents in held for line in inventory.portrait(contents)]


def is_small(facts: Facts) -> bool:
    """True for a data set whose images are all read in a few seconds."""
    return facts.stored_images <= FEW and facts.stored_images * math.prod(facts.stored_shape) <= SMALL


def _is_here(data: Data) -> bool:
    """True if no file is missing, even one that may be downloaded."""
    return named.absent(data.model_copy(update={"download": False})) is None


def _unreadable(data: Data) -> list[Fault]:
    """One fault per image that a run would use and that cannot be read."""
    try:
        datasets.load(data)
    except (DataError, OSError) as error:
        return _source_faults(data, error)
    return []


def _source_faults(data: Data, error: Exception) -> list[Fault]:
    return [Fault("data.source", repr(data.source), line) for line in lines(error)]
