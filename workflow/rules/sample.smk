rule sample:
    input:
        subset=earlier("sample", "subset", "subset.npz"),
        snapshots=by_content(PATHS.weights),
    output:
        samples=PATHS.run("sample", "samples.npz"),
        record=PATHS.run("sample", "sampling.json"),
    log:
        "logs/sample/{key}/n{n}-r{r}.log",
    conda:
        environment("envs/gpu.yaml")
    threads: SETTINGS.execution.threads
    resources:
        gpu_slots=gpu_slots(),
        device=emm_gpus.device(SETTINGS.execution),
        batch=SETTINGS.execution.sampling_batch,
        compile=packaged("sample"),
        runtime=minutes("sample"),
        gpu=cluster_gpus(),
    params:
        claim=gpu_claim("sample"),
        settings=stage_json("sample"),
        state=PATHS.training_state,
    message:
        "sample from the run on {wildcards.n} images, replicate {wildcards.r}"
    shell:
        "OMP_NUM_THREADS={threads} {params.claim} python -m emmeter.machine.warm emmeter.stages.sample --settings {params.settings:q} --key {wildcards.key}"
        " --n {wildcards.n} --replicate {wildcards.r} --subset {input.subset} --snapshots {input.snapshots}"
        " --output {output.samples} --record {output.record} --state {params.state} --batch {resources.batch}"
        " --compile {resources.compile} --device {resources.device} --threads {threads} > {log} 2>&1"
