# The input is the record of the search alone.  It is made again whenever a score changes.  The files of the runs are not
# inputs, so that samples which the user has deleted are not made again for this.
rule quality:
    input:
        record=by_content(lambda wildcards: PATHS.searched("quality", wildcards.key)),
    output:
        record=PATHS.arm_file("quality", "quality.json"),
        tables=[PATHS.arm_file("quality", name) for name in emm_layout.FILES["quality"]],
    log:
        "logs/quality/{key}.log",
    localrule: SETTINGS.base.quality.features == ["pixels"]
    conda:
        environment("envs/cpu.yaml")
    params:
        settings=stage_json("quality"),
        folder=lambda wildcards, output: os.path.dirname(output.record),
        # Without networks of the user it is `...`, which Snakemake does not record, as if there were no such parameter.
        weights=lambda wildcards: INDEX.weights_signature(wildcards.key) or ...,
    message:
        "quality of the images of arm {wildcards.key}"
    shell:
        "OMP_NUM_THREADS={threads} python -m emmeter.stages.quality --settings {params.settings:q} --key {wildcards.key}"
        f" --results {RESULTS}"
        " --record {input.record} --folder {params.folder} > {log} 2>&1"


rule quality_table:
    input:
        measured_files("quality", "quality.csv"),
    output:
        quality=f"{STUDY}/quality.csv",
        copied=f"{STUDY}/copied.csv",
    log:
        "logs/quality_table/{study}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        study=measured_json("quality"),
        tables=lambda wildcards, input: handed_all(input),
    message:
        "quality of the images of study {wildcards.study}"
    shell:
        "python -m emmeter.stages.quality_table --study {params.study:q} --tables {params.tables:q}"
        " --quality {output.quality} --copied {output.copied} > {log} 2>&1"


rule tradeoff:
    input:
        emm=f"{STUDY}/emm.csv",
        curves=f"{STUDY}/curves.csv",
        quality=f"{STUDY}/quality.csv",
    output:
        figure("tradeoff", "copies against image quality"),
        table=f"{STUDY}/tradeoff.csv",
    log:
        "logs/tradeoff/{study}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        study=description_json,
        style=SETTINGS.figures.model_dump_json(),
        folder=lambda wildcards, output: os.path.dirname(output.table),
    message:
        "copies against image quality in study {wildcards.study}"
    shell:
        "python -m emmeter.stages.tradeoff --study {params.study:q} --style {params.style:q} --emm {input.emm}"
        " --curves {input.curves} --quality {input.quality} --folder {params.folder} > {log} 2>&1"


rule criteria_table:
    input:
        records=arm_files("emm.json"),
        tables=measured_files("quality", "criteria.csv"),
    output:
        f"{STUDY}/criteria.csv",
    log:
        "logs/criteria_table/{study}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        study=description_json,
        records=lambda wildcards, input: handed_all(input.records),
        tables=lambda wildcards, input: handed_all(input.tables),
    message:
        "claims of study {wildcards.study} under other criteria"
    shell:
        "python -m emmeter.stages.criteria_table --study {params.study:q} --records {params.records:q}"
        " --tables {params.tables:q} --output {output} > {log} 2>&1"
