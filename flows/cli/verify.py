"""The command `prolific verify`."""

import sys

from flows.cli.options import Names
from tasks.runtime.console import announce


def verify(names: Names = None) -> int:
    """Compare every file of finished models, and DVC's cached copies, with the digests recorded when they were made.

    Nothing is changed. Each damaged file is named. The exit status is 1 if a file is damaged or could not be verified.

    Examples:
    $ prolific verify
    $ prolific verify a-red-mug
    """
    from flows.orchestration import integrity, preflight
    from flows.prompt_store import sets
    from prolific_core.errors import ProlificError
    from tasks.runtime.locks import prompt_lock
    from tasks.runtime.project import Project

    project = Project.find()
    files, damaged, affected, complete = 0, 0, [], True
    ids = sets.select(project, names or [])
    announce(f"comparing the files of {len(ids)} {'prompt' if len(ids) == 1 else 'prompts'} with their digests")
    for id in ids:
        try:
            with prompt_lock(project, id):
                checked = list(integrity.verify(project, id, preflight.lock_file(project, id, remove=False)))
        except ProlificError as error:
            print(f"prolific: {id} is not verified: {error}", file=sys.stderr)
            complete = False
            continue
        bad = [one for one in checked if one.problem]
        for one in bad:
            print(f"{one.path} {one.problem}")
        files, damaged = files + len(checked), damaged + len(bad)
        affected += [id] if bad else []
    if damaged:
        print(f"{damaged} of {files} files are damaged; to make them again, run: prolific sweep {' '.join(affected)}")
        return 1
    print(f"{files} files: all are as they were made")
    return 0 if complete else 1
