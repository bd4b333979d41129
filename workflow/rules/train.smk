rule train:
    input:
        subset=earlier("train", "subset", "subset.npz"),
    output:
        snapshots=PATHS.run("train", "snapshots.safetensors"),
        log=PATHS.run("train", "training.csv"),
        record=PATHS.run("train", "training.json"),
    log:
        "logs/train/{key}/n{n}-r{r}.log",
    conda:
        environment("envs/gpu.yaml")
    threads: lambda wildcards: SETTINGS.execution.threads * devices(wildcards)
    resources:
        gpu_slots=gpu_slots(devices),
        launcher=lambda wildcards: emm_jobs.launcher(devices(wildcards)),
        compile=packaged("train"),
        process_threads=SETTINGS.execution.threads,
        device=emm_gpus.device(SETTINGS.execution),
        state_seconds=str(SETTINGS.execution.state_seconds),
        log_seconds=str(SETTINGS.execution.log_seconds),
        runtime=minutes("train"),
        gpu=cluster_gpus(devices),
        nodes=1,  # with all its GPUs
    params:
        claim=gpu_claim("train", devices),
        settings=stage_json("train"),
        # A killed training resumes from this.  It is not an output, because Snakemake deletes outputs of failed jobs.
        state=PATHS.state(),
    message:
        "train on {wildcards.n} images, replicate {wildcards.r}"
    # The log holds all attempts, hence >>.  Two jobs may write to it while one waits for the other.
    shell:
        "OMP_NUM_THREADS={resources.process_threads} {params.claim} python {resources.launcher} emmeter.stages.train --settings {params.settings:q} --key {wildcards.key}"
        " --n {wildcards.n} --replicate {wildcards.r} --subset {input.subset} --snapshots {output.snapshots}"
        " --log {output.log} --record {output.record} --state {params.state} --threads {resources.process_threads}"
        " --device {resources.device} --compile {resources.compile} --state-seconds {resources.state_seconds}"
        " --log-seconds {resources.log_seconds} >> {log} 2>&1"
