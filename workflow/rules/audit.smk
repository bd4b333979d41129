# Audits of images of any origin, by the names that the configuration gives them.  The images are not inputs: their names
# may hold braces, and a folder may hold millions of files.  Parameters show their sizes and times instead.


rule audit_shard:
    input:
        audited_run,
    output:
        AUDIT_SHARD,
    log:
        "logs/audit/{audit}/{shard}-of-{shards}.log",
    wildcard_constraints:
        audit=r"\w+",
        shard=r"\d+",
        shards=r"\d+",
    conda:
        environment("envs/cpu.yaml")
    threads: SETTINGS.execution.threads
    resources:
        mem_mb=audit_memory,
    params:
        audit=lambda wildcards: handed(emm_audits.as_json(AUDITS[wildcards.audit], shard=True)),
        images=lambda wildcards: audit_signature(wildcards.audit),
    message:
        "audit {wildcards.audit}: shard {wildcards.shard} of {wildcards.shards}"
    shell:
        "OMP_NUM_THREADS={threads} CUDA_VISIBLE_DEVICES= python -m emmeter.stages.audit_shard --audit {params.audit:q}"
        " --shard {wildcards.shard} --shards {wildcards.shards} --output {output} > {log} 2>&1"


rule audit_target:
    input:
        audited_run,
        shards=audit_shards,
    output:
        record="results/audits/{audit}/audit.json",
        page="results/audits/{audit}/audit.html",
        images="results/audits/{audit}/images.csv",
        training="results/audits/{audit}/training.csv",
    log:
        "logs/audit/{audit}.log",
    wildcard_constraints:
        audit=r"\w+",
    conda:
        environment("envs/cpu.yaml")
    threads: SETTINGS.execution.threads
    resources:
        mem_mb=audit_memory,
    params:
        audit=lambda wildcards: handed(emm_audits.as_json(AUDITS[wildcards.audit])),
        images=lambda wildcards: audit_signature(wildcards.audit),
        shards=lambda wildcards, input: handed_all(input.shards),
        folder=lambda wildcards, output: os.path.dirname(output.record),
    message:
        "audit {wildcards.audit}: {params.folder}/audit.html"
    shell:
        "OMP_NUM_THREADS={threads} CUDA_VISIBLE_DEVICES= python -m emmeter.stages.audit_target --audit {params.audit:q}"
        " --shards {params.shards:q} --folder {params.folder} > {log} 2>&1"


for name in SETTINGS.audits:

    rule:
        name:
            name
        input:
            f"results/audits/{name}/audit.json",
        localrule: True
        message:
            "audit complete"
