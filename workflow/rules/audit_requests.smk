# What the rules of audits request: images, shards and memory.
from emmeter.pipeline import audits as emm_audits

try:
    AUDITS = emm_audits.resolved(SETTINGS.audits, PATHS)
except SettingsError as error:
    stop(error.lines)

AUDIT_SHARD = "results/audits/{audit}/shards/{shard}-of-{shards}.npz"


def audit_shards(wildcards):
    """Input function: the shards of an audit, in order; none if it is made in one piece."""
    count = AUDITS[wildcards.audit].text.shards
    if count == 1:
        return []
    return [AUDIT_SHARD.format(audit=wildcards.audit, shard=shard, shards=count) for shard in range(count)]


def audited_run(wildcards):
    """Input function: the files of the run of a study that an audit names, if it names one."""
    return AUDITS[wildcards.audit].made


@functools.cache
def audit_signature(name):
    """What shows that the images of an audit have changed."""
    return emm_audits.signature(AUDITS[name])


def audit_memory(wildcards):
    """Resource function: megabytes that a job of an audit may need."""
    return emm_audits.megabytes(AUDITS[wildcards.audit])
