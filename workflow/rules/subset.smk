# The user's own files are not inputs: their names may hold braces, which Snakemake would fill in, and their times say
# nothing about their content.
rule subset:
    output:
        PATHS.run("subset", "subset.npz"),
    log:
        "logs/subset/{key}/n{n}-r{r}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        settings=stage_json("subset"),
        # For data known by name it is `...`, which Snakemake does not record, as if there were no such parameter.
        data=lambda wildcards: INDEX.data_signature(wildcards.key) or ...,
    message:
        "subset of {wildcards.n} images, replicate {wildcards.r}"
    shell:
        "python -m emmeter.stages.subset --settings {params.settings:q} --n {wildcards.n} --replicate {wildcards.r}"
        " --output {output} > {log} 2>&1"
