"""Runner: holds the models warm and computes; knows no database. The only role that loads torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from hilum.outages import full
from hilum.pipeline import Pipeline
from hilum.processes import Station, offer_to_the_kernel, yield_to_reception
from hilum.working.capacity import device_of, threads_of
from hilum.working.wire import Answer, News, Request, Warm, endpoint, order_of
from inference.account import Account, Tell
from study.errors import HilumError, StudyRefused

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

log = structlog.get_logger()


def run(station: Station) -> None:
    """Carry out orders until the keeper closes the line, or the device takes none any more."""
    yield_to_reception()
    offer_to_the_kernel()
    line = endpoint(station.descriptors["line"])
    pipeline = Pipeline(station.settings, device_of(station.settings, station.index), threads_of(station.settings))
    station.announce(pipeline.facts())
    account = Account(_teller(line))
    while pipeline.is_usable:
        try:
            order = order_of(line.recv_bytes())
        except EOFError:
            return
        account = Account(_teller(line))
        answer = _warm(pipeline, order, account) if isinstance(order, Warm) else _analyse(pipeline, order, account)
        line.send_bytes(answer.to_bytes())
    log.warning("runner.used_up", left_behind=account.running.get("left_behind"))


def _teller(line: Connection[bytes, bytes]) -> Tell:
    return lambda step, on_cpu: line.send_bytes(News(step, on_cpu).to_bytes())


def _warm(pipeline: Pipeline, order: Warm, account: Account) -> Answer:
    try:
        pipeline.warm(order.model_name, account)
    except HilumError as error:
        return Answer(0, 0, "failed", code=error.code, words=error.words)
    except Exception as error:  # the loop's edge: a bundle may raise anything, and the others must load
        log.exception("model.crashed", model=order.model_name)
        return Answer.of_crash(f"Loading stopped with {type(error).__name__}.")
    return Answer(0, 0, "done")


def _analyse(pipeline: Pipeline, request: Request, account: Account) -> Answer:
    with structlog.contextvars.bound_contextvars(**request.names):
        try:
            results = pipeline.run(request, account)
        except StudyRefused as refusal:
            log.info("job.refused", code=refusal.reason.code)
            return Answer.of_error(request, refusal, "refused", details=pipeline.details(account))
        except HilumError as error:
            log.warning("job.failed", code=error.code, exc_info=True)
            return Answer.of_error(request, full(error) or error, details=pipeline.details(account))
        except Exception as error:  # the loop's edge: a model may raise anything, and the next study must run
            if disk := full(error):
                log.warning("job.disk_full")
                return Answer.of_error(request, disk, details=pipeline.details(account))
            log.exception("job.crashed")
            words = f"The analysis stopped with {type(error).__name__}; the log has the details."
            return Answer.of_crash(words, request, pipeline.details(account))
    return Answer(request.job_id, request.attempt, "done", results, pipeline.details(account))
