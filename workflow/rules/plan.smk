localrules:
    plan,


# What the selected studies will cost; `emm plan` prints the same.
rule plan:
    log:
        "logs/plan.log",
    conda:
        environment("envs/cpu.yaml")
    params:
        config=lambda wildcards: handed(json.dumps(CONFIG)),
    message:
        "plan: about ten seconds of calibration"
    shell:
        "python -m emm.plan --config {params.config:q} 2> {log}"
