# Snakemake inside a rule, so that the report is a result like any other: made again when one of its parts changes or it
# is deleted.  The inner Snakemake reads the records of finished jobs, takes no lock, and runs no job.
rule report:
    input:
        [PATHS.study(name) for name in SETTINGS.selected],
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
        config=lambda wildcards: handed(json.dumps(CONFIG)),
        targets=lambda wildcards, input: handed_all(input),
    message:
        "report"
    shell:
        "python -m emmeter.stages.report --config {params.config:q} --output {output}"
        f"{MOVED_OPTION}"
        " {params.targets:q} > {log} 2>&1"
