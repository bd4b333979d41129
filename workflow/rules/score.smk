# A checkpoint: after each finished score, Snakemake asks every search again for its next runs (emm.smk).
checkpoint score:
    input:
        subset=earlier("score", "subset", "subset.npz"),
        samples=earlier("score", "sample", "samples.npz"),
        records=by_content(PATHS.records),
    output:
        score=PATHS.run("score", "score.json"),
        neighbours=PATHS.run("score", "neighbours.npz"),
        gallery=PATHS.run("score", "gallery.npz"),
    log:
        "logs/score/{key}/n{n}-r{r}.log",
    conda:
        environment("envs/gpu.yaml")
    resources:
        gpu_slots=gpu_slots(),
        gpu=cluster_gpus(),
    params:
        claim=gpu_claim("score"),
        settings=stage_json("score"),
    message:
        "score the run on {wildcards.n} images, replicate {wildcards.r}"
    shell:
        "OMP_NUM_THREADS={threads} {params.claim} python -m emmeter.stages.score --settings {params.settings:q} --key {wildcards.key}"
        " --n {wildcards.n} --replicate {wildcards.r} --subset {input.subset} --samples {input.samples}"
        " --records {input.records} --score {output.score} --neighbours {output.neighbours}"
        " --gallery {output.gallery} > {log} 2>&1"
