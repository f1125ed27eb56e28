"""What the tests of the pages share: a house with a proposal, its web application and a browser without a screen."""

import re

import httpx
from alerts_support import House

from lastgood.alerts.rollback.machine import Status

PERSON = "the-person-token"


class Site:
    """A house with a proposal, its web application and a browser."""

    def __init__(self, house: House, url: str) -> None:
        self.house, self.url = house, url
        self.browser = httpx.Client(base_url=url)
        self.path = f"/r/{house.token()}"

    def form(self, action: str, **fields: str) -> dict[str, str]:
        page = self.browser.get(self.path).text
        value = re.search(rf'name="action" value="{action}"><input type="hidden" name="form" value="([^"]+)"', page)
        assert value, page
        return {"action": action, "form": value[1], "person_token": PERSON, **fields}

    def post(self, form: dict[str, str], **headers: str) -> httpx.Response:
        return self.browser.post(self.path, data=form, headers=headers)

    def unchanged(self) -> bool:
        self.house.tick(3)
        return self.house.rollback().state is Status.PROPOSED and self.house.workspace.updates == []
