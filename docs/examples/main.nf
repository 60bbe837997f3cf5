// Nextflow: shards as processes of one pipeline, then the merge. nextflow run main.nf --picks picks.star --micrographs ...
// Everything lies on the shared file system and is named by its full path: a process has a working folder of its own.
params.picks       = "$launchDir/picks.star"
params.micrographs = "$launchDir/micrographs.star"
params.out         = "$launchDir/Extract/job010"
params.root        = "$launchDir"
params.options     = "--box 400 --fcrop 128"
params.shards      = 16

process EXTRACT {
    cpus 8
    errorStrategy { task.exitStatus in [3, 130, 137, 143] ? 'retry' : 'finish' }
    maxRetries 3
    // Exit code 1 is no failure here: micrographs that cannot be read are left out, and the merge says so again.

    input:
    val shard

    output:
    val shard

    """
    code=0
    cryobox extract ${params.picks} --micrographs ${params.micrographs} --out ${params.out} --root ${params.root} \\
        ${params.options} --workers ${task.cpus} --shard ${shard}/${params.shards} --break-lock --quiet || code=\$?
    [ \$code -le 1 ] && exit 0 || exit \$code
    """
}

process MERGE {
    input:
    val shards

    "cryobox merge ${params.out} --allow-incomplete"
}

workflow {
    channel.of(1..params.shards) | EXTRACT | collect | MERGE
}
