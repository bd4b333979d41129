"""What the Snakefile asks: which runs exist for which key, and which a search wants next.

The loop over N lives here alone, as the search replayed on the scores that exist; see `Index.trail`.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from emmeter.data import datasets, feasibility, inventory, named, own, pictures, signature
from emmeter.data.images import Copies, Facts, mixture
from emmeter.errors import DataError, SettingsError
from emmeter.files.layout import emm_folder
from emmeter.files.scores import Scores, run_files
from emmeter.measure import scatter
from emmeter.measure.scatter import Prior
from emmeter.measure.search import Trail, ladder, repeats, replay
from emmeter.settings.keys import Stage, key, stage_settings
from emmeter.settings.sections import Data, Diffusion, Setup
from emmeter.settings.sources import expanded, is_own, own_path
from emmeter.settings.studies import Settings, Study

# Settings of data that decide which images are used, and what they must be.
_CHOICES = ("sources", "classes", "mixture_classes", "resolution", "fit")
SMALL, FEW = 10**8, 30_000  # bytes of pixels, and images, that are read in a few seconds
NEAR = 1.15  # a sigma_data that differs by less from that of the images is as good as theirs


@dataclass(frozen=True)
class Index:
    """The index of a configuration: every stage key that occurs, with the settings behind it."""

    settings: Settings
    results: Path
    setups: dict[tuple[Stage, str], Setup] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)  # ladder of each emm key
    usable: dict[str, tuple[int, int]] = field(default_factory=dict)  # `subset.usable` of each emm key
    arm_keys: dict[str, list[str]] = field(default_factory=dict)  # of `telling`, by study
    searches: dict[str, tuple[Scores, Trail]] = field(default_factory=dict)  # where each emm key's stood when last seen
    priors: dict[tuple[str, ...], Prior | None] = field(default_factory=dict)  # of finished emm keys
    shapes: dict[str, pictures.Shape] = field(default_factory=dict)  # of the images of each subset key
    inventories: dict[str, inventory.Inventory] = field(default_factory=dict)  # of the user's own data, by source
    own: dict[str, signature.Own] = field(default_factory=dict)  # the user's own images by their source
    # Of studies by name: arms and faults of those that cannot run, and arms and what is to be told of them.
    impossible: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    noticed: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def json(self, stage: Stage, key: str) -> str:
        """A stage's settings as its command line takes them; one string, so that Snakemake notices any change."""
        return json.dumps(stage_settings(stage, self.setups[stage, key]), sort_keys=True)

    def upstream(self, stage: Stage, key_of: str, before: Stage) -> str:
        """Key of an earlier stage for the key of a later one."""
        return key(before, self.setups[stage, key_of])

    def study(self, name: str) -> Study:
        return next(study for study in self.settings.studies if study.name == name)

    def scores(self, emm_key: str) -> Scores:
        setup = self.setups["emm", emm_key]
        return Scores(self.results, key("score", setup), setup.scoring.snapshot)

    def trail(self, emm_key: str) -> list[Path]:
        """Files of the runs that a search has used, and of those that it asks for next.

        Snakemake calls this again whenever a score (a checkpoint) is finished, so the list grows until the search ends.
        """
        scores = self.scores(emm_key)
        found = replay(self.setups["emm", emm_key].search, self.sizes[emm_key], scores)
        return [path for run in found.runs for path in run_files(scores, run)]

    def telling(self, studies: Iterable[str]) -> list[str]:
        """emm keys of the arms of `studies` that repeat their runs, which tells of the scatter; each once.

        Of studies that cannot run here there are none.
        """
        keys: dict[str, None] = {}
        for name in studies:
            if name not in self.impossible:
                if name not in self.arm_keys:  # Snakemake asks after every finished score
                    arms = [arm for arm in self.study(name).arms if repeats(arm.setup.search)]
                    self.arm_keys[name] = [key("emm", arm.setup) for arm in arms]
                keys |= dict.fromkeys(self.arm_keys[name])
        return list(keys)

    def pending(self, studies: Iterable[str]) -> list[Path]:
        """Scores that telling searches of these studies ask for and that are not there yet; empty once all are done."""
        searches = (self._search(one) for one in self.telling(studies))
        return [scores.path(run) for scores, trail in searches for run in trail.missing]

    def prior(self) -> Prior | None:
        """How much runs scatter, by all arms of the configuration whose searches have finished."""
        keys = self.telling(study.name for study in self.settings.studies)
        finished = tuple(one for one in keys if self._search(one)[1].finished)
        if finished not in self.priors:
            known = []
            for one in finished:
                scores, trail = self._search(one)
                known.append((scores.key, trail, {run: scores[run] for run in trail.confirm or trail.locate}))
            self.priors[finished] = scatter.fit(scatter.distinct(known))
        return self.priors[finished]

    def _search(self, emm_key: str) -> tuple[Scores, Trail]:
        """The scores of an arm, and where its search stands: replayed only when a run that it waits for is scored."""
        scores, trail = self.searches.get(emm_key, (None, None))
        if scores is None or trail is None or any(scores.path(run).exists() for run in trail.missing):
            scores = self.scores(emm_key)
            trail = replay(self.setups["emm", emm_key].search, self.sizes[emm_key], scores)
            self.searches[emm_key] = scores, trail
        return scores, trail

    def arms(self, stage: Stage, key_of: str) -> str:
        """The arms behind a key, for readers: "conditioning/unconditional, width/w16"."""
        names = [
            f"{study.name}/{arm.name}"
            for study in self.settings.studies
            for arm in study.arms
            if key(stage, arm.setup) == key_of
        ]
        return ", ".join(names)

    def is_optimum(self, stage: Stage, key_of: str) -> bool:
        return self.setups[stage, key_of].diffusion.denoiser == "optimum"

    def data_signature(self, subset_key: str) -> str:
        """What changes with the content of the user's own images behind a subset; empty where it has none."""
        return " ".join(self.own_images(one).signature for one in self._own_sources(subset_key))

    def has_own_images(self, stage: Stage, key_of: str) -> bool:
        """Whether a key is of runs on the user's own images."""
        return any(map(is_own, self.setups[stage, key_of].data.sources))

    def _own_sources(self, subset_key: str) -> list[str]:
        return [source for source in self.setups["subset", subset_key].data.sources if is_own(source)]

    def own_images(self, source: str) -> signature.Own:
        """The user's own images of a source as they are now, read once however many jobs ask."""
        if source not in self.own:
            self.own[source] = signature.sign(source, self.cache)
        return self.own[source]

    @property
    def cache(self) -> Path:
        """Where what was read of data sets is kept for the next start."""
        return self.results.parent / ".snakemake" / "emm"

    def why(self, studies: Iterable[str]) -> list[str]:
        """Why studies cannot run: one line a fault, with the first arm that has it, and how many more."""
        return _grouped(one for study in studies for one in self.impossible.get(study, []))

    def notices(self, studies: Iterable[str]) -> list[str]:
        """What the user should know of studies before they run, and what is no fault: one line each."""
        return _grouped(one for study in studies for one in self.noticed.get(study, []))

    def faults(self, studies: Iterable[str]) -> list[str]:
        """Why studies cannot run, as `why`, and what is wrong with the user's own images that they use.

        Every image's head is read, once however many arms use it: not for every start of the workflow.
        """
        names = list(studies)
        told = self.why(names)
        used = [arm.setup.data for name in names for arm in self.study(name).arms]
        different = {str([getattr(data, name) for name in _CHOICES]): data for data in used}
        lines = (inventory.image_faults(data, self.inventories) for data in different.values())
        found = dict.fromkeys(line for one in lines for line in one)
        return told + [line for line in found if not any(fault.endswith(line) for fault in told)]

    def portraits(self, studies: Iterable[str]) -> list[str]:
        """What the user's own data hold that these studies use, of those that `faults` has looked at."""
        arms = [arm for name in studies for arm in self.study(name).arms]
        sources = dict.fromkeys(source for arm in arms for source in arm.setup.data.sources)
        held = [self.inventories[source] for source in sources if source in self.inventories]
        return [line for one in held for line in inventory.portrait(one)]

    def emm_files(self, study: str) -> list[Path]:
        return [emm_folder(self.results, key("emm", arm.setup)) / "emm.json" for arm in self.study(study).arms]


def _grouped(told: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each different text, with the first place that it is told of, if any, and how many more."""
    places: dict[str, list[str]] = {}  # one fault in the base settings meets many arms
    for place, text in told:
        places.setdefault(text, []).append(place)
    return [
        f"{first}{f' and {len(more)} more' if more else ''}: {text}" if first else text
        for text, (first, *more) in places.items()
    ]


def index_of(
    settings: Settings,
    results: Path,
    data_needed: bool = True,
    asked: Iterable[str] | None = None,
    looked: bool = True,
) -> Index:
    """Index a configuration, checking every arm against its data set.

    What the settings leave to the data (null) is decided here: `Index.settings` are those given, with it.

    With `data_needed`, images that torchvision's sets lack on this machine are a fault too.  With `looked`, the user's
    own images are looked at for what would stop a run, or what its user should know.
    A study that is not to be made (`asked`; None: those selected) may be impossible here (its data may be missing, or
    its values not fit the base settings); `Index.impossible` tells why.
    Raises:
        SettingsError: an arm of a study that is to be made is impossible with its data; one line for each fault.
    """
    index = Index(settings, results)
    sources = _Sources(index, data_needed, looked)
    studies = []
    for study in settings.studies:
        places = [(place, fault) for place, _, fault in (line.partition(": ") for line in study.faults)]
        arms = study.arms
        if not places:
            found = [_index_arm(index, arm.setup, sources) for arm in study.arms]
            names = [f"studies.{study.name}.arms.{arm.name}" for arm in study.arms]
            places = [(name, fault) for name, one in zip(names, found, strict=True) for fault in one.faults]
            index.noticed[study.name] = [
                (name if placed else "", line)
                for name, one in zip(names, found, strict=True)
                for placed, line in one.notices
            ]
            arms = [arm.model_copy(update={"setup": one.setup}) for arm, one in zip(study.arms, found, strict=True)]
        if places:
            index.impossible[study.name] = places
        studies.append(study.model_copy(update={"arms": arms}))
    if faults := index.why(settings.selected if asked is None else asked):
        raise SettingsError(*faults)
    base = sources.fitted(settings.base).setup
    return replace(index, settings=settings.model_copy(update={"studies": studies, "base": base}))


@dataclass(frozen=True)
class _Arm:
    """A run with what its data decide, what makes it impossible, and what its user should know (with its place?)."""

    setup: Setup
    faults: list[str] = field(default_factory=list)
    notices: list[tuple[bool, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Sources:
    """What is known of data sets, asked once for all arms."""

    index: Index
    data_needed: bool
    looked: bool
    facts: dict[str, Facts] = field(default_factory=dict)  # by data settings as JSON
    looks: dict[str, signature.Look] = field(default_factory=dict)

    def fitted(self, setup: Setup) -> _Arm:
        """The run with what its data decide, or why that cannot be said."""
        try:
            for source in setup.data.sources:  # names the folder that `~` does not stand for
                own_path(source) if is_own(source) else expanded(setup.data.root)
            facts = self.described(setup.data)
            setup = feasibility.fitted(setup, facts)
            if setup.diffusion.sigma_data is not None:
                return _Arm(setup)
            if setup.diffusion.preconditioning != "edm":
                measured = Diffusion().sigma_data  # of no use
            elif not named.absent(setup.data) and _here(setup.data):
                measured = self.look(setup.data).sigma_data
            elif self.data_needed:
                rule = "cannot be measured before the images are on this machine; give a number"
                return _Arm(setup, [f"diffusion.sigma_data = None: {rule}"])
            else:
                measured = Diffusion().sigma_data  # for a plan, as good as any
        except (DataError, OSError) as error:
            return _Arm(setup, [f"data.source = {setup.data.source!r}: {line}" for line in str(error).splitlines()])
        except SettingsError as error:
            return _Arm(setup, str(error).splitlines())
        return _Arm(setup.model_copy(update={"diffusion": setup.diffusion.model_copy(update={"sigma_data": measured})}))

    def described(self, data: Data) -> Facts:
        name = data.model_dump_json()
        if name not in self.facts:
            self.facts[name] = datasets.describe(data)
        return self.facts[name]

    def look(self, data: Data) -> signature.Look:
        """A look at all images of `data.source`, at the resolution at which they are used."""
        name = data.model_copy(update=signature.SELECTION | {"root": data.root}).model_dump_json()
        if name not in self.looks:
            content = self.index.own_images(data.source).signature if is_own(data.source) else "known by name"
            self.looks[name] = signature.look(data, content, self.index.cache)
        return self.looks[name]

    def copies(self, data: Data, facts: Facts) -> Copies | None:
        """Which images of `data.source` are equal: as used where looking is cheap, as stored in files elsewhere."""
        if not is_own(data.source):
            return None
        if is_small(facts):
            return self.look(data).copies
        digests = self.index.own_images(data.source).digests
        if digests is None:
            return None
        return signature.copies(digests, own.folder_files(own_path(data.source))[1])


def is_small(facts: Facts) -> bool:
    """Whether all images of a data set are read in a few seconds."""
    images = facts.images if facts.stored_counts is None else sum(facts.stored_counts)
    return images <= FEW and images * math.prod(facts.stored_shape) <= SMALL


def _here(data: Data) -> bool:
    """Whether a data set that may be fetched has been."""
    return named.absent(data.model_copy(update={"download": False})) is None


def _index_arm(index: Index, setup: Setup, sources: _Sources) -> _Arm:
    """Add one arm to the index, or say what its data make impossible."""
    fitted = sources.fitted(setup)
    if fitted.faults:  # a faulty image may be why
        return replace(fitted, faults=inventory.image_faults(setup.data, index.inventories) or fitted.faults)
    setup, facts = fitted.setup, sources.described(fitted.setup.data)
    found = feasibility.faults(setup, facts)
    if any("resolution" in line for line in found):  # the first image, whose size is meant, may be the odd one
        found = inventory.image_faults(setup.data, index.inventories) or found
    if sources.data_needed and (missing := named.absent(setup.data)):
        found.append(f"data.source = {setup.data.source!r}: {missing}")
    notices: list[tuple[bool, str]] = []
    if not found and sources.looked:
        notices = [(True, line) for line in feasibility.rounded(setup, facts)]
        try:
            known = sources.copies(setup.data, facts)
            second = [sources.copies(mixture(setup.data), facts.second)] if facts.second is not None else []
            found += feasibility.too_equal(setup, facts, [known, *second])
            lines = [*feasibility.of_one_image(setup.data, known), *_described(setup, facts, sources)]
            notices += [(False, line) for line in lines]
        except (DataError, OSError):  # all images were looked at: those that this arm uses may be sound
            found += inventory.image_faults(setup.data, index.inventories) or _unreadable(setup.data)
    if not found:
        index.shapes[key("subset", setup)] = facts.shape
        index.usable[key("emm", setup)] = feasibility.usable(facts, setup.data)
        index.sizes[key("emm", setup)] = ladder(setup.search, *index.usable[key("emm", setup)])
        stages: list[Stage] = ["subset", "train", "sample", "score", "emm"]
        index.setups.update({(stage, key(stage, setup)): setup for stage in stages})
    return _Arm(setup, found, notices)


def _unreadable(data: Data) -> list[str]:
    """A line for each image that a run would use and that cannot be read."""
    try:
        datasets.load(data)
    except (DataError, OSError) as error:
        return [f"data.source = {data.source!r}: {line}" for line in str(error).splitlines()]
    return []


def _described(setup: Setup, facts: Facts, sources: _Sources) -> list[str]:
    """A line about the user's own images, if they are used at another size or with another sigma_data than theirs."""
    if not is_own(setup.data.source):
        return []
    stored, used = (f"{height}x{width}" for _, height, width in (facts.stored_shape, facts.shape))
    parts = [f"images of {stored} pixels are used at {used}"] if stored != used else []
    given = setup.diffusion.sigma_data
    if setup.diffusion.denoiser == "network" and setup.diffusion.preconditioning == "edm" and given and is_small(facts):
        measured = sources.look(setup.data).sigma_data
        if not 1 / NEAR < measured / given < NEAR:
            parts.append(f"diffusion.sigma_data = {given:g} is not theirs, which is {measured:g} (null measures it)")
    return [f"{setup.data.source}: {'; '.join(parts)}"] if parts else []
