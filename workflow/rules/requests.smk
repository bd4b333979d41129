# What the rules of studies request: runs of all arms, their scatter, published numbers, and what the user must know
# before a job starts.
def asked_studies():
    """The studies that this workflow was asked for, by names of rules or by files."""
    targets = {str(target) for target in (workflow.dag_settings.targets if workflow.dag_settings else ())}
    targets = targets or {str(workflow.default_target)}
    # A rule of the workflow around this module stands for the files that it names.
    foreign = [workflow.get_rule(target) for target in targets if target not in RULES and workflow.is_rule(target)]
    files = {str(path) for rule in foreign for path in rule.input if not callable(path)}
    return emm_requests.asked_studies(INDEX, {RULES.get(target, target) for target in targets} | files)


if workflow.is_main_process:
    for handler in handlers():
        handler.attach(emm_live.Live(Course(INDEX), RULES, asked_studies))


def look(study):
    """Before any job starts, show what the user must know of a study, or end the workflow if it cannot run here."""
    # A job on a cluster need not look again.
    if study in INDEX.impossible or (workflow.is_main_process and study not in LOOKS.studies):
        try:
            lines = LOOKS.at(study)
        except SettingsError as error:
            stop(error.lines)
        if workflow.is_main_process and lines:
            print("\n".join(lines), file=sys.stderr)


def arm_files(name):
    """Input function: a file of the finished search of each arm of a study, in order."""

    def files(wildcards):
        look(wildcards.study)
        return PATHS.arms(wildcards.study, name)

    return files


def measured_files(stage, name):
    """Input function: a file of `quality` or `denoising` of each arm of a study that has it, in order."""

    def files(wildcards):
        look(wildcards.study)
        return PATHS.measured(wildcards.study, stage, name)

    return files


def measured_json(stage):
    """Parameter function: a study with the arms that `quality` or `denoising` measures."""
    return lambda wildcards: handed(json.dumps(emm_description.measured(INDEX, wildcards.study, stage), sort_keys=True))


def awaited_score(wildcards):
    """A score that any requested study still waits for, because the scatter of runs is estimated from all together.

    None once all searches have finished, so that a study's inputs do not depend on what else was requested.  Scores are
    checkpoints, so Snakemake calls this again after this one.  It is one, because Snakemake would examine all edges
    between studies and scores after each finished score.  The rule `emm` requests the others.
    """
    return PATHS.awaited([*asked_studies(), wildcards.study])


def prior_json(wildcards):
    """Parameter function: the scatter of runs, as the study stage takes it."""
    return emm_requests.prior_json(INDEX, [*asked_studies(), wildcards.study])


def description_json(wildcards):
    """Parameter function: a study, as its stages take it."""
    return handed(json.dumps(emm_description.description(INDEX, wildcards.study), sort_keys=True))


def figure(name, result, listed=report):
    """The SVG and PNG of one figure, in one row of the report."""
    return [
        listed(
            f"{STUDY}/{name}.{kind}",
            caption=f"../report/{name}.rst",
            category="Studies",
            subcategory="{study}",
            labels={"result": result, "as": kind.upper()},
        )
        for kind in ("svg", "png")
    ]


@functools.cache
def counterparts():
    """The published numbers of the counterparts of our arms, by selected study and arm."""
    try:
        return emm_published.counterparts(SETTINGS, FOLDER)
    except SettingsError as error:
        stop(error.lines)


def shape_files(wildcards=None):
    """Input function: the comparison by shape, if a selected study has published numbers."""
    return [f"{EXPERIMENT}/shape.{kind}" for kind in ("csv", "svg", "png")] if counterparts() else []


def compared_records(wildcards):
    """Input function: the finished searches of all arms of the studies that have published numbers, in order."""
    for study in counterparts():
        look(study)
    return [path for study in counterparts() for path in PATHS.arms(study, "emm.json")]


def compared_json(wildcards):
    """Parameter function: these studies with their published numbers, as the shape stage takes them."""
    studies = [
        {
            "description": emm_description.description(INDEX, study),
            "numbers": {arm: [dataclasses.asdict(number) for number in numbers] for arm, numbers in arms.items()},
        }
        for study, arms in counterparts().items()
    ]
    return handed(json.dumps(studies, sort_keys=True))


def page_inputs(studies):
    """Input function: everything that the page of these studies shows."""

    def files(wildcards):
        names = [wildcards.study] if studies is None else studies
        for name in names:
            look(name)
        tables = [f"{EXPERIMENT}/{name}/{table}.csv" for name in names for table in emm_paths.TABLES]
        measured = [f"{EXPERIMENT}/{name}/{table}" for name in names for table in PATHS.measured_tables(name)]
        searched = [path for name in names for file in ("emm.json", "gallery.npz") for path in PATHS.arms(name, file)]
        return tables + measured + searched

    return files


def outlines_json(studies):
    """Parameter function: studies as the page names them."""
    return lambda wildcards: handed(
        json.dumps(emm_description.outlines(SETTINGS, [wildcards.study] if studies is None else studies))
    )


def configuration_json(wildcards):
    """Parameter function: the configuration in force."""
    return handed(json.dumps(CONFIG))
