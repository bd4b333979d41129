# The page of all selected studies.
rule report:
    input:
        page_inputs(SETTINGS.selected),
        f"{EXPERIMENT}/emm.csv",
        f"{EXPERIMENT}/findings.csv",
        f"{EXPERIMENT}/published.csv",
        shape_files,
    output:
        f"{EXPERIMENT}/report.html",
    log:
        "logs/report.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        studies=outlines_json(SETTINGS.selected),
        config=configuration_json,
    message:
        "page"
    shell:
        "python -m emmeter.stages.report --studies {params.studies:q} --config {params.config:q}"
        f" --folder {INDEX.experiment} --results {RESULTS}"
        " --output {output} > {log} 2>&1"


# The page of one study, for the study as a target.
rule study_report:
    input:
        page_inputs(None),
    output:
        f"{STUDY}/report.html",
    log:
        "logs/study_report/{study}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        studies=outlines_json(None),
        config=configuration_json,
    message:
        "page of study {wildcards.study}"
    shell:
        "python -m emmeter.stages.report --studies {params.studies:q} --config {params.config:q}"
        f" --folder {INDEX.experiment} --results {RESULTS}"
        " --output {output} > {log} 2>&1"


# Snakemake's own report, on request: it shows rules, run times and commands.  The inner Snakemake reads the records of
# finished jobs, takes no lock, and runs no job.
rule workflow_report:
    input:
        [PATHS.study(name) for name in SETTINGS.selected],
        f"{EXPERIMENT}/emm.csv",
        f"{EXPERIMENT}/findings.csv",
        f"{EXPERIMENT}/published.csv",
        shape_files,
    output:
        f"{EXPERIMENT}/workflow.html",
    log:
        "logs/workflow_report.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        config=configuration_json,
        targets=lambda wildcards, input: handed_all(input),
    message:
        "Snakemake's report"
    shell:
        "python -m emmeter.stages.workflow_report --config {params.config:q} --output {output}"
        f"{MOVED_OPTION}"
        " {params.targets:q} > {log} 2>&1"
