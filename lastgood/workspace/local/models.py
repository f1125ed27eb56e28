"""Real models, built at start from what packages ship: a chat answerer over Python's own documentation, a tumour classifier."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pydoc_data.topics import topics
from typing import Any, Protocol

import numpy as np

from lastgood.errors import ConfigError

CHAT, TABULAR = "support-chat", "tumour-risk"
REFUSAL = "I'm sorry, but I can't help with that."


def tokens(text: str) -> int:
    """Token count as a word count: what this model bills."""
    return len(text.split())


class Model(Protocol):
    """Answers one request document. Errors: ConfigError with a sentence for a request that breaks the contract."""

    def answer(self, request: Mapping[str, Any], worse: str | None) -> tuple[dict[str, Any], int]:
        """(response fields, generated tokens); `worse` names a way to answer badly."""
        ...


@lru_cache(maxsize=1)
def passages() -> list[str]:
    """About 3,000 paragraphs of Python's reference."""
    texts = (re.sub(r"\s+", " ", part).strip() for topic in sorted(topics) for part in topics[topic].split("\n\n"))
    return list(dict.fromkeys(text for text in texts if 60 <= len(text) <= 900 and text[0].isalpha()))


def _check(request: Mapping[str, Any]) -> tuple[str, int]:
    kinds: dict[str, tuple[type, ...]] = {
        "prompt": (str,), "system_message": (str,), "max_tokens": (int,), "temperature": (int, float), "metadata": (dict,)
    }  # fmt: skip
    for name, kind in kinds.items():
        value = request.get(name)
        if value is None and name != "prompt":
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"{name}: expected {' or '.join(k.__name__ for k in kind)}, found {type(value).__name__}")
    limit = request.get("max_tokens") or 256
    if limit < 1:
        raise ConfigError(f"max_tokens: expected at least 1, found {limit}")
    return str(request["prompt"]), int(limit)


class ChatModel:
    """Retrieves the paragraphs nearest to the prompt. Version 1: one paragraph by words; later ones: two, by word pairs too."""

    def __init__(self, version: str) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.version = version
        self._take = 1 if version == "1" else 2
        self._vectorizer = TfidfVectorizer(
            stop_words="english",
            ngram_range=(1, 1 if version == "1" else 2),
            max_features=30_000,
        )
        self._matrix = self._vectorizer.fit_transform(passages()).T.tocsr()

    def answer(self, request: Mapping[str, Any], worse: str | None) -> tuple[dict[str, Any], int]:
        prompt, limit = _check(request)
        scores = np.asarray((self._vectorizer.transform([prompt]) @ self._matrix).todense()).ravel()
        best = np.argsort(-scores, kind="stable")[: self._take]
        words = " ".join(passages()[int(i)] for i in best).split()
        if worse == "empty":
            words = []
        elif worse == "refusal":
            words = REFUSAL.split()
        elif worse == "repetitive":
            words = (words[:4] * 40)[:120]
        answer, reason = words[:limit], "length" if len(words) > limit else "stop"
        used = {
            "prompt_tokens": tokens(prompt),
            "completion_tokens": len(answer),
            "total_tokens": tokens(prompt) + len(answer),
        }
        return {
            "generated_text": " ".join(answer),
            "finish_reason": reason,
            "usage": used,
        }, len(answer)


@lru_cache(maxsize=1)
def tumours() -> Any:
    """scikit-learn's breast cancer data."""
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer()


class TumourModel:
    """Malignant (0) or benign (1). Version 1: logistic regression; later ones: a small random forest."""

    def __init__(self, version: str) -> None:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        data = tumours()
        self._columns = [str(name) for name in data.feature_names]
        model: Any = RandomForestClassifier(20, max_depth=6, random_state=0, n_jobs=1)
        if version == "1":
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        self._model = model.fit(data.data[::2], data.target[::2])

    def answer(self, request: Mapping[str, Any], worse: str | None) -> tuple[dict[str, Any], int]:
        try:
            if "dataframe_split" in request:
                split = request["dataframe_split"]
                rows = [[row[split["columns"].index(name)] for name in self._columns] for row in split["data"]]
            elif "dataframe_records" in request:
                rows = [[record[name] for name in self._columns] for record in request["dataframe_records"]]
            else:
                rows = request["instances"]
            predicted = self._model.predict(np.asarray(rows, dtype=float))
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise ConfigError(
                f"expected dataframe_split, dataframe_records or instances with 30 columns ({error})"
            ) from error
        return {"predictions": [int(1 - label if worse else label) for label in predicted]}, 1


@lru_cache(maxsize=16)
def build(model: str, version: str) -> Model:
    """The model behind an entity name and version."""
    return TumourModel(version) if "tumour" in model else ChatModel(version)


@dataclass(frozen=True)
class Prompts:
    """Questions people ask: about the topics of Python's reference; `drifted`: long pasted code questions instead."""

    drifted: bool = False

    def draw(self, rng: np.random.Generator, words: int | None = None) -> str:
        """One prompt; `words` asks for about that many (a trace's context tokens)."""
        text = passages()[int(rng.integers(len(passages())))].split()
        if self.drifted:
            more = " ".join(passages()[int(i)] for i in rng.integers(len(passages()), size=3))
            return f"TRADUCTION: {' '.join(text)} {more}"
        size = words if words is not None else int(rng.integers(3, 9))
        start = int(rng.integers(max(1, len(text) - min(size, 60))))
        opening = (
            "What does",
            "How do I use",
            "Explain",
            "When would I need",
            "Why does Python have",
        )[int(rng.integers(5))]
        return f"{opening} {' '.join((text * (1 + size // len(text)))[start : start + size])}?"


def row(rng: np.random.Generator) -> dict[str, float]:
    """One tumour record as features by name."""
    data = tumours()
    chosen = data.data[int(rng.integers(len(data.data)))]
    return {str(name): float(value) for name, value in zip(data.feature_names, chosen, strict=True)}
