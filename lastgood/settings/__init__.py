"""conf/lastgood.yaml + environment (LASTGOOD_*) -> typed settings: a model per room, one reader, mistakes in words, prices."""

from lastgood.record.redact import Capture
from lastgood.settings.alerts import Alertmanager, AuditAnchor, Hooks, Oidc, PagerDuty, Web
from lastgood.settings.base import Mode, Model, secret
from lastgood.settings.collectors import Labels, Receiver, Sources
from lastgood.settings.endpoint import CostSettings, EndpointSettings, FeatureSource, Performance, Release
from lastgood.settings.judge import WEIGHTS, Policy
from lastgood.settings.platform import SparkSettings, TableSettings, WorkspaceSettings
from lastgood.settings.reading import Settings, is_catalog, load
from lastgood.settings.scoring import Scorer, Scoring

__all__ = [
    "WEIGHTS",
    "Alertmanager",
    "AuditAnchor",
    "Capture",
    "CostSettings",
    "EndpointSettings",
    "FeatureSource",
    "Hooks",
    "Labels",
    "Mode",
    "Model",
    "Oidc",
    "PagerDuty",
    "Performance",
    "Policy",
    "Receiver",
    "Release",
    "Scorer",
    "Scoring",
    "Settings",
    "Sources",
    "SparkSettings",
    "TableSettings",
    "Web",
    "WorkspaceSettings",
    "is_catalog",
    "load",
    "secret",
]
