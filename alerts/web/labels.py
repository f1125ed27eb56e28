"""The label queue: answers of which people are asked how good they are, without a word of who gave them; and how the scorers do."""

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from lastgood import tables
from lastgood.alerts.controller import Controller
from lastgood.alerts.web import guard
from lastgood.alerts.web.auth import Auth
from lastgood.alerts.web.pages import COOKIE, Pages, as_csv
from lastgood.tables import judging

SUBJECT = ACTION = "label"
LOOKS = 20
GRADES = {"good": 1.0, "half": 0.5, "bad": 0.0}


class Labels:
    """The handlers. Errors of all: HTTPException, LinkError for a form that this page did not make; those of the tables' homes."""

    def __init__(self, pages: Pages, controller: Controller, auth: Auth, store: tables.Store) -> None:
        self._pages, self._controller, self._auth, self._store = pages, controller, auth, store

    def page(self, request: Request) -> Response:
        """The next answer, and every scorer beside what people say."""
        judged = judging.read(self._store, self._controller.settings, self._controller.clock())
        rows, queue = judged.summaries(), judged.queue()
        if answer := as_csv(request, "scorers", {"scorers": lambda: _sheet(rows)}):
            return answer
        passed = request.query_params.get("after", "")
        later = max((i for i, key in enumerate(queue) if key[1] == passed), default=-1) + 1
        question, shown = self._next([*queue[later:], *queue[:later]])
        return self._pages.with_forms(
            request, SUBJECT, (ACTION,), "labels.html", waiting=len(queue), question=question, shown=shown, meant=self._meant(question), scorers=rows
        )  # fmt: skip

    def _meant(self, question: judging.Key | None) -> str:
        """What the scorer was told to judge, for whoever labels the same."""
        own = self._controller.settings.endpoint(question[0]).scoring.scorers if question else ()
        return next(
            (each.instruction for each in own if question and each.name == question[2] and each.kind == "model"), ""
        )

    def _next(self, queue: list[judging.Key]) -> tuple[judging.Key | None, judging.Shown | None]:
        """The first answer whose text is still kept, of the first LOOKS: nobody can say how good another is."""
        for key in queue[:LOOKS]:
            if (shown := judging.texts(self._store, key)).answered:
                return key, shown
        return None, None

    async def label(self, request: Request) -> Response:
        """What a person says of one answer."""
        guard.same_site(request, self._controller.settings.web.base_url)
        form = await guard.form(request)
        who = self._auth.person(request, form, "viewers")
        grade = form.get("grade", "")
        if grade not in GRADES:
            raise HTTPException(400, f"The grade must be one of {', '.join(GRADES)}.")
        self._controller.people.signer.verify_form(
            form.get("form", ""), SUBJECT, ACTION, request.cookies.get(COOKIE, "")
        )
        endpoint, asked, scorer = (form.get(name, "")[:512] for name in ("endpoint", "request", "scorer"))
        await run_in_threadpool(self._write, (endpoint, asked, scorer), GRADES[grade], who)
        return RedirectResponse("/labels", 303)

    def _write(self, question: judging.Key, value: float, who: str) -> None:
        now = self._controller.clock()
        if question not in judging.read(self._store, self._controller.settings, now).queue():
            raise HTTPException(409, "This answer waits for no label (any more).")
        own = judging.reading(self._controller.settings, question[0])
        worst, best = own.ranges.get(question[2], (0.0, 1.0))
        judging.label(self._store, question, worst + value * (best - worst), who, now)


def _sheet(rows: list[judging.Summary]) -> tuple[list[str], list[list[object]]]:
    names = [*judging.Summary.__dataclass_fields__]
    return names, [[getattr(row, name) for name in names] for row in rows]
