"""Presidio as a ready redaction hook (extra `presidio`): `redact_hook: lastgood.record.presidio:blot`, after the shipped patterns.

Names of people and places need a spaCy model beside it (MODELS); without one Presidio finds what has a pattern, and a warning says so.
Nothing is asked of the network: the list of top-level domains is the one that the package ships.
"""

import logging
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

log = logging.getLogger(__name__)
logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)  # it warns of every recogniser of another language

MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm")
"""spaCy models in the order of preference."""


@lru_cache(maxsize=1)
def _engines() -> tuple[Any, Any]:
    """(analyzer, anonymizer). Errors: ImportError without the extra."""
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
    from presidio_anonymizer import AnonymizerEngine

    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    model = next(filter(find_spec, MODELS), None)
    if model is None:
        log.warning("no spaCy model (%s) is installed: names of people and places are not redacted", ", ".join(MODELS))
    engine: Any = SpacyNlpEngine()
    engine.nlp = {"en": spacy.load(model) if model else spacy.blank("en")}
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"]), AnonymizerEngine()  # type: ignore[no-untyped-call]


def blot(text: str) -> str:
    """The text with each entity that Presidio finds replaced by its type: `<PHONE_NUMBER>`."""
    analyzer, anonymizer = _engines()
    return str(anonymizer.anonymize(text=text, analyzer_results=analyzer.analyze(text=text, language="en")).text)
