localrules:
    report,


# A Snakemake inside a rule, because the report is a result like any other: made when one of its parts changes, remade
# when it is deleted.  It reads the finished jobs' records, takes no lock, and runs no job.
rule report:
    input:
        [study_files(name) for name in SETTINGS.selected],
        "results/emm.csv",
        "results/findings.csv",
        "results/published.csv",
    output:
        "results/report.html",
    log:
        "logs/report.log",
    conda:
        environment("envs/cpu.yaml")
    params:
        config=lambda wildcards: handed(json.dumps(CONFIG)),
        targets=lambda wildcards, input: handed_all(input),
    message:
        "report"
    shell:
        "python -m emmeter.stages.report --config {params.config:q} --output {output} {params.targets:q} > {log} 2>&1"
