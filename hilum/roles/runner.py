"""Runner: holds the models warm and computes; knows no database. The only role that loads torch."""

from __future__ import annotations

import structlog

from hilum.pipeline import Pipeline
from hilum.processes import Station, yield_to_reception
from hilum.wire import Answer, Request, endpoint
from study.errors import HilumError, StudyRefused

log = structlog.get_logger()


def run(station: Station) -> None:
    """Answer requests until the keeper closes the line."""
    yield_to_reception()
    line = endpoint(station.descriptors["line"])
    pipeline = Pipeline(station.settings)
    try:
        pipeline.warm_up()
    except HilumError:
        log.exception("runner.not_warm")  # the job that needs model or device fails with these words, where they show
    station.announce({})
    while True:
        try:
            request = Request.from_bytes(line.recv_bytes())
        except EOFError:
            return
        line.send_bytes(_answer(pipeline, request).to_bytes())


def _answer(pipeline: Pipeline, request: Request) -> Answer:
    with structlog.contextvars.bound_contextvars(job=request.job_id, attempt=request.attempt):
        try:
            outcome = pipeline.run(request)
        except StudyRefused as refusal:
            log.info("job.refused", code=refusal.reason.code)
            return Answer.of_error(request, refusal, "refused")
        except HilumError as error:
            log.warning("job.failed", code=error.code, exc_info=True)
            return Answer.of_error(request, error)
        except Exception as error:  # the loop's edge: a model may raise anything, and the next study must run
            log.exception("job.crashed")
            words = f"The analysis stopped with {type(error).__name__}; the log has the details."
            return Answer(
                request.job_id, request.attempt, "failed", code="UnexpectedError", words=words, transient=True
            )
    return Answer(request.job_id, request.attempt, "done", outcome.results, outcome.details)
