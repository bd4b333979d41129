# The files of the runs are not inputs, so that snapshots which the user has deleted are not made again for this.
rule denoising:
    input:
        record=by_content(lambda wildcards: PATHS.searched("denoising", wildcards.key)),
    output:
        record=PATHS.arm_file("denoising", "denoising.json"),
        table=PATHS.arm_file("denoising", "denoising.csv"),
    log:
        "logs/denoising/{key}.log",
    conda:
        environment("envs/gpu.yaml")
    threads: SETTINGS.execution.threads
    resources:
        gpu_slots=gpu_slots(),
        device=emm_gpus.device(SETTINGS.execution),
        runtime=lambda wildcards, attempt: LIMITS.measuring(attempt),
        gpu=cluster_gpus(),
    params:
        claim=gpu_claim("denoising"),
        settings=stage_json("denoising"),
        folder=lambda wildcards, output: os.path.dirname(output.record),
    message:
        "errors by noise level of the networks of arm {wildcards.key}"
    shell:
        "OMP_NUM_THREADS={threads} {params.claim} python -m emmeter.machine.warm emmeter.stages.denoising"
        " --settings {params.settings:q} --key {wildcards.key}"
        f" --results {RESULTS}"
        " --record {input.record} --folder {params.folder} --device {resources.device} --threads {threads} > {log} 2>&1"


rule denoising_table:
    input:
        emm=f"{STUDY}/emm.csv",
        tables=measured_files("denoising", "denoising.csv"),
    output:
        figure("denoising", "errors by noise level"),
        table=f"{STUDY}/denoising.csv",
    log:
        "logs/denoising_table/{study}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        study=description_json,
        measured=measured_json("denoising"),
        style=SETTINGS.figures.model_dump_json(),
        tables=lambda wildcards, input: handed_all(input.tables),
        folder=lambda wildcards, output: os.path.dirname(output.table),
    message:
        "errors by noise level in study {wildcards.study}"
    shell:
        "python -m emmeter.stages.denoising_table --study {params.study:q} --measured {params.measured:q}"
        " --style {params.style:q} --emm {input.emm} --tables {params.tables:q} --folder {params.folder} > {log} 2>&1"
