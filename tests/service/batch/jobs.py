"""Jobs in this process, with small blocks, and their interruption."""

from service.batch.job import Job, Request
from service.batch.network import Opening, Wanted

BLOCK = 16  # rows of a part file


def request(source, out, artifact, **changes):
    opening, wanted = Opening(artifact=artifact, threads=1), Wanted(top_k=3)
    fields = {"block_rows": BLOCK, "batch_size": 8, "processes": 1, **changes}
    return Request(source=str(source), out=str(out), opening=opening, wanted=wanted, **fields)


def run_job(*arguments, tell=lambda record: None, **changes):
    return Job(request(*arguments, **changes)).run(tell)


class Interrupted(Exception):
    pass


def stop_after(blocks):
    """A listener that ends the job in the middle."""

    def tell(record):
        tell.left -= 1
        if tell.left == 0:
            raise Interrupted

    tell.left = blocks
    return tell
