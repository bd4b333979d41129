localrules:
    subset,


rule subset:
    message:
        "subset of {wildcards.n} images, replicate {wildcards.r}"
    input:
        lambda wildcards: INDEX.data_files(wildcards.key),
    output:
        run_path("subset", "subset.npz"),
    params:
        settings=stage_json("subset"),
    log:
        "logs/subset/{key}/n{n}-r{r}.log",
    conda:
        "../../envs/cpu.yaml"
    shell:
        "python -m emm.subset --settings {params.settings:q} --n {wildcards.n} --replicate {wildcards.r}"
        " --output {output} > {log} 2>&1"
