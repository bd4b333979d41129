localrules:
    plan,


# What the selected studies will cost; `emm plan` prints the same.
rule plan:
    log:
        "logs/plan.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        config=json.dumps(CONFIG),
    message:
        "plan: a calibration of ten seconds"
    shell:
        "python -m emm.plan --config {params.config:q} 2> {log}"
