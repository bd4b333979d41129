# Measure how many training images a diffusion model memorizes, and what changes that number.
#
#   snakemake                 the studies that `run` selects, with tables, figures and report
#   snakemake <study>         one study of config/studies.yaml, such as `snakemake width`
#   snakemake findings        what of the paper's claims the selected studies reproduce
#   snakemake plan            what the selected studies will cost, before anything runs
import os
import shutil

from snakemake.utils import min_version

min_version("9.27")


report: "workflow/report/workflow.rst"


include: "workflow/rules/package.smk"


configfile: project_file("config/studies.yaml")
configfile: project_file("config.yaml")


if isinstance(config.get("fit"), str) and os.path.isfile(project_file(config["fit"])):

    configfile: project_file(config["fit"])


include: "workflow/rules/common.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/subset.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/sample.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/emm.smk"
include: "workflow/rules/study.smk"
include: "workflow/rules/report.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        [study_files(name) for name in SETTINGS.selected],
        "results/emm.csv",
        "results/emm.html",
        "results/findings.csv",
        "results/published.csv",
        "results/report.html",
    message:
        "all results are there"


for study in SETTINGS.studies:

    rule:
        name:
            study.name
        input:
            study_files(study.name),
        localrule: True
        message:
            "study complete"


onsuccess:
    print_summary()
    shutil.rmtree(HANDED, ignore_errors=True)


onerror:
    print_waiting()
