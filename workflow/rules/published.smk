# The paper's numbers beside ours: those of the same setting, and at any scale those of the same arms by shape.
rule published:
    input:
        [f"{EXPERIMENT}/{name}/curves.csv" for name in SETTINGS.selected],
        project_file("config/paper.yaml"),
    output:
        report(
            f"{EXPERIMENT}/published.csv",
            caption="../report/published.rst",
            category="All studies",
            labels={"result": "beside the published numbers", "as": "CSV"},
        ),
    log:
        "logs/published.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        arms=lambda wildcards: handed(json.dumps(emm_published.identities(SETTINGS), sort_keys=True)),
    message:
        "comparison with the published numbers"
    shell:
        "python -m emmeter.stages.published --arms {params.arms:q}"
        f" --tables {INDEX.experiment}"
        f" --table {{output}}{FOLDER_OPTION} > {{log}} 2>&1"


rule shape:
    input:
        lambda wildcards: PATHS.awaited([*asked_studies(), *counterparts()]),
        records=compared_records,
    output:
        table=report(
            f"{EXPERIMENT}/shape.csv",
            caption="../report/shape.rst",
            category="All studies",
            labels={"result": "beside the published numbers, by shape", "as": "CSV"},
        ),
        figure=[
            report(
                f"{EXPERIMENT}/shape.{kind}",
                caption="../report/shape.rst",
                category="All studies",
                labels={"result": "beside the published numbers, by shape", "as": kind.upper()},
            )
            for kind in ("svg", "png")
        ],
    log:
        "logs/shape.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        studies=compared_json,
        records=lambda wildcards, input: handed_all(input.records),
        prior=lambda wildcards: emm_requests.prior_json(INDEX, [*asked_studies(), *counterparts()]),
        style=SETTINGS.figures.model_dump_json(),
    message:
        "comparison with the published numbers by shape"
    shell:
        "python -m emmeter.stages.shape --studies {params.studies:q} --records {params.records:q} --prior {params.prior:q}"
        " --style {params.style:q} --table {output.table} --figure {output.figure[0]} > {log} 2>&1"
