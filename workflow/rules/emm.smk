# The loop over N.  `Index.trail` replays the search on the scores that exist and returns their plain paths, followed by
# those that the search asks for next.  Snakemake evaluates it again after every finished score, because `score` is a
# checkpoint.  `checkpoints.score.get()` would skip all rerun triggers of this rule while a score is missing.
import json


localrules:
    emm,


rule emm:
    input:
        lambda wildcards: INDEX.trail(wildcards.key),
    output:
        record="results/emm/{key}/emm.json",
        gallery="results/emm/{key}/gallery.npz",
    log:
        "logs/emm/{key}.log",
    conda:
        environment("envs/cpu.yaml")
    params:
        settings=stage_json("emm"),
        sizes=lambda wildcards: json.dumps(INDEX.sizes[wildcards.key]),
    message:
        "EMM of arm {wildcards.key}"
    shell:
        "python -m emmeter.stages.emm --settings {params.settings:q} --key {wildcards.key} --sizes {params.sizes:q}"
        " --results results --output {output.record} --gallery {output.gallery} > {log} 2>&1"
