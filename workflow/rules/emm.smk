# The loop over N.  `trail` replays the search on the scores that exist.  It returns the paths of these scores and of
# those that the search asks for next.  Snakemake calls it again after each finished score, because `score` is a
# checkpoint.  `checkpoints.score.get()` would skip all rerun triggers of this rule while a score is missing.
rule emm:
    input:
        lambda wildcards: PATHS.trail(wildcards.key),
    output:
        record=PATHS.emm_file("emm.json"),
        gallery=PATHS.emm_file("gallery.npz"),
    log:
        "logs/emm/{key}.log",
    localrule: True
    conda:
        environment("envs/cpu.yaml")
    params:
        settings=stage_json("emm"),
        sizes=lambda wildcards: json.dumps(INDEX.sizes[wildcards.key]),
    message:
        "EMM of arm {wildcards.key}"
    shell:
        "python -m emmeter.stages.emm --settings {params.settings:q} --key {wildcards.key} --sizes {params.sizes:q}"
        f" --results {RESULTS}"
        " --output {output.record} --gallery {output.gallery} > {log} 2>&1"
