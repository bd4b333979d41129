localrules:
    subset,


# The user's own files are no inputs: names may hold what Snakemake would fill in, and their times tell nothing.
rule subset:
    output:
        run_path("subset", "subset.npz"),
    log:
        "logs/subset/{key}/n{n}-r{r}.log",
    conda:
        environment("envs/cpu.yaml")
    params:
        settings=stage_json("subset"),
        # Of data known by name `...`, of which Snakemake keeps no record: no parameter more than without it.
        data=lambda wildcards: INDEX.data_signature(wildcards.key) or ...,
    message:
        "subset of {wildcards.n} images, replicate {wildcards.r}"
    shell:
        "python -m emmeter.stages.subset --settings {params.settings:q} --n {wildcards.n} --replicate {wildcards.r}"
        " --output {output} > {log} 2>&1"
