# Images of arms whose model is a command of the user's, which trains and samples in one job.  The files are those of the
# rule sample, for other keys.
ruleorder: external > sample


rule external:
    input:
        subset=earlier("sample", "subset", "subset.npz"),
    output:
        samples=PATHS.run("sample", "samples.npz"),
        record=PATHS.run("sample", "sampling.json"),
    log:
        "logs/external/{key}/n{n}-r{r}.log",
    wildcard_constraints:
        key="|".join(INDEX.external()) or "none",
    conda:
        environment("envs/gpu.yaml")
    threads: SETTINGS.execution.threads
    resources:
        gpu_slots=gpu_slots(external_gpus),
        device=emm_gpus.device(SETTINGS.execution),
        runtime=minutes("sample"),
        gpu=cluster_gpus(external_gpus),
        nodes=1,  # with all its GPUs
    params:
        claim=gpu_claim("sample", external_gpus),
        settings=stage_json("sample"),
        # A killed run resumes from this.  It is not an output, because Snakemake deletes outputs of failed jobs.
        state=PATHS.state(),
    message:
        "train and sample by a command on {wildcards.n} images, replicate {wildcards.r}"
    # The log holds all attempts, hence >>.
    shell:
        "OMP_NUM_THREADS={threads} {params.claim} python -m emmeter.stages.external --settings {params.settings:q} --key {wildcards.key}"
        " --n {wildcards.n} --replicate {wildcards.r} --subset {input.subset} --output {output.samples}"
        " --record {output.record} --state {params.state} --device {resources.device} --threads {threads} >> {log} 2>&1"
