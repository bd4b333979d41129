# The cost of the selected studies; `emm plan` prints the same.
rule plan:
    log:
        "logs/plan.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        config=lambda wildcards: handed(json.dumps(CONFIG)),
    message:
        "plan: counts operations, then calibrates for about ten seconds"
    shell:
        "python -m emmeter.pipeline.plan --config {params.config:q}" f"{MOVED_OPTION}" " 2> {log}"
