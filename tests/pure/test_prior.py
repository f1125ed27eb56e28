"""Which version to go back to, and why: by the judge, the registry, the record, the deployment; a person may overrule."""

from dataclasses import replace

import pytest
from alerts_support import START, endpoint, entity

from lastgood.alerts.rollback.plan import redacted
from lastgood.alerts.rollback.prior import Known, choose
from lastgood.errors import RefusedError

THREE = endpoint("1", "2", "3", v3=100)
WELL = [("2", START, 40), ("1", START, 7)]


@pytest.mark.parametrize(
    ("known", "version", "because"),
    [
        (Known(judged="2", aliases={"champion": "1"}), "2", "version 2: the judge compared with it, deployed at 0%"),
        (Known(aliases={"champion": "1"}, served_well=WELL), "1", "version 1: the registry calls it champion, judged healthy 7"),
        (Known(served_well=WELL), "2", "judged healthy 40 times, last 2026-03-01 12:00 UTC"),
        (Known(), "1", "version 1: deployed at 0%"),
        (Known(judged="2", rolled_back={"2"}, served_well=WELL), "1", "judged healthy 7 times"),
        (Known(judged="9", snapshots=["9"]), "9", "took traffic in an earlier configuration"),
        (Known(aliases={"lastgood": "3", "champion": "2"}), "2", "the registry calls it champion"),
    ],
)  # fmt: skip
def test_the_best_known_version_is_taken_and_the_reasons_are_said(known: Known, version: str, because: str) -> None:
    choice = choose(THREE, "3", known)
    assert choice.version == version
    assert because in choice.reasons[0]


def test_why_not_the_others_is_said_too() -> None:
    e = replace(THREE, entities=(entity("1", "DEPLOYMENT_FAILED"), entity("2"), entity("3")))
    known = Known(judged="9", aliases={"champion": "2"}, served_well=[("1", START, 1)], rolled_back={"2"})
    with pytest.raises(RefusedError) as caught:
        choose(e, "3", known)
    for part in (
        "no prior version is known",
        "not version 9: is not deployed and no snapshot of it is stored",
        "not version 2: version 2 was itself rolled back",
        "not version 1: is deployed but not ready (DEPLOYMENT_FAILED)",
    ):
        assert part in str(caught.value)


def test_a_person_may_choose_what_was_rolled_back_and_nothing_impossible() -> None:
    known = Known(rolled_back={"1"})
    choice = choose(THREE, "3", known, "1")
    assert choice.version == "1" and "the person's choice stands" in choice.reasons[1]
    for wanted, why in (("3", "both the bad and the prior"), ("8", "not deployed and no snapshot")):
        with pytest.raises(RefusedError, match=why):
            choose(THREE, "3", known, wanted)


def test_versions_of_another_model_are_not_gone_back_to() -> None:
    other = replace(entity("7"), name="other-7", entity_name="prod.ml.other")
    e = replace(THREE, entities=(other, entity("3")), traffic={"other-7": 10, "chat-3": 90})
    with pytest.raises(RefusedError, match="no prior version"):
        choose(e, "3", Known())


def test_what_may_be_a_secret_is_hidden_and_references_stay() -> None:
    document = {
        "environment_vars": {"A": "hunter2", "B": "{{secrets/s/k}}"},
        "external_model": {"openai_config": {"openai_api_key": "sk-1", "openai_api_base": "https://x"}},
        "workload_size": "Small",
    }
    assert redacted(document) == {
        "environment_vars": {"A": "(hidden)", "B": "{{secrets/s/k}}"},
        "external_model": {"openai_config": {"openai_api_key": "(hidden)", "openai_api_base": "https://x"}},
        "workload_size": "Small",
    }


def test_what_is_good_of_another_model_hides_no_version_of_this_one() -> None:
    other = replace(entity("7"), name="other-7", entity_name="prod.ml.other")
    e = replace(THREE, entities=(other, entity("2"), entity("3")), traffic={"other-7": 10, "chat-2": 0, "chat-3": 90})
    choice = choose(e, "3", Known(judged="7", served_well=[("7", START, 40), ("2", START, 1)]))
    assert choice.version == "2"
    assert "not version 7: is not deployed and no snapshot of it is stored" in choice.reasons
