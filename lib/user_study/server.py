"""The study as a small web application: pages, a JSON interface for the trial page, pictures, the page in charge.

A participant is known by one cookie with a random token. Nothing is logged, and no address is kept.
"""

import json
import secrets
from pathlib import Path

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from lib.errors import (
    AnsweredError,
    AnswerError,
    NoSpaceError,
    StudyFullError,
    TooFastError,
    TooManyRequestsError,
    UnknownParticipantError,
    UnknownTrialError,
)
from lib.paths import display_path
from lib.user_study import answers
from lib.user_study.limits import Buckets, Guarded, body_of

WEB = Path(__file__).parent / "web"
COOKIE, MONTHS = "participant", 90 * 24 * 3600  # name; seconds that a participant may stay away
STATUS = {
    UnknownParticipantError: 401,
    UnknownTrialError: 404,
    AnsweredError: 409,
    TooFastError: 422,
    StudyFullError: 403,
    TooManyRequestsError: 429,
    AnswerError: 422,
    NoSpaceError: 503,
}
PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader(WEB), autoescape=True, undefined=jinja2.StrictUndefined)
FILES = {
    name: ((WEB / name).read_bytes(), kind)
    for name, kind in (("study.js", "text/javascript"), ("style.css", "text/css"))
}


class Server:
    """The routes of one Session.

    Args: session; key, of the page in charge; hosts, names under which the server may be asked for; rate and burst, of
    one participant's requests; joining, Buckets of newcomers, all together.
    """

    def __init__(self, session, key, hosts=("127.0.0.1", "localhost"), rate=20.0, burst=60):
        self.session, self.key = session, key
        self.own, self.strangers = Buckets(rate, burst), Buckets(rate, burst)
        self.joining, self.tries = Buckets(2.0, 100), Buckets(0.2, 10)
        routes = [
            Route("/", self.first),
            Route("/join", self.join, methods=["POST"]),
            Route("/state", self.state),
            Route("/answer", self.answer, methods=["POST"]),
            Route("/withdraw", self.withdraw, methods=["POST"]),
            Route("/picture/{trial:int}/{place}", self.picture),
            Route("/manage", self.manage),
            Route("/manage/answers.csv", self.export),
            Route("/{name}", self.file),
        ]
        guards = [Middleware(Guarded), Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))]
        self.app = Starlette(routes=routes, middleware=guards, exception_handlers=dict.fromkeys(STATUS, refused))

    def _page(self, name, **values):
        return HTMLResponse(PAGES.get_template(name).render(study=self.session.study, **values))

    def _participant(self, request):
        """The number of who asks; too many questions are refused. Raises AnswerError, UnknownParticipantError."""
        token = request.cookies.get(COOKIE)
        try:
            number = self.session.participant(token)
        except UnknownParticipantError:
            self._limit(self.strangers, request.client.host if request.client else "")
            raise
        self._limit(self.own, number)
        return number

    def _limit(self, buckets, key):
        if not buckets.take(key):
            raise TooManyRequestsError("Too many requests. Remedy: wait a second.")

    async def first(self, request):
        """The trial page of a participant, the consent page of anybody else."""
        try:
            await run_in_threadpool(self._participant, request)
            return self._page("study.html")
        except UnknownParticipantError:
            return self._page("consent.html", full=self.session.store.finished() >= self.session.study.participants)

    async def join(self, request):
        """A newcomer who agrees gets a token; a participant who comes again keeps theirs."""
        if await body_of(request) != b"consent=yes":
            raise AnswerError("No consent. Remedy: agree on the first page.")
        try:
            await run_in_threadpool(self._participant, request)
            return RedirectResponse("/", 303)
        except UnknownParticipantError:
            self._limit(self.joining, "all")
        token = await run_in_threadpool(self.session.join)
        reply = RedirectResponse("/", 303)
        reply.set_cookie(COOKIE, token, max_age=MONTHS, httponly=True, samesite="strict")
        return reply

    async def state(self, request):
        return JSONResponse(await run_in_threadpool(lambda: self._state(self._participant(request))))

    async def answer(self, request):
        """Keeps an answer and says what comes next."""
        number = await run_in_threadpool(self._participant, request)
        given = _object(await body_of(request), request)
        trial, option = given.get("trial"), given.get("option")
        arguments = number, trial, option, given.get("seconds"), given.get("width")
        await run_in_threadpool(self.session.answer, *arguments)
        return JSONResponse(await run_in_threadpool(self._state, number))

    def _state(self, number):
        """What the trial page needs: the trial, how far it is, and which pictures come after it."""
        index, trial = self.session.show(number)
        trials = self.session.trials(number)
        state = {"study": self.session.fingerprint, "done": index, "total": len(trials)}
        if trial is None:
            return {**state, "trial": None}
        part = self.session.part(trial.part)
        ahead = trials[index + 1] if index + 1 < len(trials) else None
        names = list(dict.fromkeys(one.part for one in trials))
        shape = self.session.items[trial.item].input.shape
        return state | {
            "trial": index,
            "part": names.index(part.name) + 1,
            "parts": len(names),
            "kind": part.kind,
            "practice": trial.kind == "practice",
            "question": part.question,
            "guidelines": part.guidelines,
            "least_seconds": self.session.study.least_seconds,
            "size": [shape[1], shape[0]],
            **_addresses(part, index, trial),
            "ahead": sum(_addresses(self.session.part(ahead.part), index + 1, ahead).values(), []) if ahead else [],
        }

    async def picture(self, request):
        """A picture of one's own trial, which the browser may keep."""
        number = await run_in_threadpool(self._participant, request)
        place = request.path_params["trial"], request.path_params["place"]
        data = await run_in_threadpool(self.session.picture, number, *place)
        return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})

    async def withdraw(self, request):
        """Deletes who asks, with all answers."""
        number = await run_in_threadpool(self._participant, request)
        if await body_of(request) != b"withdraw=yes":
            raise AnswerError("Not confirmed. Remedy: use the link at the foot of the page.")
        await run_in_threadpool(self.session.withdraw, number)
        reply = self._page("gone.html")
        reply.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return reply

    async def file(self, request):
        if request.path_params["name"] not in FILES:
            return PlainTextResponse("Not found.", 404)
        data, kind = FILES[request.path_params["name"]]
        return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})

    def _in_charge(self, request):
        """Raises UnknownParticipantError without the key; guesses are counted."""
        given = request.query_params.get("key", "")
        if not secrets.compare_digest(given.encode(), self.key.encode()):
            self._limit(self.tries, "all")
            raise UnknownParticipantError("Wrong key. Remedy: use the address that the server printed when it started.")

    async def manage(self, request):
        """Who is where, and how many are needed."""
        self._in_charge(request)
        people = await run_in_threadpool(self.session.store.participants)
        totals = {one["number"]: len(self.session.trials(one["number"])) for one in people}
        counts = {"finished": sum(one["finished"] for one in people), "begun": len(people)}
        places = {"file": display_path(self.session.file), "store": display_path(self.session.store.file.parent)}
        return self._page("manage.html", people=people, totals=totals, counts=counts, key=self.key, **places)

    async def export(self, request):
        self._in_charge(request)
        text = answers.to_csv(await run_in_threadpool(self.session.store.answers))
        name = {"Content-Disposition": 'attachment; filename="answers.csv"'}
        return Response(text, media_type="text/csv; charset=utf-8", headers=name)


async def refused(request, error):
    """The reply to an AnswerError or a full disk: its status, and its words as JSON."""
    retry = {"Retry-After": "1"} if STATUS[type(error)] in (429, 503) else None
    return JSONResponse({"error": str(error)}, STATUS[type(error)], headers=retry)


def _object(body, request):
    """The JSON object of a body. Raises AnswerError."""
    if request.headers.get("content-type", "").split(";")[0] != "application/json" or body is None:
        raise AnswerError("Not an answer. Remedy: send a small JSON object.")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise AnswerError("Not JSON. Remedy: send a small JSON object.") from None
    if not isinstance(found, dict):
        raise AnswerError("Not an answer. Remedy: send a JSON object.")
    return found


def _addresses(part, index, trial):
    """Where the pictures of a trial are. A place is all that an address says."""
    beside = part.kind == "identity"
    return {
        "options": [f"/picture/{index}/{k}" for k in range(len(trial.options))],
        "input": [f"/picture/{index}/input"] if beside else [],
        "references": [f"/picture/{index}/r{k}" for k in range(part.references)] if beside else [],
    }
